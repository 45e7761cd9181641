"""Which clips TSP sees: segments of actions and of background, random clips of them, their frames, augmentation.

After "TSP: Temporally-Sensitive Pretraining of Video Encoders for Localization Tasks" (ICCV-W 2021).
Shapes: S segments, T frames of a clip, H rows, W columns, C channels, N frames of all videos together.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

BACKGROUND = -1
LEVELS = 255  # the highest of uint8; motion x is level k, motion -x is 255 - k


@dataclass(frozen=True)
class SegmentTable:
    """Where training clips may be cut: one row per instance and one per maximal gap between instances.

    Attributes:
        videos_S: index of the video.
        bounds_S2: earliest and latest start of a clip, seconds.
        labels_S: class id, or `BACKGROUND`.
        dropped: segments that are too short for a clip.
    """

    videos_S: np.ndarray
    bounds_S2: np.ndarray
    labels_S: np.ndarray
    dropped: int

    def __len__(self) -> int:
        return len(self.videos_S)

    def of_videos(self, videos: Iterable[int]) -> "SegmentTable":
        """The rows of these videos alone."""
        kept = np.isin(self.videos_S, list(videos))
        return SegmentTable(self.videos_S[kept], self.bounds_S2[kept], self.labels_S[kept], self.dropped)


def gaps(taken: Sequence[tuple[float, float]], duration: float) -> list[tuple[float, float]]:
    """The maximal intervals of [0, duration] outside the union of `taken`, in order."""
    found, reached = [], 0.0
    for start, end in sorted(taken):
        if start > reached:
            found.append((reached, min(start, duration)))
        reached = max(reached, end)
    if reached < duration:
        found.append((reached, duration))
    return [(start, end) for start, end in found if end > start]


def _clip_starts(
    segment: tuple[float, float], duration: float, clip: float, extend: bool
) -> tuple[float, float] | None:
    """The range of starts of clips inside a segment; of clips around it where it is short and `extend` holds."""
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
) -> SegmentTable:
    """The rows of all videos, in order (TSP's ground-truth table).

    Args:
        videos: entries with `instances` [[start, end, label]] and optionally `ambiguous` [[start, end]], which are
            neither action nor background.
        durations: seconds of each video.
        labels: label → class id.
        clip_seconds: duration of a clip of each video.
        short: instances shorter than a clip: left out as TSP does, or seen by clips that contain them. A background
            gap shorter than a clip is always left out: a clip around it would mostly show actions.
        shortest_gap: clips that fit into the shortest gap that counts. TSP's published tables have 1 for THUMOS14 and 5
            for ActivityNet, whose bounds are less exact.
    """
    rows: list[tuple[int, float, float, int]] = []
    dropped = 0
    for index, (video, duration, clip) in enumerate(zip(videos, durations, clip_seconds, strict=True)):
        taken = [(float(start), min(float(end), duration)) for start, end, _ in video["instances"]]
        actions = [(segment, labels[row[2]]) for segment, row in zip(taken, video["instances"], strict=True)]
        unclear = [(float(start), float(end)) for start, end in video.get("ambiguous", ())]
        background = [(segment, BACKGROUND) for segment in gaps(taken + unclear, duration)]
        for segment, label in sorted(actions + background):
            extend = short == "extend" and label != BACKGROUND
            starts = _clip_starts(segment, duration, clip, extend)
            needed = shortest_gap * clip if label == BACKGROUND else 0.0
            if starts is None or segment[1] - segment[0] < needed or segment[1] <= segment[0]:
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
    """`per_segment` clips of each segment in random order: row of the table, start in seconds."""
    rows = np.repeat(np.arange(len(table)), per_segment)
    low, high = table.bounds_S2[rows].T
    starts = low + rng.random(len(rows)) * (high - low)
    order = rng.permutation(len(rows))
    return rows[order], starts[order]


def even_clips(table: SegmentTable, per_segment: int) -> tuple[np.ndarray, np.ndarray]:
    """`per_segment` evenly spaced clips of each segment, in order: for validation."""
    share = np.linspace(0, 1, per_segment) if per_segment > 1 else np.array([0.5])
    low, high = table.bounds_S2.T
    starts = low[:, None] + share * (high - low)[:, None]
    return np.repeat(np.arange(len(table)), per_segment), starts.reshape(-1)


class Clips(Protocol):
    """Where the frames of all training videos are, sampled and shrunk.

    Attributes:
        count: number of each video's frames.
        rates: frames per second of each video.
    """

    count: list[int]
    rates: list[float]

    def clip(self, video: int, start: float, length: int) -> np.ndarray:
        """(T, H, W, C) uint8 from `start` seconds; moved into the video, a shorter one's last frame repeated."""
        ...


def placed(frame: float, count: int, length: int) -> tuple[int, int]:
    """First frame of a clip that should begin at `frame` of a video of `count`, and how many frames it has there."""
    index = min(max(round(frame), 0), max(count - length, 0))
    return index, min(index + length, count) - index


def padded(clip_THWC: np.ndarray, length: int) -> np.ndarray:
    """The clip with its last frame repeated up to `length`."""
    missing = length - len(clip_THWC)
    return np.concatenate([clip_THWC, np.repeat(clip_THWC[-1:], missing, axis=0)]) if missing else clip_THWC


@dataclass
class Frames:
    """Clips from frames that are all there.

    Attributes:
        store_NHWC: uint8 frames, one video after the other (usually a memory-mapped temporary file).
        first, count: position and number of each video's frames.
        rates: frames per second of each video.
    """

    store_NHWC: np.ndarray
    first: list[int]
    count: list[int]
    rates: list[float]

    def clip(self, video: int, start: float, length: int) -> np.ndarray:
        """See `Clips`."""
        index, there = placed(start * self.rates[video], self.count[video], length)
        begin = self.first[video] + index
        return padded(self.store_NHWC[begin : begin + there], length)


@dataclass(frozen=True)
class Augment:
    """Random cropping (to the backbone's crop), shifting and mirroring of training clips."""

    crop: tuple[int, int]
    flip: float
    shift: int

    def __call__(self, clip_THWC: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        """A cropped copy; without `rng` the centre, unmirrored. Beyond the border the edge pixels are repeated. Two
        channels are motion (x, y): in a mirror that to the right is one to the left."""
        axes = []
        for size, crop in zip(clip_THWC.shape[1:3], self.crop, strict=True):
            first = round((size - crop) / 2)
            if rng is not None:
                first = int(rng.integers(-self.shift, size - crop + self.shift + 1))
            axes.append(np.clip(np.arange(first, first + crop), 0, size - 1))
        rows, columns = axes
        mirrored = rng is not None and rng.random() < self.flip
        if mirrored:
            columns = columns[::-1]
        cut_THWC = np.ascontiguousarray(clip_THWC[:, rows][:, :, columns])
        if mirrored and cut_THWC.shape[-1] == 2:
            cut_THWC[..., 0] = LEVELS - cut_THWC[..., 0]
        return cut_THWC
