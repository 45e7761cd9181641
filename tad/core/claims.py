"""Claims: a process publishes an output only as long as no later process has claimed it for other work.

When a stage starts, it writes a digest of its work (settings, code, inputs) into `.kept/<output>.claim`. Every file
that it or its children publish is renamed under a lock on this file, and only if the claim is still that of its own
work. So a job that was left over from a killed run cannot replace the result of another work. Two processes with equal
work write equal bytes; both may publish.

A claim also holds the records of its output, files that say how it is made (for Snakemake). They are written just
before the output is renamed, so that they always describe what is there, whoever has published it.
"""

import errno
import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tad.core.errors import TadError
from tad.core.storage import storing

log = logging.getLogger(__name__)

CLAIM = "TAD_CLAIM"
"""Environment variable with the claim of this process, [path, work]; inherited by its child processes."""
PATIENCE_SECONDS = 60.0  # a lock is held for the time of a comparison and a rename
WIDTH = 64  # bytes of the digest in a claim; the records follow it, as a line of JSON


def path_of_claim(out: Path) -> Path:
    """Return the file that holds the newest claim of an output."""
    return Path(out).parent / ".kept" / f"{Path(out).name}.claim"


def _holder(handle: int) -> str:
    """Name the process that holds the lock on an open file, as far as the system tells."""
    with suppress(OSError, IndexError, ValueError):
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            words = line.split()  # number, FLOCK, kind, READ or WRITE, process, device:inode, …
            if words[1] == "FLOCK" and words[5].rpartition(":")[2] == str(os.fstat(handle).st_ino):
                return f"process {words[4]}"
    return "a process on another machine"


def _lock(handle: int, path: Path) -> None:
    """Lock an open claim exclusively; only report it if the file system has no locks.

    Raises:
        TadError: another process has held the lock for `PATIENCE_SECONDS`.
    """
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise TadError(
                    f"{path}: locked for more than {PATIENCE_SECONDS:.0f} s by {_holder(handle)}, which may be"
                    " suspended; end or resume it, then run the same command again"
                ) from None
            time.sleep(0.02)
        except OSError as error:
            return log.debug("%s: no file locks here (%s)", path, error)


def _is_current(handle: int, path: Path) -> bool:
    """Return whether an open file is still the one at `path`: the cache folder may have been removed meanwhile."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Open a claim and lock it exclusively; see `_lock`."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _lock(handle, path)
            if _is_current(handle, path):
                yield handle
                return
        finally:
            os.close(handle)


def _no_records() -> Mapping[str, str]:
    return {}


@contextmanager
def claiming(
    out: Path, work: Callable[[], str], *, records: Callable[[], Mapping[str, str]] = _no_records
) -> Iterator[None]:
    """Claim an output for the block; an earlier process with other work can no longer publish.

    Args:
        out: the output of a stage.
        work: returns a digest of everything that the output's bytes depend on (at most 64 ASCII characters), or raises
            if the work is no longer wanted. It is called under the lock, so that a job that starts late can neither
            slip in between the check and the claim, nor claim with inputs that have been replaced since.
        records: returns the files that describe the output, path → content; called after `work`, under the lock.

    Raises:
        TadError: the lock is held by a process that does not go on.
    """
    path = path_of_claim(out).absolute()
    with storing(path), _locked(path) as handle:
        digest, described = work(), records()
        line = (json.dumps(dict(described)) + "\n").encode() if described else b""
        content = digest.encode("ascii").ljust(WIDTH) + line
        if os.pwrite(handle, content, 0) < len(content):  # one call: a kill leaves no half of a digest
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.ftruncate(handle, len(content))
    before = os.environ.get(CLAIM)
    os.environ[CLAIM] = json.dumps([str(path), digest])
    try:
        yield
    finally:
        del os.environ[CLAIM]
        if before is not None:
            os.environ[CLAIM] = before


@contextmanager
def holding(path: Path) -> Iterator[None]:
    """Lock this process's claim while `path` is published; nothing is locked if it has no claim.

    Raises:
        TadError: a later process has claimed the output for other work, or its lock is held by a process that does not
            go on.
    """
    claim = os.environ.get(CLAIM)
    if claim is None:
        yield
        return
    name, work = json.loads(claim)
    with _locked(Path(name)) as handle:
        newest = os.pread(handle, WIDTH, 0).decode("ascii", "replace").strip()
        if newest not in (work, ""):  # empty: the cache folder was removed meanwhile
            raise TadError(
                f"{path}: not written, because a later job makes {Path(name).stem} with other settings, code or"
                " inputs; its result is kept, and this one is discarded"
            )
        if newest and path_of_claim(path).absolute() == Path(name):
            _write_records(os.pread(handle, os.fstat(handle).st_size, WIDTH), Path(name))
        yield


def _write_records(line: bytes, claim: Path) -> None:
    """Write the records that follow the digest in a claim, as Snakemake does: not atomically, and without fsync.

    If this process is killed here, the output is absent and a torn record is ignored.

    Raises:
        TadError: the claim is damaged.
    """
    try:
        records: dict[str, str] = json.loads(line) if line else {}
    except ValueError:
        raise TadError(f"{claim}: damaged; remove it and run the same command again") from None
    for name, text in records.items():
        record = Path(name)
        with storing(record):
            record.parent.mkdir(parents=True, exist_ok=True)
            record.write_text(text, encoding="utf-8")
