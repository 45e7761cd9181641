"""Stages killed at random points (-9, TERM, INT) and run again.

Each case kills a stage, alone or with its children, and runs it again at once without a flag. The bytes have to be
those of an undisturbed run; nothing that was finished may be computed again; no temporary file, process or shared
memory may be left over.
"""

import os
import random
import re
import signal
import tempfile
import time
from pathlib import Path

import pipeline
from cases import LOST, SEED, SILENT, SURVIVED, TRACEBACK, Case

WEIGHT = 3.0
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
EXPECTED = {signal.SIGKILL: (-9,), signal.SIGTERM: (143, -15, -9), signal.SIGINT: (130, -2)}
MOST = 400


def _parts(folder: Path) -> int:
    return len(list((folder / "results/features").rglob("*.part.h5")))


def one_kill(folder: Path, stage: str, seconds: float, wanted: dict[str, str], rng: random.Random) -> Case:
    """Kill a stage whose inputs are there, run it again and compare."""
    number, everyone = rng.choice(SIGNALS), rng.random() < 0.5
    moment = pipeline.some_time(rng, seconds)
    name = f"{signal.Signals(number).name} of {stage}{' and its children' if everyone else ''} after {moment:.2f} s"
    pipeline.forget(folder, stage)
    finished = {path: (folder / path).stat().st_mtime_ns for path in wanted if (folder / path).exists()}
    shared = pipeline.shared_memory()
    process = pipeline.Process(pipeline.command(stage, folder), folder)
    status, problem = process.wait(moment), None
    if status is None:
        process.kill(number, everyone=everyone)
        status = process.wait()
        if status is None:
            process.kill(signal.SIGKILL, everyone=True)
            problem = Case(name, TRACEBACK, "it does not end")
        text = process.text()
        # Python itself prints "Exception ignored" if Ctrl-C arrives within a callback (garbage collector, ctypes)
        if "Traceback" in re.sub(r"Exception ignored (in|on).*\nTraceback", "", text):
            problem = Case(name, TRACEBACK, text.strip()[-1000:])
        elif status is not None and status != 0 and status not in EXPECTED[number]:
            problem = Case(name, SILENT, f"exit status {status}: {text.strip()[-200:]}")
    elif status != 0:
        problem = Case(name, LOST, f"ended with {status} before it was killed: {process.text().strip()[-200:]}")
    parts = _parts(folder) if stage == "extract" and status != 0 else 0
    again = pipeline.Process(pipeline.command(stage, folder), folder)  # at once: its children may still run
    second = again.wait()
    if second != 0:
        again.kill(signal.SIGKILL, everyone=True) if second is None else None
        return Case(name, LOST, f"the second run ended with {second}: {again.text().strip()[-200:]}")
    if left := [pid for session in (process.pid, again.pid) for pid in pipeline.end_of(session)]:
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        return Case(name, LOST, f"{len(left)} processes are left over")
    if stage == "extract":
        cached = re.search(r"(\d+) cached", again.text())
        if status != 0 and cached and int(cached[1]) < parts:
            return Case(name, LOST, f"{parts} videos were finished, but only {cached[1]} were reused")
    if rows := pipeline.left_over(folder / "results"):
        return Case(name, LOST, f"left over: {', '.join(rows)[:200]}")
    if memory := pipeline.shared_memory() - shared:
        own = [text for text in memory if str(process.pid) in text or str(again.pid) in text]
        if own:
            return Case(name, LOST, f"shared memory is left over: {', '.join(own)}")
    made = pipeline.content(folder)
    if changed := [path for path in wanted if made.get(path) != wanted[path]]:
        return Case(name, LOST, f"other bytes: {', '.join(changed)[:200]}")
    own_outputs = {str(pipeline.output(stage))} | ({p for p in wanted if p.endswith(("png", "diagnosis.json"))})
    for path, before in finished.items():
        if path not in own_outputs and (folder / path).stat().st_mtime_ns != before:
            return Case(name, LOST, f"{path} was made again")
    return problem or Case(name, SURVIVED)


def run(budget_seconds: float) -> list[Case]:
    """Kill stages in turn, with a fixed seed, until the time is used up."""
    end = time.monotonic() + budget_seconds
    rng = random.Random(SEED)
    cases: list[Case] = []
    pipeline.preload()
    with tempfile.TemporaryDirectory(prefix="tad-kills-", ignore_cleanup_errors=True) as text:
        folder = Path(text)
        pipeline.make_data(folder)
        pipeline.made_in_order(folder)
        wanted = pipeline.content(folder)
        took = {}
        for stage in pipeline.ORDER:  # again, without what the first one had to build
            pipeline.forget(folder, stage)
            took |= pipeline.made_in_order(folder, (stage,))
        assert pipeline.content(folder) == wanted, "a second run differs without any kill"
        while len(cases) < MOST:
            for stage in pipeline.ORDER:
                if time.monotonic() > end:
                    return cases
                cases.append(one_kill(folder, stage, took[stage], wanted, rng))
                if cases[-1].outcome != SURVIVED:
                    print(*cases[-1], sep=": ", flush=True)
    return cases
