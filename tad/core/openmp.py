"""How long waiting threads of OpenMP look for work before they sleep."""

import threading
from pathlib import Path

FEW, MANY = 1000, 20000  # looks: one or two microseconds, and some dozen
SAMPLES, PAUSE = 4, 0.005  # the process that started this one may still be busy for a moment; seconds


def spins(loads: Path = Path("/proc/loadavg")) -> int:
    """Return how often a waiting thread looks for work before it sleeps (`GOMP_SPINCOUNT`).

    By default it looks for milliseconds, which makes a training step 12 times slower on cores that are shared with
    other jobs. If it sleeps at once, each of the many short parallel regions of a network costs two context switches: a
    training with two threads takes longer than with one. So it looks for some dozen microseconds where no other process
    is running, and for one or two where others are, or where that is not known. Results do not depend on it.

    Args:
        loads: the system's file that counts the running processes, this one included.
    """
    for number in range(SAMPLES):
        if number:
            threading.Event().wait(PAUSE)
        try:
            running = int(loads.read_text(encoding="ascii").split()[3].partition("/")[0])
        except (OSError, ValueError, IndexError):  # not Linux
            return FEW
        if running <= 1:
            return MANY
    return FEW
