"""A checkout in a scratch folder, with four tiny videos and two tiny detectors, to run, edit, plan and kill."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import yaml

from tad.workflow.why import parse_dry_run

ROOT = Path(__file__).parents[2]
PARTS = ("Snakefile", "rules", "envs", "profiles", "tad", "workflow_scripts")
TINY = {"embed_dim": 16, "head_dim": 16, "mlp_dim": 16, "regression_ranges": [[0, 4], [4, 10000]]}
TRAIN = {"epochs": 1, "warmup_epochs": 1, "max_length": 32, "ema_decay": 0.5}
CONFIG = {
    "device": "cpu",
    "datasets": {
        "small": {"format": "activitynet", "videos": "videos", "annotations": "annotations.json", "shards": 2},
        "thumos14": {"videos": "data/thumos14/videos", "annotations": "data/thumos14/annotations"},
    },
    "features": {
        "clips": {
            "backbone": {"name": "r2plus1d_small", "widths": [4, 4, 4, 8], "height": 24, "width": 32},
            "weights": "weights.safetensors",
        }
    },
    "runs": {
        "a": {"dataset": "small", "features": "clips", "detector": {"name": "mse", **TINY}, "train": TRAIN},
        "b": {"dataset": "small", "features": "clips", "train": TRAIN,
              "detector": {"name": "actionformer", "windows": [5, 5], **TINY}},
        "thumos": {"dataset": "thumos14", "features": "clips", "detector": "mse"},
    },
}  # fmt: skip
THREADS = ("train=1", "detect=1")  # so that runs are executed in parallel
PATIENCE = 900  # seconds for one command: the cores may be shared, and a timeout proves nothing
WEIGHTS = """
import sys, torch
from tad.settings import plugins
from tad.settings.config import Config
from tad.training.io.tensors import write_tensors
from pathlib import Path
torch.manual_seed(int(sys.argv[1]))
settings = Config.read().resolve_features("clips", "small").sections["settings"]
write_tensors(Path("weights.safetensors"), plugins.build("backbones", "r2plus1d_small", settings).state_dict(), {})
"""


def encode(path: Path, *, seed: int, frames: int = 150) -> Path:
    """Encode a tiny H.264 video of moving noise."""
    import av
    import decord  # noqa: F401 - before av

    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "0", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for k in range(frames):
            frame = av.VideoFrame.from_ndarray(np.roll(noise, (k, 2 * k), (0, 1)), format="rgb24")
            frame.pts, frame.time_base = k, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@cache
def plan_server() -> subprocess.Popen[str]:
    """Return the process that answers dry runs (see plan_server.py); it ends with this one."""
    script = Path(__file__).with_name("plan_server.py")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.Popen(
        [sys.executable, str(script)], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@dataclass
class Checkout:
    """A checkout in a folder of its own. `edit` and `write` save the old content; `restore` writes it back."""

    folder: Path
    before: dict[Path, tuple[bytes | None, tuple[int, int]]] = field(default_factory=dict)

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of a Python module."""
        return [sys.executable, "-m", *arguments]

    @property
    def environment(self) -> dict[str, str]:
        """Return an environment with one thread per process and the package of this checkout."""
        return os.environ | {"PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1"}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a Python module in the checkout."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder, env=self.environment, text=True, capture_output=True, check=False, timeout=PATIENCE,
        )  # fmt: skip

    def make(self, *targets: str) -> str:
        """Run the workflow and return Snakemake's output."""
        done = self.run("snakemake", "--cores", "2", "--set-threads", *THREADS, "--nocolor", "--", *targets)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
        return done.stdout + done.stderr

    def dry_run(self, *arguments: str) -> tuple[int, str]:
        """Return the exit status and the output of Snakemake's dry run."""
        server = plan_server()
        assert server.stdin is not None
        assert server.stdout is not None
        question = [str(self.folder), self.environment, ["--dry-run", "--nocolor", *arguments]]
        server.stdin.write(json.dumps(question) + "\n")
        server.stdin.flush()
        status, said = json.loads(server.stdout.readline())
        return status, said

    def plan(self, *targets: str) -> set[str]:
        """Return what a dry run plans: `rule`, `rule:run` or `rule:shard`."""
        status, said = self.dry_run(*targets)
        assert status == 0, said[-8000:]
        jobs = [job for job in parse_dry_run(said) if job.rule != "all"]
        return {":".join([j.rule, *filter(None, map(j.wildcards.get, ("run", "shard")))]) for j in jobs}  # type: ignore[list-item]

    def log(self, path: str) -> str:
        """Return a log below results/."""
        return (self.folder / "results" / path).read_text()

    def write(self, name: str, content: bytes | None) -> Path:
        """Write a file (None: remove it) and save its old content."""
        path = self.folder / name
        if path not in self.before:
            stat = path.stat() if path.exists() else None
            times = (stat.st_atime_ns, stat.st_mtime_ns) if stat else (0, 0)
            self.before[path] = (path.read_bytes() if stat else None, times)
        if content is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return path

    def edit(self, name: str, pattern: str, replacement: str) -> None:
        """Replace the only match of a regular expression."""
        text, count = re.subn(pattern, replacement, (self.folder / name).read_text(), count=1, flags=re.M)
        assert count == 1, f"{name} has no {pattern}"
        self.write(name, text.encode())

    def configure(self, path: str, value: object) -> None:
        """Set `a.b.c` of config.yaml."""
        config = yaml.safe_load((self.folder / "config.yaml").read_text())
        at = config
        *parents, last = path.split(".")
        for key in parents:
            at = at.setdefault(key, {})
        at[last] = value
        self.write("config.yaml", yaml.safe_dump(config).encode())

    def restore(self) -> None:
        """Undo `write` and `edit`, including modification times."""
        for path, (content, times) in self.before.items():
            if content is None:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(content)
                os.utime(path, ns=times)
        self.before.clear()

    def copy(self, folder: Path) -> "Checkout":
        """Copy the checkout elsewhere, with all results, records and modification times."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Checkout(folder)


def make_weights(checkout: Checkout, *, seed: int) -> None:
    """Write random weights of the backbone."""
    command = [sys.executable, "-c", WEIGHTS, str(seed)]
    subprocess.run(command, cwd=checkout.folder, env=checkout.environment, check=True)


def copy_workflow(folder: Path) -> Checkout:
    """Copy the workflow without configuration and data, with what Python and numba have compiled."""
    folder.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part)
        else:
            shutil.copy(ROOT / part, folder / part)
    return Checkout(folder)


def make_checkout(folder: Path) -> Checkout:
    """Create a copy of the workflow with its own data; nothing has run yet."""
    checkout = copy_workflow(folder)
    database = {}
    for k in range(4):
        encode(folder / "videos" / f"v{k}.mp4", seed=k)
        truth = [{"label": "jump", "segment": [1, 2.5]}, {"label": "run", "segment": [3, 5]}]
        subset = "testing" if k == 3 else "training"
        database[f"v{k}"] = {"subset": subset, "duration": 6.0, "annotations": truth}
    # longer than the files that Snakemake compares by content, like the official files
    text = json.dumps({"version": "1", "database": database}).ljust(1_100_000)
    (folder / "annotations.json").write_text(text)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    make_weights(checkout, seed=0)
    return checkout
