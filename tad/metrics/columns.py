"""Detections as columns: the common input of all evaluators."""

# D detections, V videos, K labels

import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tad.annotations.checks import NO_VALUES
from tad.core.errors import TadError
from tad.core.ids import alike
from tad.settings.plugins import nearest

Entries = Sequence[Mapping[str, Any]]
PLAIN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")  # a number of JSON, but for its quotes
LISTED = 30  # a message lists at most this many known labels
NUMBERS = (float, int, np.floating, np.integer)


def hint(label: str, known: Sequence[str]) -> str:
    """Suggest the nearest known label, and list all labels if they fit on a line."""
    text = nearest(label, list(known))
    return text if len(known) <= LISTED else text.partition("known: ")[0] + f"{len(known)} labels are known"


def label_text(label: str) -> str:
    """Normalise a label as annotations are read: Unicode NFC, surrounding white space stripped."""
    return unicodedata.normalize("NFC", label.strip())


def id_text(video_id: str) -> str:
    """Normalise a video id as annotations are read: Unicode NFC."""
    return video_id if video_id.isascii() else unicodedata.normalize("NFC", video_id)


def _folded(label: str) -> str:
    """Return a label in the form in which misspellings are equal: see `alike`; without blanks."""
    return alike(label).replace(" ", "")


def _entry_problem(entries: Any, label: Callable[[Mapping[str, Any]], Any]) -> str:
    """Describe the first entry that is not {label, score, segment: [start, end]}; `label` returns an entry's label."""
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        return f"{entries!r:.40} is not a list"
    for k, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            return f"entry {k}: {entry!r:.40} is not an object"
        try:
            label(entry)
        except KeyError as missing:
            return f"entry {k}: no {missing.args[0]!r:.40} among its keys ({', '.join(map(str, entry)):.80})"
        for name in ("score", "segment"):
            if name not in entry:
                return f"entry {k}: no '{name}' among its keys ({', '.join(map(str, entry)):.80})"
        segment = entry["segment"]
        if not isinstance(segment, Sequence | np.ndarray) or isinstance(segment, str) or len(segment) != 2:
            return f"entry {k}: segment {segment!r:.40} is not [start, end]"
    return "the entries cannot be read"


@dataclass(frozen=True)
class Columns:
    """Detections of a data set, one row per detection.

    Attributes:
        video_ids: (V,) all videos that the source lists, including those without detections.
        labels: (K,) names that `label` refers to.
        video: (D,) int32 index into `video_ids`. label: (D,) int32 index into `labels`.
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
        """Return the detections of one video as entries of a results file, in the order of the source."""
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

    def place(self, row: int) -> str:
        """Return video and entry of a detection, for messages."""
        video = self.video[row]
        return f"{self.video_ids[video]}, entry {row - int(np.flatnonzero(self.video == video)[0])}"

    def relabelled(self, labels: Sequence[str], *, videos: NDArray[np.bool_]) -> NDArray[np.int32]:
        """Map each detection's label to its index in `labels` (D,).

        The index is -1 for other labels, and for detections in videos that do not count (`videos` (V,) is a mask).

        Raises:
            TadError: two of `labels` are one, as in annotations.
        """
        known: dict[str, int] = {}
        for k, name in enumerate(labels):
            if (other := known.setdefault(label_text(name), k)) != k:
                raise TadError(
                    f"labels {labels[other]!r:.40} and {name!r:.40} are one label, but for blanks around it and the"
                    " form of its letters; write them alike"
                )
        of_label = np.array([known.get(label_text(name), -1) for name in self.labels], np.int32)
        counts = videos[self.video] if len(self) else np.zeros(0, np.bool_)
        row = of_label[self.label] if len(self) else self.label
        return np.where(counts, row, -1).astype(np.int32)

    def unknown_labels(self, labels: Sequence[str], *, videos: NDArray[np.bool_]) -> dict[str, int]:
        """Count the detections of each label outside `labels`, in videos that count; evaluators ignore these.

        Raises:
            TadError: no detection has a known label, a label differs from a known one only in case, blanks or
                underscores, or it is empty or stands for a missing value; the message names the video.
        """
        counts = videos[self.video] if len(self) else np.zeros(0, np.bool_)
        unknown = np.flatnonzero(counts & (self.relabelled(labels, videos=videos) < 0))
        per_label = Counter(self.labels[k] for k in self.label[unknown].tolist())
        folded = {_folded(name) for name in labels}
        if absent := [name for name in per_label if not name.strip() or name.strip().casefold() in NO_VALUES]:
            row = next(d for d in unknown if self.labels[self.label[d]] in absent)
            raise TadError(
                f"detections of {self.place(int(row))}: label '{self.labels[self.label[row]]}' stands for a missing"
                " value; write the class, or remove the entry"
            )
        refused = [name for name in per_label if _folded(name) in folded]
        if refused or (per_label and len(unknown) == counts.sum()):
            row = next(d for d in unknown if not refused or self.labels[self.label[d]] in refused)
            name = self.labels[self.label[row]]
            raise TadError(
                f"detections of {self.video_ids[self.video[row]]}: unknown label '{name}'; {hint(name, labels)}"
            )
        return dict(sorted(per_label.items()))


def _numbers(video_id: str, rows: Sequence[tuple[Any, Any, Any]]) -> NDArray[np.float64]:
    """Convert rows (start, end, score) to numbers (N, 3); text and booleans are refused.

    Raises:
        TadError: a value that is not a number; the message names the entry and the value.
    """
    plain = {type(value) for row in rows for value in row} <= {float, int}
    for k, row in enumerate(() if plain else rows):
        for name, value in zip(("start", "end", "score"), row, strict=True):
            if not isinstance(value, NUMBERS) or isinstance(value, bool):
                quoted = isinstance(value, str) and PLAIN.fullmatch(value.strip())
                remedy = "write it without quotes" if quoted else "give a number, or remove the entry"
                raise TadError(f"detections of {video_id}, entry {k}: {name} {value!r:.40} is not a number; {remedy}")
    try:
        return np.array(rows, np.float64)
    except OverflowError:
        raise TadError(f"detections of {video_id}: a number is too large to be a time or a score; correct it") from None


class Collector:
    """Collect entries video by video into `Columns`, at 32 bytes per detection."""

    def __init__(self, *, label: Callable[[Mapping[str, Any]], Any] = itemgetter("label")) -> None:
        """Start an empty collection.

        Args:
            label: function that returns the label of an entry.
        """
        self._label_of = label
        self._videos: dict[str, int] = {}
        self._labels: dict[str, int] = {}
        # these arrays grow in place, so that millions of detections are never held in memory twice
        self._video, self._label, self._segments, self._scores = array("i"), array("i"), array("d"), array("d")

    def add(self, video_id: str, entries: Any) -> None:
        """Add the detections of one video, whose id is converted to NFC as in annotations.

        Raises:
            TadError: the video was added before, or an entry lacks label, score or segment.
        """
        video_id = id_text(video_id)
        if video_id in self._videos:
            raise TadError(f"detections of {video_id}: the video is given twice; merge the two entries")
        row = self._videos[video_id] = len(self._videos)
        labels = self._labels
        try:
            names = [self._label_of(entry) for entry in entries]
            if any(type(entry["segment"]) is dict for entry in entries):
                raise TypeError("an object has keys in place of times")
            numbers = [(start, end, entry["score"]) for entry in entries for start, end in (entry["segment"],)]
        except TadError as error:
            raise TadError(f"detections of {video_id}: {error}") from None
        except (KeyError, TypeError, ValueError):
            problem = _entry_problem(entries, self._label_of)
            raise TadError(
                f"detections of {video_id}: {problem}; each entry needs label, score and segment [start, end]"
            ) from None
        other = next((name for name in names if not isinstance(name, str)), None)
        if other is not None or None in names:
            raise TadError(f"detections of {video_id}: label {other!r:.40} is not text; write the label's name")
        for name in dict.fromkeys(names):
            labels.setdefault(name, len(labels))
        if names:
            rows = _numbers(video_id, numbers)
            self._video.extend([row] * len(names))
            self._label.extend([labels[name] for name in names])
            self._segments.frombytes(rows[:, :2].tobytes())
            self._scores.frombytes(rows[:, 2].tobytes())

    def columns(self) -> Columns:
        """Finish the collection and return it."""
        return Columns(
            tuple(self._videos),
            tuple(self._labels),
            np.asarray(self._video, np.int32),
            np.asarray(self._label, np.int32),
            np.asarray(self._segments, np.float64).reshape(-1, 2),
            np.asarray(self._scores, np.float64),
        )


def collect(results: Iterable[tuple[str, Any]]) -> Columns:
    """Return `Columns` of (video id, entries) pairs, such as the items of `results` in a results file."""
    collector = Collector()
    for video_id, entries in results:
        collector.add(video_id, entries)
    return collector.columns()
