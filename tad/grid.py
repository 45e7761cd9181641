"""Snippet index ↔ seconds: the one place that knows."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

Number = TypeVar("Number", float, np.ndarray)


@dataclass(frozen=True, slots=True)
class Grid:
    """Snippet `t` of a video lies at `start + t * step` seconds (the centre of its clip).

    Attributes:
        start: seconds of snippet 0.
        step: seconds between neighbouring snippets, > 0.
        length: number of snippets.
        duration: seconds of the whole video; segments in seconds lie in [0, duration].
    """

    start: float
    step: float
    length: int
    duration: float

    def __post_init__(self) -> None:
        if not (self.step > 0 and self.length >= 0 and self.duration >= 0):
            raise ValueError(f"a grid needs step > 0, length >= 0 and duration >= 0, not {self}")

    @classmethod
    def of_clips(cls, *, clip_length: int, stride: int, rate: float, length: int, duration: float) -> "Grid":
        """The grid of clips of `clip_length` frames that start every `stride` frames at `rate` frames per second.

        Clip t covers frames [t·stride, t·stride + clip_length); its centre is frame t·stride + clip_length/2, the
        convention of the published THUMOS14 features (ActionFormer's dataset code and FAQ).
        """
        return cls(0.5 * clip_length / rate, stride / rate, length, duration)

    def to_seconds(self, position: Number) -> Number:
        """Seconds of a (fractional) snippet position; not clamped."""
        return self.start + position * self.step

    def to_grid(self, seconds: Number) -> Number:
        """The (fractional, possibly negative) snippet position of a time in seconds."""
        return (seconds - self.start) / self.step

    def clamp(self, seconds: np.ndarray) -> np.ndarray:
        """Times moved into [0, duration]."""
        clamped: np.ndarray = np.clip(seconds, 0.0, self.duration)
        return clamped

    def window(self, first: int, last: int) -> "Grid":
        """The grid of snippets [first, last) alone; its seconds are still those of the whole video."""
        if not 0 <= first <= last <= self.length:
            raise ValueError(f"window [{first}, {last}) does not lie in [0, {self.length})")
        return Grid(self.start + first * self.step, self.step, last - first, self.duration)

    def thinned(self, every: int) -> "Grid":
        """The grid of snippets 0, `every`, 2·`every`, … alone."""
        return Grid(self.start, self.step * every, -(-self.length // every), self.duration)

    def resized(self, length: int) -> "Grid":
        """The grid after linear interpolation of the sequence to `length` snippets (cell borders kept, as
        `align_corners=False` does): snippet t of the new grid lies at (t + ½)·scale − ½ of the old one."""
        scale = self.length / length
        return Grid(self.start + (0.5 * scale - 0.5) * self.step, self.step * scale, length, self.duration)

    def spread(self, length: int) -> "Grid":
        """The grid of `length` equal cells over everything that the clips cover, from the first frame to the last:
        ActionFormer's convention for features resized to a fixed length (half a clip = `start` on either side)."""
        step = ((self.length - 1) * self.step + 2 * self.start) / length
        return Grid(step / 2, step, length, self.duration)
