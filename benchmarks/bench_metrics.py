"""Compare `tad.metrics.evaluate` with ActionFormer's evaluator and our definition at published sizes → Markdown.

    python benchmarks/bench_metrics.py [--actionformer FOLDER]

FOLDER is a copy of https://github.com/happyharrycn/actionformer_release whose libs/utils/metrics.py has `float` in
place of `np.float`, which NumPy has removed; pandas and joblib must be importable. Both evaluators start from arrays in
memory and return AP per class and recall at 1x and 5x, which must agree to 1e-9. Times are process CPU time on one
thread: the median of the repeats for ours, one run for the others, on a few classes if all would take minutes (their
time is proportional to the number of detections).
"""

import argparse
import importlib.util
import json
import platform
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numba
import numpy as np

from tad.metrics import evaluate, reference
from tad.metrics.columns import Columns, collect

REPEATS = 5
TARGET = 500
CASES = {  # videos, instances, detections per video, classes, thresholds, classes for the definition and for the peer
    "THUMOS14 test": (212, 3358, 200, 20, np.linspace(0.3, 0.7, 5), 3, 20),
    "ActivityNet-1.3 validation": (4728, 7654, 100, 200, np.linspace(0.5, 0.95, 10), 2, 10),
    "ActivityNet-1.3, two classes a proposal": (4728, 7654, 200, 200, np.linspace(0.5, 0.95, 10), 2, 10),
}
QUICK = {"a twentieth of THUMOS14": (11, 168, 200, 20, np.linspace(0.3, 0.7, 5), 3, 20)}
Instances = dict[str, list[tuple[float, float, str]]]


def make(videos: int, instances: int, depth: int, classes: int) -> tuple[Instances, dict[str, Any]]:
    """Create instances, and detections that are partly derived from them."""
    rng = np.random.default_rng(0)
    truth: Instances = {f"v{v:05d}": [] for v in range(videos)}
    found: dict[str, Any] = {video_id: [] for video_id in truth}
    for g in range(instances):
        start, length = rng.random() * 150, rng.lognormal(1.2, 0.8)
        truth[f"v{rng.integers(videos):05d}"].append((start, start + length, f"c{g % classes:03d}"))
    for video_id, rows in truth.items():
        for _ in range(depth):
            start, end, label = rows[rng.integers(len(rows))] if rows else (0.0, 10.0, "")
            if rng.random() < 0.5:
                start, end = (start + rng.random() * 100, 160.0)
            if not label or rng.random() > 0.7:
                label = f"c{rng.integers(classes):03d}"
            length = end - start
            a, b = sorted((start + rng.normal(0, 0.2) * length, end + rng.normal(0, 0.2) * length))
            found[video_id].append({"label": label, "score": float(rng.random()), "segment": [a, b]})
    return truth, found


def definition(truth: Instances, found: dict[str, Any], label: str, tious: Any) -> list[float]:
    """Compute AP of one class and, as the published evaluators do in the same call, recall at 1x and 5x."""
    own = {v: [(s, e) for s, e, name in rows if name == label] for v, rows in truth.items()}
    rows = [(d["score"], v, *d["segment"]) for v, entries in found.items() for d in entries if d["label"] == label]
    for threshold in tious:
        for depth in (1, 5):
            reference.recall({v: s for v, s in own.items() if s}, rows, threshold, depth=depth)
    return [reference.average_precision(own, rows, threshold) for threshold in tious]


class Peer:
    """ActionFormer's evaluator, loaded from its file."""

    def __init__(self, folder: Path) -> None:
        spec = importlib.util.spec_from_file_location("peer_metrics", folder / "libs/utils/metrics.py")
        assert spec is not None
        assert spec.loader is not None
        self.module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)

    def run(self, truth: Instances, columns: Columns, labels: list[str], tious: Any) -> tuple[float, Any, Any]:
        """Return CPU seconds, AP (H, K) and recall (H, R) on the classes `labels` only."""
        ids = {label: k for k, label in enumerate(labels)}
        database = {
            v: {
                "subset": "test",
                "annotations": [
                    {"segment": [s, e], "label": label, "label_id": ids[label]} for s, e, label in rows if label in ids
                ],
            }
            for v, rows in truth.items()
        }
        keep = np.isin(columns.label, [k for k, name in enumerate(columns.labels) if name in ids])
        names = np.array(columns.video_ids)
        found = {
            "video-id": names[columns.video[keep]].tolist(),
            "t-start": columns.segments[keep, 0],
            "t-end": columns.segments[keep, 1],
            "label": np.array([ids.get(name, -1) for name in columns.labels])[columns.label[keep]],
            "score": columns.scores[keep],
        }
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "truth.json"
            path.write_text(json.dumps({"database": database}))
            peer = self.module.ANETdetection(str(path), "test", tiou_thresholds=tious, num_workers=1)
        start = time.process_time()
        _, _, recall = peer.evaluate(found, verbose=False)
        return time.process_time() - start, peer.ap, recall


def row(name: str, case: tuple[Any, ...], peer: Peer | None) -> str:
    """Compare and time one case; return its row."""
    videos, instances, depth, classes, tious, few, shared = case
    truth, found = make(videos, instances, depth, classes)
    columns = collect(found.items())
    labels = [f"c{k:03d}" for k in range(classes)]
    result = evaluate(truth, columns, tiou=tious, labels=labels)
    times: dict[str, list[float]] = {"columns": [], "dicts": []}
    for _ in range(REPEATS):
        for kind, detections in (("columns", columns), ("dicts", found)):
            start = time.process_time()
            evaluate(truth, detections, tiou=tious, labels=labels)
            times[kind].append(time.process_time() - start)
    fast, dicts = statistics.median(times["columns"]), statistics.median(times["dicts"])
    start = time.process_time()
    for label in labels[1 : few + 1]:
        expected = definition(truth, found, label, tious)
        assert np.abs(result.ap[:, result.labels.index(label)] - expected).max() < 1e-9, label
    slow = (time.process_time() - start) * classes / few
    cells = [name, str(videos * depth), f"{1000 * fast:.0f}", f"{1000 * dicts:.0f}"]
    cells.append(f"{slow:.1f} ({slow / fast:.0f} x)")
    if peer is not None:
        chosen = labels[:shared]
        seconds, ap, recall = peer.run(truth, columns, chosen, tious)
        assert np.abs(result.ap[:, [result.labels.index(label) for label in chosen]] - ap).max() < 1e-9
        if shared == classes:
            assert np.abs(result.recall - recall).max() < 1e-9
        share = sum(np.isin(columns.label, [columns.labels.index(c) for c in chosen])) / len(columns)
        seconds /= share
        verdict = "reached" if seconds / fast >= TARGET else "missed"
        cells += [f"{seconds:.0f} ({100 * share:.0f} %)", f"{seconds / fast:.0f} x: {TARGET} x {verdict}"]
    return "| " + " | ".join(cells) + " |\n"


def main() -> None:
    """Run every case, one row each, and report the peak memory of the process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--actionformer", type=Path, help="its repository, prepared as said above")
    parser.add_argument("--quick", action="store_true", help="a twentieth of THUMOS14's size: does it still run?")
    arguments = parser.parse_args()
    peer = Peer(arguments.actionformer) if arguments.actionformer else None
    cases = QUICK if arguments.quick else CASES
    heads = ["case", "detections", "ours, from columns, ms", "from dicts, ms", "definition, s"]
    heads += ["ActionFormer's, s (share timed)", "ratio, columns"] if peer else []
    sys.stdout.write(
        f"numba {numba.__version__}, numpy {np.__version__}, Python {platform.python_version()}, {platform.machine()}, "
        f"one thread; AP, recall at 1x and 5x; CPU time, median of {REPEATS}\n\n"
        f"| {' | '.join(heads)} |\n| --- |{' ---: |' * (len(heads) - 1)}\n"
    )
    for name, case in cases.items():
        sys.stdout.write(row(name, case, peer))
        sys.stdout.flush()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    sys.stdout.write(f"\nPeak memory of the process, data and all evaluators included: {peak:.2f} GiB\n")


if __name__ == "__main__":
    main()
