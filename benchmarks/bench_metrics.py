"""Evaluation: `tad.metrics.evaluate` beside its definition (`tad.metrics.reference`), at published sizes → Markdown.

    python benchmarks/bench_metrics.py

Times are process CPU time, median of the repeats for ours and one run of the definition, which is timed on a few
classes where it would take minutes (its time is proportional to the number of classes). The results are compared first.
"""

import platform
import statistics
import sys
import time
from typing import Any

import numba
import numpy as np

from tad.metrics import evaluate, reference

REPEATS = 5
CASES = {  # videos, instances, detections per video, classes, thresholds, classes for the definition
    "THUMOS14 test": (212, 3358, 200, 20, np.linspace(0.3, 0.7, 5), 5),
    "ActivityNet-1.3 validation": (4728, 7654, 100, 200, np.linspace(0.5, 0.95, 10), 5),
}


def make(videos: int, instances: int, depth: int, classes: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Instances, and detections that partly come from them."""
    rng = np.random.default_rng(0)
    truth: dict[str, Any] = {f"v{v:05d}": [] for v in range(videos)}
    found: dict[str, Any] = {video_id: [] for video_id in truth}
    for g in range(instances):
        start, length = rng.random() * 150, rng.lognormal(1.2, 0.8)
        truth[f"v{rng.integers(videos):05d}"].append((start, start + length, f"c{g % classes}"))
    for video_id, rows in truth.items():
        for _ in range(depth):
            start, end, label = (
                rows[rng.integers(len(rows))] if rows and rng.random() < 0.5 else (rng.random() * 150, 160, "c0")
            )
            length, label = end - start, label if rng.random() < 0.7 else f"c{rng.integers(classes)}"
            a, b = sorted((start + rng.normal(0, 0.2) * length, end + rng.normal(0, 0.2) * length))
            found[video_id].append({"label": label, "score": float(rng.random()), "segment": [a, b]})
    return truth, found


def definition(truth: dict[str, Any], found: dict[str, Any], label: str, tious: Any) -> list[float]:
    """AP of one class and, as the published evaluators do in the same call, recall at 1x and 5x."""
    own = {v: [(s, e) for s, e, name in rows if name == label] for v, rows in truth.items()}
    rows = [(d["score"], v, *d["segment"]) for v, entries in found.items() for d in entries if d["label"] == label]
    for threshold in tious:
        for depth in (1, 5):
            reference.recall({v: s for v, s in own.items() if s}, rows, threshold, depth=depth)
    return [reference.average_precision(own, rows, threshold) for threshold in tious]


def main() -> None:
    """Compare, time, print."""
    sys.stdout.write(
        f"numba {numba.__version__}, numpy {np.__version__}, Python {platform.python_version()}, {platform.machine()}, "
        f"one thread; AP, recall at 1x and 5x; CPU s, median of {REPEATS}\n\n"
        "| case | detections | definition | numba, from dicts to numbers | ratio |\n"
        "| --- | ---: | ---: | ---: | ---: |\n"
    )
    for name, (videos, instances, depth, classes, tious, few) in CASES.items():
        truth, found = make(videos, instances, depth, classes)
        labels = [f"c{k}" for k in range(classes)]
        result = evaluate(truth, found, tiou=tious, labels=labels)  # compiles
        times = []
        for _ in range(REPEATS):
            start = time.process_time()
            evaluate(truth, found, tiou=tious, labels=labels)
            times.append(time.process_time() - start)
        start = time.process_time()
        for label in labels[1 : few + 1]:
            expected = definition(truth, found, label, tious)
            assert np.abs(result.ap[:, result.labels.index(label)] - expected).max() < 1e-9, label
        slow, fast = (time.process_time() - start) * classes / few, statistics.median(times)
        sys.stdout.write(f"| {name} | {videos * depth} | {slow:.1f} | {fast:.3f} | {slow / fast:.0f} x |\n")


if __name__ == "__main__":
    main()
