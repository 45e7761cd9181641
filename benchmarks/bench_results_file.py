"""Measure CPU seconds and peak memory for a results file of one gigabyte: reading it, and `tad evaluate` → Markdown.

    OMP_NUM_THREADS=1 python benchmarks/bench_results_file.py [--videos 5846] [--depth 2000] [--quick]

The file and its annotations are generated in a temporary folder: `--depth` detections and 20 instances per video, 20
classes. Each row is measured in its own process.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

READ = (
    "import sys; from pathlib import Path; from tad.metrics.results_file import read_results as r; r(Path(sys.argv[1]))"
)


def generate(folder: Path, *, videos: int, depth: int) -> tuple[Path, Path]:
    """Generate the results file and the annotations."""
    rng = np.random.default_rng(0)
    results, annotations = folder / "results.json", folder / "annotations.json"
    database = {}
    with open(results, "w", encoding="utf-8") as file:
        file.write('{"version": "generated", "external_data": {}, "results": {')
        for v in range(videos):
            start_N, label_N = rng.uniform(0, 150, depth), rng.integers(20, size=depth)
            width_N, score_N = rng.uniform(1, 20, depth), rng.random(depth)
            rows = ", ".join(
                f'{{"label": "c{label:02d}", "score": {score:.12f}, "segment": [{start:.6f}, {start + width:.6f}]}}'
                for label, score, start, width in zip(label_N, score_N, start_N, width_N, strict=True)
            )
            file.write(f'{", " if v else ""}"v{v:05d}": [{rows}]')
            truth = [{"label": f"c{g:02d}", "segment": [7.0 * g, 7.0 * g + 5.0]} for g in range(20)]
            database[f"v{v:05d}"] = {"subset": "testing", "duration": 180.0, "annotations": truth}
        file.write("}}")
    annotations.write_text(json.dumps({"version": "generated", "database": database}), encoding="utf-8")
    return results, annotations


def measure(title: str, *command: str) -> str:
    """Measure CPU seconds and peak memory of one process. A small process starts it, so that both are its own."""
    program = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
        "u = resource.getrusage(resource.RUSAGE_CHILDREN); print(u.ru_utime + u.ru_stime, u.ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True, check=True)
    seconds, kilobytes = done.stdout.split()[-2:]
    return f"| {title} | {float(seconds):.1f} | {int(kilobytes) >> 10} |"


def main() -> None:
    """Run the command line; see the module docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--videos", type=int, default=5846)
    parser.add_argument("--depth", type=int, default=2000, help="detections a video")
    parser.add_argument("--quick", action="store_true", help="20 videos: does it still run?")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        results, annotations = generate(Path(scratch), videos=20 if a.quick else a.videos, depth=a.depth)
        print(f"{results.stat().st_size} bytes\n\n| what | CPU time, s | peak memory, MiB |\n| --- | ---: | ---: |")
        print(measure("`read_results`", sys.executable, "-c", READ, str(results)), flush=True)
        command = [sys.executable, "-m", "tad", "evaluate", str(results), "--annotations", str(annotations)]
        command += ["--protocol", "plain", "--tiou", ",".join(f"{0.5 + 0.05 * k:.2f}" for k in range(10))]
        print(measure("`tad evaluate`, ten thresholds", *command, "--out", str(Path(scratch) / "map.json")), flush=True)
    print(f"\nthis process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB")


if __name__ == "__main__":
    main()
