"""Clip sampling: the frame indices of each clip, resampling to another rate, and a buffer for single-pass reading."""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")

# Fractions of a native frame. They lie below 1/2 and below 1 so that the rounding of times does not decide ties:
# containers store milliseconds, and decord uses single precision.
TOLERANCE, LAST = 0.49, 0.9
# In output slots: values this far below a half are rounded up as well. Times are exact numbers in double precision; the
# finest time base in use leaves 5e-6 between a tie and its neighbour.
TIE = 1e-7


def count_clips(frames: int, *, length: int, stride: int, tail: str = "drop") -> int:
    """Return the number of clips of a video: complete clips only, but at least one (padded) if there is any frame.

    With tail `align`, one more clip covers the frames after the last complete clip.
    """
    if frames < length:
        return min(frames, 1)
    rest = (frames - length) % stride
    return (frames - length) // stride + 1 + (tail == "align" and rest > 0)


def clip_frames(clip: int, *, frames: int, length: int, stride: int, tail: str = "drop") -> list[int]:
    """Return the frame indices of clip `clip`: [clip·stride, clip·stride + length).

    Beyond the end the last frame is repeated. The clip that tail `align` adds holds the last `length` frames.
    """
    assert 0 <= clip < count_clips(frames, length=length, stride=stride, tail=tail)
    first = clip * stride
    if tail == "align":
        first = min(first, max(frames - length, 0))
    return [min(index, frames - 1) for index in range(first, first + length)]


def resample(frames: Iterable[tuple[float, Item]], *, rate: float, native_rate: float) -> Iterator[Item]:
    """Resample frames to a constant rate.

    Output k is the frame displayed k / rate seconds after the first frame: the last one whose time is at most half a
    native frame later. A frame may be repeated or skipped. At a constant rate and an integer ratio this is slicing
    (30 → 15 gives 0, 2, 4, ...). The last frame is displayed for the duration of one native frame.

    Args:
        frames: (time in seconds, frame) with non-decreasing times.
        rate: output frames per second.
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
    """Return the indices of the frames that `resample` yields for these times in seconds."""
    return list(resample(zip(times, range(len(times)), strict=True), rate=rate, native_rate=native_rate))


def ffmpeg_slot(seconds: float, rate: float) -> int:
    """Return the output frame to which ffmpeg's `fps` filter assigns a time: the nearest, halves away from zero."""
    return int(math.copysign(math.floor(abs(seconds) * rate + 0.5 + TIE), seconds))


def ffmpeg_cfr(frames: Iterable[tuple[float, float, Item]], *, rate: float) -> Iterator[Item]:
    """Select the same frames as ffmpeg's `fps` filter with `round=near`, for example `-filter:v fps=15`.

    Every time is rounded to the nearest output slot. Slots run from 0 to the end of the last frame's display, and each
    holds the last frame rounded to it or to an earlier slot. If the video starts later than the audio, the slots before
    the first frame repeat the content of its slot, as in a file written by ffmpeg. Unlike with `resample`, a frame may
    be shown up to half an output frame early.

    Pipelines that extract features from files converted to a constant rate by ffmpeg (TSP, video_features) use these
    frames after a lossy encoding. The encoding is not reproduced, so pixels differ slightly. A video shorter than half
    an output frame, for which ffmpeg writes nothing, yields its frame once. Versions of ffmpeg disagree about the
    duration of the last frame of a variable-rate mp4, so the end may differ by that much.

    Args:
        frames: (time, duration, frame) in seconds on the file's time line; only the last duration matters.
        rate: output frames per second.
    """
    following: int | None = None
    shown: list[Item] = []
    end, given, before = 0, False, 0
    for time, duration, frame in frames:
        slot = ffmpeg_slot(time, rate)
        if following is None:
            following, before = slot, max(slot, 0)
        if following < slot:
            yield from shown * before
            before = 0
        while shown and following < slot:
            yield shown[0]
            following, given = following + 1, True
        shown, end = [frame], ffmpeg_slot(time + duration, rate)
    yield from shown * before
    while following is not None and (following < end or not given):
        yield shown[0]
        following, given = following + 1, True


class ClipBuffer(Generic[Item]):
    """Ring buffer between a sequential reader and a backbone that stores each of the last `length` frames once."""

    def __init__(self, *, length: int, stride: int, tail: str = "drop") -> None:
        self.length, self.stride, self.tail = length, stride, tail
        self.frames = 0
        self.clips = 0
        self._ring: deque[Item] = deque(maxlen=length)

    def push(self, frame: Item) -> list[Item] | None:
        """Add the next frame; return the frames of the clip that it completes, or None."""
        self._ring.append(frame)
        self.frames += 1
        if self.frames != self.clips * self.stride + self.length:
            return None
        self.clips += 1
        return list(self._ring)

    def finish(self) -> list[Item] | None:
        """Return the final clip after the last frame, or None.

        This is the padded clip of a video shorter than a clip, or with tail `align` the last frames if no clip ended
        with them.
        """
        if count_clips(self.frames, length=self.length, stride=self.stride, tail=self.tail) == self.clips:
            return None
        self.clips += 1
        return list(self._ring) + [self._ring[-1]] * (self.length - len(self._ring))
