"""Dry runs over a synthetic data set of many videos: wall and CPU seconds of `snakemake -n`, as a Markdown report.

The workflow itself is real (Snakefile, rules, tad.workflow); only `tad/__main__.py` is replaced, in a scratch copy, by
a stub that writes its output's name into its output, so that "all up to date" is what Snakemake's own records say after
running each job. The videos are sparse files of a real video's size, each with other bytes at its head.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("Snakefile", "rules", "envs", "profiles", "tad", "workflow_scripts")
LIMIT = 10.0
STUB = '''"""A stub in the place of `tad`: each output holds the word stub."""
import sys
from pathlib import Path

for flag, name in zip(sys.argv, sys.argv[1:]):
    if flag in ("--out", "--figure"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("stub\\n")
'''
CONFIG = {
    "device": "cpu",
    "datasets": {
        "many": {"format": "activitynet", "videos": "videos", "annotations": "annotations.json", "shards": 64}
    },
    "features": {
        "sparse": {"backbone": "r2plus1d_small", "weights": "weights/small.safetensors"},
        "dense": {"backbone": "r2plus1d_small", "weights": "weights/small.safetensors", "clip": {"stride": 2}},
    },
    "runs": {
        f"{features}-{detector}": {"dataset": "many", "features": features, "detector": detector}
        for features in ("sparse", "dense")
        for detector in ("mse", "actionformer")
    },
}


@dataclass
class Measurement:
    """Seconds of the repeats of one command, and the number of jobs that it planned."""

    state: str
    jobs: int
    wall: list[float]
    cpu: list[float]

    def row(self) -> str:
        """A line of the report's table: medians, and the slowest wall time."""
        wall, cpu = statistics.median(self.wall), statistics.median(self.cpu)
        return f"| {self.state} | {self.jobs} | {wall:.2f} | {max(self.wall):.2f} | {cpu:.2f} |"


def make_data(folder: Path, *, videos: int, megabytes: float) -> None:
    """Videos (sparse, with other bytes at head and tail), their annotations in ActivityNet's layout, and weights."""
    shutil.rmtree(folder / "videos", ignore_errors=True)
    (folder / "videos").mkdir(parents=True)
    size, numbers = int(megabytes * (1 << 20)), random.Random(0)
    database = {}
    for k in range(videos):
        name = f"v_{k:011d}"
        with open(folder / "videos" / f"{name}.mp4", "wb") as handle:
            handle.write(numbers.randbytes(64))
            handle.seek(size - 64)
            handle.write(numbers.randbytes(64))
        truth = [{"label": f"action {k % 200}", "segment": [1.0, 9.0]}]
        subset = ("training", "validation")[k % 3 == 2]
        database[name] = {"subset": subset, "duration": 120.0, "annotations": truth}
    (folder / "annotations.json").write_text(json.dumps({"version": "synthetic", "database": database}))
    (folder / "weights").mkdir()
    (folder / "weights" / "small.safetensors").write_text("not read by the stub")


def make_checkout(folder: Path) -> None:
    """A copy of the workflow whose `tad` command and table script are stubs."""
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.is_file():
            shutil.copy(source, folder / part)
    (folder / "tad" / "__main__.py").write_text(STUB)
    (folder / "workflow_scripts" / "results_table.py").write_text(STUB)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))


def snakemake(folder: Path, *arguments: str) -> tuple[float, float, str]:
    """Run Snakemake in the scratch checkout; wall seconds, CPU seconds of it and its children, and what it said."""
    command = [sys.executable, "-m", "snakemake", "--nocolor", *arguments]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=folder, text=True, capture_output=True, check=False)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, done.stdout + done.stderr


def planned(text: str) -> int:
    """The number of jobs in a dry run's summary."""
    totals = [line.split()[1] for line in text.splitlines() if line.startswith("total ")]
    return int(totals[-1]) if totals else 0


def measure(folder: Path, state: str, *, repeats: int, prepare: Callable[[], None]) -> Measurement:
    """Time the dry run `repeats` times; `prepare` brings the folder into the state before each."""
    result = Measurement(state, 0, [], [])
    for _ in range(repeats):
        prepare()
        wall, cpu, text = snakemake(folder, "--dry-run", "--quiet", "rules")
        result.jobs = planned(text)
        result.wall.append(wall)
        result.cpu.append(cpu)
    print(result.row(), flush=True)
    return result


def measure_all(folder: Path, *, videos: int, repeats: int) -> list[Measurement]:
    """All states, from a fresh checkout to one changed video."""
    forget = folder / ".snakemake" / "tad_hashes.json"
    some = folder / "videos" / f"v_{videos // 2:011d}.mp4"

    def nothing() -> None: ...

    found = [
        measure(folder, "nothing done, first look at the videos", repeats=repeats, prepare=lambda: forget.unlink(True)),
        measure(folder, "nothing done", repeats=repeats, prepare=nothing),
    ]
    snakemake(folder, "--cores", str(os.cpu_count() or 1), "--quiet", "all")
    found += [measure(folder, "all up to date", repeats=repeats, prepare=nothing)]
    for path in sorted((folder / "videos").iterdir()):
        path.touch()
    found += [measure(folder, "all up to date, every video touched", repeats=1, prepare=nothing)]
    with open(some, "r+b") as handle:
        handle.write(b"another video")
    found += [measure(folder, "one video replaced", repeats=repeats, prepare=nothing)]
    return found


def machine() -> str:
    """Processor, cores and system."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, {platform.system()}"


def report(found: list[Measurement], *, options: argparse.Namespace, load: float) -> str:
    """The measurements as Markdown."""
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("snakemake", "pydantic"))
    rows = "\n".join(m.row() for m in found)
    worst = max(max(m.wall) for m in found)
    return f"""# Dry runs over {options.videos} videos, {options.date}

- machine: {machine()}, load average {load:.1f} before the first command
- versions: Python {platform.python_version()}, {versions}
- command: `python benchmarks/bench_dag.py --videos {options.videos} --megabytes {options.megabytes:g} \
--repeats {options.repeats} --date {options.date}`
- data: {options.videos} sparse files of {options.megabytes:g} MB, 64 shards, two feature sets, four runs

| state | jobs planned | wall seconds (median) | (slowest) | CPU seconds |
|---|---|---|---|---|
{rows}

The slowest dry run took {worst:.1f} s; the limit is {LIMIT:g} s. Sparse files cost no disk time: the first look at real
videos, and the first after their dates changed, reads a few blocks of each besides; every later dry run reads none.
"""


def main() -> None:
    """Command line; see the module's description."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--videos", type=int, default=20_000)
    parser.add_argument("--megabytes", type=float, default=20.0, help="size of each (sparse) file")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--date", default=time.strftime("%Y-%m-%d"))
    parser.add_argument("--report", type=Path, help="Markdown file to write; default: print only")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="bench_dag.") as scratch:
        make_checkout(Path(scratch))
        make_data(Path(scratch), videos=options.videos, megabytes=options.megabytes)
        found = measure_all(Path(scratch), videos=options.videos, repeats=options.repeats)
    text = report(found, options=options, load=load)
    if options.report:
        options.report.write_text(text, encoding="utf-8")
    print(text)
    if max(statistics.median(m.wall) for m in found) > LIMIT:
        sys.exit(1)


if __name__ == "__main__":
    main()
