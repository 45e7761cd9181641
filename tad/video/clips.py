"""Frames in order → clips: which frames make clip i, in integers, and the buffer that feeds them from one pass."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")

# Shares of a native frame. Below a half and below one, because a tie must not be decided by the rounding of times:
# containers store milliseconds, decord single precision.
TOLERANCE, LAST = 0.49, 0.9


def count_clips(frames: int, *, length: int, stride: int) -> int:
    """Number of clips of a video: whole ones only, but at least one (padded) where there is a frame at all."""
    if frames < length:
        return min(frames, 1)
    return (frames - length) // stride + 1


def clip_frames(clip: int, *, frames: int, length: int, stride: int) -> list[int]:
    """The frames of clip `clip`: [clip·stride, clip·stride + length); beyond the end the last frame is repeated."""
    assert 0 <= clip < count_clips(frames, length=length, stride=stride)
    return [min(index, frames - 1) for index in range(clip * stride, clip * stride + length)]


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


class ClipBuffer(Generic[Item]):
    """Ring buffer between a sequential reader and a backbone: holds the last `length` frames, each stored once."""

    def __init__(self, *, length: int, stride: int) -> None:
        self.length, self.stride = length, stride
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
        """After the last frame: the one padded clip of a video shorter than a clip, else nothing (an incomplete tail
        is dropped, as in the published I3D, TSP and VideoMAE features)."""
        if self.clips or not self.frames:
            return None
        self.clips = 1
        return list(self._ring) + [self._ring[-1]] * (self.length - self.frames)
