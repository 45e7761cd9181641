"""Frames of sources that are read while they are made: cameras, network streams and standard input, through PyAV.

Files are read by `tad.video.pyav_reader`, as everywhere. Here nothing can be read twice, and a connection may break.
"""

# H rows, W columns

import logging
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

from tad.core.errors import TadError
from tad.video.base import Closing, Frame, av, reason
from tad.video.orientation import of_matrix
from tad.video.pyav_reader import DEFAULT_RATE, PyavReader, choose

log = logging.getLogger(__name__)
STDIN = "-"
CAMERA = "camera"
FIRST_CAMERA = "/dev/video0"
FOREVER = ("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "srt", "udp")  # schemes whose streams end only when they break
OPEN_SECONDS, READ_SECONDS = 10.0, 30.0  # a network source that is silent for this long is broken


class BrokenError(TadError):
    """A source cannot be opened, or broke; `cause` is the message without its name."""

    def __init__(self, name: str, cause: str) -> None:
        super().__init__(f"{name}: {cause}")
        self.cause = cause


@dataclass(frozen=True)
class Source:
    """A source as the user named it.

    Attributes:
        name: as given.
        kind: `stdin`, `camera`, `network` or `file`.
        address: path or URL.
    """

    name: str
    kind: str
    address: str

    @property
    def endless(self) -> bool:
        """Whether its end means that the connection broke."""
        return self.kind == "camera" or (self.kind == "network" and self.address.partition(":")[0].lower() in FOREVER)

    @property
    def reconnects(self) -> bool:
        """Whether the source can be opened again after it broke."""
        return self.kind in ("camera", "network")


def source_of(name: str) -> Source:
    """Recognise a source: `-` (standard input), `camera` or a device file, a URL, or a file.

    Raises:
        TadError: there is no such file or device.
    """
    if name == STDIN:
        return Source("stdin", "stdin", STDIN)
    if "://" in name:
        return Source(name, "network", name)
    path = Path(FIRST_CAMERA if name == CAMERA else name)
    if name == CAMERA or path.is_char_device():
        if not path.exists():
            raise TadError(f"{path}: no such camera; plug one in, or name its device, such as /dev/video2")
        return Source(name, "camera", str(path))
    if not path.exists():
        raise TadError(f"{name}: no such file; give a video, camera, a URL such as rtsp://..., or - for stdin")
    if path.is_dir():
        raise TadError(f"{name}: is a folder; give one video, or use `tad apply` for all of its videos")
    return Source(name, "file", str(path))


class _Pipe:
    """A binary stream as PyAV reads it, which must not seem to allow seeking."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self.interrupted = stream, False

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Handle Ctrl-C: raise, and remember it, because a library in whose callback it is raised may swallow it."""
        self.interrupted = True
        raise KeyboardInterrupt

    def read(self, size: int) -> bytes:
        """Return what has arrived, at most `size` bytes: waiting for more would delay frames."""
        some = getattr(self._stream, "read1", self._stream.read)
        if self.interrupted:
            return b""
        try:
            given: bytes = some(size)
        except KeyboardInterrupt:  # PyAV would print it and go on; the reader raises it again
            self.interrupted, given = True, b""
        return given


class LiveReader(Closing):
    """Reader of a source that cannot be read twice; times are seconds after the first frame.

    Raises:
        BrokenError: the source cannot be opened or holds no video; while reading, that it broke.
    """

    def __init__(self, source: Source, stdin: BinaryIO | None = None) -> None:
        self._source = source
        given: Any = source.address
        options: dict[str, Any] = {"metadata_errors": "replace"}
        self._pipe: _Pipe | None = None
        self._handles = False  # Ctrl-C
        if source.kind == "stdin":
            given = self._pipe = _Pipe(stdin or sys.stdin.buffer)
            main = threading.current_thread() is threading.main_thread()
            self._handles = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
            if self._handles:
                signal.signal(signal.SIGINT, self._pipe.interrupt)
        elif source.kind == "camera":
            options["format"] = "v4l2"
        else:
            options["timeout"] = (OPEN_SECONDS, READ_SECONDS)
            if source.address.lower().startswith("rtsp"):
                options["options"] = {"rtsp_transport": "tcp"}  # lost packets would damage frames
        try:
            self._container = av.open(given, **options)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            self._release()
            self._stop_if_interrupted()
            raise BrokenError(source.name, f"cannot be opened ({reason(error)}){_remedy(source)}") from None
        self._stream = choose(self._container.streams.video)
        if self._stream is None or self._stream.codec_context is None:
            self.close()
            raise BrokenError(source.name, "holds no video stream that PyAV can decode")
        self._stream.codec_context.thread_count = 1

    @property
    def rate(self) -> float:
        """Frames per second as the source states them; 25 if it does not."""
        rate = self._stream.average_rate or self._stream.guessed_rate or DEFAULT_RATE
        return float(rate)

    def __iter__(self) -> Iterator[Frame]:
        converter = av.video.reformatter.VideoReformatter()
        first: Fraction | None = None
        size, latest = (0, 0), 0.0
        try:
            for number, frame in enumerate(self._frames()):
                orientation = of_matrix(bytes(frame.side_data.get("DISPLAYMATRIX") or b""))
                size = size if number else (frame.width, frame.height)
                counted = Fraction(number) / Fraction(self.rate)
                time = Fraction(frame.pts) * frame.time_base if frame.pts is not None else (first or 0) + counted
                first = time if first is None else first
                latest = max(latest, float(time - first))
                self._stop_if_interrupted()
                image = converter.reformat(frame, width=size[0], height=size[1], format="rgb24")
                yield Frame(number, latest, orientation.upright(image.to_ndarray()))
        except (av.error.FFmpegError, OSError) as error:
            self._stop_if_interrupted()
            raise BrokenError(self._source.name, f"broke after {latest:.1f} s ({reason(error)})") from None

        self._stop_if_interrupted()

    def _frames(self) -> Iterator[Any]:
        """Yield decoded frames; packets that cannot be decoded are skipped, and the first is reported."""
        damaged = 0
        for packet in self._container.demux(self._stream):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError as error:
                damaged += 1
                if damaged == 1:
                    log.warning("%s: damaged packets are skipped (%s)", self._source.name, reason(error))
                continue
            yield from frames

    def _stop_if_interrupted(self) -> None:
        if self._pipe is not None and self._pipe.interrupted:
            raise KeyboardInterrupt

    def close(self) -> None:
        """Release the source."""
        self._release()
        self._container.close()

    def _release(self) -> None:
        """Give the handling of Ctrl-C back."""
        if self._handles:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._handles = False


def _remedy(source: Source) -> str:
    """Return the remedy if a source of this kind cannot be opened."""
    if source.kind == "stdin":
        return "; send a container that can be read while it is written, such as MPEG-TS or Matroska"
    if source.kind == "camera":
        return "; check that no other program uses it and that you may read it (group video)"
    return "; check the address, and that the server runs"


def open_source(source: Source) -> LiveReader | PyavReader:
    """Open a source.

    Raises:
        BrokenError: it cannot be opened; VideoError: likewise, for files.
    """
    return PyavReader(Path(source.address)) if source.kind == "file" else LiveReader(source)


def rate_of(reader: LiveReader | PyavReader) -> float:
    """Return the frames per second that a reader's source states; 25 if it does not."""
    return reader.rate if isinstance(reader, LiveReader) else reader.header.rate or float(DEFAULT_RATE)
