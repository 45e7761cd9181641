"""Measure CPU seconds and memory of annotate and evaluate on large annotations, as a Markdown table.

    python benchmarks/bench_large_annotations.py [--rows 1000000] [--labels 100000] [--videos 20000] [--quick]

A CSV file is drawn with a fixed seed, half of the videos for testing. The detections are its test instances, moved by
up to 0.3 s, with random scores. Each stage runs in a process of its own.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

QUICK = ("--rows", "4000", "--labels", "800", "--videos", "40")


def write_annotations(path: Path, *, rows: int, labels: int, videos: int) -> None:
    """Write the CSV file."""
    numbers = random.Random(0)
    lines = ["video,split,start,end,label"]
    for k in range(rows):
        start = round(k // videos * 3 + numbers.random(), 3)
        split = ("train", "test")[k % videos % 2]
        lines.append(f"video_{k % videos:06d},{split},{start},{start + 1.5:.3f},label {k // 2 % labels}")
    path.write_text("\n".join(lines) + "\n")


def write_detections(table: Path, path: Path) -> None:
    """Write a results file from the table that annotate has written."""
    numbers, results = random.Random(1), {}
    for video_id, video in json.loads(table.read_text())["videos"].items():
        if video["split"] == "test":
            results[video_id] = [
                {
                    "label": label,
                    "score": round(numbers.random(), 4),
                    "segment": [round(start + 0.3 * numbers.random(), 3), round(end + 0.3 * numbers.random(), 3)],
                }
                for start, end, label in video["instances"]
            ]
    path.write_text(json.dumps({"version": "1", "results": results, "external_data": {}}))


def measured(*words: str) -> tuple[float, float, int]:
    """Run a command of `tad`; return its CPU seconds, wall seconds and peak memory in MB."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "tad", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, f"tad {' '.join(words)}: status {status}"
    return used.ru_utime + used.ru_stime, time.monotonic() - began, used.ru_maxrss >> 10


def main() -> None:
    """Run the command line; see the module docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--labels", type=int, default=100_000)
    parser.add_argument("--videos", type=int, default=20_000)
    parser.add_argument("--quick", action="store_true", help="4,000 rows: does it still run?")
    a = parser.parse_args([*sys.argv[1:], *QUICK] if "--quick" in sys.argv else None)
    print(f"{a.rows:,} rows, {a.labels:,} labels, {a.videos:,} videos, load {os.getloadavg()[0]:.1f}\n")
    print("| stage | CPU seconds | wall seconds | MB at most |\n|---|---:|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        source, table, found = folder / "rows.csv", folder / "table.json", folder / "found.json"
        write_annotations(source, rows=a.rows, labels=a.labels, videos=a.videos)
        spec = json.dumps({"dataset": "d", "format": {"name": "csv", "settings": {}}})
        stages = {
            "annotate": ["annotate", str(source), "--spec", spec, "--out", str(table)],
            "evaluate": ["evaluate", str(found), "--annotations", str(table), "--protocol", "activitynet13", "--split",
                         "test", "--out", str(folder / "map.json")],
        }  # fmt: skip
        for name, words in stages.items():
            if name == "evaluate":
                write_detections(table, found)
            cpu, wall, memory = measured(*words)
            print(f"| {name} | {cpu:.1f} | {wall:.1f} | {memory} |", flush=True)


if __name__ == "__main__":
    main()
