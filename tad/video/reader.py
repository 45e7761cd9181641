"""A video file → its frames in order with their times, upright, through decord or PyAV.

The two readers give the same pixels where both are right; `tad.video.probing` finds out where they are not.
"""

# H rows, W columns

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from tad.errors import TadError

decord: Any = importlib.import_module("decord")  # before av: the other order has crashed decord
av: Any = importlib.import_module("av")
decord.logging.set_level(decord.logging.QUIET)


class VideoError(TadError):
    """A video that cannot be read, or not to its end; `cause` is the message without the file's name."""

    def __init__(self, path: Path, cause: str) -> None:
        super().__init__(f"{path}: {cause}")
        self.cause = cause


class Frame(NamedTuple):
    """Frame `number` (from 0), shown `time` seconds after the first; `image` is (H, W, 3) uint8 RGB, upright."""

    number: int
    time: float
    image: np.ndarray


@dataclass(frozen=True, slots=True)
class Header:
    """What the container claims, before anything is decoded; counts and rates may be wrong or absent (0)."""

    width: int
    height: int
    frames: int
    rate: float
    codec: str
    pix_fmt: str
    audio: bool


class PyavReader:
    """Frames through PyAV: honours edit lists, saves what can be saved of a damaged file, needs little memory."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.rotation = 0  # degrees counterclockwise that turn the stored picture upright; known from the first frame
        try:
            # tags in old AVI files are not UTF-8 text
            self._container = av.open(str(path), metadata_errors="replace")
        except (av.error.FFmpegError, OSError) as error:
            raise VideoError(path, f"cannot be opened ({_reason(error)})") from None
        cover = av.stream.Disposition.attached_pic
        streams = [stream for stream in self._container.streams.video if not stream.disposition & cover]
        if not streams:
            self._container.close()
            raise VideoError(path, "holds no video stream (audio only)")
        self._stream = streams[0]
        if self._stream.codec_context is None:
            self._container.close()
            raise VideoError(path, "its codec is unknown to PyAV")
        self._stream.codec_context.thread_count = 1  # parallelism is over videos

    @property
    def header(self) -> Header:
        """What the container claims."""
        stream, codec = self._stream, self._stream.codec_context
        rate = stream.average_rate or stream.guessed_rate
        audio = len(self._container.streams.audio) > 0
        return Header(
            codec.width, codec.height, stream.frames, float(rate or 0), codec.name, codec.pix_fmt or "", audio
        )

    def __iter__(self) -> Iterator[Frame]:
        rate = self.header.rate or 25.0  # only for files without any time
        # AVI stores no times, just a rate; FFmpeg guesses them from packets, and wrongly where there are B-frames
        timed = self._container.format.name != "avi"
        start: float | None = None
        latest = 0.0
        size = (0, 0)
        try:
            for index, frame in enumerate(self._container.decode(self._stream)):
                time = float(frame.time) if timed and frame.time is not None else index / rate
                if start is None:
                    start, size = time, (frame.width, frame.height)
                    self.rotation = round(frame.rotation) % 360
                image = frame.to_ndarray(format="rgb24", width=size[0], height=size[1])
                if self.rotation:
                    image = np.ascontiguousarray(np.rot90(image, self.rotation // 90))
                latest = max(latest, time - start)
                yield Frame(index, latest, image)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise VideoError(self.path, f"decoding fails ({_reason(error)})") from None

    def close(self) -> None:
        """Release the file and the decoder."""
        self._container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class DecordReader:
    """Frames through decord, read strictly in order: its random access decodes neighbouring clips again and again.

    While nobody asks, decord decodes ahead without bound; `probing` gives such large videos to PyAV.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            self._reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
            self._length = len(self._reader)
            self._times = self._reader.get_frame_timestamp(list(range(self._length)))[:, 0].astype(np.float64)
        except (RuntimeError, decord.DECORDError) as error:
            raise VideoError(path, f"decord cannot open it ({_reason(error)})") from None

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self._length):
            try:
                image = self._reader.next().asnumpy()
            except StopIteration:
                return
            except (RuntimeError, decord.DECORDError) as error:
                raise VideoError(self.path, f"decord fails ({_reason(error)})") from None
            yield Frame(index, float(self._times[index] - self._times[0]), image)

    def close(self) -> None:
        """Release the file and the decoder."""
        self._reader = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


READERS: dict[str, type[DecordReader] | type[PyavReader]] = {"decord": DecordReader, "pyav": PyavReader}


def open_video(path: Path, *, reader: str = "decord") -> DecordReader | PyavReader:
    """A video opened for one pass over its frames; use it in a `with` statement and iterate.

    Every frame is decoded once, in order. Times are presentation times relative to the first frame, in seconds; edit
    lists and rotation are applied as far as the reader knows them. The number of frames is known after the last one.

    Raises:
        VideoError: (here or while iterating) the file cannot be read, or only up to some frame.
    """
    if reader not in READERS:
        raise TadError(f"reader: {reader!r}: one of {', '.join(READERS)}")
    return READERS[reader](Path(path))


def _reason(error: BaseException) -> str:
    """The first line of a decoder's message, without addresses, dates and file names, so that it can be stored."""
    text = getattr(error, "strerror", None) or str(error).splitlines()[0] if str(error) else type(error).__name__
    return text.rpartition("] ")[2].split(": '")[0][:120]
