"""A tiny pipeline whose stages run as forked processes, so that hundreds of them can be killed within minutes.

Torch and the stages are imported once; a forked process runs the command line of `tad` in a session of its own. It is a
real process with children: only the seconds of its imports are saved.
"""

import faulthandler
import importlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import yaml
from process_tools import members
from scratch import CONFIG, TINY, TRAIN, Checkout, encode, make_weights

from tad.commands.cli import main
from tad.core.files import sha256
from tad.settings.config import Config
from tad.settings.paths import path_of
from tad.settings.stage_table import STAGES

RUN, DATASET, FEATURES, SHARD = "b", "small", "clips", "00-of-01"
ORDER = ("annotate", "probe", "check", "extract", "merge", "train", "detect", "suppress", "evaluate")
NAMES = {"run": RUN, "dataset": DATASET, "features": FEATURES, "shard": SHARD}
PATIENCE = 300.0  # seconds after which a stage counts as hanging; the cores may be shared


def values(**changes: object) -> dict[str, object]:
    """Return the configuration; a change is `section__key=value` of the run's row."""
    row: dict[str, object] = {
        "dataset": DATASET, "features": FEATURES, "train": dict(TRAIN),
        "detector": {"name": "actionformer", "windows": [5, 5], **TINY},
    }  # fmt: skip
    for name, value in changes.items():
        section, _, key = name.partition("__")
        settings = row.setdefault(section, {})
        assert isinstance(settings, dict)
        settings[key] = value
    dataset = {**CONFIG["datasets"][DATASET], "shards": 1}  # type: ignore[index]
    return {"device": "cpu", "datasets": {DATASET: dataset}, "features": CONFIG["features"], "runs": {RUN: row}}


def output(stage: str) -> Path:
    """Return the output of a stage, relative to the folder."""
    return path_of(stage, **{name: NAMES[name] for name in STAGES[stage].wildcards})


def make_data(folder: Path, *, videos: int = 4, frames: int = 60) -> None:
    """Write videos, annotations, weights and the configuration."""
    database = {}
    for k in range(videos):
        encode(folder / "videos" / f"v{k}.mp4", seed=k, frames=frames)
        end = frames / 25
        truth = [{"label": "jump", "segment": [0.3, end / 2]}, {"label": "run", "segment": [end / 2, end]}]
        subset = "testing" if k == videos - 1 else "training"
        database[f"v{k}"] = {"subset": subset, "duration": end, "annotations": truth}
    (folder / "annotations.json").write_text(json.dumps({"version": "1", "database": database}))
    (folder / "config.yaml").write_text(yaml.safe_dump(values()))
    package = folder / "tad"  # a checkout has its own
    borrowed = not package.exists()
    if borrowed:
        os.symlink(Path(__file__).parents[2] / "tad", package)
    make_weights(Checkout(folder), seed=0)
    if borrowed:
        package.unlink()


def command(stage: str, folder: Path, **changes: object) -> list[str]:
    """Return the command line of a stage, with paths relative to the folder."""
    spec = Config(values(**changes), folder=folder).spec(stage, **{k: NAMES[k] for k in ("run", "dataset", "features")})
    checked, manifest = str(output("check")), str(output("probe"))
    features = str(output("merge"))
    words = {
        "annotate": ["annotations.json"],
        "probe": ["videos", "--shard", SHARD],
        "check": [str(output("annotate")), "--manifests", manifest, "--videos", "videos"],
        "extract": [manifest, "--annotations", checked, "--videos", "videos", "--weights", "weights.safetensors"],
        "merge": [str(output("extract")), "--manifests", manifest, "--annotations", checked],
        "train": [features, "--annotations", checked],
        "detect": [features, "--model", str(output("train")), "--annotations", checked],
        "suppress": [str(output("detect"))],
        "evaluate": [str(output("suppress")), "--annotations", checked, "--model", str(output("train")),
                     "--figure", str(path_of("figure", run=RUN)), "--diagnosis", str(path_of("diagnosis", run=RUN))],
    }[stage]  # fmt: skip
    device = ["--device", "cpu"] if STAGES[stage].device else []
    return [stage, *words, "--spec", spec.json_text(), "--threads", "1", *device, "--out", str(output(stage))]


def preload() -> None:
    """Import everything that the stages import, before processes are forked; nothing is computed."""
    for stage in ORDER:
        STAGES[stage].function()
    slow = ("torch._dynamo", "numba", "matplotlib.pyplot", "PIL.JpegImagePlugin", "av")
    for name in (*slow, "tad.backbones.r2plus1d_small", "tad.detectors.actionformer"):
        importlib.import_module(name)


class Process:
    """A stage that runs in a forked process with its own session."""

    def __init__(
        self, words: list[str], folder: Path, log: str = "", *, prepare: Callable[[], object] = lambda: None
    ) -> None:
        """Start a command line of `tad`; `prepare` is called in the new process before it."""
        self.log = folder / (log or f"{words[0]}.log")
        sys.stdout.flush()
        sys.stderr.flush()
        ready, tell = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 70
            try:
                os.setsid()
                os.write(tell, b"1")
                os.close(tell)
                os.close(ready)
                os.chdir(folder)
                sys.modules["__main__"] = ModuleType("__main__")  # its children need not import the campaigns
                handle = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(handle, 1)
                os.dup2(handle, 2)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)
                prepare()
                status = main(words)
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        os.read(ready, 1)  # now its session exists, so that it can be killed as a whole
        os.close(ready)
        os.close(tell)

    def wait(self, seconds: float = PATIENCE) -> int | None:
        """Return the exit status (negative: the signal); None if it still runs after `seconds`."""
        end = time.monotonic() + seconds
        while True:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > end:
                if seconds >= PATIENCE:  # it hangs: its log gets the stack of each thread
                    os.kill(self.pid, signal.SIGUSR1)
                    time.sleep(1)
                return None
            time.sleep(0.005)

    def kill(self, number: int, *, everyone: bool = False) -> None:
        """Send a signal to the process, or to it and its children at once."""
        os.killpg(self.pid, number) if everyone else os.kill(self.pid, number)

    def text(self) -> str:
        """Return what it wrote."""
        return self.log.read_text(errors="replace")


def end_of(session: int, seconds: float = 30.0) -> list[int]:
    """Wait until all processes of a session have ended; return those that have not."""
    end = time.monotonic() + seconds
    while (left := members(session)) and time.monotonic() < end:
        time.sleep(0.02)
    return left


def shared_memory() -> set[str]:
    """Return the names in /dev/shm that processes of this machine's Python and torch use."""
    folder = Path("/dev/shm")
    return {path.name for path in folder.glob("*") if path.name.startswith(("pym-", "torch_", "psm_", "tad"))}


def left_over(folder: Path) -> list[str]:
    """Return the temporary files below a folder."""
    return [str(path.relative_to(folder)) for path in folder.rglob("*.partial*")]


def forget(folder: Path, stage: str) -> None:
    """Remove the output of a stage with everything that is cached for it."""
    out = folder / output(stage)
    out.unlink(missing_ok=True)
    for path in (out.parent / ".kept").glob(f"{out.name}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def content(folder: Path) -> dict[str, str]:
    """Return the sha256 of each artefact and figure: path → hash. Logs, caches and notes of warnings do not count."""
    skipped = {"logs", ".kept", ".warnings"}
    files = [path for path in (folder / "results").rglob("*") if path.is_file() and not skipped & set(path.parts)]
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(files)}


def made_in_order(folder: Path, stages: Iterator[str] | tuple[str, ...] = ORDER, **changes: object) -> dict[str, float]:
    """Run stages one after the other; return the seconds that each took."""
    seconds = {}
    for stage in stages:
        began = time.monotonic()
        process = Process(command(stage, folder, **changes), folder)
        status = process.wait()
        assert status == 0, f"{stage}: exit status {status}: {process.text()[-2000:]}"
        seconds[stage] = time.monotonic() - began
    return seconds


def some_time(rng: random.Random, seconds: float) -> float:
    """Return a random moment within a stage that takes about `seconds`."""
    return rng.uniform(0.0, 1.1 * seconds)
