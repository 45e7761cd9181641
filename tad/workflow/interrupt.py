"""End the running jobs when Snakemake receives SIGINT alone.

Ctrl-C in a terminal goes to Snakemake and to its jobs. `kill -INT` (or a supervisor such as systemd) signals Snakemake
only, which then waits until its jobs have ended by themselves: hours, for a training.
"""

import contextlib
import os
import signal
import subprocess
import threading
import time
from types import FrameType

GRACE_SECONDS = 3.0  # for jobs that have received Ctrl-C too
received = threading.Event()  # set by SIGINT: jobs that fail from then on were stopped


def _jobs() -> list[int]:
    """Return the commands of the running jobs: the children of the shells that this process has started."""
    done = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)
    parents = {int(pid): int(parent) for pid, parent in map(str.split, done.stdout.splitlines())}
    return [pid for pid, parent in parents.items() if parents.get(parent) == os.getpid()]


def _end_jobs() -> None:
    time.sleep(GRACE_SECONDS)
    for pid in _jobs():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def _interrupted(number: int, frame: FrameType | None) -> None:
    received.set()
    threading.Thread(target=_end_jobs, name="interrupted", daemon=True).start()
    signal.default_int_handler(number, frame)


def end_jobs_on_interrupt() -> None:
    """On SIGINT, end the running jobs with SIGTERM if they still run after `GRACE_SECONDS`, besides what Python does.

    If the signal is ignored (`nohup`, a background command of a script), it stays ignored.
    """
    main = threading.current_thread() is threading.main_thread()
    if main and os.name == "posix" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)
