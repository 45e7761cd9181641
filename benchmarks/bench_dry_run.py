"""Compare a dry run of the finished demo with the import of Snakemake alone, in CPU seconds, as a Markdown report.

The workflow is the real one (Snakefile, rules, config.yaml, zoo/, tad.workflow). In a scratch copy, stubs replace the
stages and the renderer, so that all results are up to date in Snakemake's records within seconds. The cases alternate,
so that load on the machine slows all of them equally.

    python benchmarks/bench_dry_run.py --report benchmarks/reports/dry_run_<date>.md
"""

import argparse
import importlib.metadata
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("Snakefile", "rules", "envs", "profiles", "tad", "workflow_scripts", "zoo", "config.yaml")
TARGET, LIMIT, ROWS = "results/demo/map.json", 1.6, 100
STAGE = '''"""A stub in the place of `tad`: it writes each output, a model with a stamp."""
import json, sys
from pathlib import Path


def main():
    for flag, name in zip(sys.argv, sys.argv[1:]):
        if flag in ("--out", "--figure", "--diagnosis"):
            path = Path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            header = json.dumps({"__metadata__": {"tad_stamp": json.dumps({"identity": "stub"})}}).encode()
            path.write_bytes(len(header).to_bytes(8, "little") + header if path.suffix == ".safetensors" else b"{}")
            if flag == "--diagnosis":
                for picture in ("errors", "sensitivity", "missed", "calibration"):
                    (path.parent / f"{picture}.png").write_bytes(b"")
'''
RENDERER = '''"""A stub in the place of the renderer: the receipt of videos that were never drawn."""
import json, sys
from pathlib import Path

given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
out = Path(given["--out"])
(out / "videos").mkdir(parents=True, exist_ok=True)
videos = {f"demo_{k:02d}": {"content_key": ""} for k in range(int(given["--videos"]))}
(out / "dataset.json").write_text(json.dumps({"videos": videos}))
(out / "annotations.json").write_text("{}")
'''


def copy_workflow(folder: Path) -> None:
    """Copy the workflow, with stubs in place of its stages."""
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / part)
    (folder / "tad/commands/cli.py").write_text(STAGE)
    (folder / "workflow_scripts/render_demo.py").write_text(RENDERER)


def add_rows(folder: Path, count: int) -> None:
    """Add `count` runs to zoo/ that no target requests."""
    rows = yaml.safe_load((folder / "zoo/thumos14.yaml").read_text(encoding="utf-8"))["runs"]
    given = list(rows.values())
    more = {f"more-{k}": {**given[k % len(given)], "seed": k} for k in range(count)}
    (folder / "zoo/more.yaml").write_text(yaml.safe_dump({"runs": more}), encoding="utf-8")


def run(command: list[str], folder: Path) -> tuple[float, str]:
    """Return CPU seconds (user and system) of a command, and its output."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout + done.stderr


def prepare(folder: Path, rows: int) -> Path:
    """Create a finished demo with the given number of extra rows in zoo/."""
    folder.mkdir()
    copy_workflow(folder)
    if rows:
        add_rows(folder, rows)
    run([sys.executable, "-m", "snakemake", "--cores", "2", TARGET], folder)
    _, said = run([sys.executable, "-m", "snakemake", "-n", TARGET], folder)
    if "Nothing to be done" not in said:
        raise SystemExit(f"the demo is not up to date after it has run:\n{said[-3000:]}")
    return folder


def measure(repeats: int) -> dict[str, list[float]]:
    """Measure the CPU seconds of each repetition, by case."""
    with tempfile.TemporaryDirectory() as scratch:
        plain, wide = prepare(Path(scratch) / "plain", 0), prepare(Path(scratch) / "wide", ROWS)
        snakemake = [sys.executable, "-m", "snakemake", "-n"]
        job = ["--target-jobs", "evaluate:run=demo", "--allowed-rules", "evaluate"]
        cases = {
            "import": ([sys.executable, "-c", "import snakemake.cli"], plain),
            "dry run": ([*snakemake, TARGET], plain),
            f"dry run, {ROWS} more rows": ([*snakemake, TARGET], wide),
            "parse for one job": ([*snakemake, *job], plain),
        }
        seconds: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(repeats):
            for name, (command, folder) in cases.items():
                seconds[name].append(run(command, folder)[0])
    return seconds


def report(seconds: dict[str, list[float]]) -> str:
    """Format the medians as a Markdown table, with the limit."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("snakemake", "pydantic", "pyyaml"))
    lines = [
        "# Dry run of the finished demo",
        "",
        f"CPU seconds (user and system), medians of {len(seconds['import'])} taken in turns; Python"
        f" {platform.python_version()}, {versions}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}.",
        "`python benchmarks/bench_dry_run.py`",
        "",
        "| case | CPU s | of the import | least |",
        "|---|---:|---:|---:|",
    ]
    for name, median in medians.items():
        least = min(seconds[name]) / min(seconds["import"])
        lines.append(f"| {name} | {median:.2f} | {median / medians['import']:.2f} | {least:.2f} |")
    ratio = medians["dry run"] / medians["import"]
    lines += ["", f"Limit: {LIMIT} times the import; {'kept' if ratio <= LIMIT else 'MISSED'} with {ratio:.2f}.", ""]
    return "\n".join(lines)


def main() -> None:
    """Measure, and print or write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--report", type=Path, help="Markdown file to write")
    parser.add_argument("--quick", action="store_true", help="each case once: does it still run?")
    a = parser.parse_args()
    text = report(measure(1 if a.quick else a.repeats))
    print(text)
    if a.report:
        a.report.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
