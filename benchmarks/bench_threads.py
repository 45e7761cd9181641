"""Wall time, CPU time and context switches of pretrain, extract and train with one and two threads → Markdown rows.

    make demo
    python benchmarks/bench_threads.py [--stages pretrain extract train] [--epochs 3] [--repeats 2]

Runs the demo's own commands, as the finished demo in results/ has them, with fewer epochs and into a temporary folder.
`extract` also decodes in other processes, whatever its threads. The bars are a ratio of wall times of at most 0.62 and
less than 1,000 voluntary context switches a second.
"""

import argparse
import os
import platform
import re
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch

TARGETS = {
    "pretrain": "results/features/demo/demo_clips/backbone.safetensors",
    "extract": "results/features/demo/demo_clips/00-of-02.h5",
    "train": "results/demo/model.safetensors",
}


class Cost(NamedTuple):
    """What a command took: seconds, and voluntary context switches."""

    wall: float
    cpu: float
    switches: int


def command_of(stage: str) -> list[str]:
    """Return the command of a stage of the finished demo, as Snakemake would run it."""
    snakemake = [sys.executable, "-m", "snakemake", "--dry-run", "--printshellcmds", "--forcerun", stage, "--"]
    said = subprocess.run([*snakemake, TARGETS[stage]], capture_output=True, text=True, check=True)
    (found,) = re.findall(rf"tad {stage} .*? 2> ", said.stdout + said.stderr)
    return shlex.split(found.removesuffix(" 2> "))[1:]


def measured(stage: str, threads: int, *, epochs: int, folder: Path) -> Cost:
    """Run a stage with so many threads, and its output and caches in a folder."""
    arguments = command_of(stage)
    out = arguments.index("--out") + 1
    arguments[out] = str(folder / Path(arguments[out]).name)
    spec = arguments.index("--spec") + 1
    if stage == "extract":
        arguments[arguments.index("--threads") + 1] = str(threads)
    else:
        arguments[spec] = re.sub(r'"threads":\d+', f'"threads":{threads}', arguments[spec])
        arguments[spec] = re.sub(r'"epochs":\d+', f'"epochs":{epochs}', arguments[spec])
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "tad", *arguments], capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(wall, cpu, after.ru_nvcsw - before.ru_nvcsw)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="+", default=list(TARGETS), choices=TARGETS)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one repeat of train with one epoch: does it still run?")
    given = parser.parse_args()
    stages, epochs, repeats = (["train"], 1, 1) if given.quick else (given.stages, given.epochs, given.repeats)
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores, best of {repeats}\n")
    print("| stage | threads | wall, s | CPU, s | context switches a second | ratio of wall times |")
    print("|---|---:|---:|---:|---:|---:|")
    for stage in stages:
        runs: dict[int, list[Cost]] = {1: [], 2: []}
        for _ in range(repeats):
            for threads, costs in runs.items():
                with tempfile.TemporaryDirectory() as folder:
                    costs.append(measured(stage, threads, epochs=epochs, folder=Path(folder)))
        best = {threads: min(costs) for threads, costs in runs.items()}
        for threads, cost in best.items():
            ratio = f"{cost.wall / best[1].wall:.2f}"
            switches = f"{cost.switches / cost.wall:.0f}"
            print(f"| {stage} | {threads} | {cost.wall:.1f} | {cost.cpu:.1f} | {switches} | {ratio} |", flush=True)


if __name__ == "__main__":
    main()
