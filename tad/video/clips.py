"""Frames in order → clips: which frames make clip i, in integers, and the buffer that feeds them from one pass."""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")

# Shares of a native frame. Below a half and below one, because a tie must not be decided by the rounding of times:
# containers store milliseconds, decord single precision.
TOLERANCE, LAST = 0.49, 0.9
# Output slots: how far below a half still counts as one. Times are exact numbers in double precision; the finest time
# base in use leaves 5e-6 between a tie and its neighbour.
TIE = 1e-7


def count_clips(frames: int, *, length: int, stride: int, tail: str = "drop") -> int:
    """Number of clips of a video: whole ones only, but at least one (padded) where there is a frame at all.

    With tail `align`, frames that the last of these does not reach get one clip more.
    """
    if frames < length:
        return min(frames, 1)
    rest = (frames - length) % stride
    return (frames - length) // stride + 1 + (tail == "align" and rest > 0)


def clip_frames(clip: int, *, frames: int, length: int, stride: int, tail: str = "drop") -> list[int]:
    """The frames of clip `clip`: [clip·stride, clip·stride + length); beyond the end the last frame is repeated. The
    clip that tail `align` adds holds the last `length` frames."""
    assert 0 <= clip < count_clips(frames, length=length, stride=stride, tail=tail)
    first = clip * stride
    if tail == "align":
        first = min(first, max(frames - length, 0))
    return [min(index, frames - 1) for index in range(first, first + length)]


def resample(frames: Iterable[tuple[float, Item]], *, rate: float, native_rate: float) -> Iterator[Item]:
    """The frames displayed at k / rate seconds, k = 0, 1, ..., each the last one whose time is at most half a native
    frame later; a frame may come twice or never.

    At a constant rate and an integer ratio this is slicing (30 → 15 gives 0, 2, 4, ...). The last frame is displayed
    for one native frame.

    Args:
        frames: (time in seconds, frame), times not falling.
        rate: frames per second wanted.
        native_rate: mean frames per second of the video; sets the tolerance.
    """
    late = TOLERANCE / native_rate
    wanted = 0
    shown: list[tuple[float, Item]] = []
    for time, frame in frames:
        while shown and wanted / rate + late < time:
            yield shown[0][1]
            wanted += 1
        shown = [(time, frame)]
    while shown and wanted / rate < shown[0][0] + LAST / native_rate:
        yield shown[0][1]
        wanted += 1


def resample_indices(times: Sequence[float], *, rate: float, native_rate: float) -> list[int]:
    """`resample` for frames with these times (seconds): the indices it would yield."""
    return list(resample(zip(times, range(len(times)), strict=True), rate=rate, native_rate=native_rate))


def ffmpeg_slot(seconds: float, rate: float) -> int:
    """The output frame that ffmpeg's `fps` filter gives a time to: the nearest, halves away from zero."""
    return int(math.copysign(math.floor(abs(seconds) * rate + 0.5 + TIE), seconds))


def ffmpeg_cfr(frames: Iterable[tuple[float, float, Item]], *, rate: float) -> Iterator[Item]:
    """The frames that ffmpeg's `fps` filter (`round=near`) picks, frame for frame: `-filter:v fps=15` and the like.

    Every time is rounded to the nearest output slot; slots begin with the first frame's and end where the last frame's
    display does, and each holds the last frame rounded to it or before it. Unlike `resample`, a frame may so be shown
    up to half an output frame early, and the first slot need not be 0. Pipelines that made their features from files
    which ffmpeg had brought to a constant rate (TSP, video_features) saw these frames, but after a lossy encoding,
    which is not imitated: their pixels differ a little. Where ffmpeg gives nothing at all (a video shorter than half
    an output frame), its frame is given once. Versions of ffmpeg disagree about how long the last frame of an mp4 with
    a varying rate is shown, so the end may differ by that much.

    Args:
        frames: (time, duration, frame) in seconds from the start of the file; only the last duration matters.
        rate: frames per second wanted.
    """
    following: int | None = None
    shown: list[Item] = []
    end, given = 0, False
    for time, duration, frame in frames:
        slot = ffmpeg_slot(time, rate)
        following = slot if following is None else following
        while shown and following < slot:
            yield shown[0]
            following, given = following + 1, True
        shown, end = [frame], ffmpeg_slot(time + duration, rate)
    while following is not None and (following < end or not given):
        yield shown[0]
        following, given = following + 1, True


class ClipBuffer(Generic[Item]):
    """Ring buffer between a sequential reader and a backbone: holds the last `length` frames, each stored once."""

    def __init__(self, *, length: int, stride: int, tail: str = "drop") -> None:
        self.length, self.stride, self.tail = length, stride, tail
        self.frames = 0
        self.clips = 0
        self._ring: deque[Item] = deque(maxlen=length)

    def push(self, frame: Item) -> list[Item] | None:
        """Take the next frame; returns the frames of the clip that it completes, if any."""
        self._ring.append(frame)
        self.frames += 1
        if self.frames != self.clips * self.stride + self.length:
            return None
        self.clips += 1
        return list(self._ring)

    def finish(self) -> list[Item] | None:
        """After the last frame: the one padded clip of a video shorter than a clip; with tail `align` the last frames,
        if no clip ended with them; else nothing."""
        if count_clips(self.frames, length=self.length, stride=self.stride, tail=self.tail) == self.clips:
            return None
        self.clips += 1
        return list(self._ring) + [self._ring[-1]] * (self.length - len(self._ring))
