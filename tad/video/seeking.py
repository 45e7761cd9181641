"""Some frames of a video by their times, without decoding it from its beginning: exactly those of one pass over it.

For training clips of collections too large to be kept decoded. A first pass over a video notes the times of the frames
that its rate policy picks; later, clips are decoded from the key frame before them. Frames are known by their times, to
the last bit; where a file cannot be entered in the middle (no times, or times that do not rise; a key frame that comes
late), it is decoded from its beginning.
"""

# T frames, H rows, W columns

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from tad.errors import TadError
from tad.video.reader import Frame, Opening, PyavReader, open_video
from tad.video.sampling import sampled

NEAR = 64  # frames that are rather decoded on the way than jumped over
EARLIER = (0.0, 1.0, 5.0)  # seconds before a clip where a key frame is looked for


@dataclass(frozen=True)
class Source:
    """A video file, its reader, and which frames are picked; see `sampled`."""

    path: Path
    reader: str
    policy: str
    rate: float
    native_rate: float

    def pick(self, frames: Iterable[Any]) -> Iterator[Any]:
        """What the policy picks of frames, by their `image`."""
        return sampled(
            frames, policy=self.policy, rate=self.rate, native_rate=self.native_rate, reader=self.reader
        )  # fmt: skip

    def images(self) -> Iterator[np.ndarray]:
        """The picked images (H, W, 3) uint8 in one pass."""
        with open_video(self.path, reader=self.reader) as video:
            yield from self.pick(video)


class Noted:
    """One pass over a video, and what is noted in it: the times of the picked frames, and how to enter the file."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.times: list[float] = []
        self.opening: Opening | None = None
        self._rising = True

    def images(self) -> Iterator[np.ndarray]:
        """The picked images, in order; when they have ended, the notes are complete."""
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
    """A place in one of many videos; asked for clips in order, it goes on from where it is. For one thread."""

    def __init__(self) -> None:
        self._noted: Noted | None = None
        self._video: Any = None
        self._frames: Iterator[Frame] = iter(())
        self._end = 0

    def clip(self, noted: Noted, start: int, length: int) -> list[np.ndarray]:
        """The picked frames [start, start + length) of a video.

        Raises:
            TadError: the file has changed since its times were noted.
        """
        wanted = noted.times[start : start + length]
        found: list[np.ndarray] = []
        if noted is self._noted and 0 <= start - self._end <= NEAR:
            found = self._collect(wanted)
        for seconds in EARLIER if noted.opening is not None else ():
            if len(found) < len(wanted):  # indexes go by decoding times, so the key frame may be too late
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
        """Frames with these times; fewer if one does not come."""
        found: list[np.ndarray] = []
        for frame in self._frames:
            while len(found) < len(wanted) and frame.time == wanted[len(found)]:
                found.append(frame.image)
            if len(found) == len(wanted):
                self._frames = chain([frame], self._frames)  # it may be the next clip's first too
                break
            if frame.time > wanted[len(found)]:
                break
        return found

    def close(self) -> None:
        """Close the file."""
        if self._video is not None:
            self._video.close()
        self._noted, self._video, self._frames = None, None, iter(())
