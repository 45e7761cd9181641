"""Locks that a killed Snakemake left in its folder → removed, when no living one can have made them."""

import fcntl
import logging
from pathlib import Path
from typing import TextIO

log = logging.getLogger(__name__)


def clear_stale_locks(folder: Path = Path(".snakemake")) -> TextIO | None:
    """Remove Snakemake's locks if no other process holds `folder`; then hold it until this process ends.

    Every process that plans or runs the workflow holds a shared `flock`, which the system drops however the process
    ends. Snakemake's own locks are plain files: after a kill it would ask for `--unlock`.

    Returns:
        what holds the folder: keep it. None where the file system has no such locks; nothing is removed then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = open(folder / "tad.alive", "a", encoding="utf-8")  # noqa: SIM115 - open until the process ends
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        stale = sorted((folder / "locks").glob("*.lock"))
        for path in stale:
            path.unlink(missing_ok=True)
        if stale:
            log.warning("removed the locks of a run that was killed")
    except BlockingIOError:  # another one is alive: its locks count
        pass
    except OSError as error:
        log.debug("%s: no file locks here (%s)", folder, error)
        handle.close()
        return None
    fcntl.flock(handle, fcntl.LOCK_SH)
    return handle
