"""Measure dry runs against the number of videos: CPU seconds, wall seconds and memory of `snakemake -n`, as Markdown.

The workflow is the real one (Snakefile, rules, tad.workflow). In a scratch copy, only `tad/commands/cli.py` is replaced
by a stub that writes the name of its output into its output. "All up to date" is therefore what Snakemake's own records
say after each job has run. The videos are sparse files of realistic size with different bytes at the start.

Snakemake's own share is measured first: a dry run of as many jobs that do nothing, without this workflow.

    python benchmarks/bench_dag.py --report benchmarks/reports/dag_<date>.md
"""

import argparse
import importlib.metadata
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("Snakefile", "rules", "envs", "profiles", "tad", "workflow_scripts")
FIRST_SECONDS, LATER_SECONDS, MEGABYTES = 10.0, 5.0, 300.0  # limits at LIMITS_AT videos; seconds are CPU seconds
LIMITS_AT = 50_000
FIRST, LATER, ADDED = "first dry run", "all up to date", "one annotated video added"
TRIVIAL = """rule all:
    input: [f"out/{k}" for k in range(config["jobs"])]
rule one:
    output: "out/{k}"
    params: number=lambda wildcards: wildcards.k
    shell: "touch {output}"
"""
STUB = '''"""A stub in place of `tad`: an output holds the word stub, a model the header that the rules look at."""
import json
import sys
from pathlib import Path

STAMP = {"stage": "train", "tad_format": "model 1", "identity": "stub", "epoch_rule": "last epoch"}
PICTURES = ("errors.png", "sensitivity.png", "missed.png", "calibration.png")
for flag, name in zip(sys.argv, sys.argv[1:]):
    if flag in ("--out", "--figure", "--diagnosis"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        for picture in PICTURES if flag == "--diagnosis" else ():
            Path(name).with_name(picture).write_bytes(b"stub")
        header = json.dumps({"__metadata__": {"tad_stamp": json.dumps(STAMP)}}).encode()
        model = len(header).to_bytes(8, "little") + header
        Path(name).write_bytes(model if name.endswith(".safetensors") else b"stub\\n")
'''
COMMAND = """

def main():
    return 0
"""
CONFIG: dict[str, Any] = {
    "device": "cpu",
    "datasets": {"many": {"format": "activitynet", "videos": "videos", "annotations": "annotations.json"}},
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
    """One command, repeated: number of planned jobs, wall and CPU seconds of each repeat, and peak memory in MB."""

    videos: int
    state: str
    jobs: int = 0
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)

    def row(self) -> str:
        """Return a line of the report's table: medians."""
        cpu, wall, memory = (statistics.median(values) for values in (self.cpu, self.wall, self.megabytes))
        return f"| {self.videos:,} | {self.state} | {self.jobs} | {cpu:.2f} | {wall:.2f} | {memory:.0f} |"

    def exceeds(self) -> bool:
        """Return whether it is over a limit, which are set for one number of videos."""
        seconds = {FIRST: FIRST_SECONDS, LATER: LATER_SECONDS}.get(self.state)
        if seconds is None or self.videos != LIMITS_AT:
            return False
        return statistics.median(self.cpu) > seconds or max(self.megabytes) > MEGABYTES


def make_data(folder: Path, *, videos: int, megabytes: float) -> None:
    """Create videos (sparse, with different bytes at both ends), annotations in ActivityNet's layout, and weights."""
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
    """Create a copy of the workflow in which the `tad` command and the table script are stubs."""
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.is_file():
            shutil.copy(source, folder / part)
    (folder / "tad" / "commands" / "cli.py").write_text(STUB + COMMAND)
    (folder / "workflow_scripts" / "results_table.py").write_text(STUB)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))


def snakemake(folder: Path, *arguments: str) -> tuple[float, float, float, str]:
    """Run Snakemake in a folder; return its wall seconds, CPU seconds, peak memory in MB, and output."""
    command = [sys.executable, "-m", "snakemake", "--nocolor", *arguments]
    environment, log = os.environ | {"PYTHONPATH": str(folder)}, folder / "said.log"
    start = time.perf_counter()
    with log.open("w") as output:
        child = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
        _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    wall, text = time.perf_counter() - start, log.read_text()
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{text[-4000:]}")
    return wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, text


def planned(text: str) -> int:
    """Return the number of jobs in the summary of a dry run."""
    totals = [line.split()[1] for line in text.splitlines() if line.startswith("total ")]
    return int(totals[-1]) if totals else 0


def measure(folder: Path, videos: int, state: str, *, repeats: int, prepare: Callable[[], object]) -> Measurement:
    """Time the dry run `repeats` times; `prepare` sets up the state before each repeat."""
    result = Measurement(videos, state)
    for _ in range(repeats):
        prepare()
        wall, cpu, memory, text = snakemake(folder, "--dry-run", "--quiet", "rules")
        result.jobs = planned(text)
        result.wall.append(wall)
        result.cpu.append(cpu)
        result.megabytes.append(memory)
    print(result.row(), flush=True)
    return result


def add_annotated_video(folder: Path) -> None:
    """Add a video file and its annotations."""
    (folder / "videos" / "v_new.mp4").write_bytes(b"a new video")
    document = json.loads((folder / "annotations.json").read_text())
    document["database"]["v_new"] = {"subset": "training", "duration": 9.0, "annotations": []}
    (folder / "annotations.json").write_text(json.dumps(document))


def replace_video(folder: Path, videos: int) -> None:
    """Change the content of one video."""
    with open(folder / "videos" / f"v_{videos // 2:011d}.mp4", "r+b") as handle:
        handle.write(b"another video")


def measure_all(folder: Path, *, videos: int, repeats: int) -> list[Measurement]:
    """Measure all states, from a fresh checkout to one added video."""
    hashes = folder / ".snakemake" / "tad_hashes.json"

    def dry(state: str, prepare: Callable[[], object] = lambda: None, times: int = repeats) -> Measurement:
        return measure(folder, videos, state, repeats=times, prepare=prepare)

    found = [dry(FIRST)]
    snakemake(folder, "--cores", str(os.cpu_count() or 1), "--quiet", "rules")
    found.append(dry(LATER))
    found.append(dry("all up to date, cache of hashes lost", lambda: hashes.unlink(missing_ok=True), 1))
    replace_video(folder, videos)
    found.append(dry("one video replaced", times=1))
    snakemake(folder, "--cores", str(os.cpu_count() or 1), "--quiet", "rules")
    add_annotated_video(folder)
    found.append(dry(ADDED))
    jobs = {m.state: m.jobs for m in found}
    if jobs[LATER] or not 0 < jobs[ADDED] < jobs[FIRST]:
        raise RuntimeError(f"the plans are not those of a working checkout: {jobs}")
    return found


def trivial_jobs(folder: Path, counts: Sequence[int], repeats: int) -> list[tuple[int, float, float]]:
    """Return CPU seconds and megabytes of Snakemake's dry run of each number of jobs that do nothing."""
    folder.mkdir()
    (folder / "Snakefile").write_text(TRIVIAL)
    found = []
    for count in counts:
        options = ("--dry-run", "--quiet", "all", "--scheduler", "greedy", "--config", f"jobs={count}")
        runs = [snakemake(folder, *options) for _ in range(repeats)]
        found.append((count, statistics.median(run[1] for run in runs), max(run[2] for run in runs)))
        print(f"| {found[-1][0]:,} | {found[-1][1]:.2f} | {found[-1][2]:.0f} |", flush=True)
    return found


def machine() -> str:
    """Return processor, number of cores and system."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, {platform.system()}"


def report(
    found: list[Measurement], alone: list[tuple[int, float, float]], *, options: argparse.Namespace, load: float
) -> str:
    """Format the measurements as Markdown."""
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("snakemake", "pydantic"))
    rows = "\n".join(m.row() for m in found)
    bare = "\n".join(f"| {count:,} | {cpu:.2f} | {memory:.0f} |" for count, cpu, memory in alone)
    per_job = (alone[-1][1] - alone[0][1]) / max(alone[-1][0] - alone[0][0], 1)
    allowed = int((LATER_SECONDS - alone[0][1]) / per_job) if per_job > 0 else 0
    numbers = " ".join(map(str, options.videos))
    missed = [f"{m.state} at {m.videos:,} videos" for m in found if m.exceeds()]
    verdict = f"missed: {', '.join(missed)}" if missed else "kept"
    return f"""# Dry runs against the number of videos, {options.date}

- machine: {machine()}, load average {load:.1f} before the first command; CPU seconds vary less with load than wall
  seconds
- versions: Python {platform.python_version()}, {versions}
- command: `python benchmarks/bench_dag.py --videos {numbers} --megabytes {options.megabytes:g} \
--repeats {options.repeats} --date {options.date}`
- data: sparse files of {options.megabytes:g} MB, two feature sets, four runs; the number of shards is the default

| videos | state | jobs planned | CPU seconds | wall seconds | MB at most |
|---:|---|---:|---:|---:|---:|
{rows}

Limits at {LIMITS_AT:,} videos: {FIRST_SECONDS:g} s for the first dry run, {LATER_SECONDS:g} s if all is up to date,
{MEGABYTES:g} MB; {verdict}. The first dry run opens no video; the first real run, and the first after dates have
changed, reads eight blocks of each (see "cache of hashes lost"). Sparse files cost no disk time.

Snakemake alone, with jobs that do nothing:

| jobs | CPU seconds | MB |
|---:|---:|---:|
{bare}

That is {1000 * per_job:.1f} ms per job, so {LATER_SECONDS:g} s would allow {allowed:,} jobs if a workflow cost nothing
itself. Shards are therefore few: a video is neither a job nor an input file.
"""


def main() -> None:
    """Run the command line; see the module docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--videos", type=int, nargs="+", default=[1_000, 5_000, 20_000, LIMITS_AT, 200_000])
    parser.add_argument("--megabytes", type=float, default=20.0, help="size of each (sparse) file")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="40 small videos, once: does it still run?")
    parser.add_argument("--date", default=time.strftime("%Y-%m-%d"))
    parser.add_argument("--report", type=Path, help="Markdown file to write; default: print only")
    options = parser.parse_args()
    counts = (1, 500, 1000, 5000)
    if options.quick:
        options.videos, options.megabytes, options.repeats, counts = [40], 0.1, 1, (1, 10)
    load, found = os.getloadavg()[0], []
    with tempfile.TemporaryDirectory(prefix="bench_dag.") as scratch:
        alone = trivial_jobs(Path(scratch) / "alone", counts, options.repeats)
        for videos in options.videos:
            folder = Path(scratch) / str(videos)
            folder.mkdir()
            make_checkout(folder)
            make_data(folder, videos=videos, megabytes=options.megabytes)
            found += measure_all(folder, videos=videos, repeats=options.repeats)
            shutil.rmtree(folder)
    text = report(found, alone, options=options, load=load)
    if options.report:
        options.report.write_text(text, encoding="utf-8")
    print(text)
    if any(m.exceeds() for m in found):
        sys.exit(1)


if __name__ == "__main__":
    main()
