"""Compare AP of moments with the published functions, on their real label files → Markdown.

    python benchmarks/bench_moments.py SPOT [--soccernet FOLDER] [--clips 60] [--quick]

SPOT is a checkout of https://github.com/jhong93/spot (read at edec420), whose labels of tennis, figure skating, diving
and gymnastics are scored with its own function (util/score.py); FOLDER one of https://github.com/SoccerNet/SoccerNet
(read at 6a393d4), whose function (SoccerNet/Evaluation/ActionSpotting.py) scores the same labels as games. Detections
are the labels, moved, with some lost and others added, by seed. Only the functions are executed. The script fails if an
AP differs by more than 1e-12.
"""

import argparse
import ast
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from tad.core.files import read_json
from tad.metrics import evaluate
from tad.metrics.moments import Nearness, tolerance

SETS = ("tennis/test", "fs_comp/test", "fs_perf/test", "finediving/test", "finegym/test")
FRAMES = ("0f", "1f", "2f", "4f")
SPOT_FUNCTIONS = ("parse_ground_truth", "get_predictions", "compute_average_precision")
SOCCER_FUNCTIONS = (
    "label2vector", "predictions2vector", "compute_class_scores", "compute_precision_recall_curve", "compute_mAP",
    "delta_curve", "average_mAP",
)  # fmt: skip
GRIDS = {2: (*range(1, 6), *range(10, 65, 5)), 25: (1, 2, 3, 4, 5)}  # frames per second → tolerances in seconds
BAR = 1e-12
Clip = dict[str, Any]


def load(path: Path, functions: tuple[str, ...], space: dict[str, Any]) -> dict[str, Any]:
    """Execute functions of a file, without its imports."""
    if not path.is_file():
        sys.exit(f"{path}: no such file; name a checkout as the help says")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [one for one in tree.body if isinstance(one, ast.FunctionDef) and one.name in functions]
    exec(compile(tree, str(path), "exec"), space)
    return space


def perturbed(clips: list[Clip], *, seed: int) -> list[Clip]:
    """Return detections: labels moved by up to a few frames, a tenth lost, and as many others; distinct scores."""
    rng = np.random.default_rng(seed)
    labels = sorted({event["label"] for clip in clips for event in clip["events"]})
    found = []
    for clip in clips:
        events = []
        for event in clip["events"]:
            if rng.random() < 0.9:
                frame = max(event["frame"] + int(np.rint(rng.normal(0, 1.5))), 0)
                events.append({"label": event["label"], "frame": frame, "score": float(rng.beta(4, 2))})
        for _ in range(len(clip["events"])):
            frame = int(rng.integers(clip["num_frames"]))
            label = labels[int(rng.integers(len(labels)))]
            events.append({"label": label, "frame": frame, "score": float(rng.beta(2, 4))})
        found.append({"video": clip["video"], "fps": clip["fps"], "events": events})
    return found


def ours(clips: list[Clip], found: list[Clip], near: Nearness, *, rates: dict[str, float], ties: str) -> Any:
    """Score with tad; times are seconds."""
    truth = {c["video"]: [(e["frame"] / rates[c["video"]],) * 2 + (e["label"],) for e in c["events"]] for c in clips}
    seconds = {
        c["video"]: [
            {"label": e["label"], "score": e["score"], "segment": [e["frame"] / rates[c["video"]]] * 2}
            for e in c["events"]
        ]
        for c in found
    }
    return evaluate(truth, seconds, tiou=(), near=near, duplicates="keep", ties=ties)  # type: ignore[arg-type]


def compare_spot(folder: Path, name: str, seed: int, *, most: int) -> tuple[str, float]:
    """Compare (the first clips of) a label file with E2E-Spot's function → a line, and the largest difference."""
    space = load(folder / "util" / "score.py", SPOT_FUNCTIONS, {"np": np, "defaultdict": defaultdict})
    clips = read_json(folder / "data" / f"{name}.json")[:most]
    found = perturbed(clips, seed=seed)
    begin = time.perf_counter()
    by_label = space["parse_ground_truth"](clips)
    theirs = {
        label: [
            space["compute_average_precision"](space["get_predictions"](found, label=label), rows, tolerance=int(t[0]))
            for t in FRAMES
        ]
        for label, rows in by_label.items()
    }
    middle = time.perf_counter()
    rates = {clip["video"]: float(clip["fps"]) if clip["fps"] > 0 else 25.0 for clip in clips}
    near = Nearness(tuple(map(tolerance, FRAMES)), rates)
    result = ours(clips, found, near, rates=rates, ties="fixed")
    end = time.perf_counter()
    worst = max(
        abs(result.ap[h, k] - theirs[label][h]) for k, label in enumerate(result.labels) for h in range(len(FRAMES))
    )
    assert set(theirs) == set(result.labels)
    scores = " | ".join(f"{100 * value:.2f}" for value in result.mean_ap)
    counts = f"{len(clips)} | {sum(result.instances)} | {result.detections}"
    return f"| {name} | {counts} | {scores} | {worst:.1e} | {middle - begin:.2f} | {end - middle:.2f} |", worst


def compare_soccernet(folder: Path, spot: Path, name: str, seed: int, *, clips: int, rate: int) -> tuple[str, float]:
    """Compare our scores of one label file with SoccerNet's function; each clip counts as a half of a game."""
    space = load(
        folder / "SoccerNet" / "Evaluation" / "ActionSpotting.py", SOCCER_FUNCTIONS,
        {"np": np, "time": time, "tqdm": lambda values: values},
    )  # fmt: skip
    chosen = [clip for clip in read_json(spot / "data" / f"{name}.json") if clip["events"]][:clips]
    found = perturbed(chosen, seed=seed)
    labels = sorted({event["label"] for clip in chosen for event in clip["events"]})
    options = {"num_classes": len(labels), "framerate": rate, "EVENT_DICTIONARY": {x: k for k, x in enumerate(labels)}}

    def milliseconds(event: Clip, clip: Clip) -> str:
        return str(int(1000 * event["frame"] / clip["fps"]))

    targets, detections = [], []
    for clip, seen in zip(chosen, found, strict=True):
        events = [
            {"gameTime": "1 - 00:00", "label": e["label"], "position": milliseconds(e, clip)} for e in clip["events"]
        ]
        targets.append(space["label2vector"]({"annotations": events}, **options)[0])
        events = [
            {"half": "1", "label": e["label"], "position": milliseconds(e, clip), "confidence": e["score"]}
            for e in seen["events"]
        ]
        detections.append(space["predictions2vector"]({"predictions": events}, **options)[0])
    begin = time.perf_counter()
    nothing = [np.zeros_like(target) for target in targets]  # which events are visible does not change the main score
    theirs = [
        space["average_mAP"](targets, detections, nothing, framerate=rate, deltas=np.array([delta]))[1]
        for delta in GRIDS[rate]
    ]
    middle = time.perf_counter()
    rates = {clip["video"]: float(clip["fps"]) for clip in chosen}
    near = Nearness(tuple(tolerance(f"{s}s") for s in GRIDS[rate]), {}, rule="soccernet", grid_rate=float(rate))
    result = ours(chosen, found, near, rates=rates, ties="file")
    end = time.perf_counter()
    worst = float(np.abs(result.ap - np.array(theirs)).max())
    counts = f"{len(chosen)} | {sum(result.instances)} | {result.detections}"
    scores = f"{100 * result.mean_ap[0]:.2f} | {100 * result.mean_ap[4]:.2f} | {100 * result.mean_ap[-1]:.2f}"
    return f"| {name} | {rate} | {counts} | {scores} | {worst:.1e} | {middle - begin:.2f} | {end - middle:.2f} |", worst


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spot", type=Path)
    parser.add_argument("--soccernet", type=Path)
    parser.add_argument("--clips", type=int, default=60, help="clips of each file that become halves of games")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="only the first clips of each file")
    options = parser.parse_args()
    clips, most = (4, 20) if options.quick else (options.clips, 1_000_000)
    np.seterr(divide="ignore", invalid="ignore")  # SoccerNet's script divides by zero
    print("| labels | clips | events | detections | mAP@0 | @1 | @2 | @4 | difference | s, theirs | s, ours |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    differences = []
    for name in SETS:
        line, worst = compare_spot(options.spot, name, options.seed, most=most)
        print(line, flush=True)
        differences.append(worst)
    if options.soccernet:
        print("\n| labels | frames per s | halves | events | detections | 1 s | 5 s | largest | difference |"
              " s, theirs | s, ours |")  # fmt: skip
        print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
        for name in SETS[:3]:
            for rate in GRIDS:
                line, worst = compare_soccernet(
                    options.soccernet, options.spot, name, options.seed, clips=clips, rate=rate
                )
                print(line, flush=True)
                differences.append(worst)
    if max(differences) > BAR:
        sys.exit(f"the largest difference is {max(differences):.1e}")


if __name__ == "__main__":
    main()
