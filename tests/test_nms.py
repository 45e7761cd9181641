"""Suppression: published outputs and hand-made cases against the definition, and numba against it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tad.errors import TadError
from tad.nms import Kept, suppress_segments

METHODS = ["hard", "gaussian", "linear", "vanilla", "none", "matrix_gaussian", "matrix_linear"]
PLAIN: dict[str, Any] = {
    "method": "gaussian", "sigma": 0.5, "tiou": 0.5, "min_score": 0.001, "per_class": True, "topk": 200, "voting": 0.0,
    "voting_weight": "score",
}  # fmt: skip


def random_set(rng: np.random.Generator, most: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Several videos with ties, duplicates, zero-length segments, and videos with 0 or 1 candidates."""
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
    }


def assert_equal(a: Kept, b: Kept) -> None:
    assert np.array_equal(a.offsets, b.offsets)
    assert np.array_equal(a.index, b.index)
    assert np.array_equal(a.labels, b.labels)
    assert np.array_equal(a.scores, b.scores)
    assert np.array_equal(a.segments, b.segments)


@pytest.mark.parametrize("engine", ["reference", "numba"])
def test_published_outputs(shared: Path, engine: Any) -> None:
    arrays = np.load(shared / "golden/nms.npz")
    for case, published in json.loads((shared / "golden/nms.json").read_text()).items():
        kept = suppress_segments(
            arrays[f"{case}/in_segments"],
            arrays[f"{case}/in_scores"],
            arrays[f"{case}/in_labels"],
            method="gaussian" if published["use_soft_nms"] else "hard",
            sigma=published["sigma"],
            tiou=published["iou_threshold"],
            min_score=published["min_score"],
            per_class=published["multiclass"],
            topk=published["max_seg_num"],
            voting=0 if published["multiclass"] else published["voting_thresh"],  # published: no voting per class
            voting_weight="score*tiou",
            engine=engine,
        )
        assert np.array_equal(kept.labels, arrays[f"{case}/labels"]), case
        assert np.abs(kept.segments - arrays[f"{case}/segments"]).max() <= 1e-3, case
        assert np.abs(kept.scores - arrays[f"{case}/scores"]).max() <= 1e-6, case


def test_engines_agree_on_random_sets() -> None:
    for seed in range(3000):
        rng = np.random.default_rng(seed)
        segments, scores, labels, offsets = random_set(rng)
        chosen = random_settings(rng)
        kept = [
            suppress_segments(segments, scores, labels, offsets=offsets, engine=engine, **chosen)
            for engine in ("reference", "numba")
        ]
        assert_equal(*kept)


CELL = st.tuples(st.integers(0, 8), st.integers(0, 4), st.integers(0, 4), st.integers(0, 2))


@settings(max_examples=300, deadline=None)
@given(st.lists(CELL, max_size=12), st.sampled_from(METHODS), st.booleans(), st.sampled_from([0.0, 0.25]))
def test_engines_agree_on_small_grids(rows: list[Any], method: Any, per_class: bool, min_score: float) -> None:
    table = np.array(rows, np.float32).reshape(-1, 4)
    segments, scores = np.stack([table[:, 0], table[:, 0] + table[:, 1]], 1), table[:, 2] / 4
    chosen = PLAIN | {"method": method, "per_class": per_class, "min_score": min_score, "voting": 0.5}
    kept = [
        suppress_segments(segments, scores, table[:, 3].astype(int), engine=engine, **chosen)
        for engine in ("reference", "numba")
    ]
    assert_equal(*kept)


def test_engines_agree_on_20000_segments() -> None:
    rng = np.random.default_rng(7)
    total = 20_000
    start = (rng.random(total) * 5000).astype(np.float32)
    segments = np.stack([start, start + rng.exponential(12, total).astype(np.float32)], 1)
    scores, labels = (rng.random(total) ** 4).astype(np.float32), rng.integers(0, 20, total)
    for chosen in (PLAIN | {"topk": 2000}, PLAIN | {"method": "hard", "tiou": 0.3}):
        kept = [
            suppress_segments(segments, scores, labels, engine=engine, **chosen) for engine in ("reference", "numba")
        ]
        assert len(kept[0].index) == chosen["topk"]
        assert_equal(*kept)


@pytest.mark.parametrize("engine", ["reference", "numba"])
@pytest.mark.parametrize("method", METHODS)
def test_no_and_one_segment(method: Any, engine: Any) -> None:
    chosen = PLAIN | {"method": method, "min_score": 0.0, "voting": 0.5}
    none = suppress_segments(np.zeros((0, 2)), np.zeros(0), np.zeros(0, int), engine=engine, **chosen)
    assert none.segments.shape == (0, 2)
    assert none.offsets.tolist() == [0, 0]
    one = suppress_segments(np.array([[3, 3]]), np.array([0.5]), np.array([2]), engine=engine, **chosen)
    assert one.segments.tolist() == [[3, 3]]
    assert one.scores.tolist() == [0.5]
    assert one.labels.tolist() == [2]


@pytest.mark.parametrize("engine", ["reference", "numba"])
def test_the_rules_by_hand(engine: Any) -> None:
    segments, scores = np.array([[0, 4], [0, 4], [2, 6], [9, 9]]), np.array([0.5, 0.5, 0.35, 0.3])
    labels = np.zeros(4, int)
    soft = suppress_segments(segments, scores, labels, engine=engine, **PLAIN)
    assert soft.index.tolist() == [0, 3, 2, 1]  # tied: lowest index first
    once = np.exp(-((1 / 3) ** 2) / 0.5)
    np.testing.assert_allclose(soft.scores, [0.5, 0.3, 0.35 * once, 0.5 * np.exp(-2) * once], rtol=1e-5)
    hard = suppress_segments(segments, scores, labels, engine=engine, **(PLAIN | {"method": "hard", "tiou": 0.3}))
    assert hard.index.tolist() == [0, 3]
    linear = suppress_segments(segments, scores, labels, engine=engine, **(PLAIN | {"method": "linear", "tiou": 0.3}))
    assert linear.index.tolist()[:3] == [0, 3, 2]
    assert linear.scores[2] == pytest.approx(0.35 * 2 / 3)
    low = suppress_segments(segments, scores, labels, engine=engine, **(PLAIN | {"min_score": 0.9}))
    assert low.index.tolist() == [0]  # the pick itself is never tested
    assert (
        suppress_segments(
            segments, scores, labels, engine=engine, **(PLAIN | {"method": "hard", "min_score": 0.9})
        ).index.tolist()
        == []
    )


@pytest.mark.parametrize("engine", ["reference", "numba"])
def test_classes_suppress_apart_or_together(engine: Any) -> None:
    segments, scores, labels = np.array([[0, 4], [0, 4.0]]), np.array([0.5, 0.4]), np.array([9000, 3])
    hard = PLAIN | {"method": "hard"}
    apart = suppress_segments(segments, scores, labels, engine=engine, **hard)
    assert apart.index.tolist() == [0, 1]
    assert apart.labels.tolist() == [9000, 3]
    together = suppress_segments(segments, scores, labels, engine=engine, **(hard | {"per_class": False}))
    assert together.index.tolist() == [0]


@pytest.mark.parametrize("engine", ["reference", "numba"])
def test_voting_is_a_weighted_mean(engine: Any) -> None:
    segments, scores, labels = np.array([[0, 10], [1, 10], [50, 60.0]]), np.array([0.6, 0.3, 0.2]), np.zeros(3, int)
    chosen = PLAIN | {"method": "hard", "voting": 0.8}
    plain = suppress_segments(segments, scores, labels, engine=engine, **chosen)
    np.testing.assert_allclose(plain.segments, [[0.3 / 0.9, 10], [50, 60]], rtol=1e-6)
    weighed = suppress_segments(segments, scores, labels, engine=engine, **(chosen | {"voting_weight": "score*tiou"}))
    np.testing.assert_allclose(weighed.segments[0], [0.27 / 0.87, 10], rtol=1e-6)


@pytest.mark.parametrize(
    ("segment", "score"), [([1, np.nan], 0.5), ([np.inf, 2], 0.5), ([2, 1], 0.5), ([1, 2], np.nan), ([1, 2], -0.1)]
)
def test_refuses_what_is_no_segment(segment: list[float], score: float) -> None:
    with pytest.raises(TadError, match="candidate 1: "):
        suppress_segments(np.array([[0, 1], segment]), np.array([0.5, score]), np.array([0, 0]), **PLAIN)


def test_needs_no_torch() -> None:
    code = "import sys, tad.nms, tad.nms.kernels, tad.nms.reference; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
