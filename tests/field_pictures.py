"""H.264 streams of separate fields, which the usual encoders do not make: raw samples (I_PCM) in intra slices."""

from collections.abc import Container, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from tad.video.reader import av

BLOCK = 16
RAW = 25  # mb_type I_PCM of an intra slice


class _Bits:
    """Writer of an RBSP (ITU-T H.264, 7.2 and 9.1)."""

    def __init__(self) -> None:
        self.text: list[str] = []

    def u(self, value: int, bits: int) -> "_Bits":
        self.text.append(f"{value:0{bits}b}")
        return self

    def ue(self, *values: int) -> "_Bits":
        for value in values:
            code = f"{value + 1:b}"
            self.text.append("0" * (len(code) - 1) + code)
        return self

    def align(self) -> "_Bits":
        text = "".join(self.text)
        self.text = [text + "0" * (-len(text) % 8)]
        return self

    def unit(self, kind: int) -> bytes:
        """A NAL unit of this header byte, with a start code."""
        text = "".join([*self.text, "1"])
        text += "0" * (-len(text) % 8)
        payload = int(text, 2).to_bytes(len(text) // 8, "big")
        out, zeros = bytearray(), 0
        for byte in payload:
            if zeros >= 2 and byte <= 3:
                out.append(3)
                zeros = 0
            out.append(byte)
            zeros = zeros + 1 if byte == 0 else 0
        return b"\0\0\0\1" + bytes([kind]) + bytes(out)


def _parameters(width: int, height: int) -> bytes:
    """Sequence and picture parameter sets: main profile, level 3, frame numbers of 4 bits, order of output as coded."""
    sequence = _Bits().u(77, 8).u(0, 8).u(30, 8).ue(0, 0, 2, 1).u(0, 1)
    sequence.ue(width // BLOCK - 1, height // (2 * BLOCK) - 1).u(0, 1).u(0, 1).u(1, 1).u(0, 1).u(0, 1)
    picture = _Bits().ue(0, 0).u(0, 1).u(0, 1).ue(0, 0, 0).u(0, 1).u(0, 2).ue(0, 0, 0).u(0, 1).u(0, 1).u(0, 1)
    return sequence.unit(0x67) + picture.unit(0x68)


def _field(luma: np.ndarray, number: int, *, bottom: bool) -> bytes:
    """A field (H, W) uint8 of frame `number`; the first field of each frame is a key frame's."""
    idr = not bottom
    slice_ = _Bits().ue(0, 7, 0).u(0, 4).u(1, 1).u(int(bottom), 1)  # frame_num 0: each frame starts anew
    if idr:
        slice_.ue(number % 2)
    slice_.u(0, 2 if idr else 1).ue(0)  # marking of references; slice_qp_delta
    for row in range(0, luma.shape[0], BLOCK):
        for column in range(0, luma.shape[1], BLOCK):
            slice_.ue(RAW).align()
            for value in luma[row : row + BLOCK, column : column + BLOCK].flatten():
                slice_.u(max(int(value), 1), 8)
            slice_.text.append("10000000" * (2 * (BLOCK // 2) ** 2))  # grey
    return slice_.unit(0x65 if idr else 0x61)


def write(
    path: Path, frames: Sequence[np.ndarray], *, rate: int, places: Sequence[int] = (), whole: Container[int] = ()
) -> Path:
    """Write a file with top and bottom field of each frame (H, W) uint8 in two packets.

    Args:
        places: of the top fields, in units of 1 / (2 * rate) seconds; default: without gaps.
        whole: numbers of the frames whose fields are in one packet.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=2 * rate)
        stream.height, stream.width = frames[0].shape
        stream.pix_fmt = "yuv420p"
        for number, luma in enumerate(frames):
            top = _parameters(stream.width, stream.height) + _field(luma[0::2], number, bottom=False)
            bottom = _field(luma[1::2], number, bottom=True)
            for k, content in enumerate([top + bottom] if number in whole else [top, bottom]):
                packet = av.Packet(content)
                packet.stream, packet.time_base = stream, Fraction(1, 2 * rate)
                packet.pts = packet.dts = (places[number] if places else 2 * number) + k
                packet.is_keyframe = k == 0
                container.mux(packet)
    return path
