"""The affine map between snippet positions and seconds. All conversions in tad go through it."""

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

Number = TypeVar("Number", float, np.ndarray)


@dataclass(frozen=True, slots=True)
class Grid:
    """Map snippet positions of a video to seconds: the clip of snippet `t` is centred at `start + t * step`.

    Attributes:
        start: seconds of snippet 0.
        step: seconds between neighbouring snippets, > 0.
        length: number of snippets.
        duration: seconds of the whole video; segments in seconds lie in [0, duration].
        offset: seconds at which the first frame of the clips is shown; more than 0 where the picture begins later than
            the file. Half a clip lies between it and `start`.
    """

    start: float
    step: float
    length: int
    duration: float
    offset: float = 0.0

    def __post_init__(self) -> None:
        finite = all(map(math.isfinite, (self.start, self.step, self.duration, self.offset)))
        if not (finite and self.step > 0 and self.length >= 0 and self.duration >= 0):
            raise ValueError(f"a grid needs finite times, step > 0, length >= 0 and duration >= 0, not {self}")

    @classmethod
    def of_clips(
        cls, *, clip_length: int, stride: int, rate: float, length: int, duration: float, offset: float = 0.0
    ) -> "Grid":
        """Return the grid of clips of `clip_length` frames that start every `stride` frames, at `rate` frames a second,
        the first of them at `offset` seconds.

        Clip t covers frames [t·stride, t·stride + clip_length); its centre is frame t·stride + clip_length/2, the
        convention of the published THUMOS14 features (ActionFormer's dataset code and FAQ).
        """
        return cls(offset + 0.5 * clip_length / rate, stride / rate, length, duration, offset)

    def to_seconds(self, position: Number) -> Number:
        """Convert a (fractional) snippet position to seconds, without clamping."""
        return self.start + position * self.step

    def to_grid(self, seconds: Number) -> Number:
        """Convert seconds to a (fractional, possibly negative) snippet position."""
        return (seconds - self.start) / self.step

    def clamp(self, seconds: np.ndarray) -> np.ndarray:
        """Clamp times to [0, duration]."""
        clamped: np.ndarray = np.clip(seconds, 0.0, self.duration)
        return clamped

    def window(self, first: int, last: int) -> "Grid":
        """Return the grid of snippets [first, last). Its seconds are still those of the whole video."""
        if not 0 <= first <= last <= self.length:
            raise ValueError(f"window [{first}, {last}) does not lie in [0, {self.length})")
        return Grid(self.start + first * self.step, self.step, last - first, self.duration, self.offset)

    def thinned(self, every: int) -> "Grid":
        """Return the grid of snippets 0, `every`, 2·`every`, …"""
        return Grid(self.start, self.step * every, -(-self.length // every), self.duration, self.offset)

    def spread(self, length: int) -> "Grid":
        """Return the grid of `length` equal cells from the first frame that the clips cover to the last one.

        This is ActionFormer's convention for features resized to a fixed length (half a clip on each side).
        """
        half = self.start - self.offset
        step = ((self.length - 1) * self.step + 2 * half) / length
        return Grid(self.offset + step / 2, step, length, self.duration, self.offset)
