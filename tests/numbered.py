"""Videos whose frames carry their number, made with PyAV in every container whose times need care."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from tad.video.reader import av  # decord must be imported before it

BLOCKS = 16
WIDTH, HEIGHT, RATE = 128, 96, 25


def draw(number: int, *, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A picture (H, W, 3) uint8 with the number as black and white blocks, bit 0 left."""
    bits = [255 if number >> k & 1 else 0 for k in range(BLOCKS)]
    row = np.repeat(np.array(bits, np.uint8), width // BLOCKS)
    return np.repeat(np.tile(row, (height, 1))[:, :, None], 3, axis=2)


def read(image: np.ndarray) -> int:
    """The number in a picture (H, W, 3) or (H, W)."""
    grey = image[image.shape[0] // 2]
    grey = grey.mean(axis=-1) if grey.ndim == 2 else grey
    width = image.shape[1] / BLOCKS
    return sum(1 << k for k in range(BLOCKS) if grey[int(width * (k + 0.5))] > 127)


def encode(
    path: Path,
    places: Sequence[int],
    *,
    codec: str = "libx264",
    sound: float = 0.0,
    first: int = 0,
    keyframes: int = 12,
    time_base: Fraction = Fraction(1, RATE),
    length: int = 0,
) -> Path:
    """Frames `first`, first + 1, … at these places, in units of `time_base`.

    Args:
        sound: seconds of silence from time 0.
        length: of the last frame, in units of `time_base`; 0: one.
    """
    options = {"g": str(keyframes), "bf": "2"} if codec == "libx264" else {"g": str(keyframes)}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE, options=options)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = time_base
        audio = container.add_stream("mp2", rate=32000, layout="mono") if sound else None
        for number, place in enumerate(places):
            frame = av.VideoFrame.from_ndarray(draw(first + number), format="rgb24")
            frame.pts, frame.time_base = place, time_base
            container.mux(_lasting(stream.encode(frame), places, length))
        container.mux(_lasting(stream.encode(), places, length))
        if audio is not None:
            _silence(container, audio, sound)
    return path


def _lasting(packets: list[Any], places: Sequence[int], length: int) -> list[Any]:
    for packet in packets if length else ():
        packet.duration = length if packet.pts == places[-1] else places[1] - places[0]
    return packets


def _silence(container: Any, stream: Any, seconds: float) -> None:
    for block in range(round(seconds * 32000 / 1152)):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), "i2"), format="s16", layout="mono")
        frame.sample_rate, frame.pts = 32000, 1152 * block
        container.mux(stream.encode(frame))
    container.mux(stream.encode())
