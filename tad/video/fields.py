"""Detection of H.264 packets that hold the second field of a frame (ITU-T H.264, 7.3 and 7.4.1.2.4).

An interlaced frame may be coded as two pictures, a top and a bottom field. Each of them may be a packet of its own, so
that two packets yield one frame.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# profiles whose sequence parameters contain the chroma format
WITH_CHROMA = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}
SLICE, KEY_SLICE, SEQUENCE, PICTURE = 1, 5, 7, 8  # kinds of NAL units
HEAD = 512  # bytes: longer than the parameters of a picture and the fields read from those of a sequence


class _Bits:
    """Reader of the bits of a NAL unit."""

    def __init__(self, unit: bytes) -> None:
        payload = unit[1:HEAD].replace(b"\0\0\3", b"\0\0")  # emulation prevention bytes
        self._bits = f"{int.from_bytes(payload, 'big'):0{8 * len(payload)}b}" if payload else ""
        self._at = 0

    def u(self, count: int) -> int:
        """Return an unsigned number of `count` bits."""
        if self._at + count > len(self._bits):
            raise EOFError
        value = int(self._bits[self._at : self._at + count] or "0", 2)
        self._at += count
        return value

    def ue(self) -> int:
        """Return an unsigned Exp-Golomb number."""
        one = self._bits.find("1", self._at)
        if one < 0:
            raise EOFError
        zeros, self._at = one - self._at, one
        return self.u(zeros + 1) - 1

    def se(self) -> int:
        """Return a signed Exp-Golomb number."""
        code = self.ue()
        return (code + 1) // 2 if code % 2 else -(code // 2)


@dataclass(frozen=True)
class _Sequence:
    """The parameters of a sequence that are needed to read slice headers."""

    frame_number_bits: int
    planes: bool  # colour planes are coded separately
    fields: bool  # pictures may be fields


def _skip_scaling_lists(bits: _Bits, count: int) -> None:
    for number in range(count):
        if bits.u(1):
            last = following = 8
            for _ in range(16 if number < 6 else 64):
                if following:
                    following = (last + bits.se()) % 256
                last = following or last


def _sequence(bits: _Bits) -> tuple[int, _Sequence]:
    """Return the id of a sequence parameter set and its parameters."""
    profile, _, _ = bits.u(8), bits.u(8), bits.u(8)
    number, planes = bits.ue(), False
    if profile in WITH_CHROMA:
        chroma = bits.ue()
        planes = chroma == 3 and bool(bits.u(1))
        bits.ue(), bits.ue(), bits.u(1)
        if bits.u(1):
            _skip_scaling_lists(bits, 12 if chroma == 3 else 8)
    frame_number_bits, order = bits.ue() + 4, bits.ue()
    if order == 0:
        bits.ue()
    elif order == 1:
        bits.u(1), bits.se(), bits.se()
        for _ in range(bits.ue()):
            bits.se()
    bits.ue(), bits.u(1), bits.ue(), bits.ue()
    return number, _Sequence(frame_number_bits, planes, fields=not bits.u(1))


class SecondFields:
    """State of the detection in the packets of one stream, in decoding order.

    Args:
        extradata: the codec's extradata; in the layout of mp4 it gives the length of the sizes of NAL units.
    """

    def __init__(self, extradata: bytes = b"") -> None:
        self._sizes = (extradata[4] & 3) + 1 if len(extradata) > 6 and extradata[0] == 1 else 0
        self._sequences: dict[int, _Sequence] = {}
        self._of_picture: dict[int, int] = {}
        self._waiting: tuple[int, int] | None = None  # frame number and parity of a first field without a second
        if self._sizes:
            self._read_parameters(extradata)
        else:
            self._fields_of(extradata)

    def _read_parameters(self, extradata: bytes) -> None:
        """Read the parameter sets of extradata in the layout of mp4."""
        at = 5
        for mask in (31, 255):  # of the number of sequence and of picture parameter sets
            count, at = (extradata[at] & mask if at < len(extradata) else 0), at + 1
            for _ in range(count):
                size = int.from_bytes(extradata[at : at + 2], "big")
                self._field(extradata[at + 2 : at + 2 + size])
                at += 2 + size

    def _units(self, data: bytes) -> Iterator[bytes]:
        """Yield the first bytes of each NAL unit of a packet."""
        at = 0
        while self._sizes and at + self._sizes < len(data):
            size = int.from_bytes(data[at : at + self._sizes], "big")
            at += self._sizes
            yield data[at : at + min(size, HEAD)]
            at += size
        start = -1 if self._sizes else data.find(b"\0\0\1")
        while start >= 0:
            following = data.find(b"\0\0\1", start + 3)
            end = len(data) if following < 0 else following
            yield data[start + 3 : min(end, start + 3 + HEAD)]
            start = following

    def _field(self, unit: bytes) -> tuple[int, int] | None:
        """Return frame number and parity of a slice of a field; None for other units. Parameter sets are stored."""
        kind = unit[0] & 31 if unit else 0
        if kind not in (SLICE, KEY_SLICE, SEQUENCE, PICTURE):
            return None
        bits = _Bits(unit)
        try:
            if kind == SEQUENCE:
                number, parameters = _sequence(bits)
                self._sequences[number] = parameters
            elif kind == PICTURE:
                self._of_picture[bits.ue()] = bits.ue()
            else:
                bits.ue(), bits.ue()
                sequence = self._sequences.get(self._of_picture.get(bits.ue(), -1))
                if sequence is not None and sequence.fields:
                    bits.u(2 if sequence.planes else 0)
                    frame = bits.u(sequence.frame_number_bits)
                    return (frame, bits.u(1)) if bits.u(1) else None
        except EOFError:  # a damaged unit, which the decoder reports
            pass
        return None

    def _fields_of(self, data: bytes) -> set[tuple[int, int]]:
        return {field for unit in self._units(data) if (field := self._field(unit)) is not None}

    def is_second(self, packet: Any) -> bool:
        """Return whether a packet of PyAV holds only the second field of the frame that the previous packet began."""
        if self._sequences and not packet.is_keyframe and not any(one.fields for one in self._sequences.values()):
            return False  # only a key frame can start another sequence
        fields = self._fields_of(bytes(packet))
        before, self._waiting = self._waiting, None
        if len(fields) != 1:
            return False
        (field,) = fields
        if before == (field[0], 1 - field[1]):
            return True
        self._waiting = field
        return False
