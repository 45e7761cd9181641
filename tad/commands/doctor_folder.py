"""Checks of `tad doctor` on the machine and the folder: file system, space, memory, left-overs of dead processes."""

import fcntl
import os
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from tad.commands.doctor_findings import Finding
from tad.core.device import compile_cache
from tad.core.errors import TadError
from tad.core.files import PARTIAL
from tad.core.processes import is_alive
from tad.core.storage import free_at, readable
from tad.settings.config import Config
from tad.settings.paths import RESULTS

SYNCS, SLOW_SECONDS = 8, 0.1  # files of 4 KiB; a local disk takes some milliseconds for each
LOW_SPACE, LEAST_SPACE = 20e9, 1e9  # bytes; a feature set of a middling data set, and one model with its states
LOW_MEMORY = 4 << 30
LOW_FILES = 512  # open files: HDF5 and the readers of 16 shards need some 200


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest parent that exists."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.is_dir())


def file_system(results: Path = Path(RESULTS)) -> Iterator[Finding]:
    """Test the file system of results/: renaming, locks, links and speed."""
    place = _existing(results)
    try:
        with TemporaryDirectory(prefix=".tad-doctor-", dir=place) as name:
            yield from _tried(Path(name), place)
    except OSError as error:
        yield Finding("results", "problem", f"{place}: cannot be written ({error.strerror or error})",
                      "change its owner or mode, or work in another folder")  # fmt: skip


def _tried(folder: Path, place: Path) -> Iterator[Finding]:
    old, new = folder / "old", folder / "new"
    began = time.monotonic()
    for _ in range(SYNCS):
        with open(new, "wb") as file:
            file.write(bytes(4096))
            os.fsync(file.fileno())
        new.replace(old)
    seconds = (time.monotonic() - began) / SYNCS
    if new.exists() or old.stat().st_size != 4096:
        yield Finding("results", "problem", f"{place}: a rename does not replace a file at once",
                      "work on a local disk or NFS version 4")  # fmt: skip
    if locks := _lock_problem(old):
        yield Finding("results", "note", f"{place}: no file locks ({locks})",
                      "do not run two workflows in this folder at once")  # fmt: skip
    try:
        os.link(old, new)
        links = "hard links"
    except OSError:
        links = "no hard links (finished shards are copied into .kept)"
    done = f"{place}: rename, {'' if locks else 'locks, '}{links}, {1000 * seconds:.1f} ms per small file"
    if seconds > SLOW_SECONDS:
        yield Finding("results", "note", f"{done}, which is slow", "work on a local disk if there is one")
    else:
        yield Finding("results", "ok", done)


def _lock_problem(path: Path) -> str:
    """Return why `flock` does not exclude a second holder; empty if it does."""
    with open(path, "rb") as first, open(path, "rb") as second:
        try:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.strerror or str(error)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return ""
        return "two processes can hold the same lock"


def space(results: Path = Path(RESULTS)) -> Iterator[Finding]:
    """Report the free space of results/, of the folder of temporary files, and of shared memory."""
    temporary = Path(os.environ.get("TMPDIR") or "/tmp")
    for what, place in (("results", results), ("temporary files", temporary)):
        free = free_at(place)
        if free is None:
            yield Finding("space", "note", f"{what}: the file system does not tell its free space", "look yourself")
        elif free < LOW_SPACE:
            state = "problem" if free < LEAST_SPACE else "note"
            yield Finding("space", state, f"{what}: {readable(free)} free at {_existing(place)}",  # type: ignore[arg-type]
                          "free some; `tad plan <run>` says how much a run needs")  # fmt: skip
        else:
            yield Finding("space", "ok", f"{what}: {readable(free)} free at {_existing(place)}")
    shared = Path("/dev/shm")
    if shared.is_dir():
        size = readable(shutil.disk_usage(shared).total)
        yield Finding("space", "ok", f"/dev/shm: {size} (tad needs no shared memory)")


def memory() -> Iterator[Finding]:
    """Report the memory, and the limits of this process."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    bound = total if limit == resource.RLIM_INFINITY else min(total, limit)
    why = "" if bound == total else f" (ulimit -v; the machine has {readable(total)})"
    if bound < LOW_MEMORY:
        yield Finding("memory", "note", f"{readable(bound)}{why}", "use smaller batches, or raise the limit")
    else:
        yield Finding("memory", "ok", f"{readable(bound)}{why}")
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files != resource.RLIM_INFINITY and files < LOW_FILES:
        yield Finding("memory", "note", f"at most {files} open files", "raise the limit: ulimit -n 4096")


def caches() -> Iterator[Finding]:
    """Check that HOME and the cache folder can be written."""
    folder = compile_cache("doctor")
    if folder is None or not os.access(folder, os.W_OK):
        yield Finding("caches", "note", f"{Path.home()}: the cache folder ~/.cache/tad cannot be written",
                      "set XDG_CACHE_HOME to a writable folder; else networks are compiled again")  # fmt: skip
        return
    folder.rmdir()
    yield Finding("caches", "ok", f"{folder.parent}: writable")


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def left_over(results: Path = Path(RESULTS), snakemake: Path = Path(".snakemake")) -> Iterator[Finding]:
    """Report locks and temporary files of dead processes; nothing is removed."""
    dead: list[Path] = []
    foreign: list[Path] = []
    running = 0
    for path in results.rglob(f"*{PARTIAL}*") if results.is_dir() else ():
        alive = is_alive(path.name.rpartition(PARTIAL)[2])
        running += alive is True
        if alive is not True:
            (foreign if alive is None else dead).append(path)
    for paths, whose, remedy in (
        (dead, "of dead processes", "the next command that writes into their folder removes them"),
        (foreign, "of other machines or containers", "they are removed a day after their last change"),
    ):
        if paths:
            size = readable(sum(map(_size, paths)))
            yield Finding(
                "left-overs", "note", f"{len(paths)} temporary files {whose} ({size}), first {min(paths)}", remedy
            )
    locks = sorted((snakemake / "locks").glob("*.lock"))
    in_use = _in_use(snakemake / "tad.alive")
    if locks and not in_use:
        yield Finding("left-overs", "note", f"{len(locks)} locks of a workflow that has died, first {locks[0]}",
                      "the next run removes them")  # fmt: skip
    if in_use:
        yield Finding(
            "left-overs", "note", "a workflow is running in this folder", "wait for it before you start another"
        )
    if not (dead or foreign or locks or in_use):
        yield Finding("left-overs", "ok", f"no locks, no temporary files of dead processes, {running} being written")


def _in_use(path: Path) -> bool:
    """Return whether a process holds the lock of `tad.workflow.locks`; nothing is created or changed."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # no locks here, which `file_system` reports
            return False
    return False


def configuration(config: Path) -> Iterator[Finding]:
    """Check the configuration."""
    if not config.is_file():
        yield Finding("config", "note", f"{config}: no such file", "`tad new` writes one")
        return
    try:
        runs = list(Config.read(config).own("runs"))
    except TadError as error:
        yield Finding("config", "problem", str(error))
        return
    yield Finding("config", "ok", f"{config}: valid; runs: {', '.join(runs) or 'none of its own'}")
