"""Damaged global heaps of HDF5 files: HDF5 (2.0 and before) walks for ever through one with an object of no length.

A global heap holds texts of any length, such as attributes. Its layout is in the HDF5 file format specification, III.E.
"""

import os

MARK = b"GCOL\x01\0\0\0"  # signature, version 1, three zeros
HEADER = 16  # of a heap: mark, size; of an object in it: index, references, four zeros, length
LONGEST_READ = 1 << 20  # HDF5 reads a heap's head in a read of at most this length; longer ones are rows
SIGNATURE = b"\x89HDF\r\n\x1a\n"


def broken_heap(handle: int, first: int, last: int) -> str:
    """Return why HDF5 could not read a global heap that begins in a range of bytes; empty if it can.

    Args:
        handle: file descriptor.
        first, last: the bytes that HDF5 is about to see.
    """
    if last - first > LONGEST_READ:
        return ""
    begin = max(first - len(MARK) + 1, 0)  # an earlier read may have ended within the mark
    content = os.pread(handle, last - begin, begin)
    at = content.find(MARK)
    while at >= 0:
        if problem := _problem(handle, begin + at):
            return problem
        at = content.find(MARK, at + 1)
    return ""


def _length_bytes(handle: int) -> int:
    """Return how many bytes a length takes in the file: 8 in files of h5py; the head of the file states it."""
    head = os.pread(handle, 16, 0)
    if len(head) < 16 or not head.startswith(SIGNATURE):
        return 8  # the head lies further behind, after a block of the user's
    return head[14] if head[8] < 2 else head[10]


def _problem(handle: int, at: int) -> str:
    """Walk through a heap as HDF5 does; return where it cannot go on."""
    head, width = os.pread(handle, HEADER, at), _length_bytes(handle)
    if len(head) < HEADER:
        return ""  # HDF5 notices the end of the file itself
    end = at + int.from_bytes(head[8 : 8 + width], "little")
    if end > os.fstat(handle).st_size:
        return ""
    place = at + HEADER
    while place + HEADER <= end:
        head = os.pread(handle, HEADER, place)
        index, length = int.from_bytes(head[:2], "little"), int.from_bytes(head[8 : 8 + width], "little")
        step = HEADER + (length + 7) // 8 * 8 if index else length  # object 0 is the free space, with its own head
        if not step or step > end - place:
            return f"the texts at byte {at} have an object of {length} bytes at byte {place}"
        place += step
    return ""
