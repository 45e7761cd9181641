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
