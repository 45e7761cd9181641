"""Parser of mp4 boxes (ISO/IEC 14496-12) that detects edit lists, and what decoders do not follow in them.

It is needed because some readers apply an edit list, others ignore it, and neither reports which.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

CONTAINERS = {b"moov", b"trak", b"edts", b"mdia", b"minf", b"stbl"}
TOP_BOXES = CONTAINERS | {b"ftyp", b"mdat", b"free", b"skip", b"wide", b"pnot", b"moof", b"styp", b"sidx"}
MOOV_LIMIT = 1 << 28
NORMAL_SPEED = 1 << 16


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


class _Edit(NamedTuple):
    """An entry of an edit list.

    Attributes:
        duration: in movie time units. start: in media time units; negative: nothing is shown.
        speed: 65536 is that of the media, 0 holds a picture.
    """

    duration: int
    start: int
    speed: int


def _edits(data: bytes, elst: tuple[int, int]) -> list[_Edit]:
    version, count = data[elst[0]], struct.unpack_from(">I", data, elst[0] + 4)[0]
    form = ">QqI" if version == 1 else ">IiI"
    room = (elst[1] - elst[0] - 8) // struct.calcsize(form)
    places = (elst[0] + 8 + k * struct.calcsize(form) for k in range(min(count, room)))
    return [_Edit(*struct.unpack_from(form, data, place)) for place in places]


def _timescale(data: bytes, header: tuple[int, int] | None) -> tuple[int, int]:
    """Return (units per second, duration in units) of an mvhd or mdhd box."""
    if header is None:
        return 1, 0
    if data[header[0]] == 1:
        scale, duration = struct.unpack_from(">IQ", data, header[0] + 20)
    else:
        scale, duration = struct.unpack_from(">II", data, header[0] + 12)
    return max(int(scale), 1), int(duration)


def _index(path: Path) -> bytes:
    """Return the box `moov` of an mp4; empty if there is none or it is too large."""
    with open(path, "rb") as handle:
        moov = next(((a, b) for kind, a, b in top_boxes(handle, Path(path).stat().st_size) if kind == b"moov"), None)
        if moov is None or moov[1] - moov[0] > MOOV_LIMIT:
            return b""
        handle.seek(moov[0])
        return handle.read(moov[1] - moov[0])


def _video_edits(data: bytes) -> Iterator[tuple[list[_Edit], tuple[int, int], int]]:
    """Yield the edit list of each video track that has one, the place of the track, and the movie's units per second.

    Raises:
        struct.error, IndexError: boxes are shorter than their kind requires; the decoder will report the error.
    """
    whole = next(_boxes(data, 0, len(data)), None)
    scale = _timescale(data, _find(data, whole[1:], b"mvhd"))[0] if whole is not None else 1
    for kind, *place in _boxes(data, *whole[1:]) if whole is not None else ():
        track = (place[0], place[1])
        handler, elst = _find(data, track, b"mdia", b"hdlr"), _find(data, track, b"edts", b"elst")
        of_video = handler is not None and data[handler[0] + 8 : handler[0] + 12] == b"vide"
        if kind == b"trak" and elst is not None and of_video:
            yield _edits(data, elst), track, scale


def has_edit_list(path: Path) -> bool:
    """Return whether the video track of an mp4 has an edit list that removes samples.

    The usual single entry that only compensates the delay of B-frames does not count: its start is the composition
    offset of the first frame, and its length is that of the whole track.
    """
    data = _index(path)
    try:
        return any(_cuts(data, edits, track, scale) for edits, track, scale in _video_edits(data))
    except (struct.error, IndexError):
        return False


def unfollowed_edits(path: Path, *, shown: bool = True) -> str:
    """Return what the edit list of an mp4 does that decoders do not follow; empty if there is nothing.

    FFmpeg plays every entry at the speed of the media, shows the beginning of the video in a pause after it, and
    nothing in an entry of length 0, which stands for the whole track.

    Args:
        shown: whether any frame could be decoded.
    """
    data = _index(path)
    try:
        lists = [edits for edits, _, _ in _video_edits(data)]
    except (struct.error, IndexError):
        return ""
    for edits in lists:
        begun = [k for k, edit in enumerate(edits) if edit.start >= 0]
        if any(edits[k].speed != NORMAL_SPEED for k in begun):
            return "its edit list changes the speed or holds a picture, which decoders do not; export the video again"
        if begun and any(edit.start < 0 < edit.duration for edit in edits[begun[0] :]):
            return "its edit list has a pause within, where decoders show wrong pictures; export the video again"
        if not shown and begun and not any(edit.duration for edit in edits):
            remedy = "remux it without the list (ffmpeg -ignore_editlist 1 -i OLD -c copy NEW)"
            return f"its edit list has the length 0, so decoders show nothing; {remedy}"
    return ""


def _cuts(data: bytes, entries: list[_Edit], trak: tuple[int, int], movie_scale: int) -> bool:
    """Return whether the edit list of a video track removes samples."""
    edits = [edit for edit in entries if edit.start >= 0]
    if len(edits) != 1:
        return len(edits) > 1
    scale, length = _timescale(data, _find(data, trak, b"mdia", b"mdhd"))
    table = _find(data, trak, b"mdia", b"minf", b"stbl", b"ctts")
    samples = _find(data, trak, b"mdia", b"minf", b"stbl", b"stts")
    delay = struct.unpack_from(">i", data, table[0] + 12)[0] if table is not None else 0
    frame = struct.unpack_from(">I", data, samples[0] + 12)[0] if samples is not None else 0
    duration, start, _ = edits[0]
    shown = duration / movie_scale * scale
    return start > delay or (duration > 0 and shown < length - start - 1.5 * frame)
