"""Compare average recall of proposals with OpenTAD's: largest difference of the recalls and of the area → Markdown.

    python benchmarks/bench_recall_peer.py FOLDER [--detections FILE --annotations FILE] [--quick]

FOLDER is a checkout of https://github.com/sming256/OpenTAD (read at 3dd7b03). Three functions of its recall.py and mAP
are used, with `int` in place of `np.int`, which NumPy has removed, and `argsort` on values, as current pandas requires.
The sets are random. With both options, a results file in ActivityNet's format is compared too, without the proposals of
videos that have no instance. pandas must be importable. The script fails if anything differs by more than 1e-12.
"""

import argparse
import ast
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tad.core.files import read_json
from tad.metrics.proposals import TIOU, average_recall

WANTED = {
    "recall.py": ("average_recall_vs_avg_nr_proposals", "wrapper_segment_iou"),
    "mAP.py": ("segment_iou",),
}
BAR = 1e-12
Truth = dict[str, list[tuple[float, float, str]]]
Found = dict[str, list[dict[str, Any]]]


def load_peer(folder: Path) -> Any:
    """Load their function."""
    import pandas

    space: dict[str, Any] = {"np": np, "pd": pandas}
    for name, functions in WANTED.items():
        path = folder / "opentad" / "evaluations" / name
        if not path.is_file():
            sys.exit(f"{path}: no such file; name a checkout of github.com/sming256/OpenTAD")
        text = path.read_text(encoding="utf-8").replace("np.int)", "int)")
        text = text.replace('["score"].argsort()', '["score"].values.argsort()')
        tree = ast.parse(text)
        tree.body = [one for one in tree.body if isinstance(one, ast.FunctionDef) and one.name in functions]
        exec(compile(tree, str(path), "exec"), space)
    return space[WANTED["recall.py"][0]]


def random_set(seed: int, *, videos: int = 20) -> tuple[Truth, Found]:
    """Return instances, and proposals near them and elsewhere, with distinct scores."""
    rng = np.random.default_rng(seed)
    truth: Truth = {}
    found: Found = {}
    for v in range(videos):
        start = np.sort(rng.uniform(0, 90, int(rng.integers(1, 6))))
        truth[f"v{v:02d}"] = [(float(s), float(s + rng.uniform(1, 9)), "a") for s in start]
        rows = []
        for _ in range(int(rng.integers(0, 40))):
            first, last, _ = truth[f"v{v:02d}"][int(rng.integers(len(start)))]
            shift = rng.normal(0, 1.5, 2)
            begin, end = sorted((first + shift[0], last + shift[1] + 0.01))
            rows.append({"segment": [float(begin), float(end)], "score": float(rng.random()), "label": "a"})
        found[f"v{v:02d}"] = rows
    return truth, found


def file_set(detections: Path, annotations: Path) -> tuple[Truth, Found]:
    """Return the test videos of an annotation file in ActivityNet's format, and their proposals."""
    subsets = ("test", "testing", "validation")
    entries = read_json(annotations)["database"].items()
    chosen = {v: e for v, e in entries if e["subset"].lower() in subsets and e["annotations"]}
    tests = {v: e for v, e in chosen.items() if e["subset"].lower() != "validation"} or chosen
    truth = {v: [(*map(float, a["segment"]), a["label"]) for a in e["annotations"]] for v, e in tests.items()}
    return truth, {v: rows for v, rows in read_json(detections)["results"].items() if v in truth}


def compare(peer: Any, truth: Truth, found: Found, *, most: int) -> tuple[float, float, float]:
    """Return the largest difference of the recalls, that of the areas, and our area."""
    import pandas

    truth_rows = [(v, start, end) for v, rows in truth.items() for start, end, _ in rows]
    proposals = [(v, *one["segment"], one["score"]) for v, rows in found.items() for one in rows]
    recall, average, number = _three(
        peer(
            pandas.DataFrame(truth_rows, columns=["video-id", "t-start", "t-end"]),
            pandas.DataFrame(proposals, columns=["video-id", "t-start", "t-end", "score"]),
            max_avg_nr_proposals=most,
            tiou_thresholds=np.asarray(TIOU),
        )
    )
    ours = average_recall(truth, found, tiou=TIOU, most=most)
    area = float(np.trapezoid(average, number) / number[-1])
    return float(np.abs(recall - ours.recall).max()), abs(area - ours.auc), ours.auc


def _three(result: Any) -> tuple[Any, Any, Any]:
    recall, average, number = result
    return recall, average, number


def main() -> int:
    """Run the command line; return 1 if the two differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="a checkout of github.com/sming256/OpenTAD")
    parser.add_argument("--detections", type=Path, help="a results file, with --annotations")
    parser.add_argument("--annotations", type=Path, help="in ActivityNet's format")
    parser.add_argument("--quick", action="store_true", help="three random sets: does it still run?")
    a = parser.parse_args()
    peer, worst = load_peer(a.folder), 0.0
    print("| set | proposals a video | recall, largest difference | area, difference | area |")
    print("| --- | ---: | ---: | ---: | ---: |")
    cases = [(f"random {seed}", random_set(seed), 20) for seed in range(3 if a.quick else 30)]
    if a.detections and a.annotations:
        cases.append((a.detections.name, file_set(a.detections, a.annotations), 100))
    for name, (truth, found), most in cases:
        apart, area, ours = compare(peer, truth, found, most=most)
        worst = max(worst, apart, area)
        print(f"| {name} | {most} | {apart:.0e} | {area:.0e} | {100 * ours:.2f} |", flush=True)
    return 0 if worst <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
