"""Exclusive per-process device locks, which the system releases when the process ends."""

import fcntl
import logging
import os
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tad.core.errors import TadError

log = logging.getLogger(__name__)
RETRY_SECONDS = 0.5
REMIND_SECONDS = 600.0


def lease_folder() -> Path:
    """Return the folder of this user's lock files: one per machine, shared by all runs and folders.

    Raises:
        TadError: the folder exists but belongs to another user.
    """
    folder = Path(os.environ.get("TAD_LEASES") or Path(tempfile.gettempdir()) / f"tad-devices-{os.getuid()}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
        raise TadError(f"{folder}: belongs to another user; set TAD_LEASES to a folder of your own on this machine")
    return folder


@contextmanager
def lease(names: Sequence[str]) -> Iterator[str]:
    """Lock one of several devices while the block lasts, and yield its name.

    A lease is a lock on an open file, which the system releases however the process ends. A holder never requests a
    second lease, so there is no deadlock.

    Args:
        names: acceptable devices, by names that all processes use; the first free one is locked.
    """
    folder = lease_folder()
    handles = {name: os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) for name in names}
    try:
        name = _wait_for_one(handles)
        for other in [other for other in handles if other != name]:
            os.close(handles.pop(other))
        yield name
    finally:
        for handle in handles.values():
            os.close(handle)


def _wait_for_one(handles: dict[str, int]) -> str:
    started = time.monotonic()
    reported = -REMIND_SECONDS
    while True:
        for name, handle in handles.items():
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if reported >= 0:
                log.info("leased %s after %.0f s", name, time.monotonic() - started)
            return name
        waited = time.monotonic() - started
        if waited - reported >= REMIND_SECONDS:
            log.info("all of %s are in use by other jobs; waiting for one (%.0f s so far)", ", ".join(handles), waited)
            reported = waited
        time.sleep(RETRY_SECONDS)
