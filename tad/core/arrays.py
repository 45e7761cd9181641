"""Read NumPy's files (.npy, .npz) whose declared sizes fit the size of the file."""

import math
import tokenize
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from tad.core.errors import cause_of
from tad.core.limits import LimitError, refuse_bomb

LONGEST_HEADER = 10_000  # characters; NumPy's own limit for files that are not trusted


def _header(handle: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read the header of an .npy file: shape and type; the handle is then at the first number.

    Raises:
        ValueError: not an .npy file, or its numbers are Python objects.
    """
    version = np.lib.format.read_magic(handle)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"version {version[0]}.{version[1]} of the .npy format holds no plain numbers")
    try:
        shape, _, dtype = read(handle, max_header_size=LONGEST_HEADER)
    except (SyntaxError, tokenize.TokenError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"a damaged header ({cause_of(error)})") from None  # NumPy parses it as a Python literal
    if dtype.hasobject:
        raise ValueError("contains Python objects, not numbers")
    if any(size < 0 for size in shape):
        raise ValueError(f"declares the shape {shape}"[:120])
    return shape, dtype


def _declared(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return math.prod(shape) * dtype.itemsize


def read_npy(path: Path) -> np.ndarray:
    """Read an .npy file, without pickles.

    Raises:
        ValueError: not an .npy file, objects, or a declared shape that does not fit the size of the file.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as handle:
        shape, dtype = _header(handle)
        there, needed = Path(path).stat().st_size - handle.tell(), _declared(shape, dtype)
        if there < needed:
            raise LimitError(f"declares the shape {shape} of {dtype}, {needed} bytes, but holds {there}")
        handle.seek(0)
        values: np.ndarray = np.lib.format.read_array(handle, allow_pickle=False, max_header_size=LONGEST_HEADER)
    return values


def refuse_zip_bomb(path: Path, *, stored_only: bool = False) -> None:
    """Check that the members of a zip archive do not unpack to far more than its size.

    Args:
        path: the archive.
        stored_only: refuse any compression, which PyTorch never uses.

    Raises:
        LimitError: they do.
        zipfile.BadZipFile: the archive is damaged.
    """
    size = Path(path).stat().st_size
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(record.file_size for record in archive.infolist())
    if stored_only and unpacked > size:
        raise LimitError(f"an archive of {size} bytes that unpacks to {unpacked}")
    refuse_bomb(unpacked, size, "the archive")


def read_npz(path: Path, name: str) -> np.ndarray:
    """Read the array `name` of an .npz file or, if there is none of that name, its only array.

    Raises:
        ValueError: no such array, objects, or declared sizes that do not fit the file.
        zipfile.BadZipFile: the archive is damaged.
    """
    refuse_zip_bomb(path)
    with zipfile.ZipFile(path) as archive:
        members = {record.filename.removesuffix(".npy"): record for record in archive.infolist()}
        if name not in members and len(members) != 1:
            raise ValueError(f"contains {', '.join(sorted(members)[:5]) or 'nothing'}, but no '{name}'")
        chosen = name if name in members else next(iter(members))
        with archive.open(members[chosen]) as handle:
            shape, dtype = _header(handle)
            needed = _declared(shape, dtype)
            if handle.tell() + needed != members[chosen].file_size:
                raise LimitError(f"'{chosen}' declares the shape {shape} of {dtype}, which is not its size")
        with archive.open(members[chosen]) as handle:
            values: np.ndarray = np.lib.format.read_array(handle, allow_pickle=False, max_header_size=LONGEST_HEADER)
    return values
