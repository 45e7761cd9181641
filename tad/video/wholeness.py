"""Detection of truncated files: samples declared by the container's structure but missing from the file.

The containers are parsed here because decoders do not report truncation: a truncated AVI or Matroska file simply ends.
Bytes after the last element are ignored, as is a truncated index after the last sample. In formats that declare no
length (transport and program streams, FLV), truncation is undetectable except within a packet; FLV's header may state
its duration. Sources: ISO/IEC 14496-12 (boxes), Matroska/EBML (RFC 8794, RFC 9559), RIFF/OpenDML, Ogg (RFC 3533),
Advanced Systems Format. Further checks are in `tad.video.structure`.
"""

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

from tad.video.containers import top_boxes
from tad.video.structure import BROKEN, ENDS, PARTIAL, TS_PACKETS, TS_SYNC, asf_packets, flv, fragments, gif

EBML, SEGMENT, CLUSTER = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"
ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
CLUSTER_BLOCKS = frozenset({0xA3, 0xA0, 0xE7, 0xA7, 0xAB, 0xEC, 0xBF, 0xAF, 0x5854})
TS_AT_ONCE = 1 << 14
LARGEST_RIFF = 1 << 30  # OpenDML writers disagree about larger values of the size field
OGG_TAIL = 1 << 17


def lost_samples(path: Path) -> str:
    """Describe how the file is truncated; empty if it is complete or its format declares no length."""
    size = Path(path).stat().st_size
    with open(path, "rb") as handle:
        head = handle.read(1024)
        if head[:4] == b"RIFF":
            return _riff(handle, size)
        if head[:4] == EBML:
            return _matroska(handle, size)
        if head[:16] == ASF_HEADER:
            return _asf(handle, size)
        if head[:4] == b"OggS":
            return _ogg(handle, size)
        if head[:6] in (b"GIF87a", b"GIF89a"):
            return gif(handle, size)
        if head[:4] == b"FLV\x01":
            return flv(handle, size)
        for packet in TS_PACKETS:
            first = 4 if packet == 192 else 0
            if len(head) > first + 3 * packet and all(head[first + k * packet] == TS_SYNC for k in range(4)):
                return _transport(handle, size, packet, first)
        return _movie(handle, size)


def _movie(handle: BinaryIO, size: int) -> str:
    """Check an mp4 file with an incomplete index or with fragments.

    If there is an index, missing samples are detected from it (`PyavReader.promised`), and the length of their box is
    not used.
    """
    boxes = list(top_boxes(handle, size))
    kinds = {kind for kind, _, _ in boxes}
    if b"moof" in kinds and (broken := fragments(handle, size)):
        return broken
    if not boxes or boxes[-1][2] <= size or boxes[-1][0] not in (b"mdat", b"moov", b"moof"):
        return ""
    return ENDS if boxes[-1][0] != b"mdat" or b"moov" not in kinds or b"moof" in kinds else ""


def _riff(handle: BinaryIO, size: int) -> str:
    """Check whether the list of samples (movi) of an AVI file extends beyond the file."""
    handle.seek(4)
    riff = struct.unpack("<I", handle.read(4))[0]
    if riff >= LARGEST_RIFF:
        return ""
    at, end = 12, 8 + riff
    while at + 12 <= min(size, end):
        handle.seek(at)
        kind, length, form = struct.unpack("<4sI4s", handle.read(12))
        if kind == b"LIST" and form == b"movi":
            return _chunks(handle, at + 12, at + 8 + length) if at + 8 + length <= size else ENDS
        if not all(32 <= byte < 127 for byte in kind):
            return BROKEN.format(at)
        at += 8 + length + length % 2
    return ENDS if end > size else BROKEN.format(min(at, size))


def _chunks(handle: BinaryIO, at: int, end: int) -> str:
    """Check the chunks of samples of an AVI file."""
    while at + 8 <= end:
        handle.seek(at)
        kind, length = struct.unpack("<4sI", handle.read(8))
        if not all(32 <= byte < 127 for byte in kind):
            handle.seek(at - 1)  # some writers omit the padding byte after an odd length
            kind, length = struct.unpack("<4sI", handle.read(8))
            if not all(32 <= byte < 127 for byte in kind):
                return BROKEN.format(at)
            at -= 1
        if kind == b"LIST":  # a group of chunks: continue inside it
            at += 12
        else:
            at += 8 + length + length % 2
    return ""


def _transport(handle: BinaryIO, size: int, packet: int, first: int) -> str:
    """Check that every packet of a transport stream begins with the sync byte."""
    handle.seek(0)
    done = 0
    while data := handle.read(packet * TS_AT_ONCE):
        signs = np.frombuffer(data, np.uint8)[first::packet]
        wrong = np.flatnonzero(signs != TS_SYNC)
        if len(wrong):
            return BROKEN.format(done + int(wrong[0]) * packet)
        done += len(data)
    return PARTIAL if size % packet else ""


def _vint(data: bytes, at: int) -> tuple[int, int]:
    """Parse an EBML size; return it (-1 if unknown, as in live streams; -2 if invalid) and the position after it."""
    if at >= len(data) or data[at] == 0:
        return -2, at + 1
    width = 9 - data[at].bit_length()
    if at + width > len(data):
        return -2, at + width
    value = int.from_bytes(data[at : at + width], "big") & ((1 << 7 * width) - 1)
    return (-1 if value == (1 << 7 * width) - 1 else value), at + width


def _element(handle: BinaryIO, at: int) -> tuple[bytes, int, int]:
    """Return identifier, size (-1 unknown, -2 invalid) and first payload byte of the element at a position."""
    handle.seek(at)
    head = handle.read(12)
    if not head or head[0] < 16:  # identifiers have at most four bytes
        return b"", -2, at
    width = 9 - head[0].bit_length()
    size, behind = _vint(head, width)
    return head[:width], size, at + behind


def _matroska(handle: BinaryIO, size: int) -> str:
    """Check the elements of a Matroska or WebM file: clusters, their blocks, and the elements between them."""
    _, length, at = _element(handle, 0)
    kind, segment, at = _element(handle, at + max(length, 0))
    if kind != SEGMENT or segment == -2:
        return ""
    end = at + segment if segment >= 0 else size
    while at + 2 <= min(end, size):
        kind, length, payload = _element(handle, at)
        if length == -2:
            return BROKEN.format(at)
        if kind == CLUSTER:
            at, problem = _cluster(handle, payload, payload + length if length >= 0 else None, size)
            if problem:
                return problem
        elif length == -1:
            return ""
        else:
            at = payload + length
    return ""


def _cluster(handle: BinaryIO, at: int, end: int | None, size: int) -> tuple[int, str]:
    """Check a cluster's children; return the position after the cluster and what is wrong."""
    while (end is None or at < end) and at < size:
        kind, length, payload = _element(handle, at)
        if int.from_bytes(kind, "big") not in CLUSTER_BLOCKS:
            if end is None and len(kind) == 4:  # the next element of the segment ends one of unknown size
                return at, ""
            return at, ENDS if size - at < 12 and end is not None and end > size else BROKEN.format(at)
        if length < 0:
            return at, BROKEN.format(at)
        if payload + length > size:
            return at, ENDS
        at = payload + length
    if end is not None and at < end:
        return at, ENDS
    return at, ""


def _asf(handle: BinaryIO, size: int) -> str:
    """Check whether the data object of a Windows Media file extends beyond the file."""
    at = 0
    while at + 24 <= size:
        handle.seek(at)
        kind = handle.read(16)
        length = struct.unpack("<Q", handle.read(8))[0]
        if kind == ASF_DATA:
            return ENDS if at + length > size else asf_packets(handle, at, at + length)
        if length < 24:
            return BROKEN.format(at)
        at += length
    return ENDS


def _ogg(handle: BinaryIO, size: int) -> str:
    """Check whether the last page of an Ogg file is complete and marked as the end of a stream."""
    handle.seek(max(size - OGG_TAIL, 0))
    tail = handle.read()
    at = tail.rfind(b"OggS")
    if at < 0 or at + 27 > len(tail):
        return ENDS
    segments = tail[at + 26]
    table = tail[at + 27 : at + 27 + segments]
    if len(table) < segments or at + 27 + segments + sum(table) > len(tail):
        return ENDS
    return "" if tail[at + 5] & 4 else "its last page is not marked as the end"
