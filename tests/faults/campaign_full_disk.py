"""Disks that are full, read-only, limited or failing.

Each stage of a pipeline writes to a file system that has room for a part of its output, is read-only, or limits the
size of files. It has to end with one line, and after space is freed with the bytes of an undisturbed run. Every
function that writes files is also called with an error of the system (ENOSPC, EDQUOT, EIO, EROFS, EFBIG) at a random
call.
"""

import os
import random
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pipeline
from cases import LOST, SILENT, SKIPPED, SURVIVED, TRACEBACK, Case, judge
from disk_tools import NUMBERS, WRITERS, contents, failing, file_size_limit, remount

from tad.core.errors import StorageError

WEIGHT = 0.8
MOST = 400
WHOLE = "size=256m,rw"
CALLS = ("pwrite", "fsync", "replace")
UNFINISHED = ("out/tad_features.json.unfinished", "i.flow/format.json")


def mounted(folder: Path) -> str:
    """Mount a file system on a folder; return why that is not possible, or nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", WHOLE, "tmpfs", str(folder)], capture_output=True, check=False)
    return done.stderr.decode().strip() or f"mount: {done.returncode}" if done.returncode else ""


def in_pipeline(folder: Path, stage: str, wanted: dict[str, str], rng: random.Random) -> Case:
    """Run a stage on a bad disk, then on a good one, and compare."""
    pipeline.forget(folder, stage)
    results = folder / "results"
    place = os.statvfs(results)
    used = (place.f_blocks - place.f_bfree) * place.f_frsize
    kind = rng.choice(("full", "full", "full", "read-only", "limited"))
    room = rng.choice((0, 4, 8, 16, 64)) << 10
    process = None
    if kind == "limited":
        name = f"{stage}: files of at most {room + 512} bytes"
        with file_size_limit(room + 512):
            process = pipeline.Process(pipeline.command(stage, folder), folder)
    else:
        name = f"{stage}: read-only" if kind == "read-only" else f"{stage}: {room} bytes free"
        remount(results, "ro" if kind == "read-only" else f"size={max(used + room, 4096)}")
        process = pipeline.Process(pipeline.command(stage, folder), folder)
    status = process.wait()
    if status is None:
        process.kill(9, everyone=True)
        process.wait()
    remount(results, WHOLE)
    if status is None:
        return Case(name, TRACEBACK, "it does not end")
    if status != 0:
        found = judge(name, status, process.text())
        if found.outcome != SURVIVED:
            return found
    elif kind == "read-only":
        return Case(name, SILENT, "exit status 0")
    if half := [path for path, key in pipeline.content(folder).items() if wanted.get(path, key) != key]:
        return Case(name, LOST, f"half or other files: {', '.join(half)[:200]}")
    if rows := pipeline.left_over(results):
        return Case(name, LOST, f"left over: {', '.join(rows)[:200]}")
    again = pipeline.Process(pipeline.command(stage, folder), folder)
    if (status := again.wait()) != 0:
        return Case(name, LOST, f"with space again: exit status {status}: {again.text().strip()[-200:]}")
    made = pipeline.content(folder)
    changed = [path for path in wanted if made.get(path) != wanted[path]]
    return Case(name, LOST, f"other bytes: {', '.join(changed)[:200]}") if changed else Case(name, SURVIVED)


def directly(folder: Path, rng: random.Random) -> Iterator[Case]:
    """Call each writer with one error of the system."""
    for name, (file, write) in WRITERS.items():
        right = folder / name / "right"
        if not right.exists():
            write(right / file)
        call, number, after = rng.choice(CALLS), rng.choice(NUMBERS), rng.randrange(12)
        case = f"{name}: {os.strerror(number)} at call {after + 1} of {call}"
        with tempfile.TemporaryDirectory(dir=folder) as text:
            place = Path(text)
            with failing(call, number, after=after) as calls:
                try:
                    write(place / file)
                except StorageError as error:
                    said = str(error)
                except Exception as error:
                    yield Case(case, TRACEBACK, f"{type(error).__name__}: {error}"[:200])
                    continue
                else:
                    said = ""
            if not said and calls[0] > after:
                yield Case(case, SILENT, "no error")
                continue
            if said and (text not in said or "\n" in said or len(said) > 500 + len(text)):
                yield Case(case, TRACEBACK, f"no line that names the file: {said[:200]}")
                continue
            made, wanted = contents(place), contents(right)
            half = [path for path, one in made.items() if path not in UNFINISHED and wanted.get(path) != one]
            if half:
                yield Case(case, LOST, f"half or other files: {', '.join(half)[:200]}")
                continue
            write(place / file)
            yield Case(case, SURVIVED) if contents(place) == wanted else Case(case, LOST, "other bytes afterwards")


def run(budget_seconds: float) -> list[Case]:
    """Try bad disks in turn, with a fixed seed, until the time is used up."""
    end = time.monotonic() + budget_seconds
    rng = random.Random(0)
    cases: list[Case] = []
    with tempfile.TemporaryDirectory(prefix="tad-disk-", ignore_cleanup_errors=True) as text:
        folder, direct = Path(text) / "run", Path(text) / "direct"
        direct.mkdir()
        cases += directly(direct, rng)
        why = mounted(folder / "results")
        if why:
            cases.append(Case("stages on a full disk", SKIPPED, f"no file system can be mounted here ({why})"))
        else:
            pipeline.preload()
        try:
            if not why:
                pipeline.make_data(folder)
                pipeline.made_in_order(folder)
                wanted = pipeline.content(folder)
            while len(cases) < MOST and time.monotonic() < end:
                for stage in () if why else pipeline.ORDER:
                    if time.monotonic() > end:
                        break
                    cases.append(in_pipeline(folder, stage, wanted, rng))
                cases += directly(direct, rng)
        finally:
            if not why:
                subprocess.run(["umount", "-l", str(folder / "results")], check=True)
    return cases
