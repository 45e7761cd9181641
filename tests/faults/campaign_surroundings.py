"""Odd surroundings: two at once, clock set back, slow disk, no memory, nothing else writable, inputs that vanish.

Each stage runs once in each of them, on the artefacts of an undisturbed run. The result has to be that of the
undisturbed run, byte for byte, or one line with a non-zero exit status. Whatever happened, the same command must then
make the right result in normal surroundings.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pipeline
from cases import LOST, SEED, SKIPPED, SURVIVED, TRACEBACK, Case, judge
from scratch import copy_workflow

WEIGHT = 1.0
ROOT = Path(__file__).resolve().parents[2]
PATIENCE = pipeline.PATIENCE
CLOCK = """
import time
_time, _ns = time.time, time.time_ns
time.time = lambda: _time() - 3 * 86400
time.time_ns = lambda: _ns() - 3 * 86400 * 10**9
"""
SLOW = """
import os, time
def _slow(function):
    def call(*arguments, **options):
        time.sleep(0.02)
        return function(*arguments, **options)
    return call
for _name in ("fsync", "replace", "stat", "pwrite", "preadv", "unlink", "mkdir"):
    setattr(os, _name, _slow(getattr(os, _name)))
"""
VANISH = """
import builtins, os
_open, _left = builtins.open, [int(os.environ["TAD_TEST_AFTER"])]
def _vanishing(path, *arguments, **options):
    if os.environ["TAD_TEST_INPUT"] in str(path):
        _left[0] -= 1
        if _left[0] < 0 and os.path.exists(path):
            os.unlink(path)
    return _open(path, *arguments, **options)
builtins.open = _vanishing
"""


class Surrounding(NamedTuple):
    """Where a stage runs.

    Attributes:
        name: in the table.
        patch: Python code that runs at the start of the process.
        wrap: words before the command.
        environment: variables.
        may_fail: whether a refusal in one line is as good as the result.
    """

    name: str
    patch: str = ""
    wrap: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    may_fail: bool = False


def _limited(megabytes: int) -> Surrounding:
    script = f'ulimit -v {megabytes << 10}; exec "$@"'
    return Surrounding(f"ulimit -v of {megabytes} MB", wrap=("sh", "-c", script, "sh"), may_fail=True)


def _mounted(script: str) -> tuple[str, ...]:
    return ("unshare", "-m", "sh", "-ec", script + '\nexec "$@"', "sh")


def _surroundings() -> list[Surrounding]:
    read_only = f"mount --bind '{ROOT}' '{ROOT}'; mount -o remount,ro,bind '{ROOT}'; cd \"$PWD\""
    return [
        Surrounding("clock set back by three days", CLOCK),
        Surrounding("slow file system", SLOW),
        Surrounding("/dev/shm of 64 KiB", wrap=_mounted("mount -t tmpfs -o size=64k tmpfs /dev/shm")),
        Surrounding(
            "HOME and repository not writable", wrap=_mounted(read_only), environment={"HOME": str(ROOT / "docs")}
        ),
        *(_limited(megabytes) for megabytes in (300, 700, 1500, 4000)),
        *(
            Surrounding(
                f"inputs vanish at the {count + 1}. time they are opened", VANISH,
                environment={"TAD_TEST_INPUT": "results/", "TAD_TEST_AFTER": str(count)}, may_fail=True,
            )
            for count in (0, 1, 3, 6)
        ),
    ]  # fmt: skip


USUAL = Surrounding("usual")


class Shell:
    """A stage in a shell of its own, for surroundings that a forked process cannot have."""

    def __init__(self, words: list[str], folder: Path, surrounding: Surrounding) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **surrounding.environment}
        self._process = subprocess.Popen(
            [*surrounding.wrap, sys.executable, "-m", "tad", *words],
            cwd=folder, env=environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip

    def end(self) -> tuple[int, str]:
        """Return the exit status and what it wrote."""
        try:
            _, said = self._process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            return -9, "hangs"
        return self._process.returncode, said


class Forked:
    """A stage in a forked process, which saves the imports."""

    def __init__(self, words: list[str], folder: Path, surrounding: Surrounding, log: str = "") -> None:
        def prepare() -> None:
            os.environ.update(surrounding.environment)
            exec(compile(surrounding.patch, surrounding.name, "exec"), {})

        self._process = pipeline.Process(words, folder, log=log, prepare=prepare)

    def end(self) -> tuple[int, str]:
        """Return the exit status and what it wrote."""
        status = self._process.wait()
        if status is None:
            self._process.kill(signal.SIGKILL, everyone=True)
            return -9, "hangs"
        return status, self._process.text()


def _start(stage: str, folder: Path, surrounding: Surrounding = USUAL, log: str = "") -> Shell | Forked:
    words = pipeline.command(stage, folder)
    return Shell(words, folder, surrounding) if surrounding.wrap else Forked(words, folder, surrounding, log)


def _ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    _, said = process.communicate(timeout=PATIENCE)
    return process.returncode, said


def _copied(base: Path, folder: Path, stage: str) -> Path:
    """Copy the artefacts of an undisturbed run, without those of a stage and without what it keeps between attempts."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base, folder, symlinks=True)
    output = folder / pipeline.output(stage)
    output.unlink()
    shutil.rmtree(output.parent / ".kept", ignore_errors=True)
    return folder


def _tried(base: Path, folder: Path, stage: str, surrounding: Surrounding) -> Case:
    name = f"{stage}: {surrounding.name}"
    output, wanted = pipeline.output(stage), (base / pipeline.output(stage)).read_bytes()
    _copied(base, folder, stage)
    status, said = _start(stage, folder, surrounding).end()
    if surrounding.wrap[:1] == ("unshare",) and "unshare:" in said:
        return Case(name, SKIPPED, said.strip().splitlines()[-1])
    if status and not surrounding.may_fail:
        return Case(name, TRACEBACK, (said.strip().splitlines() or [f"status {status}"])[-1][:300])
    if status:
        case = judge(name, status, said)
        if case.outcome != SURVIVED:
            return case
        if (folder / output).exists() and (folder / output).read_bytes() != wanted:
            return Case(name, LOST, "another output was written although the command failed")
        shutil.copytree(base, folder, symlinks=True, dirs_exist_ok=True)  # inputs that vanished are made again
        (folder / output).unlink(missing_ok=True)
        status, said = _start(stage, folder).end()
        if status:
            return Case(name, LOST, f"the same command fails afterwards: {said[-200:]}")
    same = (folder / output).is_file() and (folder / output).read_bytes() == wanted
    return Case(name, SURVIVED) if same else Case(name, LOST, "the result differs from that of an undisturbed run")


def _two_at_once(base: Path, folder: Path, stage: str) -> Case:
    name = f"{stage}: the same command twice at once"
    wanted = (base / pipeline.output(stage)).read_bytes()
    _copied(base, folder, stage)
    both = [_start(stage, folder, log=f"{k}.log") for k in range(2)]
    ends = [process.end() for process in both]
    for status, said in ends:
        if status and judge(name, status, said).outcome != SURVIVED:
            return judge(name, status, said)
    if all(status for status, _ in ends):
        return Case(name, LOST, f"neither made the result: {ends[0][1][-200:]}")
    same = (folder / pipeline.output(stage)).read_bytes() == wanted
    return Case(name, SURVIVED) if same else Case(name, LOST, "the result differs from that of an undisturbed run")


def _two_workflows(base: Path, folder: Path) -> Case:
    """Start Snakemake twice in one folder: one may refuse because of the other's lock, the result is right."""
    name = "two workflows on one results folder"
    shutil.rmtree(folder, ignore_errors=True)
    checkout = copy_workflow(folder)
    for part in ("videos", "annotations.json", "config.yaml", "weights.safetensors"):
        source = base / part
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / part)
    target = str(pipeline.output("annotate"))
    command, environment = checkout.command("snakemake", "--cores", "1", "--nocolor", target), checkout.environment
    both = [
        subprocess.Popen(
            command, cwd=folder, env=environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    ends = [_ended(process) for process in both]
    if all(status for status, _ in ends):
        return Case(name, LOST, f"neither made the result: {ends[0][1][-200:]}")
    if any("Traceback" in said for _, said in ends):
        return Case(name, TRACEBACK, next(said for _, said in ends if "Traceback" in said)[-200:])
    again = subprocess.run([*command, "--dry-run"], cwd=folder, env=environment, capture_output=True, text=True)
    if again.returncode or "Nothing to be done" not in again.stdout + again.stderr:
        return Case(name, LOST, "the result is not up to date afterwards")
    return Case(name, SURVIVED)


def run(budget_seconds: float) -> list[Case]:
    """Make an undisturbed run, then try the stages in every surrounding until the time is used up."""
    end = time.monotonic() + budget_seconds
    cases: list[Case] = []
    with tempfile.TemporaryDirectory(prefix="tad-surroundings-") as text:
        base, folder = Path(text) / "base", Path(text) / "tried"
        base.mkdir()
        pipeline.make_data(base)
        pipeline.preload()
        pipeline.made_in_order(base)
        tries: list[Callable[[], Case]] = [lambda: _two_workflows(base, folder)]
        for stage in pipeline.ORDER:
            tries.append(lambda stage=stage: _two_at_once(base, folder, stage))  # type: ignore[misc]
            tries += [
                lambda stage=stage, surrounding=surrounding: _tried(base, folder, stage, surrounding)  # type: ignore[misc]
                for surrounding in _surroundings()
            ]
        random.Random(SEED + 3).shuffle(tries)  # so that a short budget has all stages and surroundings
        for attempt in tries:
            if time.monotonic() > end:
                break
            cases.append(attempt())
            if cases[-1].outcome not in (SURVIVED, SKIPPED):
                print(*cases[-1], sep=": ", flush=True)
    return cases
