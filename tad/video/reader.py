"""A video file → its frames in order with their times, upright, through PyAV, decord or torchcodec.

The readers give the same pixels where they are right; `tad.video.probing` finds out where they are not.
"""

# H rows, W columns

import importlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from tad.errors import TadError

decord: Any = importlib.import_module("decord")  # before av: the other order has crashed decord
av: Any = importlib.import_module("av")
importlib.import_module("av.video.reformatter")
decord.logging.set_level(decord.logging.QUIET)
SOURCE_LINE = re.compile(r"^.*\.(?:cc|cpp):\d+[:,] *")


class VideoError(TadError):
    """A video that cannot be read, or not to its end; `cause` is the message without the file's name."""

    def __init__(self, path: Path, cause: str) -> None:
        super().__init__(f"{path}: {cause}")
        self.cause = cause


class Frame(NamedTuple):
    """Frame `number` (from 0), shown `time` seconds after the first; `image` is (H, W, 3) uint8 RGB, upright.

    `duration` is how long the file shows it (0: not said) and `start` when the first frame is shown, counted from the
    start of the file (other streams may begin earlier); both in seconds and exact with PyAV only.
    """

    number: int
    time: float
    image: np.ndarray
    duration: float = 0.0
    start: float = 0.0


class Opening(NamedTuple):
    """A video's first frame: its time as stored (seconds), size before it is turned upright, and degrees to turn."""

    time: float
    width: int
    height: int
    rotation: int


@dataclass(frozen=True, slots=True)
class Header:
    """What the container claims, before anything is decoded; counts and rates may be wrong or absent (0). Pixels are
    `pixel_aspect` times as wide as high (1 where it does not say)."""

    width: int
    height: int
    frames: int
    rate: float
    codec: str
    pix_fmt: str
    audio: bool
    pixel_aspect: float


class _Closing:
    """A reader for a `with` statement."""

    def close(self) -> None:
        """Release the file and the decoder."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class PyavReader(_Closing):
    """Frames through PyAV: honours edit lists, saves what can be saved of a damaged file, needs little memory."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.rotation = 0  # degrees counterclockwise that turn the stored picture upright; known from the first frame
        self.opening: Opening | None = None  # of a pass, once its first frame is decoded; None without times
        try:
            # tags in old AVI files are not UTF-8 text
            self._container = av.open(str(path), metadata_errors="replace")
        except (av.error.FFmpegError, OSError) as error:
            raise VideoError(path, f"cannot be opened ({_reason(error)})") from None
        if self._container.format.name.endswith("_pipe"):  # FFmpeg's names for single pictures
            self._container.close()
            raise VideoError(path, "is a picture, not a video")
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
            codec.width, codec.height, stream.frames, float(rate or 0), codec.codec.canonical_name,
            codec.pix_fmt or "", audio, float(stream.sample_aspect_ratio or 1),
        )  # fmt: skip

    def enter(self, seconds: float, opening: Opening) -> Iterator[Frame]:
        """Frames from the key frame at or before `seconds` on (a later one, where the file's index is wrong), with the
        times that a whole pass gives them; `opening` is that pass's. They are numbered from 0."""
        try:
            at = math.floor((seconds + opening.time) / self._stream.time_base)
            self._container.seek(at, stream=self._stream)
        except (av.error.FFmpegError, OSError) as error:
            raise VideoError(self.path, f"seeking fails ({_reason(error)})") from None
        return self._frames(opening)

    def __iter__(self) -> Iterator[Frame]:
        return self._frames(None)

    def _frames(self, opening: Opening | None) -> Iterator[Frame]:
        rate = self.header.rate or 25.0  # only for files without any time
        # AVI stores no times, just a rate; FFmpeg guesses them from packets, and wrongly where there are B-frames
        timed = self._container.format.name != "avi"
        latest, start = 0.0, 0.0
        converter = av.video.reformatter.VideoReformatter()  # one for all: a frame's own is set up for it alone
        try:
            for index, frame in enumerate(self._container.decode(self._stream)):
                has_time = timed and frame.pts is not None
                time = float(frame.pts * frame.time_base) if has_time else index / rate
                if opening is None:
                    opening = Opening(time, frame.width, frame.height, round(frame.rotation) % 360)
                    start = float(frame.pts * frame.time_base - self._begin(frame.time_base)) if has_time else 0.0
                    self.opening, self.rotation = opening if has_time else None, opening.rotation
                image = converter.reformat(frame, width=opening.width, height=opening.height, format="rgb24")
                image = image.to_ndarray()
                if opening.rotation:
                    image = np.ascontiguousarray(np.rot90(image, opening.rotation // 90))
                latest = max(latest, time - opening.time)
                duration = float(frame.duration * frame.time_base) if has_time else 1 / rate
                yield Frame(index, latest, image, duration, start)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise VideoError(self.path, f"decoding fails ({_reason(error)})") from None

    def _begin(self, time_base: Fraction) -> Fraction:
        """When the file starts, by its earliest stream: in whole ticks, as ffmpeg moves time stamps to 0."""
        begin = Fraction(self._container.start_time or 0, av.time_base)
        return math.floor(begin / time_base + Fraction(1, 2)) * time_base

    def close(self) -> None:
        """Release the file and the decoder."""
        self._container.close()


class DecordReader(_Closing):
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


class TorchcodecReader(_Closing):
    """Frames through torchcodec (extra `torchcodec`; needs torch, and FFmpeg's shared libraries of the system).

    In its exact mode, which reads the whole index first; the approximate one is wrong for varying rates.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            decoders = importlib.import_module("torchcodec.decoders")
        except ModuleNotFoundError:
            raise TadError("reader: torchcodec is not installed; pip install 'tad[torchcodec]', or take pyav") from None
        except (ImportError, RuntimeError, OSError) as error:
            raise TadError(
                f"reader: torchcodec cannot be loaded ({_reason(error)}); it needs FFmpeg's shared libraries and the "
                "release that fits this torch (0.13.0 beside a CPU build); or take pyav"
            ) from None
        try:
            self._decoder: Any = decoders.VideoDecoder(
                str(path), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact"
            )
        except (RuntimeError, ValueError) as error:
            raise VideoError(path, f"torchcodec cannot open it ({_reason(error)})") from None

    def __iter__(self) -> Iterator[Frame]:
        first: float | None = None
        for index in range(len(self._decoder)):
            try:
                frame = self._decoder.get_frame_at(index)
            except (RuntimeError, IndexError) as error:
                raise VideoError(self.path, f"torchcodec fails ({_reason(error)})") from None
            first = frame.pts_seconds if first is None else first
            yield Frame(index, frame.pts_seconds - first, frame.data.numpy(), frame.duration_seconds)

    def close(self) -> None:
        """Release the file and the decoder."""
        self._decoder = None


Reader = DecordReader | PyavReader | TorchcodecReader
READERS: dict[str, Any] = {"decord": DecordReader, "pyav": PyavReader, "torchcodec": TorchcodecReader}


def open_video(path: Path, *, reader: str = "pyav") -> Reader:
    """A video opened for one pass over its frames; use it in a `with` statement and iterate.

    Every frame is decoded once, in order. Times are presentation times relative to the first frame, in seconds; edit
    lists and rotation are applied as far as the reader knows them. The number of frames is known after the last one.

    Raises:
        VideoError: (here or while iterating) the file cannot be read, or only up to some frame.
        TadError: an unknown reader, or one that is not installed.
    """
    if reader not in READERS:
        raise TadError(f"reader: {reader!r}: one of {', '.join(READERS)}")
    opened: Reader = READERS[reader](Path(path))
    return opened


def _reason(error: BaseException) -> str:
    """The first line of a decoder's message, without addresses, dates, source lines and file names, so that it can be
    stored."""
    text = getattr(error, "strerror", None) or str(error).splitlines()[0] if str(error) else type(error).__name__
    text = text.rpartition("] ")[2].split(": '")[0]
    text = SOURCE_LINE.sub("", text).rpartition(" ERROR ")[2]
    return " ".join(re.sub(r"/\S+", "", text).split())[:120]
