"""Random candidates and settings for the NMS engines, and when two results count as equal."""

from typing import Any

import numpy as np

from tad.nms import Kept

METHODS = ["hard", "gaussian", "linear", "vanilla", "none", "matrix_gaussian", "matrix_linear"]
PLAIN: dict[str, Any] = {
    "method": "gaussian", "sigma": 0.5, "tiou": 0.5, "min_score": 0.001, "per_class": True, "topk": 200, "voting": 0.0,
    "voting_weight": "score", "agreement": False,
}  # fmt: skip


def published_rule(published: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a golden case under our names."""
    return {
        "method": "gaussian" if published["use_soft_nms"] else "hard",
        "sigma": published["sigma"],
        "tiou": published["iou_threshold"],
        "min_score": published["min_score"],
        "per_class": published["multiclass"],
        "topk": published["max_seg_num"],
        "voting": 0 if published["multiclass"] else published["voting_thresh"],  # published: no voting per class
        "voting_weight": "score*tiou",
    }


def random_set(rng: np.random.Generator, most: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return several videos with ties, duplicates, zero-length segments, and videos with 0 or 1 candidates."""
    counts = rng.integers(0, most, rng.integers(1, 5))
    counts[rng.random(len(counts)) < 0.2] = rng.integers(0, 2)
    total = int(counts.sum())
    start = rng.choice([rng.integers(0, 20, total), rng.random(total) * 30]).astype(np.float32)
    length = rng.choice([rng.integers(0, 6, total), rng.random(total) * 10]).astype(np.float32)
    segments = np.stack([start, start + length], 1)
    scores = np.where(rng.random(total) < 0.5, rng.integers(0, 5, total) / 4, rng.random(total)).astype(np.float32)
    if total > 4:
        copies = rng.integers(0, total, total // 4)
        segments[copies], scores[copies] = segments[copies[::-1]], scores[copies[::-1]]
    labels = rng.integers(0, rng.integers(1, 6), total)
    return segments, scores, labels, np.concatenate([[0], np.cumsum(counts)])


def random_settings(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "method": str(rng.choice(METHODS)),
        "sigma": float(rng.choice([0.1, 0.5, 0.75, 3.0])),
        "tiou": float(rng.choice([0.1, 0.5, 1.0])),
        "min_score": float(rng.choice([0.0, 0.001, 0.3])),
        "per_class": bool(rng.integers(2)),
        "topk": int(rng.choice([1, 3, 20, 1000])),
        "voting": float(rng.choice([0.0, 0.3, 0.9])),
        "voting_weight": str(rng.choice(["score", "score*tiou"])),
        "agreement": bool(rng.integers(2)),
    }


def assert_equal(a: Kept, b: Kept) -> None:
    assert np.array_equal(a.offsets, b.offsets)
    assert np.array_equal(a.index, b.index)
    assert np.array_equal(a.labels, b.labels)
    assert np.array_equal(a.scores, b.scores)
    assert np.array_equal(a.segments, b.segments)


def crowd(seed: int, total: int, *, classes: int = 20) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return candidates of one video whose segments overlap often, with steep scores."""
    rng = np.random.default_rng(seed)
    start = (rng.random(total) * total / 4).astype(np.float32)
    segments = np.stack([start, start + rng.exponential(12, total).astype(np.float32)], 1)
    return segments, (rng.random(total) ** 4).astype(np.float32), rng.integers(0, classes, total)
