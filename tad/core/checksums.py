"""Checksums of stored files: every byte that is read is compared with what was written, also where only a part is read.

Two layouts, both CRC-32 (zlib's, 3 GB/s; it finds every change of one to three bits in a block):

- *Blocks* (HDF5, optical flow): behind the content follows one checksum per 64 KiB, then a footer. `BlockFile` reads a
  range by checking the blocks that it touches. HDF5 itself reads through it, so that links, attributes and headers are
  checked as well as rows. HDF5 and NumPy ignore what follows the content, so other programs read the files as before.
- *Inline* (JSON, safetensors): the entry `tad_checksum` in the head of the file; it covers the whole file, with the
  digits of the entry itself counted as zeros.

HDF5's own filter fletcher32 was not chosen: it covers only rows, not headers, attributes or links; it needs chunks, so
that rows cannot be read in place; and its sums do not tell 0x0000 from 0xFFFF.
"""

import io
import os
import re
import struct
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Self

from tad.core import formats
from tad.core.errors import DamagedError
from tad.core.heaps import broken_heap

KEY = "tad_checksum"
UNSEALED = "0" * 8  # the digits while the checksum is computed
BLOCK = 1 << 16
CACHED = 32  # small reads (headers, attributes) come from verified blocks in memory
MAGIC = b"tadsums1"
FOOTER = struct.Struct("<QIII8s")  # bytes of content, block size, checksum of the table, checksum of these three, magic
INLINE = re.compile(rb'"tad_checksum": ?"(.{8})"', re.DOTALL)
HEAD_BYTES = 128  # of JSON: the entry is the first one
KIND = re.compile(rb'tad_format\\{0,3}": ?\\{0,3}"([a-z-]+) [0-9]')
KIND_BYTES = 1 << 22


def _crc_of_blocks(handle: int, length: int, block: int = BLOCK) -> bytes:
    sums = bytearray()
    for at in range(0, length, block):
        sums += zlib.crc32(os.pread(handle, min(block, length - at), at)).to_bytes(4, "little")
    return bytes(sums)


def append_blocks(path: Path) -> None:
    """Append the checksums of a finished file's blocks, and the footer."""
    with open(path, "r+b", buffering=0) as file:
        append_blocks_to(file.fileno())


def append_blocks_to(handle: int) -> None:
    """`append_blocks` for an open file descriptor."""
    length = os.fstat(handle).st_size
    table = _crc_of_blocks(handle, length)
    head = struct.pack("<QII", length, BLOCK, zlib.crc32(table))
    tail, at = memoryview(table + head + zlib.crc32(head).to_bytes(4, "little") + MAGIC), length
    while tail:
        done = os.pwrite(handle, tail, at)
        tail, at = tail[done:], at + done


def kind_in(path: Path) -> str:
    """Return the kind that a (possibly damaged) file states in its format mark; empty if none can be found."""
    try:
        with open(path, "rb") as file:
            match = KIND.search(file.read(KIND_BYTES))
    except OSError:
        return ""
    return match[1].decode() if match else ""


def remedy_for(path: Path) -> str:
    """Return how to get an undamaged file of this kind."""
    layout = formats.FORMATS.get(kind_in(path))
    return layout.remedy if layout else "remove it and run the command again that wrote it"


class BlockFile:
    """A file that is read with its blocks checked; a file object for h5py, or for ranges with `read_at`.

    Attributes:
        path: the file.
        length: bytes of the content, without checksums.
        sealed: whether the file carries checksums. Files from before they were introduced are read without.
        damage: damage detected so far; HDF5 ignores some read errors.
    """

    def __init__(self, path: Path, file: io.FileIO | None = None) -> None:
        """Open the file, or use the open file `file`, which may have been deleted since.

        Raises:
            DamagedError: the checksums themselves are damaged, or the file has lost bytes.
            OSError: it cannot be opened.
        """
        self.path, self.damage, self._at = Path(path), "", 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._file = file or open(path, "rb", buffering=0)  # noqa: SIM115 - open as long as this object
        try:
            self._read_table()
        except BaseException:
            self._file.close()
            raise

    def _read_table(self) -> None:
        size = os.fstat(self._file.fileno()).st_size
        footer = os.pread(self._file.fileno(), FOOTER.size, max(size - FOOTER.size, 0))
        self.length, self.sealed, self._table = size, footer.endswith(MAGIC), b""
        if not self.sealed:
            return
        self.length, self.block, table_crc, head_crc, _ = FOOTER.unpack(footer)
        count = -(-self.length // self.block) if self.block else -1
        whole = zlib.crc32(footer[:16]) == head_crc and self.length + 4 * count + FOOTER.size == size
        if whole:
            self._table = os.pread(self._file.fileno(), 4 * count, self.length)
            whole = zlib.crc32(self._table) == table_crc
        if not whole:
            raise self._found("its checksums are damaged, or bytes are missing")

    def _found(self, what: str) -> DamagedError:
        self.damage = f"{self.path}: damaged on disk: {what}; {remedy_for(self.path)}"
        return DamagedError(self.damage)

    def _expect(self, number: int, content: memoryview | bytes) -> None:
        if zlib.crc32(content) != int.from_bytes(self._table[4 * number : 4 * number + 4], "little"):
            at = number * self.block
            raise self._found(f"bytes {at} to {at + len(content) - 1} do not match their checksum")

    def _whole_block(self, number: int) -> bytes:
        known = self._blocks.get(number)
        if known is None:
            at = number * self.block
            known = os.pread(self._file.fileno(), min(self.block, self.length - at), at)
            self._expect(number, known)
            self._blocks[number] = known
            if len(self._blocks) > CACHED:
                self._blocks.popitem(last=False)
        return known

    def read_at(self, offset: int, out: memoryview) -> int:
        """Read from `offset` on into `out` (bytes) and return the number of bytes, which is lower at the end.

        Raises:
            DamagedError: a block does not match its checksum; the message names the range.
        """
        end = min(offset + len(out), self.length)
        done = 0
        if not self.sealed:
            while offset + done < end and (more := os.preadv(self._file.fileno(), [out[done:]], offset + done)):
                done += more
            return done
        while (at := offset + done) < end:
            number, within = divmod(at, self.block)
            blocks = (end - at) // self.block
            if within or not blocks:
                part = self._whole_block(number)[within : within + end - at]
                out[done : done + len(part)] = part
                done += len(part)
                continue
            done += self._read_whole(number, out[done : done + blocks * self.block])
        return done

    def _read_whole(self, number: int, out: memoryview) -> int:
        """Read whole blocks in place."""
        done = 0
        while done < len(out):
            more = os.preadv(self._file.fileno(), [out[done:]], number * self.block + done)
            if not more:
                raise self._found(f"it ends after {number * self.block + done} bytes")
            done += more
        for k in range(len(out) // self.block):
            self._expect(number + k, out[k * self.block : (k + 1) * self.block])
        return done

    def damaged_ranges(self) -> list[tuple[int, int]]:
        """Compare all blocks; return the ranges [first, last] of bytes that do not match, neighbours as one."""
        ranges: list[tuple[int, int]] = []
        for number in range(len(self._table) // 4):
            at = number * self.block
            content = os.pread(self._file.fileno(), min(self.block, self.length - at), at)
            if zlib.crc32(content) == int.from_bytes(self._table[4 * number : 4 * number + 4], "little"):
                continue
            last = min(at + self.block, self.length) - 1
            if ranges and ranges[-1][1] == at - 1:
                ranges[-1] = (ranges[-1][0], last)
            else:
                ranges.append((at, last))
        return ranges

    # -- the file object that h5py asks for --

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position; only from the start or from the end."""
        self._at = offset + (self.length if whence == os.SEEK_END else 0)
        return self._at

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def readinto(self, out: memoryview) -> int:
        """Read from the position on, with checks; see `read_at` and `tad.core.heaps`."""
        done = self.read_at(self._at, memoryview(out).cast("B"))
        if problem := broken_heap(self._file.fileno(), self._at, self._at + done):
            raise self._found(problem)
        self._at += done
        return done

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes from the position on, with checks."""
        out = bytearray(max(self.length - self._at, 0) if size < 0 else size)
        return bytes(out[: self.readinto(memoryview(out))])

    def flush(self) -> None:
        """Do nothing: the file is only read."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _head_of(path: Path, handle: int) -> tuple[bytes, int]:
    """Return the part of a JSON or safetensors file that may hold the entry, and its position."""
    if path.suffix == ".safetensors" or ".safetensors.partial-" in path.name:
        size = int.from_bytes(os.pread(handle, 8, 0), "little")
        return os.pread(handle, min(size, 100_000_000), 8), 8
    return os.pread(handle, HEAD_BYTES, 0), 0


def _inline_crc(handle: int, at: int) -> int:
    """Return the checksum of a file whose digits are at `at`."""
    size, state, done = os.fstat(handle).st_size, 0, 0
    while done < size:
        block = os.pread(handle, 1 << 20, done)
        if not block:
            break
        first, last = max(at - done, 0), min(at + 8 - done, len(block))
        if first < last:
            block = block[:first] + b"0" * (last - first) + block[last:]
        state = zlib.crc32(block, state)
        done += len(block)
    return state


def seal_inline(path: Path) -> None:
    """Fill in the entry `tad_checksum` of a finished file, which holds zeros so far."""
    with open(path, "r+b", buffering=0) as file:
        head, start = _head_of(path, file.fileno())
        match = INLINE.search(head)
        assert match is not None, f"{path}: written without an entry {KEY}"
        at = start + match.start(1)
        os.pwrite(file.fileno(), f"{_inline_crc(file.fileno(), at):08x}".encode(), at)


def verify_inline(path: Path) -> bool:
    """Compare a JSON or safetensors file with its checksum; return whether it has one.

    Raises:
        DamagedError: it does not match.
        OSError: the file cannot be read.
    """
    path = Path(path)
    with open(path, "rb", buffering=0) as file:
        head, start = _head_of(path, file.fileno())
        match = INLINE.search(head)
        if match is None:
            return False
        if f"{_inline_crc(file.fileno(), start + match.start(1)):08x}".encode() == match[1]:
            return True
    foreign = kind_in(path) == "detections"  # a results file without a stamp is read as one of other programs
    own = f" (if you changed it on purpose: remove its entries {KEY} and stamp)" if foreign else ""
    raise DamagedError(
        f"{path}: does not match its checksum, so it was damaged on disk or changed; {remedy_for(path)}{own}"
    )
