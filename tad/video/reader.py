"""Sequential readers of upright video frames and their times, using PyAV, decord or torchcodec.

The readers return the same pixels for files that they decode correctly; `tad.video.probing` detects the other files.
"""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tad.core.errors import TadError
from tad.video.base import Closing, Frame, Header, VideoError, av, decord, reason
from tad.video.pyav_reader import Opening, PyavReader, Tally

__all__ = ["READERS", "DecordReader", "Frame", "Header", "Opening", "PyavReader", "Reader", "Tally", "TorchcodecReader",
           "VideoError", "av", "open_video"]  # fmt: skip


class DecordReader(Closing):
    """Reader that uses decord strictly in order, because its random access decodes neighbouring clips repeatedly.

    Between requests decord decodes ahead without bound; `probing` therefore selects PyAV for large videos.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            self._reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
            self._length = len(self._reader)
            self._times = self._reader.get_frame_timestamp(list(range(self._length)))[:, 0].astype(np.float64)
        except (RuntimeError, decord.DECORDError) as error:
            raise VideoError(path, f"decord cannot open it ({reason(error)})") from None

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self._length):
            try:
                image = self._reader.next().asnumpy()
            except StopIteration:
                return
            except (RuntimeError, decord.DECORDError) as error:
                raise VideoError(self.path, f"decord fails ({reason(error)})") from None
            yield Frame(index, float(self._times[index] - self._times[0]), image)

    def close(self) -> None:
        """Release the file and the decoder."""
        self._reader = None


class TorchcodecReader(Closing):
    """Reader that uses torchcodec (extra `torchcodec`; needs torch and the system's FFmpeg shared libraries).

    It uses the exact mode, which reads the whole index first; the approximate mode is wrong for variable frame rates.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            decoders = importlib.import_module("torchcodec.decoders")
        except ModuleNotFoundError:
            raise TadError("reader: torchcodec is not installed; pip install torchcodec, or use pyav") from None
        except (ImportError, RuntimeError, OSError) as error:
            cause = reason(error).partition(" Likely causes")[0]
            raise TadError(
                f"reader: torchcodec cannot be loaded ({cause}); it needs FFmpeg's shared libraries and the "
                "release that matches this torch (0.13.0 beside a CPU build); or use pyav"
            ) from None
        try:
            self._decoder: Any = decoders.VideoDecoder(
                str(path), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact"
            )
        except (RuntimeError, ValueError) as error:
            raise VideoError(path, f"torchcodec cannot open it ({reason(error)})") from None

    def __iter__(self) -> Iterator[Frame]:
        first: float | None = None
        for index in range(len(self._decoder)):
            try:
                frame = self._decoder.get_frame_at(index)
            except (RuntimeError, IndexError) as error:
                raise VideoError(self.path, f"torchcodec fails ({reason(error)})") from None
            first = frame.pts_seconds if first is None else first
            yield Frame(index, frame.pts_seconds - first, frame.data.numpy(), frame.duration_seconds)

    def close(self) -> None:
        """Release the file and the decoder."""
        self._decoder = None


Reader = DecordReader | PyavReader | TorchcodecReader
READERS: dict[str, Any] = {"decord": DecordReader, "pyav": PyavReader, "torchcodec": TorchcodecReader}


def open_video(path: Path, *, reader: str = "pyav") -> Reader:
    """Open a video for one pass over its frames; use the reader in a `with` statement and iterate over it.

    Every frame is decoded once, in order. Times are presentation times in seconds after the first frame. Edit lists and
    display matrices are applied if the reader supports them. The number of frames is known only after the last frame.

    Raises:
        VideoError: (here or while iterating) the file cannot be read, or only up to some frame.
        TadError: the reader is unknown or not installed.
    """
    if reader not in READERS:
        raise TadError(f"reader: {reader!r}: one of {', '.join(READERS)}")
    opened: Reader = READERS[reader](Path(path))
    return opened
