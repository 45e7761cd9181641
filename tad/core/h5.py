"""Open HDF5 files with errors in one line, and write them atomically; both with checksums (`tad.core.checksums`).

Datasets of files from others are read after a check that their declared size is credible.
"""

import os
import zlib
from collections import ChainMap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np

from tad.core import formats
from tad.core.checksums import BlockFile, append_blocks
from tad.core.errors import DAMAGE, DamagedError, TadError, cause_of
from tad.core.files import canonical, publish
from tad.core.limits import LimitError, most_unpacked, refuse_bomb

GZIP, SHUFFLE, CHECKSUM, LZF = 1, 2, 3, 32000
FILTERS = {GZIP, SHUFFLE, CHECKSUM, LZF}
TEXTS_AT_ONCE = 32


@contextmanager
def reading(path: Path, remedy: str = "remove it and run again") -> Iterator[None]:
    """Report damage that HDF5 finds in the block as an error of the file.

    Raises:
        TadError: names the file, the damage and a remedy.
    """
    try:
        yield
    except TadError:
        raise
    except DAMAGE as error:
        raise TadError(f"{path}: damaged ({cause_of(error)}); {remedy}") from None


class CheckedH5:
    """An HDF5 file that is open for reading; every byte that HDF5 reads is compared with its checksum.

    HDF5 cannot follow links to other files from here: resolve them, and open the other file in the same way.

    Attributes:
        path: the file.
        file: the file as h5py sees it.

    Raises:
        DamagedError: it does not match its checksums.
        TadError: it is missing, truncated, not HDF5, or in a format that this version does not read.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise TadError(f"{path}: no such file")
        with reading(self.path):
            self._blocks = BlockFile(self.path)
        try:
            self.file = self._opened()
        except BaseException:
            self._blocks.close()
            raise

    def _opened(self) -> h5py.File:
        try:
            file = h5py.File(self._blocks, "r")
            formats.check_header(file.attrs, self.path, names=ChainMap(file.attrs, file), sealed=self._blocks.sealed)
            return file
        except TadError:
            raise
        except DAMAGE as error:
            self.refuse_damage()
            reason = "truncated" if "truncated" in str(error) else "not a readable HDF5 file"
            raise TadError(f"{self.path}: {reason}; remove it and run again") from None

    @property
    def sealed(self) -> bool:
        """Whether the file carries checksums."""
        return self._blocks.sealed

    def refuse_damage(self) -> None:
        """Raise the damage that was met while reading, if any: HDF5 ignores some read errors.

        Raises:
            DamagedError: a part that was read does not match its checksum.
        """
        if self._blocks.damage:
            raise DamagedError(self._blocks.damage)

    def delivered(self, error: DamagedError) -> None:
        """Record that a caller has received this error, so that it is not raised again at the end."""
        if str(error) == self._blocks.damage:
            self._blocks.damage = ""

    def close(self) -> None:
        """Close the file."""
        self.file.close()
        self._blocks.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if error is None or isinstance(error, Exception):
            self.refuse_damage()


@contextmanager
def open_h5(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading; see `CheckedH5`.

    Raises:
        DamagedError: a part that was read does not match its checksum.
        TadError: the file is missing, truncated, not HDF5, or in a format that this version does not read.
    """
    with CheckedH5(path) as checked:
        yield checked.file


def inside(path: Path, folder: Path) -> bool:
    """Return whether a path, after all links are followed, lies in a folder or below it."""
    return Path(path).resolve().is_relative_to(Path(folder).resolve())


def refuse_odd_dataset(dataset: h5py.Dataset) -> None:
    """Check a dataset before it is read: its numbers lie in its own file, and its size is credible.

    A kilobyte can declare a terabyte of fill values, or a chunk that unpacks to gigabytes.

    Raises:
        LimitError: it takes numbers from another file, or declares more than its file can hold; or it is compressed in
            an unusual way.
    """
    if dataset.is_virtual or dataset.external:
        raise LimitError("refers to data in another file")
    if dataset.shape is None or (dataset.dtype.hasobject and h5py.check_string_dtype(dataset.dtype) is None):
        raise LimitError("contains neither numbers nor text")
    stored = min(int(dataset.id.get_storage_size()), dataset.file.id.get_filesize())
    refuse_bomb(
        int(dataset.size) * int(dataset.dtype.itemsize), stored, f"the shape {dataset.shape} of {dataset.dtype}"
    )
    if dataset.chunks is not None:
        _refuse_odd_chunks(dataset, stored)


def _refuse_odd_chunks(dataset: h5py.Dataset, stored: int) -> None:
    chunk = int(np.prod(dataset.chunks, dtype=object)) * int(dataset.dtype.itemsize)
    refuse_bomb(chunk, stored, f"a chunk of shape {dataset.chunks}")
    creation = dataset.id.get_create_plist()
    filters = [creation.get_filter(k)[0] for k in range(creation.get_nfilters())]
    if unknown := set(filters) - FILTERS:
        raise LimitError(f"is compressed with HDF5's filter {min(unknown)}; store it with gzip, lzf or uncompressed")
    if filters.count(GZIP) + filters.count(LZF) > 1:
        raise LimitError("is compressed twice; store it with gzip or uncompressed")
    if GZIP in filters:
        for k in range(dataset.id.get_num_chunks()):
            where = dataset.id.get_chunk_info(k).chunk_offset
            skipped, packed = dataset.id.read_direct_chunk(where)
            if not skipped & (1 << filters.index(GZIP)):
                _refuse_long_chunk(packed, chunk)


def _refuse_long_chunk(packed: bytes, chunk: int) -> None:
    """Check that a chunk unpacks to its declared size, which HDF5 does only after it has unpacked all of it."""
    unpacker, unpacked = zlib.decompressobj(), 0
    step = min(chunk + 1, 1 << 20)
    while not unpacker.eof:
        block = unpacker.decompress(packed, step)
        unpacked += len(block)
        packed = unpacker.unconsumed_tail
        if unpacked > chunk:
            raise LimitError(f"a chunk unpacks to more than its {chunk} bytes")
        if not block and not packed:
            raise LimitError("a chunk is truncated")


def read_dataset(holder: h5py.Group, name: str) -> np.ndarray:
    """Read a whole dataset of a file after checks of its size; see `refuse_odd_dataset`.

    Raises:
        ValueError, KeyError, OSError, RuntimeError: it is missing, no dataset of its own file, damaged or too large.
    """
    if not isinstance(holder.get(name, getlink=True), h5py.HardLink):
        raise LimitError(f"'{name}' is not a dataset of its own file")
    dataset = holder[name]
    if not isinstance(dataset, h5py.Dataset):
        raise LimitError(f"'{name}' is not a dataset of its own file")
    refuse_odd_dataset(dataset)
    values: np.ndarray = dataset[()]
    return values


def read_texts(holder: h5py.Group, name: str) -> list[str]:
    """Read a dataset of strings in small parts, because many entries may refer to one long string.

    Raises:
        as `read_dataset`.
    """
    if not isinstance(holder.get(name, getlink=True), h5py.HardLink):
        raise LimitError(f"'{name}' is not a dataset of its own file")
    dataset = holder[name]
    if not isinstance(dataset, h5py.Dataset) or h5py.check_string_dtype(dataset.dtype) is None:
        raise LimitError(f"'{name}' is not a dataset of texts")
    refuse_odd_dataset(dataset)
    if len(dataset.shape) != 1:
        raise LimitError(f"'{name}' has the shape {dataset.shape}, expected a list")
    texts: list[str] = []
    length, most = 0, most_unpacked(dataset.file.id.get_filesize())
    for first in range(0, dataset.shape[0], TEXTS_AT_ONCE):
        part = [str(text) for text in dataset.asstr()[first : first + TEXTS_AT_ONCE]]
        length += sum(map(len, part))
        if length > most:
            raise LimitError(f"the texts of '{name}' have more than {most} characters")
        texts += part
    return texts


class _Sink:
    """A file object that HDF5 writes to. It reports no failure to HDF5, which would crash on closing the file later;
    it keeps the first one instead, and what is written afterwards is dropped.

    Attributes:
        error: the first failure; its attribute `needed` is the number of bytes that the file would have had at least.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "w+b", buffering=0)  # noqa: SIM115 - open as long as this object
        self._at = self._end = 0
        self.error: OSError | None = None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + (self._end if whence == os.SEEK_END else 0)
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int) -> bytes:
        out = bytearray(size)
        self.readinto(memoryview(out))
        return bytes(out)

    def readinto(self, out: memoryview) -> int:
        """Read bytes; those beyond the end, or dropped, are zero."""
        out = memoryview(out).cast("B")
        content = os.pread(self._file.fileno(), len(out), self._at)
        out[:] = content + bytes(len(out) - len(content))
        self._at += len(out)
        return len(out)

    def write(self, content: memoryview) -> int:
        content = memoryview(content).cast("B")
        self._end = max(self._end, self._at + len(content))
        try:
            done = 0
            while done < len(content) and not self.error:
                done += os.pwrite(self._file.fileno(), content[done:], self._at + done)
        except OSError as error:
            self._fail(error)
        self._at += len(content)
        return len(content)

    def truncate(self, size: int | None = None) -> int:
        self._end = self._at if size is None else size
        try:
            if not self.error:
                os.ftruncate(self._file.fileno(), self._end)
        except OSError as error:
            self._fail(error)
        return self._end

    def flush(self) -> None:
        pass

    def _fail(self, error: OSError) -> None:
        error.needed = self._end  # type: ignore[attr-defined]
        self.error = error

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:  # network file systems report a full disk here
            self.error = self.error or error


class H5Writer:
    """Write an HDF5 file atomically, with checksums. Equal content gives equal bytes (no dates inside).

    Raises:
        StorageError: see `tad.core.files.publish`.
    """

    def __init__(self, path: Path, stamp: dict[str, Any] | None = None) -> None:
        """`stamp`: stored as the attribute `tad_stamp`; None: the file has none."""
        self._publish = publish(Path(path))
        self._stamp = stamp

    def __enter__(self) -> Self:
        self._partial = self._publish.__enter__()
        try:
            self._sink = _Sink(self._partial)
            try:
                self.file = h5py.File(self._sink, "w", track_order=False)
                if self._stamp is not None:
                    self.file.attrs["tad_stamp"] = canonical(self._stamp)
            except BaseException:
                self._sink.close()
                raise
        except BaseException as error:
            self._end(error)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._finish(failed=error is not None)
        except BaseException as own:  # a signal, too: the temporary file must not remain
            self._end(own if error is None or isinstance(error, Exception) else error)
            raise
        self._end(error)

    def _finish(self, *, failed: bool) -> None:
        try:
            self.file.close()
        finally:
            self._sink.close()
            self.check()  # what HDF5 says about a failed write is of no use
        if not failed:
            append_blocks(self._partial)

    def _end(self, error: BaseException | None) -> None:
        self._publish.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)

    def check(self) -> None:
        """Stop early if a part could not be written; closing would report it anyway.

        Raises:
            OSError: the first failure.
        """
        if self._sink.error:
            raise self._sink.error

    def dataset(self, name: str, values: np.ndarray) -> h5py.Dataset:
        """Store an array under `name`, contiguous and without dates."""
        stored = self.file.create_dataset(name, data=values, track_times=False)
        self.check()
        return stored

    def attribute(self, name: str, value: Any) -> None:
        """Store a root attribute as canonical JSON."""
        self.file.attrs[name] = canonical(value)
