"""Left-over jobs that go on after settings, code or an input have changed; inputs of other settings.

A job of a killed run that its system does not end (another node of a cluster, a suspended machine) goes on later. Each
case stops a stage, changes something, runs the stage again and lets the stopped one go on: it has to end with one line,
and the bytes have to be those of a run without it. Further cases give each stage an input of the right name that was
made with other settings; it has to be refused.
"""

import json
import os
import random
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pipeline
from cases import LOST, SEED, SILENT, SURVIVED, TRACEBACK, Case, judge
from pipeline import ORDER, Process
from scratch import encode

from tad.core import claims
from tad.provenance.wanted import CODE, WANTED, write_wanted

WEIGHT = 2.0
# stage → dotted setting of its spec, another value
SETTINGS: dict[str, tuple[str, object]] = {
    "annotate": ("on_invalid", "clip"), "probe": ("most_flawed", 0.1), "check": ("on_invalid", "drop"),
    "extract": ("clip.stride", 8), "merge": ("on_damaged", "error"), "train": ("train.lr", 0.01),
    "detect": ("detect.topk", 20), "suppress": ("nms.sigma", 0.3), "evaluate": ("eval.tiou", [0.5]),
}  # fmt: skip
# stage → the stage whose input or settings change, from which on everything is run again
BEHIND = {
    "annotate": "annotate", "probe": "probe", "check": "annotate", "extract": "probe", "merge": "extract",
    "train": "annotate", "detect": "train", "suppress": "detect", "evaluate": "suppress",
}  # fmt: skip
# stage → the stages whose outputs it reads
INPUTS = {
    "check": ("annotate", "probe"), "extract": ("probe",), "merge": ("extract", "probe"), "train": ("merge", "check"),
    "detect": ("merge", "train", "check"), "suppress": ("detect",), "evaluate": ("suppress", "check", "train"),
}  # fmt: skip
KINDS = ("settings", "code", "input")
EARLY_SECONDS = 0.05  # within which a forked stage claims its output


def changed(words: list[str], stage: str) -> list[str]:
    """Return a command line with the other value of the stage's setting in SETTINGS."""
    at = words.index("--spec") + 1
    spec = json.loads(words[at])
    name, value = SETTINGS[stage]
    *parents, last = name.split(".")
    inner = spec
    for key in parents:
        inner = inner[key]
    assert inner[last] != value, f"{stage}: {name} is {value!r} already"
    inner[last] = value
    return [*words[:at], json.dumps(spec), *words[at + 1 :]]


@contextmanager
def planned(folder: Path, stage: str, words: list[str], code: str) -> Iterator[None]:
    """Let processes started in the block be jobs of a workflow that wants a stage with these settings and this code."""
    out = str(pipeline.output(stage))
    listed = write_wanted(folder / "wanted.json", {out: words[words.index("--spec") + 1]}, {}, {out: code})
    os.environ[WANTED], os.environ[CODE] = str(listed), code
    try:
        yield
    finally:
        del os.environ[WANTED], os.environ[CODE]


class Held(Exception):
    """The stopped job holds the lock on the claim, so that the next one has ended with a line that says so."""


def run_again(folder: Path, stage: str, kind: str) -> None:
    """Change something and run the stage, after those before it that the change concerns."""

    def make(name: str, words: list[str], code: str = "first") -> None:
        with planned(folder, name, words, code):
            process = Process(words, folder)
        status = process.wait()
        if status is None:
            process.kill(signal.SIGKILL, everyone=True)
        if status == 1 and f"locked for more than {claims.PATIENCE_SECONDS:.0f} s by process" in process.text():
            raise Held
        assert status == 0, f"{name} after a change of {kind}: {status}: {process.text()[-2000:]}"

    if kind == "settings":
        return make(stage, changed(pipeline.command(stage, folder), stage))
    if kind == "code":
        return make(stage, pipeline.command(stage, folder), "edited")
    first = BEHIND[stage]
    if first == "annotate":
        path = folder / "annotations.json"
        path.write_text(path.read_text().replace('"jump"', '"leap"'))
    elif first == "probe":
        encode(folder / "videos/v0.mp4", seed=9, frames=70)
    for name in ORDER[ORDER.index(first) : ORDER.index(stage) + 1]:
        words = pipeline.command(name, folder)
        make(name, changed(words, name) if name == first and first not in ("annotate", "probe") else words)
    return None


def stopped_orphan(work: Path, stage: str, seconds: float, rng: random.Random) -> tuple[Process, str]:
    """Start a stage and stop it at a random moment: one in three before its claim or at it, others while it works.

    If it has ended before it could be stopped, the next one is stopped earlier.
    """
    words, claim = pipeline.command(stage, work), claims.path_of_claim(work / pipeline.output(stage))
    early = rng.random() < 1 / 3
    for share in (0.8, 0.4, 0.1, 0.0, 0.0, 0.0):
        moment = rng.uniform(0, EARLY_SECONDS if early else share * seconds)
        with planned(work, stage, words, "first"):
            orphan = Process(words, work, log="orphan.log")
        while not early and not claim.exists() and orphan.wait(0.0) is None:
            time.sleep(0.001)
        if orphan.wait(moment) is None:
            break
        pipeline.forget(work, stage)
    os.killpg(orphan.pid, signal.SIGSTOP)
    return orphan, f"{moment:.3f} s after its {'start' if early else 'claim'}"


def one_orphan(base: Path, work: Path, stage: str, kind: str, seconds: float, rng: random.Random) -> Case:
    """Stop a stage, change something, run it again, let the stopped one go on, and compare."""
    shutil.copytree(base, work, symlinks=True)
    clean = work.with_name("clean")
    shutil.copytree(base, clean, symlinks=True)
    for folder in (work, clean):
        pipeline.forget(folder, stage)
    orphan, moment = stopped_orphan(work, stage, seconds, rng)
    name = f"{stage}, {kind} changed, stopped {moment}"
    claim = claims.path_of_claim(work / pipeline.output(stage))
    # a job that had published before the change, or began with the new inputs after it, may end with 0
    may_end = (work / pipeline.output(stage)).exists()
    may_end |= kind == "input" and not (claim.exists() and claim.read_bytes())
    status: int | None = None
    try:
        run_again(clean, stage, kind)
        run_again(work, stage, kind)
    except Held:
        os.killpg(orphan.pid, signal.SIGCONT)
        status, may_end = orphan.wait(), True
        run_again(work, stage, kind)
    finally:
        with suppress(ProcessLookupError):  # it has ended above
            os.killpg(orphan.pid, signal.SIGCONT)
    status = orphan.wait() if status is None else status
    if status is None:
        orphan.kill(signal.SIGKILL, everyone=True)
        return Case(name, TRACEBACK, "it does not end")
    made, wanted = pipeline.content(work), pipeline.content(clean)
    if apart := sorted(path for path in made.keys() | wanted.keys() if made.get(path) != wanted.get(path)):
        return Case(name, LOST, f"other bytes: {', '.join(apart)[:200]}; exit status {status}")
    if left := pipeline.end_of(orphan.pid):
        return Case(name, LOST, f"{len(left)} processes are left over")
    if rows := pipeline.left_over(work / "results"):
        return Case(name, LOST, f"left over: {', '.join(rows)[:200]}")
    if status == 0:
        return Case(name, SURVIVED) if may_end else Case(name, SILENT, "it ended with 0, as if its work counted")
    return judge(name, status, orphan.text())


def one_wrong_input(base: Path, work: Path, stage: str, behind: str) -> Case:
    """Let the workflow want other settings for an input than it has: the stage has to refuse it."""
    name = f"{stage}: its input from {behind} was made with other settings"
    shutil.copytree(base, work, symlinks=True)
    words = changed(pipeline.command(behind, work), behind)
    listed = {str(pipeline.output(behind)): words[words.index("--spec") + 1]}
    before = pipeline.content(work)
    os.environ[WANTED] = str(write_wanted(work / "wanted.json", listed, {}))
    try:
        process = Process(pipeline.command(stage, work), work)
        status = process.wait()
    finally:
        del os.environ[WANTED]
    if status is None:
        process.kill(signal.SIGKILL, everyone=True)
        return Case(name, TRACEBACK, "it does not end")
    case = judge(name, status, process.text())
    if case.outcome == SURVIVED and not re.search(r"made with \S+=.* wants .* now", process.text()):
        return Case(name, SILENT, process.text().strip()[-200:])
    return case if pipeline.content(work) == before else Case(name, LOST, "an artefact has changed")


def one_late_job(base: Path, work: Path, stage: str, kind: str) -> Case:
    """Start a stage with settings or code that the workflow no longer wants, after the wanted ones were run."""
    name = f"{stage}: a job of an earlier run begins late, {kind} changed"
    shutil.copytree(base, work, symlinks=True)
    run_again(work, stage, kind)
    words = pipeline.command(stage, work)
    wanted, code = (changed(words, stage), "first") if kind == "settings" else (words, "edited")
    before, claim = pipeline.content(work), claims.path_of_claim(work / pipeline.output(stage)).read_bytes()
    with planned(work, stage, wanted, code):
        os.environ[CODE] = "first"
        process = Process(words, work)
    status = process.wait()
    if status is None:
        process.kill(signal.SIGKILL, everyone=True)
        return Case(name, TRACEBACK, "it does not end")
    if pipeline.content(work) != before:
        return Case(name, LOST, "it has replaced the artefact that is wanted")
    if claims.path_of_claim(work / pipeline.output(stage)).read_bytes() != claim:
        return Case(name, LOST, "it has taken the claim of the work that is wanted")
    return judge(name, status, process.text())


def run(budget_seconds: float) -> list[Case]:
    """Try all stages with all kinds of changes, then all inputs; again with other moments until the time is used up."""
    end = time.monotonic() + budget_seconds
    rng = random.Random(SEED + 1)
    cases: list[Case] = []
    pipeline.preload()
    claims.PATIENCE_SECONDS = 5.0  # in the processes that are forked from here
    with tempfile.TemporaryDirectory(prefix="tad-orphans-", ignore_cleanup_errors=True) as text:
        base = Path(text) / "base"
        base.mkdir()
        pipeline.make_data(base)
        took = pipeline.made_in_order(base)
        todo: list[Callable[[Path], Case]] = [
            lambda work, s=stage, k=kind: one_orphan(base, work, s, k, took[s], rng)
            for kind in KINDS
            for stage in ORDER
        ]
        todo += [
            lambda work, s=stage, b=behind: one_wrong_input(base, work, s, b)
            for stage, names in INPUTS.items()
            for behind in names
        ]
        late = ("settings", "code")
        todo += [lambda work, s=stage, k=kind: one_late_job(base, work, s, k) for kind in late for stage in ORDER]
        rng.shuffle(todo)  # so that a short budget has cases of all kinds
        for attempt in todo * 2:
            if time.monotonic() > end:
                break
            try:
                cases.append(attempt(Path(text) / "work"))
            except AssertionError as error:  # the run after the change failed
                cases.append(Case("the run after a change", TRACEBACK, str(error)))
            if cases[-1].outcome != SURVIVED:
                print(*cases[-1], sep=": ", flush=True)
            for name in ("work", "clean"):
                shutil.rmtree(Path(text) / name, ignore_errors=True)
    return cases
