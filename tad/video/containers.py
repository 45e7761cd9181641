"""Parser of mp4 boxes (ISO/IEC 14496-12) that detects edit lists.

It is needed because some readers apply an edit list, others ignore it, and neither reports which.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

CONTAINERS = {b"moov", b"trak", b"edts", b"mdia", b"minf", b"stbl"}
TOP_BOXES = CONTAINERS | {b"ftyp", b"mdat", b"free", b"skip", b"wide", b"pnot", b"moof", b"styp", b"sidx"}
MOOV_LIMIT = 1 << 28


def _boxes(data: bytes, first: int, last: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind and the first and last payload byte of each box in data[first:last]."""
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


def top_boxes(handle: BinaryIO, length: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind, offset and end (possibly beyond the file) of each top-level box."""
    offset = 0
    while offset + 8 <= length:
        handle.seek(offset)
        head = handle.read(16)
        size, kind = struct.unpack_from(">I4s", head)
        if size == 1 and len(head) == 16:
            size = struct.unpack_from(">Q", head, 8)[0]
        elif size == 0:
            size = length - offset
        if size < 8 or (offset == 0 and kind not in TOP_BOXES):
            return
        yield kind, offset, offset + size
        offset += size


def _find(data: bytes, where: tuple[int, int], *names: bytes) -> tuple[int, int] | None:
    for name in names:
        hit = next(((a, b) for kind, a, b in _boxes(data, *where) if kind == name), None)
        if hit is None:
            return None
        where = hit
    return where


def _edits(data: bytes, elst: tuple[int, int]) -> list[tuple[int, int]]:
    """Return (duration in movie time units, start in media time units) of each non-empty entry."""
    version, count = data[elst[0]], struct.unpack_from(">I", data, elst[0] + 4)[0]
    form = ">QqI" if version == 1 else ">IiI"
    room = (elst[1] - elst[0] - 8) // struct.calcsize(form)
    entries = [struct.unpack_from(form, data, elst[0] + 8 + k * struct.calcsize(form)) for k in range(min(count, room))]
    return [(int(duration), int(start)) for duration, start, _ in entries if start >= 0]


def _timescale(data: bytes, header: tuple[int, int] | None) -> tuple[int, int]:
    """Return (units per second, duration in units) of an mvhd or mdhd box."""
    if header is None:
        return 1, 0
    if data[header[0]] == 1:
        scale, duration = struct.unpack_from(">IQ", data, header[0] + 20)
    else:
        scale, duration = struct.unpack_from(">II", data, header[0] + 12)
    return max(int(scale), 1), int(duration)


def has_edit_list(path: Path) -> bool:
    """Return whether the video track of an mp4 has an edit list that removes samples.

    The usual single entry that only compensates the delay of B-frames does not count: its start is the composition
    offset of the first frame, and its length is that of the whole track.
    """
    with open(path, "rb") as handle:
        moov = next(((a, b) for kind, a, b in top_boxes(handle, Path(path).stat().st_size) if kind == b"moov"), None)
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
    except (struct.error, IndexError):  # boxes shorter than their kind requires: the decoder will report the error
        return False


def _cuts(data: bytes, trak: tuple[int, int], movie_scale: int) -> bool:
    """Return whether this is a video track whose edit list removes samples."""
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
