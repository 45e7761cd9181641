"""Files that are either whole or absent: atomic publication, JSON, content hashes."""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tad.errors import TadError

SMALL_BYTES, SAMPLES, SAMPLE_BYTES = 1 << 20, 8, 1 << 12  # 20,000 large files are looked at within seconds
READERS = 16  # files whose blocks are awaited at once


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def settle(partial: Path, path: Path) -> None:
    """Rename a finished temporary file to `path` in the same folder: data first, then the name, both on disk."""
    _fsync(partial)
    os.replace(partial, path)
    _fsync(path.parent)


@contextmanager
def publish(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; rename it to `path` when the block succeeds, remove it when it fails.

    The data and the folder entry are on disk before the name appears (fsync, rename, fsync of the folder), so a
    reader never sees half a file, whatever was killed and when.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        yield partial
        settle(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def canonical(value: Any) -> str:
    """`value` as JSON with sorted keys and no spaces: equal values give equal strings. NaN and infinity are errors."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any, length: int = 12) -> str:
    """The first `length` hex digits of the sha256 of `canonical(value)`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:length]


def write_json(path: Path, value: Any) -> Path:
    """Write `value` to `path` at once (see `publish`), one line per entry; the same value gives the same bytes."""
    with publish(path) as partial:
        partial.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    return Path(path)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def read_json(path: Path) -> Any:
    """The JSON value in `path`.

    Raises:
        TadError: missing, not UTF-8, not JSON, or holding NaN; the message names the file and the line.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise TadError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise TadError(f"{path}: not UTF-8 text (byte {error.start}); is this really a JSON file?") from None
    except json.JSONDecodeError as error:
        raise TadError(
            f"{path}: line {error.lineno}: not valid JSON ({error.msg}); repair or replace the file"
        ) from None
    except ValueError as error:
        raise TadError(f"{path}: {error}; repair or replace the file") from None


def sha256(path: Path) -> str:
    """The sha256 of the whole file, in hex."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def content_key(path: Path) -> str:
    """A content hash that is quick on any size: length plus 8 evenly spaced blocks of 4 KiB (all of a file up to
    1 MiB).

    It does not depend on the file's dates. A change that keeps the length and misses every block goes unseen; video
    containers do not change like that, and `probe` records the full sha256 besides.
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
    """`content_key` remembered by (size, dates, inode), so that an unchanged file is only looked at, not read.

    Kept in one JSON file; losing it costs time and nothing else.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.entries: dict[str, list[Any]] = {}
        self.changed = False
        if self.path.is_file():
            try:
                self.entries = json.loads(self.path.read_text(encoding="utf-8"))
            except ValueError:  # a cache: rebuilt when it cannot be read
                self.entries = {}

    def key(self, path: Path) -> str:
        """`content_key(path)`, from memory when nothing about the file has changed."""
        return self.keys([path])[0]

    def keys(self, paths: Iterable[Path]) -> list[str]:
        """`content_key` of each path; those not in memory are read side by side."""
        names = [str(path) for path in paths]
        stats = {name: os.stat(name) for name in names}
        facts = {name: [s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for name, s in stats.items()}
        unknown = [name for name, found in facts.items() if self.entries.get(name, [])[:4] != found]
        if unknown:
            with ThreadPoolExecutor(READERS) as pool:
                for name, key in zip(unknown, pool.map(content_key, map(Path, unknown)), strict=True):
                    self.entries[name] = [*facts[name], key]
            self.changed = True
        return [str(self.entries[name][4]) for name in names]

    def save(self) -> None:
        """Write the cache back if it changed; a folder that cannot be written leaves it as it was."""
        if self.changed:
            try:
                write_json(self.path, self.entries)
            except OSError:  # read-only checkout: the hashes are computed again next time
                return
            self.changed = False
