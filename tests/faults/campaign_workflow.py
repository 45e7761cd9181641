"""Snakemake, a job or everything killed at random points (-9, TERM, INT), and started again at once.

No flag is given (no --unlock, no --rerun-incomplete). After one kill in three, settings, code and an input change
before the next start. When a run gets to its end, the bytes have to be those of an undisturbed run. What was finished
before a kill may not be made again, and no temporary file, process, lock or marker of incomplete files may be left.
"""

import base64
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import pipeline
import yaml
from cases import LOST, SEED, SURVIVED, TRACEBACK, Case
from scratch import Checkout, copy_workflow

WEIGHT = 3.0
TARGET = f"results/{pipeline.RUN}/map.json"
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
VICTIMS = ("everything", "Snakemake alone", "one job")
SHORTEST = 1.0  # seconds before a kill
SHARE = 0.3  # of an undisturbed run: the longest time before a kill. What was finished stays, so runs get to their end
UNCONCERNED = ("results/videos/", f"results/features/{pipeline.DATASET}/{pipeline.FEATURES}/")  # by `Chain.change`
EDIT = "\nEDITED = True\n"


@dataclass
class Chain:
    """A checkout whose workflow is started and killed again and again.

    Attributes:
        checkout: the copy of the workflow.
        wanted: the bytes of an undisturbed run, before (False) and after (True) a change of settings, code and input.
        seconds: how long an undisturbed run takes.
        sessions: sessions of all runs so far.
        scores: the lines of map.json of the same runs as `wanted`.
    """

    checkout: Checkout
    wanted: dict[bool, dict[str, str]] = field(default_factory=dict)
    seconds: float = 60.0
    changed: bool = False
    sessions: list[int] = field(default_factory=list)
    scores: dict[bool, list[str]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The folder of the checkout."""
        return self.checkout.folder

    def start(self) -> subprocess.Popen[bytes]:
        """Start Snakemake in a session of its own."""
        command = self.checkout.command("snakemake", "--cores", "2", "--nocolor", "--", TARGET)
        with open(self.folder / "run.log", "wb") as log:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.checkout.environment, stdout=log, stderr=log, start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )  # fmt: skip
        self.sessions.append(process.pid)
        return process

    def text(self) -> str:
        """What the newest run has written."""
        return (self.folder / "run.log").read_text(errors="replace")

    def change(self) -> None:
        """Change settings, code and an input, or change them back."""
        self.changed = not self.changed
        sigma, lr = (0.3, 0.01) if self.changed else (0.5, 0.001)
        (self.folder / "config.yaml").write_text(yaml.safe_dump(pipeline.values(nms__sigma=sigma, train__lr=lr)))
        code = self.folder / "tad/stages/suppress.py"
        text = code.read_text().removesuffix(EDIT)
        code.write_text(text + EDIT if self.changed else text)
        names = ('"jump"', '"leap"') if self.changed else ('"leap"', '"jump"')
        path = self.folder / "annotations.json"
        path.write_text(path.read_text().replace(*names))

    def finished(self) -> dict[str, int]:
        """Return the files that Snakemake knows to be complete, with their modification times.

        Those from before the last change may have to be made again and do not count, unless no change concerns them.
        """
        folder = self.folder / ".snakemake/incomplete"
        names = "".join(path.name for path in folder.rglob("*")) if folder.is_dir() else ""
        found = {}
        change = (self.folder / "config.yaml").stat().st_mtime_ns
        for name in pipeline.content(self.folder):
            made = (self.folder / name).stat().st_mtime_ns
            current = made > change or name.startswith(UNCONCERNED)
            if current and base64.b64encode(name.encode()).decode() not in names:
                found[name] = made
        return found

    def reasons(self) -> str:
        """Return why the jobs of the newest run were run, as Snakemake says it."""
        lines = [line.strip() for line in self.text().splitlines()]
        return "; ".join(line for line in lines if line.startswith(("rule ", "localrule ", "reason:")))[:1500]

    def made_again(self, before: dict[str, int]) -> str:
        """Return the files that were finished before a run and were made again or removed by it."""
        paths = {name: self.folder / name for name in before}
        dates = {name: path.stat().st_mtime_ns if path.exists() else 0 for name, path in paths.items()}
        return ", ".join(name for name in before if dates[name] != before[name])[:200]

    def remains(self) -> str:
        """Return what is left over after a run that got to its end; empty if nothing is."""
        if left := [pid for session in self.sessions for pid in pipeline.end_of(session)]:
            return f"{len(left)} processes"
        self.sessions.clear()
        state = self.folder / ".snakemake"
        files = pipeline.left_over(self.folder / "results") + pipeline.left_over(state)
        for name in ("locks", "incomplete"):
            files += [str(path.relative_to(self.folder)) for path in (state / name).rglob("*") if path.is_file()]
        return ", ".join(files)[:200]


def make_chain(folder: Path) -> Chain:
    """Copy the workflow, make the data, and run both variants without a kill, at the same time."""
    chain = Chain(copy_workflow(folder))
    pipeline.make_data(folder)
    chain.change()
    chain.change()
    other = Chain(chain.checkout.copy(folder.with_name("other")))
    other.change()
    began = time.monotonic()
    runs = [(each, each.start()) for each in (chain, other)]
    for each, process in runs:
        status = process.wait()
        assert status == 0, each.text()[-3000:]
        chain.wanted[each.changed] = pipeline.content(each.folder)
        chain.scores[each.changed] = (each.folder / TARGET).read_text().splitlines()
    chain.seconds = time.monotonic() - began
    assert chain.wanted[False] != chain.wanted[True]
    shutil.rmtree(other.folder)
    shutil.rmtree(folder / "results")
    return chain


def kill_one(chain: Chain, process: subprocess.Popen[bytes], rng: random.Random) -> str:
    """Kill a part of a run; return the name of the case."""
    victim, number = rng.choice(VICTIMS), rng.choice(SIGNALS)
    jobs = [pid for pid in pipeline.members(process.pid) if _stage(pid)]
    if victim == "one job" and not jobs:
        victim = "Snakemake alone"
    try:
        if victim == "everything":
            os.killpg(process.pid, number)
        else:
            os.kill(rng.choice(jobs) if victim == "one job" else process.pid, number)
    except ProcessLookupError:
        return f"{victim} had ended"
    stages = sorted({_stage(pid) for pid in jobs})
    return f"{signal.Signals(number).name} of {victim} in {' and '.join(filter(None, stages)) or 'no stage'}"


def ended(process: subprocess.Popen[bytes]) -> bool:
    """Wait for a run that was killed: after SIGTERM, Snakemake first lets its running jobs end."""
    try:
        process.wait(pipeline.PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return False
    return True


def interrupted_start(chain: Chain) -> bool:
    """Return whether the traceback is that of Snakemake, which SIGINT ends with one while it reads the rules.

    `tad run` prints one line then.
    """
    return chain.text().strip().endswith("KeyboardInterrupt")


def _words(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def _stage(pid: int) -> str:
    """Return the stage that a process runs; empty for shells, decoding processes and Snakemake."""
    words = _words(pid)
    if not any("tad.commands.cli" in word for word in words[:4]) and words[1:3] != ["-m", "tad"]:
        return ""
    return next((word for word in words[3:] if word in pipeline.ORDER), "")


def run(budget_seconds: float) -> list[Case]:
    """Kill run after run, and let the last one get to its end."""
    end = time.monotonic() + budget_seconds
    rng = random.Random(SEED + 2)
    cases: list[Case] = []

    def blame(outcome: str, note: str) -> None:
        case = Case(cases[-1].name if cases else "no kill yet", outcome, note)
        cases[-1:] = [case]
        print(*case, sep=": ", flush=True)

    with tempfile.TemporaryDirectory(prefix="tad-workflow-", ignore_cleanup_errors=True) as text:
        chain = make_chain(Path(text) / "tad")
        before: dict[str, int] = {}
        while True:
            last = time.monotonic() + chain.seconds > end
            process = chain.start()
            try:
                process.wait(None if last else rng.uniform(SHORTEST, SHARE * chain.seconds))
            except subprocess.TimeoutExpired:
                name = kill_one(chain, process, rng)
                if not ended(process):
                    blame(TRACEBACK, f"Snakemake does not end after {name}: {chain.text().strip()[-300:]}")
                if again := chain.made_again(before):
                    blame(LOST, f"made again: {again}: {chain.reasons()}")
                cases.append(Case(name, SURVIVED))
                if "Traceback (most recent call last)" in chain.text() and not interrupted_start(chain):
                    blame(TRACEBACK, chain.text().strip().splitlines()[-1][:200])
                before = chain.finished()
                if rng.random() < 1 / 3:
                    chain.change()
                    before = {}
                continue
            if again := chain.made_again(before):
                blame(LOST, f"made again: {again}: {chain.reasons()}")
            if process.returncode != 0:
                blame(LOST, f"the next run ended with {process.returncode}: {chain.text().strip()[-300:]}")
            else:
                made, wanted = pipeline.content(chain.folder), chain.wanted[chain.changed]
                if apart := sorted(p for p in made.keys() | wanted.keys() if made.get(p) != wanted.get(p)):
                    lines = (chain.folder / TARGET).read_text().splitlines()
                    new = [line.strip() for line in lines if line not in chain.scores[chain.changed]]
                    said = f"other bytes: {', '.join(apart)[:200]}; new lines of map.json: {new}"[:600]
                    blame(LOST, f"{said}; {chain.reasons()}")
                elif remains := chain.remains():
                    blame(LOST, f"left over: {remains}")
            if last:
                return cases
            shutil.rmtree(chain.folder / "results")
            before = {}
