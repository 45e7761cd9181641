"""Remove stale Snakemake locks, which a killed run left behind."""

import fcntl
import logging
from pathlib import Path
from typing import TextIO

from tad.core.storage import storing

log = logging.getLogger(__name__)
LOCKED = "Directory cannot be locked"  # in Snakemake's message
IN_USE = (
    "another `tad run` or `tad new` works in this folder; wait until it has ended, or stop it, then run the same"
    " command again (`tad run --unlock` if there is none)"
)


def clear_stale_locks(folder: Path = Path(".snakemake")) -> TextIO | None:
    """Remove Snakemake's locks if no other process uses `folder`, then mark it as in use until this process ends.

    Every process that plans or runs the workflow holds a shared `flock`, which the system releases however the process
    ends. Snakemake's own locks are plain files; after a kill it would ask for `--unlock`.

    Returns:
        the open file that holds the lock; keep a reference. None if the file system has no such locks; then nothing is
        removed.

    Raises:
        StorageError: the folder cannot be written.
    """
    path = folder / "tad.alive"
    with storing(path):
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(path, "a", encoding="utf-8")  # noqa: SIM115 - open until the process ends
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        stale = sorted((folder / "locks").glob("*.lock"))
        for lock in stale:
            lock.unlink(missing_ok=True)
        if stale:
            log.warning("removed the locks of a run that was killed")
    except BlockingIOError:  # another process is running: its locks are valid
        pass
    except OSError as error:
        log.debug("%s: no file locks here (%s)", folder, error)
        handle.close()
        return None
    fcntl.flock(handle, fcntl.LOCK_SH)
    return handle
