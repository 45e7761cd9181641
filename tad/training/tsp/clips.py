"""Training clips of TSP: action and background segments, random clips of them, their frames and augmentation.

Follows "TSP: Temporally-Sensitive Pretraining of Video Encoders for Localization Tasks" (ICCV-W 2021).
Shapes: S segments, T frames of a clip, H rows, W columns, C channels, N frames of all videos together.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

BACKGROUND = -1
LEVELS = 255  # largest uint8 value; if motion x is stored as k, motion -x is stored as 255 - k


@dataclass(frozen=True)
class SegmentTable:
    """Segments that training clips are taken from: one row per instance and per maximal gap between instances.

    Attributes:
        videos_S: index of the video.
        bounds_S2: earliest and latest start of a clip in seconds.
        labels_S: class id, or `BACKGROUND`.
        dropped: number of segments that are too short for a clip.
    """

    videos_S: np.ndarray
    bounds_S2: np.ndarray
    labels_S: np.ndarray
    dropped: int

    def __len__(self) -> int:
        return len(self.videos_S)

    def of_videos(self, videos: Iterable[int]) -> "SegmentTable":
        """Return the rows of the given videos."""
        selected_S = np.isin(self.videos_S, list(videos))
        return SegmentTable(
            self.videos_S[selected_S], self.bounds_S2[selected_S], self.labels_S[selected_S], self.dropped
        )


def gaps(taken: Sequence[tuple[float, float]], duration: float) -> list[tuple[float, float]]:
    """Return the maximal intervals of [0, duration] outside the union of `taken`, in order."""
    intervals, reached = [], 0.0
    for start, end in sorted(taken):
        if start > reached:
            intervals.append((reached, min(start, duration)))
        reached = max(reached, end)
    if reached < duration:
        intervals.append((reached, duration))
    return [(start, end) for start, end in intervals if end > start]


def _clip_starts(
    segment: tuple[float, float], duration: float, clip: float, extend: bool
) -> tuple[float, float] | None:
    """Return the range of start times of clips inside a segment, or (with `extend`) of clips around a short segment."""
    start, end = segment
    if end - start >= clip:
        return start, end - clip
    if not extend or clip > duration:
        return (0.0, 0.0) if extend else None
    return min(max(end - clip, 0.0), duration - clip), min(start, duration - clip)


def segment_table(
    videos: Sequence[Mapping[str, Any]],
    durations: Sequence[float],
    labels: Mapping[str, int],
    *,
    clip_seconds: Sequence[float],
    short: Literal["drop", "extend"],
    shortest_gap: float = 1.0,
    moments: bool = False,
) -> SegmentTable:
    """Create the segment table of all videos, in order (TSP's ground-truth table).

    Args:
        videos: entries with `instances` [[start, end, label]] and optionally `ambiguous` [[start, end]], which are
            neither action nor background.
        durations: duration of each video in seconds.
        labels: label → class id.
        clip_seconds: duration of a clip in each video.
        short: what to do with instances shorter than a clip: `drop` them as TSP does, or `extend` clips beyond them.
            Background gaps shorter than a clip are always dropped: a clip around one would mostly show actions.
        shortest_gap: minimum length of a background gap, in clips. TSP's published tables have 1 for THUMOS14 and 5 for
            ActivityNet, whose boundaries are less exact.
        moments: instances have one time; clips contain it, whatever `short` says.
    """
    rows: list[tuple[int, float, float, int]] = []
    dropped = 0
    for index, (video, duration, clip) in enumerate(zip(videos, durations, clip_seconds, strict=True)):
        taken = [(float(start), min(float(end), duration)) for start, end, _ in video["instances"]]
        actions = [(segment, labels[row[2]]) for segment, row in zip(taken, video["instances"], strict=True)]
        unclear = [(float(start), float(end)) for start, end in video.get("ambiguous", ())]
        background = [(segment, BACKGROUND) for segment in gaps(taken + unclear, duration)]
        for segment, label in sorted(actions + background):
            extend = (short == "extend" or moments) and label != BACKGROUND
            starts = _clip_starts(segment, duration, clip, extend)
            needed = shortest_gap * clip if label == BACKGROUND else 0.0
            empty = segment[1] < segment[0] if moments else segment[1] <= segment[0]
            if starts is None or segment[1] - segment[0] < needed or empty:
                dropped += 1
            else:
                rows.append((index, *starts, label))
    columns = list(zip(*rows, strict=True)) if rows else [(), (), (), ()]
    return SegmentTable(
        videos_S=np.array(columns[0], dtype=np.int64),
        bounds_S2=np.array([columns[1], columns[2]], dtype=np.float64).T.reshape(-1, 2),
        labels_S=np.array(columns[3], dtype=np.int64),
        dropped=dropped,
    )


def random_clips(table: SegmentTable, per_segment: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw `per_segment` clips of each segment, in random order; return their table rows and start times in seconds."""
    rows = np.repeat(np.arange(len(table)), per_segment)
    low, high = table.bounds_S2[rows].T
    starts = low + rng.random(len(rows)) * (high - low)
    order = rng.permutation(len(rows))
    return rows[order], starts[order]


def even_clips(table: SegmentTable, per_segment: int) -> tuple[np.ndarray, np.ndarray]:
    """Return table rows and start times of `per_segment` evenly spaced clips of each segment, for validation."""
    share = np.linspace(0, 1, per_segment) if per_segment > 1 else np.array([0.5])
    low, high = table.bounds_S2.T
    starts = low[:, None] + share * (high - low)[:, None]
    return np.repeat(np.arange(len(table)), per_segment), starts.reshape(-1)


class Clips(Protocol):
    """Protocol of a source of clips from all training videos, sampled and resized.

    Attributes:
        count: number of frames of each video.
        rates: frames per second of each video.
    """

    count: list[int]
    rates: list[float]

    def clip(self, video: int, start: float, length: int) -> np.ndarray:
        """Return a clip (T, H, W, C) uint8 that starts at `start` seconds.

        The start is moved so that the clip lies inside the video. A video shorter than a clip is padded with its last
        frame.
        """
        ...


def placed(frame: float, count: int, length: int) -> tuple[int, int]:
    """Return the first frame and the number of available frames of a clip at `frame` in a video of `count` frames."""
    index = min(max(round(frame), 0), max(count - length, 0))
    return index, min(index + length, count) - index


def padded(clip_THWC: np.ndarray, length: int) -> np.ndarray:
    """Pad a clip to `length` frames by repeating its last frame."""
    missing = length - len(clip_THWC)
    return np.concatenate([clip_THWC, np.repeat(clip_THWC[-1:], missing, axis=0)]) if missing else clip_THWC


class Rows(Protocol):
    """Frames that are read when they are sliced."""

    shape: tuple[int, ...]

    def __getitem__(self, part: slice) -> np.ndarray:
        """Return some successive frames (N, H, W, C)."""


@dataclass
class Frames:
    """Source of clips from frames that have all been decoded.

    Attributes:
        store_NHWC: uint8 frames, one video after the other: an array, or rows of a temporary file.
        first: index of each video's first frame.
        count: number of frames of each video.
        rates: frames per second of each video.
    """

    store_NHWC: "np.ndarray | Rows"
    first: list[int]
    count: list[int]
    rates: list[float]

    def clip(self, video: int, start: float, length: int) -> np.ndarray:
        """Return a clip; see `Clips.clip`."""
        index, there = placed(start * self.rates[video], self.count[video], length)
        begin = self.first[video] + index
        return padded(self.store_NHWC[begin : begin + there], length)


@dataclass(frozen=True)
class Augment:
    """Augmentation of training clips: random crop (of the backbone's size), shift and horizontal flip."""

    crop: tuple[int, int]
    flip: float
    shift: int

    def __call__(self, clip_THWC: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        """Return a cropped copy of a clip; without `rng` the centre crop, not flipped.

        Edge pixels are repeated beyond the border. Clips with two channels are motion (x, y), and a flip negates x.
        """
        axes = []
        for size, crop in zip(clip_THWC.shape[1:3], self.crop, strict=True):
            first = round((size - crop) / 2)
            if rng is not None:
                first = int(rng.integers(-self.shift, size - crop + self.shift + 1))
            axes.append(np.clip(np.arange(first, first + crop), 0, size - 1))
        rows, columns = axes
        flipped = rng is not None and rng.random() < self.flip
        if flipped:
            columns = columns[::-1]
        cut_THWC = np.ascontiguousarray(clip_THWC[:, rows][:, :, columns])
        if flipped and cut_THWC.shape[-1] == 2:
            cut_THWC[..., 0] = LEVELS - cut_THWC[..., 0]
        return cut_THWC
