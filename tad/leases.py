"""One of several devices for one process at a time, by locks that end with the process."""

import fcntl
import logging
import os
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tad.errors import TadError

log = logging.getLogger(__name__)
RETRY_SECONDS = 0.5
REMIND_SECONDS = 600.0


def lease_folder() -> Path:
    """Where this user's leases lie: one folder per machine, whatever the run, its folder or its data set.

    Raises:
        TadError: it is there but belongs to somebody else.
    """
    folder = Path(os.environ.get("TAD_LEASES") or Path(tempfile.gettempdir()) / f"tad-devices-{os.getuid()}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
        raise TadError(f"{folder}: belongs to somebody else; set TAD_LEASES to a folder of your own on this machine")
    return folder


@contextmanager
def lease(names: Sequence[str]) -> Iterator[str]:
    """Hold one of several devices by itself: no other process that leases has it meanwhile.

    A lease is a lock on an open file, which the system drops however the process ends. Who holds one never asks for
    another, so nobody waits in a circle.

    Args:
        names: the devices that would do, by names that all processes use; the first free one is taken.
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
    told = -REMIND_SECONDS
    while True:
        for name, handle in handles.items():
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if told >= 0:
                log.info("leased %s after %.0f s", name, time.monotonic() - started)
            return name
        waited = time.monotonic() - started
        if waited - told >= REMIND_SECONDS:
            log.info("all of %s are in use by other jobs; waiting for one (%.0f s so far)", ", ".join(handles), waited)
            told = waited
        time.sleep(RETRY_SECONDS)
