"""One pass over a video file that records what probing needs: times, signatures of the frames, damage, the header."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tad.video.reader import Frame, PyavReader, Reader, Tally, VideoError, open_video

POINTS = 8  # a frame's signature consists of POINTS × POINTS pixels


@dataclass(frozen=True, slots=True)
class Scan:
    """Result of one reader's pass over a file."""

    times: np.ndarray  # (N,) float64 seconds from the first frame
    marks: np.ndarray  # (N, POINTS·POINTS·3) uint8
    shape: tuple[int, ...]  # (H, W, 3) of an upright frame
    facts: dict[str, Any]  # PyAV only: the header, the orientation and the result of `promised`
    cause: str  # why the pass stopped early; empty if it is complete
    tally: Tally | None = None  # PyAV only
    start: float = 0.0  # time of the first frame in seconds on the file's time line; PyAV only

    @property
    def frames(self) -> int:
        """Number of decoded frames."""
        return len(self.times)


def _mark(image: np.ndarray) -> np.ndarray:
    rows = (np.arange(POINTS) + 0.5) / POINTS * image.shape[0]
    columns = (np.arange(POINTS) + 0.5) / POINTS * image.shape[1]
    return image[rows.astype(int)[:, None], columns.astype(int)[None, :], :3].reshape(-1)


class Scanner:
    """Records a pass while its frames are used; `result` is complete when the frames have ended without an error.

    Args:
        path: the video file.
        max_pixels: files whose header states larger frames are rejected before decoding (PyAV only, which runs first).
    """

    def __init__(self, path: Path, *, max_pixels: int) -> None:
        self.path, self.max_pixels = path, max_pixels
        self.facts: dict[str, Any] = {}
        self._times: list[float] = []
        self._marks: list[np.ndarray] = []
        self._shape: tuple[int, ...] = ()
        self._start = 0.0
        self._tally: Tally | None = None

    def frames(self, video: Reader) -> Iterator[Frame]:
        """Yield the frames of a reader of this file.

        Raises:
            VideoError: the file cannot be read further.
        """
        if isinstance(video, PyavReader):
            header = video.header
            self.facts = {"header": header, "promised": (0, 0)}
            if header.width * header.height > self.max_pixels:
                raise VideoError(
                    self.path, f"header states {header.width}x{header.height} pixels, more than {self.max_pixels}"
                )
        for frame in video:
            self._shape, self._start = self._shape or frame.image.shape, frame.start
            if frame.image.ndim != 3 or frame.image.shape[2] != 3 or not np.isfinite(frame.time):
                raise VideoError(self.path, f"frame {frame.number} comes as {frame.image.shape} at {frame.time} s")
            self._times.append(frame.time)
            self._marks.append(_mark(frame.image))
            yield frame
        if isinstance(video, PyavReader):
            promised = video.promised(self.path.stat().st_size)
            self.facts |= {"orientation": video.orientation, "promised": promised}
            self._tally = video.tally

    def result(self, cause: str = "") -> Scan:
        """Return the record; `cause`: why the pass stopped early."""
        marks = np.stack(self._marks) if self._marks else np.zeros((0, POINTS * POINTS * 3), np.uint8)
        times = np.array(self._times, np.float64)
        return Scan(times, marks, self._shape, self.facts, cause, self._tally, self._start)


def scan(path: Path, reader: str, *, max_pixels: int, beat: Callable[[int], Any] = lambda frames: None) -> Scan:
    """Decode the whole file once; a failure ends the scan and becomes its `cause`.

    Args:
        path: the video file.
        reader: name of the reader.
        max_pixels: see `Scanner`.
        beat: called after each frame with the number of frames so far.
    """
    scanner = Scanner(path, max_pixels=max_pixels)
    try:
        with open_video(path, reader=reader) as video:
            for count, _ in enumerate(scanner.frames(video), 1):
                beat(count)
    except VideoError as error:
        return scanner.result(error.cause)
    return scanner.result()
