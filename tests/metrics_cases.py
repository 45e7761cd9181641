"""Ground truth and detections for the tests of metrics."""

import json
from pathlib import Path
from typing import Any

import numpy as np


def truth_of(path: Path, subset: str) -> dict[str, list[tuple[float, float, str]]]:
    database = json.loads(path.read_text())["database"]
    return {
        video_id: [(*map(float, a["segment"]), a["label"]) for a in video["annotations"]]
        for video_id, video in database.items()
        if video["subset"].lower() == subset
    }


def random_case(seed: int, *, grid: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ground truth and detections of a few videos; on a grid of whole seconds most scores and overlaps are tied."""
    rng = np.random.default_rng(seed)

    def segment() -> tuple[float, float]:
        start = float(rng.integers(0, 12)) if grid else rng.random() * 30
        return start, start + (float(rng.integers(1, 6)) if grid else rng.random() * 10 + 0.1)

    truth, found = {}, {}
    for v in range(rng.integers(1, 6)):
        truth[f"v{v}"] = [(*segment(), f"c{rng.integers(3)}") for _ in range(rng.integers(0, 6))]
        found[f"v{v}"] = [
            {
                "label": f"c{rng.integers(3)}",
                "score": float(rng.integers(1, 4) / 4 if grid else rng.random()),
                "segment": segment(),
            }
            for _ in range(rng.integers(0, 25))
        ]
    truth["v0"].append((1.0, 2.0, "c0"))
    return truth, found


def perfect(truth: dict[str, Any]) -> dict[str, Any]:
    return {v: [{"label": c, "score": 1.0, "segment": [s, e]} for s, e, c in rows] for v, rows in truth.items()}


def script_tiou(a: Any, b: Any) -> float:
    """The overlap as the published scripts compute it; 0 / 0 is infinity here, above every threshold."""
    inter = max(min(a[1], b[1]) - max(a[0], b[0]), 0.0)
    union = (b[1] - b[0]) + (a[1] - a[0]) - inter
    return inter / union if union else float("inf")


def script_ap(instances: list[Any], detections: list[Any], threshold: float) -> float:
    """ActivityNet's eval_detection.py for one class of one video, in plain loops; the sort by score is stable.

    0 / 0 is a number that no threshold is above, and sorts behind all others, as NumPy has it.
    """
    taken: set[int] = set()
    hits: list[bool] = []
    for start, end, _ in sorted(detections, key=lambda d: -d[2]):
        overlaps = [(script_tiou((start, end), instance), g) for g, instance in enumerate(instances)]
        hit = next((g for o, g in sorted(overlaps, reverse=True) if o >= threshold and g not in taken), None)
        hits.append(hit is not None)
        taken |= {hit} if hit is not None else set()
    precision = [sum(hits[: d + 1]) / (d + 1) for d in range(len(hits))]
    return sum(max(precision[d:]) for d in range(len(hits)) if hits[d]) / len(instances)
