"""Bytes of a container → what its structure promises: its length (a shorter file is truncated) and its edit list.

Read by hand because decoders keep silent about both: a cut AVI or Matroska file just ends, and an edit list is applied
by some readers and ignored by others. ISO/IEC 14496-12 (boxes), Matroska/EBML (RFC 8794, RFC 9559), RIFF/OpenDML.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

CONTAINERS = {b"moov", b"trak", b"edts", b"mdia", b"minf", b"stbl"}
BOXES = CONTAINERS | {b"ftyp", b"mdat", b"free", b"skip", b"wide", b"pnot", b"moof", b"styp", b"sidx"}
EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
SLACK = 64  # bytes: padding that some writers announce and never write
MOOV_LIMIT = 1 << 28


def _boxes(data: bytes, first: int, last: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, first and last payload byte of each box in data[first:last]."""
    while first + 8 <= last:
        size, kind = struct.unpack_from(">I4s", data, first)
        head = 8
        if size == 1 and first + 16 <= last:
            size, head = struct.unpack_from(">Q", data, first + 8)[0], 16
        end = last if size == 0 else first + size
        if end > last or end < first + head:
            return
        yield kind, first + head, end
        first = end


def _top_boxes(handle: BinaryIO, length: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, offset and end (possibly beyond the file) of each top-level box."""
    offset = 0
    while offset + 8 <= length:
        handle.seek(offset)
        head = handle.read(16)
        size, kind = struct.unpack_from(">I4s", head)
        if size == 1 and len(head) == 16:
            size = struct.unpack_from(">Q", head, 8)[0]
        elif size == 0:
            size = length - offset
        if size < 8 or (offset == 0 and kind not in BOXES):
            return
        yield kind, offset, offset + size
        offset += size


def _vint(data: bytes, at: int) -> tuple[int, int]:
    """An EBML size and the position behind it; -1 for `unknown` (live streams) and for what is none."""
    if at >= len(data) or data[at] == 0:
        return -1, at + 1
    width = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + width], "big") & ((1 << 7 * width) - 1)
    return (-1 if value == (1 << 7 * width) - 1 or at + width > len(data) else value), at + width


def promised_bytes(path: Path) -> int:
    """The length that the container's structure asks for; 0 where it does not say (or is none that we read)."""
    length = Path(path).stat().st_size
    with open(path, "rb") as handle:
        head = handle.read(256)
        if head[:4] == b"RIFF" and len(head) >= 12:
            size = 8 + int(struct.unpack_from("<I", head, 4)[0])
            return size if size < (1 << 30) else 0  # larger: OpenDML writers disagree about the field
        if head[:4] == EBML:
            size, at = _vint(head, 4)
            at += max(size, 0)
            if size < 0 or head[at : at + 4] != SEGMENT:
                return 0
            size, at = _vint(head, at + 4)
            return at + size if size >= 0 else 0
        return max((end for _, _, end in _top_boxes(handle, length)), default=0)


def truncated(path: Path) -> bool:
    """True if the file ends before its structure does."""
    return promised_bytes(path) > Path(path).stat().st_size + SLACK


def _find(data: bytes, where: tuple[int, int], *names: bytes) -> tuple[int, int] | None:
    for name in names:
        hit = next(((a, b) for kind, a, b in _boxes(data, *where) if kind == name), None)
        if hit is None:
            return None
        where = hit
    return where


def _edits(data: bytes, elst: tuple[int, int]) -> list[tuple[int, int]]:
    """(duration in movie time units, start in media time units) of each entry that shows something."""
    version, count = data[elst[0]], struct.unpack_from(">I", data, elst[0] + 4)[0]
    form = ">QqI" if version == 1 else ">IiI"
    room = (elst[1] - elst[0] - 8) // struct.calcsize(form)
    entries = [struct.unpack_from(form, data, elst[0] + 8 + k * struct.calcsize(form)) for k in range(min(count, room))]
    return [(int(duration), int(start)) for duration, start, _ in entries if start >= 0]


def _timescale(data: bytes, header: tuple[int, int] | None) -> tuple[int, int]:
    """(units per second, duration in units) of an mvhd or mdhd box."""
    if header is None:
        return 1, 0
    if data[header[0]] == 1:
        scale, duration = struct.unpack_from(">IQ", data, header[0] + 20)
    else:
        scale, duration = struct.unpack_from(">II", data, header[0] + 12)
    return max(int(scale), 1), int(duration)


def has_edit_list(path: Path) -> bool:
    """True if an mp4's video track carries an edit list that cuts something away.

    The usual single entry that only makes up for the delay of B-frames (its start is the first frame's composition
    offset, its length the whole track) is none.
    """
    with open(path, "rb") as handle:
        moov = next(((a, b) for kind, a, b in _top_boxes(handle, Path(path).stat().st_size) if kind == b"moov"), None)
        if moov is None or moov[1] - moov[0] > MOOV_LIMIT:
            return False
        handle.seek(moov[0])
        data = handle.read(moov[1] - moov[0])
    try:
        whole = next(_boxes(data, 0, len(data)), None)
        return whole is not None and any(
            _cuts(data, (a, b), _timescale(data, _find(data, whole[1:], b"mvhd"))[0])
            for kind, a, b in _boxes(data, *whole[1:])
            if kind == b"trak"
        )
    except (struct.error, IndexError):  # boxes shorter than their kind asks: the decoder will say what is wrong
        return False


def _cuts(data: bytes, trak: tuple[int, int], movie_scale: int) -> bool:
    """True if this is a video track whose edit list cuts."""
    handler, elst = _find(data, trak, b"mdia", b"hdlr"), _find(data, trak, b"edts", b"elst")
    if elst is None or handler is None or data[handler[0] + 8 : handler[0] + 12] != b"vide":
        return False
    edits = _edits(data, elst)
    if len(edits) != 1:
        return len(edits) > 1
    scale, length = _timescale(data, _find(data, trak, b"mdia", b"mdhd"))
    table = _find(data, trak, b"mdia", b"minf", b"stbl", b"ctts")
    samples = _find(data, trak, b"mdia", b"minf", b"stbl", b"stts")
    delay = struct.unpack_from(">i", data, table[0] + 12)[0] if table is not None else 0
    frame = struct.unpack_from(">I", data, samples[0] + 12)[0] if samples is not None else 0
    duration, start = edits[0]
    shown = duration / movie_scale * scale
    return start > delay or (duration > 0 and shown < length - start - 1.5 * frame)
