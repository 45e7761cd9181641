"""Changes of stored files, with and without their checksums brought up to date."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from tad.core.checksums import BlockFile, append_blocks, seal_inline


def unseal(path: Path) -> Path:
    """Remove the checksums of an HDF5 file or an array: what it was before there were any."""
    with BlockFile(path) as file:
        length = file.length
    with open(path, "r+b") as handle:
        handle.truncate(length)
    return path


def change(path: Path, old: bytes, new: bytes) -> Path:
    """Replace the first occurrence of some bytes on purpose, checksums included."""
    raw = path.read_bytes()
    assert len(old) == len(new)
    assert old in raw
    blocks = path.suffix not in (".json", ".safetensors")
    if blocks:
        unseal(path)
        raw = path.read_bytes()
    path.write_bytes(raw.replace(old, new, 1))
    reseal(path)
    return path


def reseal(path: Path) -> Path:
    """Write the checksums of a file that has been changed."""
    if path.suffix in (".json", ".safetensors"):
        raw = path.read_bytes()
        pattern = rb'("tad_checksum": ?")[^"]{8}"'
        if re.search(pattern, raw):
            path.write_bytes(re.sub(pattern, rb'\g<1>00000000"', raw, count=1))
            seal_inline(path)
    else:
        append_blocks(path)
    return path


def flip(path: Path, at: int, mask: int = 0x40) -> Path:
    """Flip bits of one byte, as a failing disk does."""
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ mask]))
    return path


@contextmanager
def edit_h5(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file of ours to change it on purpose, checksums included."""
    with h5py.File(unseal(path), "r+") as file:
        yield file
    append_blocks(path)
