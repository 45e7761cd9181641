"""Measure the CPU seconds of one `tad evaluate`, from start to exit, beside the imports of its libraries → Markdown.

    python benchmarks/bench_evaluate.py --detections DETECTIONS.json --annotations thumos14.json \\
        --report benchmarks/reports/evaluate_command_<date>.md

Without files, THUMOS14's numbers of videos and detections are generated. The cases alternate, so that load on the
machine slows all of them equally. The first run, which fills the cache of parsed modules, does not count.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench_results_file import generate

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 1.2
VIDEOS, DEPTH = 212, 200


def seconds_of(command: list[str]) -> float:
    """Return the CPU seconds (user and system) of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(evaluate: list[str], repeats: int) -> dict[str, list[float]]:
    """Return the CPU seconds of each repetition, by case."""
    python = [sys.executable, "-c"]
    cases = {
        "Python alone": [*python, "pass"],
        "imports of NumPy and pydantic": [*python, "import numpy, numpy.random, pydantic.types"],
        "import of numba (not used)": [*python, "import numba"],
        "tad evaluate": evaluate,
    }
    seconds_of(evaluate)
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(repeats):
        for name, command in cases.items():
            seconds[name].append(seconds_of(command))
    return seconds


def report(seconds: dict[str, list[float]], score: dict[str, object], command: str) -> str:
    """Format medians and minima as a Markdown table, with the limit."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("numpy", "pydantic", "numba"))
    median = statistics.median(seconds["tad evaluate"])
    rows = [f"| {name} | {statistics.median(own):.2f} | {min(own):.2f} |" for name, own in seconds.items()]
    lines = [
        "# One `tad evaluate`",
        "",
        f"CPU seconds (user and system) of whole processes, {len(seconds['tad evaluate'])} of each in turns; Python"
        f" {platform.python_version()}, {versions}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}.",
        f"`{command}`",
        "",
        "| case | median | least |",
        "|---|---:|---:|",
        *rows,
        "",
        f"{score['detections']} detections, average mAP {score['average_mAP']!r}.",
        f"Limit: {LIMIT} s; {'kept' if median <= LIMIT else 'MISSED'} with {median:.2f}.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Run the command line; see the module docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--detections", type=Path)
    parser.add_argument("--annotations", type=Path)
    parser.add_argument("--protocol", default="thumos14-212")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--report", type=Path, help="Markdown file to write")
    parser.add_argument("--quick", action="store_true", help="each case once: does it still run?")
    a = parser.parse_args()
    if bool(a.detections) != bool(a.annotations):
        parser.error("give both --detections and --annotations, or neither")
    with tempfile.TemporaryDirectory() as scratch:
        files, protocol, options = (a.detections, a.annotations), a.protocol, []
        if a.detections is None:
            files, protocol = generate(Path(scratch), videos=VIDEOS, depth=DEPTH), "plain"
            options = ["--tiou", "0.3,0.4,0.5,0.6,0.7"]
        out = Path(scratch) / "map.json"
        words = [str(files[0]), "--annotations", str(files[1]), "--protocol", protocol, *options, "--out", str(out)]
        seconds = measure([sys.executable, "-m", "tad", "evaluate", *words], 1 if a.quick else a.repeats)
        document = json.loads(out.read_text(encoding="utf-8"))
    score = {"detections": document["detections"]["scored"], "average_mAP": document["average_mAP"]}
    given = f" --detections {files[0].name} --annotations {files[1].name}" if a.detections else ""
    text = report(seconds, score, f"python benchmarks/bench_evaluate.py{given}")
    print(text)
    if a.report:
        a.report.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
