"""Small videos for tests, encoded with PyAV: constant and variable frame rate, rotated, cut by stream copy, damaged."""

import struct
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from tad.video.reader import av  # decord must be imported before PyAV


def picture(number: int, *, width: int, height: int) -> np.ndarray:
    """Return a frame (H, W, 3) uint8 that differs from its neighbours and from its mirror images."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([(2 * x + 3 * number) % 256, (2 * y + 5 * number) % 256, np.full_like(x, 7 * number % 256)], -1)
    image[: height // 4, : width // 4] = [255, 0, 0]
    return image.astype(np.uint8)


def encode(
    path: Path,
    frames: int,
    *,
    width: int = 64,
    height: int = 48,
    rate: int | Fraction = 30,
    times_ms: Sequence[int] | None = None,
    rotation: int = 0,
    keyframes: int = 12,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    sound: bool = False,
    pixel_aspect: Fraction | None = None,
    noise: float = 0.0,
    options: Mapping[str, str] | None = None,
) -> Path:
    """Encode a video of `frames` pictures. `times_ms` sets their times (variable frame rate), `sound` adds audio that
    starts at 0, and `noise` (grey levels) makes the file large. `options` are further ones of the encoder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    usual = {"g": str(keyframes), "bf": "2", "crf": "18"} if codec == "libx264" else {"g": str(keyframes)}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=usual | dict(options or {}))
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.thread_count = 1
        if pixel_aspect is not None:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        if rotation:
            stream.set_display_rotation(rotation)
        if times_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if sound:
            add_sound(container, "pcm_s16le")  # no codec delay, because versions of FFmpeg treat it differently
        for number in range(frames):
            image = picture(number, width=width, height=height)
            if noise:
                drawn = image + np.random.default_rng(number).normal(0, noise, image.shape)
                image = drawn.clip(0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if times_ms is not None:
                frame.pts, frame.time_base = times_ms[number], Fraction(1, 1000)
            container.mux(_timed(stream.encode(frame), times_ms))
        container.mux(_timed(stream.encode(), times_ms))
    return path


def _timed(packets: list[Any], times_ms: Sequence[int] | None) -> list[Any]:
    """Yield packets with the duration until the next picture (40 ms for the last), which the encoder does not know."""
    for packet in packets if times_ms is not None else ():
        following = [time for time in times_ms or () if time > packet.pts]
        packet.duration = following[0] - packet.pts if following else 40
    return packets


def varying(frames: int) -> list[int]:
    """Return times in ms: 30 frames per second, with every third gap three times as long."""
    return np.cumsum([0] + [33 if number % 3 else 99 for number in range(frames - 1)]).tolist()


def cut(source: Path, path: Path, *, start: float) -> Path:
    """Cut from `start` seconds by stream copy: whole groups of pictures, and an edit list that hides earlier ones."""
    options = {"avoid_negative_ts": "disabled", "use_editlist": "1"}
    with av.open(str(source)) as have, av.open(str(path), "w", options=options) as container:
        stream = have.streams.video[0]
        copy = container.add_stream_from_template(stream)
        shift = round(start / stream.time_base)
        have.seek(shift, stream=stream)
        for packet in have.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
                container.mux(packet)
    return path


def moov_first(source: Path, path: Path) -> Path:
    """Write the same packets with the index at the front, so that a truncated file can still be opened."""
    with av.open(str(source)) as have, av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = have.streams.video[0]
        copy = container.add_stream_from_template(stream)
        for packet in have.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                container.mux(packet)
    return path


def with_edits(source: Path, path: Path, edits: Sequence[tuple[int, int, float]]) -> Path:
    """Write an mp4, whose index is at its end, with another edit list.

    Args:
        edits: (length in milliseconds, start in units of the media or -1, speed).
    """
    data = bytearray(source.read_bytes())

    def place(kind: bytes, first: int, last: int) -> tuple[int, int]:
        while first < last:
            size, name = struct.unpack_from(">I4s", data, first)
            if name == kind:
                return first, first + size
            first += size
        return last, last

    index = place(b"moov", 0, len(data))
    track = place(b"trak", index[0] + 8, index[1])
    rows = b"".join(struct.pack(">Iii", length, start, round(speed * 65536)) for length, start, speed in edits)
    entries = struct.pack(">I4sII", 16 + len(rows), b"elst", 0, len(edits)) + rows
    old = place(b"edts", track[0] + 8, track[1])
    data[old[0] : old[1]] = struct.pack(">I4s", 8 + len(entries), b"edts") + entries
    for box in (index, track):
        grown = box[1] - box[0] + 8 + len(entries) - (old[1] - old[0])
        struct.pack_into(">I", data, box[0], grown)
    path.write_bytes(data)
    return path


def truncate(source: Path, path: Path, *, share: float = 0.6) -> Path:
    """Write the first part of a file."""
    data = source.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def add_sound(container: Any, codec: str = "aac") -> None:
    """Add a second of silence from time 0 as a separate stream."""
    stream = container.add_stream(codec, rate=16000, layout="mono")
    samples, form = (np.zeros((1, 1024), np.float32), "fltp") if codec == "aac" else (np.zeros((1, 1024), "i2"), "s16")
    for block in range(16):
        frame = av.AudioFrame.from_ndarray(samples, format=form, layout="mono")
        frame.sample_rate, frame.pts = 16000, 1024 * block
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def audio_only(path: Path) -> Path:
    """Write an mp4 with a second of sound and no pictures."""
    with av.open(str(path), "w") as container:
        add_sound(container)
    return path


def text(path: Path) -> Path:
    """Write a web page under the name of a video."""
    path.write_text("<html><body>404 not found</body></html>\n" * 20)
    return path


def empty(path: Path) -> Path:
    """Write an empty file."""
    path.write_bytes(b"")
    return path


def probed(path: str, *, frames: int, rate: float, **facts: Any) -> dict[str, Any]:
    """The manifest entry of a whole video, with all that stages after `probe` read."""
    duration = frames / rate
    own = {"path": path, "reader": "pyav", "frames": frames, "rate": rate, "duration": duration, "start": 0.0}
    return own | {"status": "ok", "usable": True, "vfr": False, "sha256": "", "bytes": 0} | facts


def usable(reader: str) -> bool:
    """Return whether a reader loads; torchcodec needs FFmpeg's shared libraries of the system."""
    if reader != "torchcodec":
        return True
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, RuntimeError, OSError):
        return False
    return True
