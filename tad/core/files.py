"""Atomic publication of files, JSON, and content hashes."""

import errno
import hashlib
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tad.core import checksums, claims, formats
from tad.core.errors import TadError
from tad.core.json_text import indented
from tad.core.processes import is_alive, own_token
from tad.core.storage import storing
from tad.core.strict_json import parse_json

log = logging.getLogger(__name__)
SMALL_BYTES, SAMPLES, SAMPLE_BYTES = 1 << 20, 8, 1 << 12  # 20,000 large files are looked at within seconds
TICK_NS = 2_100_000_000  # of the clocks of file systems: FAT counts in steps of two seconds
READERS = 16  # files whose blocks are awaited at once
PARTIAL = ".partial-"  # of a temporary file: <name>.partial-<token of the writing process>
FOREIGN_SECONDS = 86400.0  # a temporary file of another machine is removed after a day without a change
_swept: set[Path] = set()


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_folder(path: Path) -> None:
    """Force the names in a folder to the disk, where the file system can: some network and FUSE ones refuse it."""
    try:
        _fsync(path)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES):
            raise
        log.debug("%s: folders cannot be forced to the disk here (%s)", path, error)


def fsync_tree(folder: Path) -> None:
    """Force all files and names below a folder to the disk, so that it can be published with a rename."""
    for path, _, names in os.walk(folder, topdown=False):
        for name in names:
            _fsync(Path(path, name))
        fsync_folder(Path(path))


def settle(partial: Path, path: Path) -> None:
    """Rename a finished temporary file to `path` in the same folder, with fsync of the data and of the folder.

    Raises:
        TadError: a later process has claimed the output for other work (see `tad.core.claims`).
    """
    _fsync(partial)
    with claims.holding(path):
        os.replace(partial, path)
    fsync_folder(path.parent)


def sweep(folder: Path) -> None:
    """Remove the temporary files in a folder whose processes were killed."""
    for path in Path(folder).glob(f"*{PARTIAL}*"):
        alive = is_alive(path.name.rpartition(PARTIAL)[2])
        with suppress(OSError):  # removed by another process, or in a folder that is not ours to clean
            if alive is False or (alive is None and time.time() - path.stat().st_mtime > FOREIGN_SECONDS):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _sweep_once(folder: Path) -> None:
    """Sweep a folder at the first publication into it, because it may hold thousands of files."""
    if folder not in _swept:
        _swept.add(folder)
        sweep(folder)


@contextmanager
def publish(path: Path, *, size: int | None = None) -> Iterator[Path]:
    """Yield a temporary name beside `path`; rename it to `path` if the block succeeds, remove it if it fails.

    The data are on disk before the name appears (fsync, rename, fsync of the folder), so a reader never sees half a
    file, even if the process is killed. What a killed process leaves in the folder is removed by the next one.

    Args:
        path: file to write.
        size: its bytes, if known, for the message when they do not fit.

    Raises:
        StorageError: the disk is full, a quota or limit is exceeded, the file system is read-only, or the device
            fails. What was at `path` before is unchanged.
        TadError: a later process has claimed the output for other work (see `tad.core.claims`).
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}{PARTIAL}{own_token()}")
    try:
        with storing(path, partial, size=size):
            path.parent.mkdir(parents=True, exist_ok=True)
            _sweep_once(path.parent)
            yield partial
            settle(partial, path)
    finally:
        discard(partial)


def discard(path: Path) -> None:
    """Remove a temporary file if it exists; a file system that has become read-only is no further error."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


def canonical(value: object) -> str:
    """Return canonical JSON: sorted keys, no spaces; equal values give equal strings. NaN and infinity are errors."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: object, length: int = 12) -> str:
    """Return the first `length` hex digits of the sha256 of `canonical(value)`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:length]


def write_json(path: Path, value: object, *, seal: bool = True) -> Path:
    """Write `value` to `path` atomically (see `publish`), one line per entry; equal values give equal bytes.

    Args:
        path: file to write.
        value: the JSON value.
        seal: add a checksum to an object. Not for files that users edit.
    """
    sealed = False
    if seal and isinstance(value, dict):
        sealed, value = True, {checksums.KEY: checksums.UNSEALED, **value}
    text = (indented(value) + "\n").encode()
    with publish(path, size=len(text)) as partial:
        with open(partial, "wb") as file:
            file.write(text)
        if sealed:
            checksums.seal_inline(partial)
    return Path(path)


def read_json(path: Path) -> Any:
    """Read the JSON value in `path`.

    Raises:
        TadError: the file is missing, not UTF-8, not JSON, contains NaN, exceeds `tad.core.limits`, or was written in
            a format that this version does not read; or it does not match its checksum. The message names the file and
            the line or the format.
    """
    value, sealed = _parse_json(path)
    formats.check_document(value, path, sealed=sealed)
    return value


def _parse_json(path: Path) -> tuple[Any, bool]:
    """Return the value, without its checksum, and whether it had one."""
    try:
        sealed = checksums.verify_inline(path)
        value = parse_json(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TadError(f"{path}: no such file; check the path, or make the file first") from None
    except UnicodeDecodeError as error:
        raise TadError(f"{path}: not UTF-8 text (byte {error.start}); is this really a JSON file?") from None
    except json.JSONDecodeError as error:
        raise TadError(
            f"{path}: line {error.lineno}: not valid JSON ({error.msg}); repair or replace the file"
        ) from None
    except ValueError as error:
        if isinstance(error, TadError):
            raise
        raise TadError(f"{path}: {error}; repair or replace the file") from None
    if sealed and isinstance(value, dict):
        value.pop(checksums.KEY, None)
    return value, sealed


def sha256(path: Path) -> str:
    """Return the sha256 of the whole file, in hex."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def content_key(path: Path) -> str:
    """Return a content hash that is fast for any size: of the length and 8 evenly spaced blocks of 4 KiB.

    Files up to 1 MiB are hashed whole. Dates do not count. A change that keeps the length and misses every block goes
    unnoticed; video containers do not change like that, and `probe` also records the full sha256.
    """
    with open(path, "rb", buffering=0) as handle:
        size = os.fstat(handle.fileno()).st_size
        state = hashlib.sha256(str(size).encode())
        if size <= SMALL_BYTES:
            state.update(handle.readall())
        else:
            for k in range(SAMPLES):
                at = math.floor(k * (size - SAMPLE_BYTES) / (SAMPLES - 1))
                state.update(os.pread(handle.fileno(), SAMPLE_BYTES, at))
    return state.hexdigest()[:16]


class HashCache:
    """A cache of `content_key` by (size, dates, inode): an unchanged file is not read again.

    A file that was written just before it is read may be written again within the same tick of the file system's clock,
    and look unchanged. Its key is not stored, so that it is computed again the next time.

    It is stored in one JSON file. Losing the file only costs time.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.entries: dict[str, list[Any]] = {}
        self.changed = False
        if self.path.is_file():
            try:
                self.entries = formats.unmarked(_parse_json(self.path)[0], self.path, kind="hashes")
            except TadError as error:  # a cache: rebuilt when it cannot be read
                log.warning("%s; the hashes are computed again", error)

    def key(self, path: Path) -> str:
        """Return `content_key(path)`, from the cache if size, dates and inode are unchanged."""
        return self.keys([path])[0]

    def keys(self, paths: Iterable[Path]) -> list[str]:
        """Return `content_key` of each path; files that are not in the cache are read in parallel."""
        names = [str(path) for path in paths]
        stats = {name: os.stat(name) for name in names}
        facts = {name: [s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for name, s in stats.items()}
        unknown = [name for name, fact in facts.items() if self.entries.get(name, [])[:4] != fact]
        now, fresh = time.time_ns(), dict[str, str]()
        if unknown:
            with ThreadPoolExecutor(READERS) as pool:
                fresh = dict(zip(unknown, pool.map(content_key, map(Path, unknown)), strict=True))
            settled = [name for name in unknown if min(abs(now - date) for date in facts[name][1:3]) > TICK_NS]
            self.entries |= {name: [*facts[name], fresh[name]] for name in settled}
            self.changed = self.changed or bool(settled)
        return [fresh[name] if name in fresh else str(self.entries[name][4]) for name in names]

    def content(self, path: Path, extensions: Collection[str] = ()) -> str:
        """Return a key of a file's content, or of the names and contents of all files in a folder.

        Args:
            path: file or folder; what does not exist counts as an empty folder.
            extensions: in a folder, only files with one of these extensions count; empty: all files.
        """
        if path.is_file():
            return self.key(path)
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else []
        files = [p for p in files if not extensions or p.suffix.lower() in extensions]
        return digest({str(p.relative_to(path)): self.key(p) for p in files})

    def save(self) -> None:
        """Write the cache if it changed. A read-only folder is no error."""
        if self.changed:
            try:
                write_json(self.path, {**formats.mark("hashes"), **self.entries})
            except OSError:  # read-only checkout: the hashes are computed again next time
                return
            self.changed = False
