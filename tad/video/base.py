"""Base of the video readers: library imports in a safe order, the types of a frame and a header, one-line errors."""

# H rows, W columns

import importlib
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from tad.core.errors import TadError

decord: Any = importlib.import_module("decord")  # must precede av: importing av first has crashed decord
av: Any = importlib.import_module("av")
importlib.import_module("av.video.reformatter")
decord.logging.set_level(decord.logging.QUIET)
SOURCE_LINE = re.compile(r"^.*\.(?:cc|cpp):\d+[:,] *")


class VideoError(TadError):
    """A video cannot be read, or not to its end; `cause` is the message without the file name."""

    def __init__(self, path: Path, cause: str) -> None:
        super().__init__(f"{path}: {cause}")
        self.cause = cause


class Frame(NamedTuple):
    """A decoded frame.

    Attributes:
        number: index of the frame, from 0.
        time: presentation time in seconds after the first frame.
        image: (H, W, 3) uint8 RGB, upright.
        duration: display duration in seconds, exact with PyAV only; 0 if the file does not state it.
        start: time of the first frame in seconds on the file's time line, whose 0 is the start of its earliest stream;
            exact with PyAV only.
        flagged: the frame may be wrong because the decoder encountered damage (PyAV only).
    """

    number: int
    time: float
    image: np.ndarray
    duration: float = 0.0
    start: float = 0.0
    flagged: bool = False


@dataclass(frozen=True, slots=True)
class Header:
    """Metadata of the container before decoding; counts, rates and times may be wrong or absent (0).

    Pixels are `pixel_aspect` times as wide as high (1 if the file does not state it). `stream` is the index of the
    video stream that is read, and `streams` the number of video streams. `begin` is the stored time of the earliest
    stream in seconds; the header's duration may include it (Matroska).
    """

    width: int
    height: int
    frames: int
    rate: float
    codec: str
    pix_fmt: str
    audio: bool
    pixel_aspect: float
    container: str
    duration: float
    stream: int
    streams: int
    begin: float = 0.0


class Closing(ABC):
    """Base of readers that work as context managers."""

    @abstractmethod
    def close(self) -> None:
        """Release the file and the decoder."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def reason(error: BaseException) -> str:
    """Return the first line of a decoder's message without addresses, dates, source lines and file names, so that it is
    reproducible and can be stored."""
    text = getattr(error, "strerror", None) or str(error).splitlines()[0] if str(error) else type(error).__name__
    text = text.rpartition("] ")[2].split(": '")[0]
    text = SOURCE_LINE.sub("", text).rpartition(" ERROR ")[2]
    return " ".join(re.sub(r"/\S+", "", text).split())[:120]
