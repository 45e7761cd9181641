"""Random access to clips of a video by seeking, with exactly the frames of a sequential pass.

It serves training on data sets that are too large to store decoded. A first pass over a video records the times of the
frames that its rate policy selects; later, a clip is decoded from the preceding key frame. Frames are identified by
their exact times. If seeking is impossible (no times, times that do not increase, or a key frame that comes too late),
the file is decoded from its beginning.
"""

# T frames, H rows, W columns

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from tad.core.errors import TadError
from tad.video.reader import Frame, Opening, PyavReader, open_video
from tad.video.sampling import sampled

NEAR = 64  # gaps of at most this many frames are decoded instead of seeking
EARLIER = (0.0, 1.0, 5.0)  # seconds before a clip at which a key frame is searched


@dataclass(frozen=True)
class Source:
    """A video file with its reader and its rate policy; see `sampled`."""

    path: Path
    reader: str
    policy: str
    rate: float
    native_rate: float
    start: float = 0.0

    def pick(self, frames: Iterable[Any]) -> Iterator[Any]:
        """Yield the `image` of each frame that the policy selects."""
        return sampled(
            frames, policy=self.policy, rate=self.rate, native_rate=self.native_rate, start=self.start,
            reader=self.reader,
        )  # fmt: skip

    def images(self) -> Iterator[np.ndarray]:
        """Yield the selected images (H, W, 3) uint8 in one pass."""
        with open_video(self.path, reader=self.reader) as video:
            yield from self.pick(video)


class Noted:
    """A pass over a video that records the times of the selected frames and the data needed for seeking."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.times: list[float] = []
        self.opening: Opening | None = None
        self._rising = True

    def images(self) -> Iterator[np.ndarray]:
        """Yield the selected images in order; after the last one the record is complete."""
        with open_video(self.source.path, reader=self.source.reader) as video:
            for time, image in self.source.pick(self._watched(video)):
                self.times.append(time)
                yield image
            self.opening = video.opening if isinstance(video, PyavReader) and self._rising else None

    def _watched(self, frames: Iterable[Frame]) -> Iterator[Any]:
        before = -1.0
        for frame in frames:
            self._rising = self._rising and frame.time > before
            before = frame.time
            yield frame._replace(image=(frame.time, frame.image))  # type: ignore[arg-type]


class Cursor:
    """A read position in one of many videos, which continues decoding for consecutive clips; not thread-safe."""

    def __init__(self) -> None:
        self._noted: Noted | None = None
        self._video: Any = None
        self._frames: Iterator[Frame] = iter(())
        self._end = 0

    def clip(self, noted: Noted, start: int, length: int) -> list[np.ndarray]:
        """Return the selected frames [start, start + length) of a video.

        Raises:
            TadError: the file has changed since its times were recorded.
        """
        wanted = noted.times[start : start + length]
        found: list[np.ndarray] = []
        if noted is self._noted and 0 <= start - self._end <= NEAR:
            found = self._collect(wanted)
        for seconds in EARLIER if noted.opening is not None else ():
            if len(found) < len(wanted):  # indexes use decoding times, so the key frame may be too late
                self._enter(noted, wanted[0] - seconds)
                found = self._collect(wanted)
        self._end = start + length
        if len(found) < len(wanted):
            self.close()
            found = list(islice(noted.source.images(), start, start + length))
        if len(found) < len(wanted):
            raise TadError(f"{noted.source.path}: fewer frames than before; run probe again")
        return found

    def _enter(self, noted: Noted, seconds: float) -> None:
        self.close()
        assert noted.opening is not None
        self._noted, self._video = noted, PyavReader(noted.source.path)
        self._frames = self._video.enter(seconds, noted.opening)

    def _collect(self, wanted: Sequence[float]) -> list[np.ndarray]:
        """Return the frames with these times, or fewer if one is missing."""
        found: list[np.ndarray] = []
        for frame in self._frames:
            while len(found) < len(wanted) and frame.time == wanted[len(found)]:
                found.append(frame.image)
            if len(found) == len(wanted):
                self._frames = chain([frame], self._frames)  # it may also be the first frame of the next clip
                break
            if frame.time > wanted[len(found)]:
                break
        return found

    def close(self) -> None:
        """Close the file."""
        if self._video is not None:
            self._video.close()
        self._noted, self._video, self._frames = None, None, iter(())
