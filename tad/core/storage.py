"""Space on disk: failures of writing in one line each, and a forecast before a stage begins."""

import errno
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tad.core.errors import StorageError

log = logging.getLogger(__name__)
AGAIN = "then run the same command again"
CAUSES = {
    errno.ENOSPC: ("no space left on the disk", f"free some space, {AGAIN}"),
    errno.EDQUOT: ("the disk quota is used up", f"remove files or ask for a larger quota, {AGAIN}"),
    errno.EFBIG: ("the file would exceed the limit of file sizes", f"raise the limit (ulimit -f), {AGAIN}"),
    errno.EROFS: ("the file system is read-only", f"write to another folder or mount it writable, {AGAIN}"),
    errno.EACCES: ("no permission to write here", f"change the folder's owner or mode, {AGAIN}"),
    errno.EPERM: ("writing is not permitted here", f"change the folder's owner or mode, {AGAIN}"),
    errno.EIO: ("the disk reported an input/output error", f"check the disk (dmesg), {AGAIN}"),
    errno.ENOTDIR: ("a part of its path is a file, not a folder", "move that file away or write to another folder"),
    errno.EISDIR: ("is a folder, not a file", "name a file"),
    errno.EMFILE: ("too many files are open", f"raise the limit (ulimit -n), {AGAIN}"),
    errno.ENFILE: ("too many files are open on this machine", AGAIN),
}
UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")


def readable(size: float) -> str:
    """Return a number of bytes with its unit, such as 12.3 MB."""
    unit = 0
    while size >= 999.5 and unit < len(UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.0f} {UNITS[unit]}" if unit == 0 else f"{size:.3g} {UNITS[unit]}"


def free_at(path: Path) -> int | None:
    """Return the free bytes where `path` is or would be; None if the file system does not say."""
    path = Path(path).absolute()
    for folder in (path, *path.parents):
        if folder.is_dir():
            try:
                return shutil.disk_usage(folder).free
            except OSError:
                return None
    return None


def _written(partial: Path) -> int:
    try:
        return os.stat(partial).st_size
    except OSError:
        return 0


def refusal(error: OSError, path: Path, partial: Path | None = None, *, size: int | None = None) -> StorageError | None:
    """Return a failure of writing `path` as a user error: file, cause, bytes needed and free, remedy.

    Args:
        error: the failure.
        path: the file that was to be written.
        partial: the temporary file, which shows how much could be written.
        size: bytes of the whole file, if known.

    Returns:
        None if the error is of another file or of another kind.
    """
    if isinstance(error, StorageError):
        return error
    own = {str(path), str(path.parent), *(map(str, path.parents)), *([str(partial)] if partial else [])}
    name = os.fsdecode(error.filename) if error.filename is not None else str(path)
    within = partial is not None and name.startswith(f"{partial}{os.sep}")
    if error.errno not in CAUSES or not (within or name in own):
        return None
    cause, remedy = CAUSES[error.errno]
    numbers = ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        needed = size or getattr(error, "needed", 0)
        at_least = max(_written(partial), 1) if partial else 0
        needs = f"needs {needed} bytes" if needed else f"needs more than {at_least} bytes"
        free = free_at(path) if error.errno == errno.ENOSPC else None
        if not size and needed:
            needs = f"needs at least {needed} bytes"  # HDF5 had not finished
        numbers = f" ({needs}{'' if free is None else f', {free} free'})"
    refused = StorageError(f"{path}: {cause}{numbers}; nothing was replaced; {remedy}")
    refused.errno, refused.filename = error.errno, None
    return refused


def unreadable(path: Path) -> Path | None:
    """Return the file or folder that keeps this process from reading `path`; None if none does or it is absent."""
    for folder in reversed(Path(path).parents):
        if os.path.lexists(folder) and not os.access(folder, os.X_OK):
            return folder
    wanted = os.R_OK | (os.X_OK if os.path.isdir(path) else 0)
    return Path(path) if os.path.exists(path) and not os.access(path, wanted) else None


def expect_readable(path: Path) -> None:
    """Refuse a file or folder that exists but cannot be read; a search through a folder would silently skip it.

    Raises:
        StorageError: this process has no permission.
    """
    if place := unreadable(path):
        raise StorageError(f"{place}: no permission to read it; change its owner or mode, {AGAIN}")


@contextmanager
def storing(path: Path, partial: Path | None = None, *, size: int | None = None) -> Iterator[None]:
    """Report failures of writing in the block as user errors; see `refusal`.

    Raises:
        StorageError: the disk is full, a quota or limit is exceeded, the file system is read-only, or the device fails.
    """
    try:
        yield
    except OSError as error:
        refused = refusal(error, Path(path), partial, size=size)
        if refused is None or refused is error:
            raise
        raise refused from error


def forecast(out: Path, needed: float, *, what: str, least: float = 0) -> None:
    """Log how much space a stage will need and how much there is; warn if the estimate exceeds it.

    Args:
        out: where it will write.
        needed: estimated bytes, temporary files included.
        what: what takes the space, for the line.
        least: bytes that it needs for certain.

    Raises:
        StorageError: `least` does not fit.
    """
    free = free_at(out)
    line = f"{what} needs about {readable(needed)} on disk, {Path(out).parent} has "
    if free is None:
        log.info("%san unknown amount", line)
    elif least > free:
        raise StorageError(f"{out}: {line}{readable(free)} ({needed:.0f} bytes, {free} free); free some space, {AGAIN}")
    elif needed > free:
        log.warning("%s%s, which may not suffice", line, readable(free), extra={"transient": True})
    else:
        log.info("%s%s", line, readable(free))
