"""Tokens that tell whether a process still runs, and processes that end with their parent.

A job of the workflow must not outlive it: Snakemake may be killed with `kill -9`, by the out-of-memory killer or with
its terminal, and its jobs would go on for hours and write into the results of the next run.
"""

import contextlib
import ctypes
import hashlib
import logging
import multiprocessing
import os
import re
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import reduction, resource_tracker
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)
# about this attempt alone: the next one does not repeat it in map.json (tad.core.notices imports too much for here)
ORPHANED = "the workflow that started this command has ended, so it ends too"

SUPERVISOR = "TAD_SUPERVISOR"
"""Environment variable with the process id of the Snakemake that has started a command; set by rules/common.smk."""
PARENT = "TAD_PARENT"
"""Environment variable with the process id of the command that runs Snakemake for itself."""
PROC = Path("/proc")
PR_SET_PDEATHSIG = 1  # linux/prctl.h
POLL_SECONDS = 1.0  # between looks at the parent on systems that do not report its end
GRACE_SECONDS = 10.0  # for removing temporary files and ending children after SIGTERM
TOKEN = re.compile(r"([0-9a-f]{6})-(\d+)-([0-9a-f]+)")


def _machine() -> str:
    """Return six hex digits that differ between machines, boots and process namespaces (containers)."""
    facts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        facts.append((PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii"))
        facts.append(os.readlink(PROC / "self/ns/pid"))
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:6]


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat from the third on (state, parent, …); empty if there is no such process.

    Raises:
        NotImplementedError: this system has no /proc.
    """
    if not (PROC / "self/stat").exists():
        raise NotImplementedError
    try:
        text = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(")")[2].split()


def _started(pid: int) -> str:
    """Return when a process started, in hex clock ticks since boot; 0 if the system does not say it."""
    try:
        fields = _stat(pid)
    except NotImplementedError:
        return "0"
    return f"{int(fields[19]):x}" if fields else "0"


def own_token() -> str:
    """Return a name of this process that no later process has: machine, process id and start time."""
    return f"{_machine()}-{os.getpid()}-{_started(os.getpid())}"


def is_alive(token: str) -> bool | None:
    """Return whether the process of a token (see `own_token`) runs; None if it ran on another machine."""
    match = TOKEN.fullmatch(token)
    if match is None or match[1] != _machine():
        return None
    pid = int(match[2])
    try:
        fields = _stat(pid)
        return bool(fields) and fields[0] not in "ZX" and match[3] == f"{int(fields[19]):x}"
    except NotImplementedError:
        return _exists(pid)


def _ancestors() -> list[int]:
    """Return the process ids of this process's parent, its parent, and so on; only the parent's without /proc."""
    ancestors = [os.getppid()]
    with contextlib.suppress(NotImplementedError):
        while ancestors[-1] > 1 and (fields := _stat(ancestors[-1])):
            ancestors.append(int(fields[1]))
    return ancestors


def _end() -> None:
    """End this process: with SIGTERM, so that it can clean up, and with SIGKILL if it does not end in time."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _wait_for_end(pid: int, handle: int | None, parent: int) -> None:
    """Return when process `pid` has ended, or when the parent of this process is no longer `parent`."""
    if handle is not None:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        while not poll.poll(1000 * POLL_SECONDS) and os.getppid() == parent:
            pass
        return
    while _exists(pid) and os.getppid() == parent:
        time.sleep(POLL_SECONDS)


def end_with_supervisor() -> None:
    """End this process when the Snakemake that started it ends, or the shell between them.

    Snakemake starts a shell, and the shell starts this process. On Linux the kernel sends SIGTERM when the shell ends
    (`prctl`), and a file descriptor of Snakemake's process reports its end; elsewhere a thread looks every second. If
    Snakemake has already ended, this process ends at once. In a job of a cluster, Snakemake is the one that the job's
    script runs on the same node. Commands that a person starts have no supervisor, so they survive their terminal if
    the person wants it (`nohup`).
    """
    supervisor = int(os.environ.get(SUPERVISOR) or 0)
    if supervisor <= 1:
        return
    parent, handle = os.getppid(), None
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        with contextlib.suppress(OSError):  # it has ended, or the kernel is older than 5.3
            handle = os.pidfd_open(supervisor)
    # asked after both calls: a process that ended before them is no longer an ancestor, even if its id is in use again
    known = _ancestors()
    if parent != known[0] or not (supervisor in known or (len(known) == 1 and _exists(supervisor))):
        log.warning(ORPHANED, extra={"transient": True})
        os._exit(128 + signal.SIGTERM)

    def watch() -> None:
        _wait_for_end(supervisor, handle, parent)
        log.warning(ORPHANED, extra={"transient": True})
        _end()

    threading.Thread(target=watch, name="supervisor", daemon=True).start()


def end_with_parent() -> None:
    """Kill this process when the command that started it ends, even if that was killed.

    Its process id is in the environment variable `PARENT`. Snakemake does so when a command runs it for itself: SIGTERM
    would let its jobs finish first, which hold the folder's lock. The jobs notice the end by themselves
    (`end_with_supervisor`), and the next run removes the lock.
    """
    parent = int(os.environ.pop(PARENT, "") or 0)
    if parent <= 1:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(128 + signal.SIGTERM)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent", daemon=True).start()


class Terminated(BaseException):
    """SIGTERM was received. Not an `Exception`, so that no handler of errors takes it for one."""


def _terminate(number: int, frame: object) -> None:
    def kill() -> None:
        time.sleep(GRACE_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: a second one would interrupt the cleaning up
    threading.Thread(target=kill, name="grace", daemon=True).start()
    raise Terminated


def clean_up_on_sigterm() -> None:
    """On SIGTERM (a cancelled job of a cluster, the end of the supervisor), raise `Terminated` in the main thread.

    So temporary files are removed and child processes end. A process that takes longer than `GRACE_SECONDS` is killed.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)


@contextlib.contextmanager
def spawning() -> Iterator[None]:
    """Start processes of `multiprocessing` in the block: they do not receive Ctrl-C, not even during their imports.

    Ctrl-C goes to all processes of a terminal, and an import that it interrupts prints a traceback. The parent ends its
    children itself.
    """
    resource_tracker.ensure_running()  # the first process would start it, which unblocks the signal again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # children inherit it
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class QuietStart:
    """As an argument of a process of `multiprocessing`: what the process prints before it calls `started` is dropped.

    If its imports or threads fail, for lack of memory for example, Python prints a traceback; its parent reports that
    in one line.
    """

    def __init__(self, handle: Any = None) -> None:
        """`handle`: in the process, the standard error of its parent."""
        self._handle = handle

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Start the process in the block."""
        self._stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(self._stderr, 2)
            os.close(self._stderr)
            os.close(nowhere)

    def __reduce__(self) -> tuple[type["QuietStart"], tuple[Any]]:
        return QuietStart, (reduction.DupFd(self._stderr),)

    def started(self) -> None:
        """In the process: print to the standard error of the parent from now on."""
        number = self._handle.detach()
        os.dup2(number, 2)
        os.close(number)


def end_with_parent_process() -> None:
    """In a process of `multiprocessing`: end it when its parent ends, even in the middle of decoding a frame."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)  # nothing to clean up: only the parent publishes files

    threading.Thread(target=watch, name="parent", daemon=True).start()
