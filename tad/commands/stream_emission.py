"""Turn candidates on a stream into emitted instances: suppression, times and lines of JSON."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from tad.core.grid import Grid
from tad.nms.online import OnlineSuppression

if TYPE_CHECKING:
    from tad.detectors._points.online import Found

DECIMALS = 3  # of seconds, and of scores


@dataclass(frozen=True, slots=True)
class Instance:
    """An emitted instance, which is final.

    Attributes:
        video: name of the stream.
        label: its class.
        start, end: seconds after the beginning of the stream.
        score: between 0 and 1.
        emitted: time of the frame that the emission needed, in seconds after the beginning of the stream.
    """

    video: str
    label: str
    start: float
    end: float
    score: float
    emitted: float

    @property
    def latency(self) -> float:
        """Seconds from the predicted end to the emission."""
        return self.emitted - self.end

    def line(self) -> str:
        """Return the instance as one line of JSON."""
        row = {
            "video": self.video,
            "label": self.label,
            "segment": [round(self.start, DECIMALS), round(self.end, DECIMALS)],
            "score": round(self.score, DECIMALS),
            "emitted": round(self.emitted, DECIMALS),
            "latency": round(self.latency, DECIMALS),
        }
        return json.dumps(row, ensure_ascii=False)


class Emitter:
    """Suppression on one stream, and the times of what is emitted.

    Args:
        labels: names of the classes.
        grid: time grid of the features.
        name: name of the stream.
        tiou: an instance is not emitted if one of its class that overlaps it by this much was.
    """

    def __init__(self, labels: Sequence[str], grid: Grid, *, name: str, tiou: float) -> None:
        self._suppression = OnlineSuppression(tiou=tiou)
        self._labels, self._grid, self._name = labels, grid, name

    def push(self, found: Iterable["Found"], emitted: float) -> list[Instance]:
        """Take the candidates that were found at one snippet; return what is emitted at this time."""
        return [
            Instance(
                self._name, self._labels[one.label], max(self._grid.to_seconds(one.start), 0.0),
                max(self._grid.to_seconds(one.end), 0.0), one.score, emitted,
            )
            for one in self._suppression.push(found)
        ]  # fmt: skip


def of_candidates(
    found: Iterable["Found"], labels: Sequence[str], grid: Grid, *, half_clip: float, name: str, tiou: float
) -> Iterator[Instance]:
    """Yield what is emitted of a whole video's candidates, in order of time, as if features arrived when clips end.

    Args:
        found: what `OnlineDetector.push` returned for all features.
        labels: names of the classes.
        grid: time grid of the features.
        half_clip: seconds from the centre of a clip to its end.
        name: name of the video.
        tiou: see `Emitter`.
    """
    emitter = Emitter(labels, grid, name=name, tiou=tiou)
    for now, together in groupby(found, key=lambda one: one.now):
        yield from emitter.push(together, grid.to_seconds(float(now)) + half_clip)


def results_of(instances: Iterable[Instance], videos: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the instances per video, best first, in ActivityNet's format."""
    rows: dict[str, list[dict[str, Any]]] = {video: [] for video in videos}
    for one in instances:
        rows[one.video].append({"label": one.label, "score": one.score, "segment": [one.start, one.end]})
    return {video: sorted(own, key=lambda row: -row["score"]) for video, own in rows.items()}
