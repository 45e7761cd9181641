"""Detections as columns: what the evaluators read, whatever a file or a program has them as."""

# D detections, V videos, K labels

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tad.errors import TadError
from tad.plugins import nearest

Entries = Sequence[Mapping[str, Any]]
LISTED = 30  # known labels that a message lists


def hint(label: str, known: Sequence[str]) -> str:
    """The nearest known label, and all of them where they fit a line."""
    text = nearest(label, list(known))
    return text if len(known) <= LISTED else text.partition("known: ")[0] + f"{len(known)} labels are known"


@dataclass(frozen=True)
class Columns:
    """Detections of a data set, one row each.

    Attributes:
        video_ids: (V,) all videos that the source lists, also those without a detection.
        labels: (K,) names that `label` points to.
        video: (D,) int32 row of `video_ids`. label: (D,) int32 row of `labels`.
        segments: (D, 2) float64 start and end in seconds.
        scores: (D,) float64.
    """

    video_ids: tuple[str, ...]
    labels: tuple[str, ...]
    video: NDArray[np.int32]
    label: NDArray[np.int32]
    segments: NDArray[np.float64]
    scores: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.scores)

    def of_video(self, video_id: str) -> list[dict[str, Any]]:
        """The detections of one video as entries of a results file, in the order of the source."""
        if video_id not in self.video_ids:
            return []
        rows = np.flatnonzero(self.video == self.video_ids.index(video_id))
        return [
            {
                "label": self.labels[self.label[d]],
                "score": float(self.scores[d]),
                "segment": [float(self.segments[d, 0]), float(self.segments[d, 1])],
            }
            for d in rows
        ]

    def relabelled(self, labels: Sequence[str], *, videos: NDArray[np.bool_]) -> NDArray[np.int32]:
        """(D,) row of `labels` of each detection, -1 in videos that do not count (`videos` (V,) says which do).

        Raises:
            TadError: a label of a video that counts is not among `labels`; names the video and the nearest label.
        """
        known = {name: k for k, name in enumerate(labels)}
        of_label = np.array([known.get(name, -1) for name in self.labels], np.int32)
        counts = videos[self.video] if len(self) else np.zeros(0, np.bool_)
        row = of_label[self.label] if len(self) else self.label
        bad = np.flatnonzero(counts & (row < 0))
        if len(bad):
            name = self.labels[self.label[bad[0]]]
            raise TadError(
                f"detections of {self.video_ids[self.video[bad[0]]]}: unknown label '{name}'; {hint(name, labels)}"
            )
        return np.where(counts, row, -1).astype(np.int32)


class Collector:
    """Entries, video by video → `Columns`, at 32 bytes a detection."""

    def __init__(self) -> None:
        self._videos: dict[str, int] = {}
        self._labels: dict[str, int] = {}
        # they grow in place: of millions of detections nothing is held twice
        self._video, self._label, self._segments, self._scores = array("i"), array("i"), array("d"), array("d")

    def add(self, video_id: str, entries: Any) -> None:
        """Take the detections of one more video.

        Raises:
            TadError: the video came before, or an entry lacks label, score or segment.
        """
        if video_id in self._videos:
            raise TadError(f"detections of {video_id}: the video is given twice; merge the two entries")
        row = self._videos[video_id] = len(self._videos)
        labels = self._labels
        try:
            names = [entry["label"] for entry in entries]
            numbers = [
                (float(start), float(end), float(entry["score"]))
                for entry in entries
                for start, end in (entry["segment"],)
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise TadError(
                f"detections of {video_id}: {error!r:.80}: each entry needs label, score and segment [start, end]"
            ) from None
        for name in names:
            if not isinstance(name, str):
                raise TadError(f"detections of {video_id}: label {name!r:.40} is not text; write the label's name")
            labels.setdefault(name, len(labels))
        if names:
            rows = np.array(numbers, np.float64)
            self._video.extend([row] * len(names))
            self._label.extend([labels[name] for name in names])
            self._segments.frombytes(rows[:, :2].tobytes())
            self._scores.frombytes(rows[:, 2].tobytes())

    def columns(self) -> Columns:
        """Everything taken; the end of the collection."""
        return Columns(
            tuple(self._videos),
            tuple(self._labels),
            np.asarray(self._video, np.int32),
            np.asarray(self._label, np.int32),
            np.asarray(self._segments, np.float64).reshape(-1, 2),
            np.asarray(self._scores, np.float64),
        )


def collect(results: Iterable[tuple[str, Any]]) -> Columns:
    """`Columns` of (video id, entries) pairs, such as the items of a results file's `results`."""
    collector = Collector()
    for video_id, entries in results:
        collector.add(video_id, entries)
    return collector.columns()
