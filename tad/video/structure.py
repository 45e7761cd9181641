"""Checks of the structure of FLV, GIF, fragmented mp4, Windows Media files and transport streams.

A decoder that finds bytes which contradict the structure searches for the next place where it can go on, and does not
report the packets between. Sources: Adobe Flash Video File Format 10.1 (annex E), GIF89a, ISO/IEC 14496-12 (movie
fragments), Advanced Systems Format (data object), ISO/IEC 13818-1 (continuity counter).
"""

import re
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

from tad.video.containers import top_boxes

BROKEN, ENDS = "its structure is broken at byte {}", "the file ends within its samples"
PARTIAL = "its last packet is not whole"  # whether more packets are missing is unknown

FLV_TAGS, FLV_HEAD = (8, 9, 18), 11  # sound, pictures, data; bytes before the content of a tag
GIF_EXTENSION, GIF_PICTURE, GIF_END = 0x21, 0x2C, 0x3B
LARGEST_GIF = 1 << 29
FRAGMENT_BOXES = frozenset({
    b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"mfra", b"sidx", b"ssix", b"emsg", b"prft", b"pdin", b"free", b"skip",
    b"wide", b"uuid", b"meta", b"udta",
})  # fmt: skip
ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
ASF_HEAD = 50  # bytes of the data object before its packets
ASF_AT_ONCE = 1 << 10  # packets
TS_SYNC, TS_PACKETS, TS_AT_ONCE, TS_FILLER = 0x47, (188, 192, 204), 1 << 14, 0x1FFF
SEARCH = 1 << 20  # bytes at once
NAME = re.compile(rb"[ -~\xa9][ -~]{3}")  # of a box


def flv(handle: BinaryIO, size: int) -> str:
    """Check the tags of an FLV file. Each is followed by its length, unless the writer never writes it."""
    handle.seek(5)
    first = at = int.from_bytes(handle.read(4), "big") + 4
    linked = True
    while at < size:
        handle.seek(at)
        head = handle.read(FLV_HEAD)
        end = at + FLV_HEAD + int.from_bytes(head[1:4], "big")
        if len(head) < FLV_HEAD or (head[0] & 0x1F in FLV_TAGS and end + 4 > size):
            return PARTIAL
        if head[0] & 0x1F not in FLV_TAGS or any(head[8:]):
            return BROKEN.format(at)
        handle.seek(end)
        if linked and int.from_bytes(handle.read(4), "big") != end - at:
            if at > first:
                return BROKEN.format(end)
            linked = False
        at = end + 4
    return ""


def gif(handle: BinaryIO, size: int) -> str:
    """Check the blocks of a GIF, up to its end mark."""
    if size > LARGEST_GIF:
        return ""
    handle.seek(0)
    data = handle.read()
    try:
        at = 13 + _palette(data[10])
        while data[at] != GIF_END:
            if data[at] == GIF_PICTURE:
                at += 11 + _palette(data[at + 9])
            elif data[at] == GIF_EXTENSION:
                at += 2
            else:
                return BROKEN.format(at)
            while data[at]:
                at += 1 + data[at]
            at += 1
    except IndexError:
        return ENDS
    return ""


def _palette(flags: int) -> int:
    """Return the bytes of the palette that a descriptor announces."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def fragments(handle: BinaryIO, size: int) -> str:
    """Check a fragmented mp4: boxes of known kinds up to the last fragment, and consecutive numbers of fragments."""
    number, behind = None, 0
    for kind, at, end in top_boxes(handle, size):
        behind = end
        if kind not in FRAGMENT_BOXES:  # at the end, a name that nobody knows and zeros are allowed
            names = (b"mfhd", b"mdat") if NAME.fullmatch(kind) else (b"",)
            return BROKEN.format(at) if any(_holds(handle, at, name) for name in names) else ""
        if kind == b"moof":
            handle.seek(at + 8)
            head = handle.read(16)
            if head[4:8] != b"mfhd":
                return BROKEN.format(at)
            (this,) = struct.unpack_from(">I", head, 12)
            if number is not None and this > number + 1 > 1:
                return BROKEN.format(at)
            number = this
    return BROKEN.format(behind) if behind < size and _holds(handle, behind) else ""


def _holds(handle: BinaryIO, at: int, name: bytes = b"") -> bool:
    """Return whether a name stands behind a place, or by default anything but zeros."""
    handle.seek(at)
    before = b""
    while block := handle.read(SEARCH):
        if name in before + block if name else block.count(0) < len(block):
            return True
        before = block[-3:]
    return False


def asf_packets(handle: BinaryIO, at: int, end: int) -> str:
    """Check that the packets of a Windows Media file begin alike; they have one length, which its header states.

    Args:
        at: of the data object. end: of the object, or of the file.
    """
    handle.seek(0)
    head = handle.read(min(at, SEARCH))
    place = head.find(ASF_FILE)
    if place < 0 or place + 100 > len(head):
        return ""
    length, longest = struct.unpack_from("<II", head, place + 92)
    if length != longest or length < 3:
        return ""
    handle.seek(at + ASF_HEAD)
    mark, done = b"", at + ASF_HEAD
    while (data := handle.read(min(length * ASF_AT_ONCE, end - done))) and len(data) >= length:
        marks = np.frombuffer(data[: len(data) // length * length], np.uint8).reshape(-1, length)[:, :3]
        mark = mark or marks[0].tobytes()
        wrong = np.flatnonzero((marks != np.frombuffer(mark, np.uint8)).any(axis=1))
        if mark[0] & 0x80 and len(wrong):  # a flag, and what it announces
            return BROKEN.format(done + int(wrong[0]) * length)
        done += len(data)
    return ""


def lost_packets(path: Path) -> int:
    """Return the number of gaps in the packets of a transport stream's main part; 0 for other files.

    The packets of a part have numbers from 0 to 15, over and over. Where the numbers begin again with 0, recordings may
    have been joined, so this is no gap.
    """
    with open(path, "rb") as handle:
        head = handle.read(1024)
        for packet in TS_PACKETS:
            first = 4 if packet == 192 else 0
            if len(head) > first + 3 * packet and all(head[first + k * packet] == TS_SYNC for k in range(4)):
                return _gaps(handle, packet, first)
    return 0


def _gaps(handle: BinaryIO, packet: int, first: int) -> int:
    handle.seek(0)
    latest: dict[int, int] = {}
    gaps: dict[int, int] = {}
    total: dict[int, int] = {}
    while data := handle.read(packet * TS_AT_ONCE):
        rows = np.frombuffer(data[: len(data) // packet * packet], np.uint8).reshape(-1, packet)[:, first : first + 6]
        part, number = (rows[:, 1] & 0x1F).astype(int) << 8 | rows[:, 2], rows[:, 3] & 15
        restart = (rows[:, 3] & 0x20 > 0) & (rows[:, 4] > 0) & (rows[:, 5] & 0x80 > 0)  # the stream says so
        filled = (rows[:, 3] & 0x10 > 0) & (rows[:, 0] == TS_SYNC) & (part != TS_FILLER)
        for pid in np.unique(part[filled]).tolist():
            own = filled & (part == pid)
            numbers = np.append(latest.get(pid, (int(number[own][0]) - 1) % 16), number[own]).astype(int)
            steps = np.diff(numbers) % 16
            gaps[pid] = gaps.get(pid, 0) + int(((steps > 1) & (numbers[1:] > 0) & ~restart[own]).sum())
            total[pid], latest[pid] = total.get(pid, 0) + len(steps), int(numbers[-1])
    return gaps[max(total, key=lambda pid: total[pid])] if total else 0
