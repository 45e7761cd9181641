"""Small copies of videos that every browser plays: H.264 in MP4, or VP9 or VP8 in WebM where PyAV lacks the encoder.

A copy has the file's own time line (seconds from the start of its earliest stream), so that a time of a detection is a
time of the player. It is upright, silent, and has a key frame every second, so that seeking is quick.
"""

import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tad.core.errors import TadError
from tad.core.files import content_key, publish
from tad.video.base import Frame, VideoError, av
from tad.video.pyav_reader import PyavReader

log = logging.getLogger(__name__)

ENCODERS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("libx264", ".mp4", {"crf": "30", "preset": "veryfast", "bf": "0"}),
    ("libopenh264", ".mp4", {}),
    ("libvpx-vp9", ".webm", {"crf": "40", "b": "0", "deadline": "realtime", "cpu-used": "8"}),
    ("libvpx", ".webm", {"crf": "30", "b": "500k", "deadline": "realtime", "cpu-used": "8"}),
)
FORMATS = {".mp4": "mp4", ".webm": "webm"}
FASTEST = 30.0  # frames per second of a copy; of a faster video it has every second or third frame
TICKS = 90000  # ticks per second of its time stamps
USUAL_RATE = 25.0  # if a video has a single frame


class Encoder(NamedTuple):
    """A video encoder of PyAV: its name, the extension of its files, and its options."""

    name: str
    suffix: str
    options: Mapping[str, str]


class Proxy(NamedTuple):
    """A copy: its frames per second, and why it ends early (empty if it is complete)."""

    rate: float
    cause: str


def find_encoder(names: Sequence[str] = ()) -> Encoder:
    """Return the first encoder that PyAV has, of those in `names` or of all that browsers play.

    Raises:
        TadError: PyAV has none of them.
    """
    for name, suffix, options in ENCODERS:
        if names and name not in names:
            continue
        encoder = Encoder(name, suffix, options)
        if _works(encoder):
            return encoder
    wanted = ", ".join(names or [name for name, *_ in ENCODERS])
    raise TadError(f"PyAV has no working encoder for browsers ({wanted}); install PyAV's own wheel: pip install av")


def _works(encoder: Encoder) -> bool:
    """Return whether an encoder encodes a frame.

    Being listed is not enough: decord brings a libvpx of its own, with which PyAV's encoders of VP8 and VP9 fail.
    """
    file = io.BytesIO()
    try:
        with av.open(file, "w", format=FORMATS[encoder.suffix]) as container:
            stream = container.add_stream(encoder.name, rate=30, options=dict(encoder.options))
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
            container.mux(stream.encode(None))
    except (ValueError, av.FFmpegError):  # PyAV's error for an unknown codec is a ValueError
        return False
    return bool(file.getvalue())


def _size(image: np.ndarray, height: int) -> tuple[int, int]:
    """Return the width and height of the copy: even, not larger than the video, and in its proportions."""
    rows, columns = image.shape[:2]
    scale = min(1.0, height / rows)
    return max(2, round(columns * scale / 2) * 2), max(2, round(rows * scale / 2) * 2)


def thinned(frames: Iterator[Frame]) -> Iterator[tuple[float, np.ndarray]]:
    """Yield time and image of the frames of a copy: the first also at 0, and at most `FASTEST` of them a second."""
    last = -1.0
    for frame in frames:
        time = frame.start + frame.time
        if last < 0:
            yield 0.0, frame.image  # a file that begins later would be shifted by some players
            last = 0.0
            if time < 1 / FASTEST:
                continue
        if time - last >= 0.8 / FASTEST:  # times of real files vary a little
            yield time, frame.image
            last = time


class Writer:
    """An open file of one video stream, whose size is that of its first frame."""

    def __init__(self, path: Path, encoder: Encoder, height: int) -> None:
        options = {"movflags": "+faststart"} if encoder.suffix == ".mp4" else {}
        self.container = av.open(str(path), "w", format=FORMATS[encoder.suffix], options=options)
        self.encoder, self.height, self.stream = encoder, height, None
        self.count, self.last = 0, -1

    def add(self, time: float, image: np.ndarray) -> None:
        """Encode a frame; one whose time is not after the previous frame's is left out."""
        if self.stream is None:
            self._open(*_size(image, self.height))
        ticks = round(time * TICKS)
        if ticks <= self.last:
            return
        stream: Any = self.stream
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame = frame.reformat(width=stream.width, height=stream.height, format="yuv420p")
        frame.pts, frame.time_base = ticks, Fraction(1, TICKS)
        self.container.mux(stream.encode(frame))
        self.count, self.last = self.count + 1, ticks

    def _open(self, width: int, height: int) -> None:
        stream = self.container.add_stream(self.encoder.name, rate=30, options=dict(self.encoder.options))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, TICKS)
        stream.codec_context.gop_size = round(FASTEST)
        stream.codec_context.thread_count = 1
        self.stream = stream

    def close(self) -> None:
        """Flush the encoder and finish the file."""
        if self.stream is not None:
            self.container.mux(self.stream.encode(None))
        self.container.close()


def make_proxy(source: Path, out: Path, *, height: int, encoder: Encoder) -> Proxy:
    """Write a copy of a video.

    Args:
        source: the video.
        out: the file to write, with the encoder's suffix.
        height: rows of the copy; a smaller video keeps its own.
        encoder: see `find_encoder`.

    Raises:
        VideoError: no frame can be read. A video with damage later on is copied up to there.
    """
    cause = ""
    with publish(out) as partial:
        writer = Writer(partial, encoder, height)
        try:
            with PyavReader(source) as video:
                for time, image in thinned(iter(video)):
                    writer.add(time, image)
        except VideoError as error:
            cause = error.cause
            if not writer.count:
                raise
        finally:
            if writer.stream is not None:
                writer.close()
            else:
                partial.touch()  # nothing was written; an empty container cannot be closed
        if not writer.count:
            raise VideoError(source, "has no frame")
    seconds = writer.last / TICKS
    return Proxy(round((writer.count - 1) / seconds, 3) if seconds else USUAL_RATE, cause)


def proxies(videos: Mapping[str, Path], folder: Path, *, height: int) -> Iterator[tuple[str, Path | None, Proxy]]:
    """Yield each video's id, its copy and its facts; copies of unchanged videos in `folder` are used again.

    A video that cannot be read has no copy, and its facts give the cause.

    Args:
        videos: paths by video id.
        folder: cache folder of the copies.
        height: see `make_proxy`.
    """
    if not videos:
        return
    encoder = find_encoder()
    for number, (video_id, source) in enumerate(videos.items()):
        wanted = f"{content_key(source)}-{height}-{encoder.name}"
        if existing := sorted(folder.glob(f"{wanted}_*{encoder.suffix}")):
            yield video_id, existing[0], Proxy(float(existing[0].stem.partition("_")[2]), "")
            continue
        out = folder / f"{wanted}{encoder.suffix}"
        try:
            proxy = make_proxy(source, out, height=height, encoder=encoder)
        except VideoError as error:
            yield video_id, None, Proxy(0.0, error.cause)
            continue
        if not proxy.cause:  # the name of a complete copy contains its rate; others are recreated
            out = out.rename(folder / f"{wanted}_{proxy.rate:.3f}{encoder.suffix}")
        log.info("copy %d of %d for the page: %s", number + 1, len(videos), source.name)
        yield video_id, out, proxy
