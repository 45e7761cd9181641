"""Suppression: published outputs and hand-made cases against the definition, and numba against it."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nms_tools import METHODS, PLAIN, assert_equal, crowd, published_rule, random_set, random_settings

from tad.core.errors import TadError
from tad.nms import suppress_segments
from tad.nms.reference import exponential


@pytest.mark.parametrize("engine", ["reference", "numba"])
def test_published_outputs(shared: Path, engine: Any) -> None:
    arrays = np.load(shared / "golden/nms.npz")
    for case, published in json.loads((shared / "golden/nms.json").read_text()).items():
        kept = suppress_segments(
            arrays[f"{case}/in_segments"],
            arrays[f"{case}/in_scores"],
            arrays[f"{case}/in_labels"],
            **published_rule(published),
            engine=engine,
        )
        assert np.array_equal(kept.labels, arrays[f"{case}/labels"]), case
        assert np.abs(kept.segments - arrays[f"{case}/segments"]).max() <= 1e-3, case
        assert np.abs(kept.scores - arrays[f"{case}/scores"]).max() <= 1e-6, case


def test_engines_agree_on_10000_random_sets() -> None:
    sizes = [0, 0]
    for seed in range(10_000):
        rng = np.random.default_rng(seed)
        segments, scores, labels, offsets = random_set(rng, 20)
        chosen = random_settings(rng)
        kept = [
            suppress_segments(segments, scores, labels, offsets=offsets, engine=engine, **chosen)
            for engine in ("reference", "numba")
        ]
        assert_equal(*kept)
        sizes = [count + int((np.diff(offsets) == size).sum()) for size, count in enumerate(sizes)]
    assert min(sizes) > 300  # videos without, and with one candidate were among them


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


@pytest.mark.parametrize("method", METHODS)
def test_engines_agree_on_20000_segments(method: Any) -> None:
    candidates = crowd(7, 20_000)
    chosen = PLAIN | {"method": method, "topk": 2000, "tiou": 0.3, "voting": 0.7, "voting_weight": "score*tiou"}
    kept = [suppress_segments(*candidates, engine=engine, **chosen) for engine in ("reference", "numba")]
    assert len(kept[0].index) == 2000
    assert_equal(*kept)


def test_engines_agree_on_20000_segments_of_one_class() -> None:
    segments, scores, labels = crowd(8, 20_000)
    chosen = PLAIN | {"per_class": False, "min_score": 0.4, "topk": 5000}
    kept = [suppress_segments(segments, scores, labels, engine=engine, **chosen) for engine in ("reference", "numba")]
    assert 1000 < len(kept[0].index) < 20_000
    assert_equal(*kept)


def test_threads_change_nothing() -> None:
    parts = [crowd(seed, 400 * (seed % 5)) for seed in range(120)]
    segments, scores, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    offsets = np.cumsum([0, *(len(part[1]) for part in parts)])
    chosen = PLAIN | {"voting": 0.5}
    one, two, many = (
        suppress_segments(segments, scores, labels, offsets=offsets, threads=threads, **chosen) for threads in (1, 2, 7)
    )
    assert_equal(one, two)
    assert_equal(one, many)
    whole = [suppress_segments(*part, **chosen) for part in parts]
    assert np.array_equal(one.index, np.concatenate([k.index + a for k, a in zip(whole, offsets, strict=False)]))


def test_the_exponential_is_that_of_the_library() -> None:
    rng = np.random.default_rng(0)
    x = -rng.random(100_000) * rng.choice([0.01, 1.0, 20.0, 103.0], 100_000)
    np.testing.assert_allclose(exponential(x), np.exp(x), rtol=2e-14)
    assert np.array_equal(exponential(x).astype(np.float32), np.exp(x).astype(np.float32))
    assert exponential(np.array([0.0, -0.0])).tolist() == [1.0, 1.0]
    assert np.float32(exponential(np.array(-1e30))) == 0


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
def test_an_overlap_at_the_threshold_suppresses(engine: Any) -> None:
    """tIoU of exactly 1/2 in float32 (lengths are large enough to swallow the 1e-6): ActionFormer's C++ code says >=.

    The expected numbers are written here, so that a slip in the definition is not agreed to by the kernels.
    """
    segments, scores, labels = np.array([[0, 128], [0, 64.0]]), np.array([0.5, 0.4]), np.zeros(2, int)
    expected = {"hard": [0.5], "vanilla": [0.5], "linear": [0.5, 0.2]}
    for method, left in expected.items():
        at = suppress_segments(segments, scores, labels, engine=engine, **(PLAIN | {"method": method, "tiou": 0.5}))
        np.testing.assert_allclose(at.scores, left, rtol=1e-6, err_msg=method)
        above = np.nextafter(np.float32(0.5), np.float32(1))
        free = suppress_segments(segments, scores, labels, engine=engine, **(PLAIN | {"method": method, "tiou": above}))
        np.testing.assert_allclose(free.scores, [0.5, 0.4], rtol=1e-6, err_msg=method)


@pytest.mark.parametrize("engine", ["reference", "numba"])
def test_an_overlap_at_the_threshold_votes(engine: Any) -> None:
    """The second segment, tIoU exactly 1/2 with the first, has a vote at 0.5 and none right above."""
    segments, scores, labels = np.array([[0, 8], [0, 4.0]]), np.array([0.6, 0.2]), np.zeros(2, int)
    chosen = PLAIN | {"method": "hard", "tiou": 0.4, "voting": 0.5}
    at = suppress_segments(segments, scores, labels, engine=engine, **chosen)
    np.testing.assert_allclose(at.segments, [[0, (0.6 * 8 + 0.2 * 4) / 0.8]], rtol=1e-6)
    above = chosen | {"voting": float(np.nextafter(np.float32(0.5), np.float32(1)))}
    assert suppress_segments(segments, scores, labels, engine=engine, **above).segments.tolist() == [[0, 8]]


MIN_SCORE = {  # what is left of scores 0.5, 0.25 and 0.125 that do not overlap, at a min_score of 0.25 and of 0.6
    "hard": ([0.5], []),  # more than min_score, before the first pick
    "gaussian": ([0.5, 0.25], [0.5]),  # no less than min_score; the best of a class whatever it scores
    "linear": ([0.5, 0.25], [0.5]),
    "vanilla": ([0.5, 0.25], [0.5]),
    "none": ([0.5, 0.25], []),  # no less than min_score
    "matrix_gaussian": ([0.5, 0.25], []),
    "matrix_linear": ([0.5, 0.25], []),
}


@pytest.mark.parametrize("engine", ["reference", "numba"])
@pytest.mark.parametrize("method", METHODS)
def test_min_score_removes_what_its_description_says(method: Any, engine: Any) -> None:
    segments, scores = np.array([[0, 1], [2, 3], [4, 5.0]]), np.array([0.5, 0.25, 0.125])
    for least, left in zip((0.25, 0.6), MIN_SCORE[method], strict=True):
        chosen = PLAIN | {"method": method, "min_score": least}
        kept = suppress_segments(segments, scores, np.zeros(3, int), engine=engine, **chosen)
        assert kept.scores.tolist() == left


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


@pytest.mark.parametrize("engine", ["reference", "numba"])
def test_agreement_is_the_mean_overlap_weighted_by_scores(engine: Any) -> None:
    """By hand: [0, 10] meets itself and [2, 10] by 0.8, and [9, 30] by 1/30; nothing else meets [50, 60]."""
    segments = np.array([[0, 10], [2, 10], [9, 30], [50, 60], [0, 10]])
    scores, labels = np.array([0.5, 0.4, 0.1, 0.45, 0.9]), np.array([0, 0, 0, 0, 1])
    chosen = PLAIN | {"method": "hard", "agreement": True}
    kept = suppress_segments(segments, scores, labels, engine=engine, **chosen)
    first = 0.5 * (0.5 + 0.4 * 0.8 + 0.1 / 30) / (0.5 + 0.4 + 0.1)
    third = 0.1 * (0.5 / 30 + 0.4 / 28 + 0.1) / (0.5 + 0.4 + 0.1)
    assert kept.index.tolist() == [4, 3, 0, 2]  # 3 overtakes 0, which the others doubt
    np.testing.assert_allclose(kept.scores, [0.9, 0.45, first, third], rtol=1e-6)
    together = suppress_segments(segments, scores, labels, engine=engine, **(chosen | {"per_class": False}))
    same = 0.9 * (0.5 + 0.4 * 0.8 + 0.1 / 30 + 0.9) / (0.5 + 0.4 + 0.1 + 0.9)
    np.testing.assert_allclose(together.scores[together.index == 4], [same], rtol=1e-6)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(METHODS))
def test_agreement_changes_scores_alone_and_never_raises_one(seed: int, method: Any) -> None:
    segments, scores, labels, offsets = random_set(np.random.default_rng(seed), 12)
    chosen = PLAIN | {"method": method, "voting": 0.5, "min_score": 0.0}
    without = suppress_segments(segments, scores, labels, offsets=offsets, **chosen)
    kept = suppress_segments(segments, scores, labels, offsets=offsets, **(chosen | {"agreement": True}))
    assert np.array_equal(kept.offsets, without.offsets)
    assert np.array_equal(np.sort(kept.index), np.sort(without.index))
    order, back = np.argsort(without.index), np.argsort(kept.index)
    assert np.array_equal(kept.segments[back], without.segments[order])
    assert (kept.scores[back] <= without.scores[order]).all()
    for a, b in pairwise(kept.offsets):
        assert (np.diff(kept.scores[a:b]) <= 0).all()


def published_matrix_nms(segments: np.ndarray, scores: np.ndarray, kernel: str, sigma: float) -> np.ndarray:
    """Scores after SOLOv2's matrix NMS as its paper writes it, with the whole matrix, in float64."""
    order = np.argsort(-scores, kind="stable")
    start, end = segments[order].T
    inter = np.clip(np.minimum(end[:, None], end) - np.maximum(start[:, None], start), 0, None)
    overlap = np.triu(inter / (np.subtract(end, start)[:, None] + (end - start) - inter), 1)
    compensation = overlap.max(0)[:, None]
    if kernel == "gaussian":
        decay = np.exp(-(overlap**2 - compensation**2) / sigma)
    else:
        decay = (1 - overlap) / (1 - compensation)
    result = np.empty_like(scores)
    result[order] = scores[order] * decay.min(0)
    return result


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
@pytest.mark.parametrize("engine", ["reference", "numba"])
def test_matrix_suppression_is_the_published_one(kernel: Any, engine: Any) -> None:
    segments, scores, _ = crowd(5, 300)
    expected = published_matrix_nms(segments.astype(float), scores.astype(float), kernel, 0.4)
    chosen = PLAIN | {"method": f"matrix_{kernel}", "sigma": 0.4, "min_score": 0.0, "topk": 300, "per_class": False}
    kept = suppress_segments(segments, scores, np.zeros(300, int), engine=engine, **chosen)
    np.testing.assert_allclose(kept.scores, expected[kept.index], rtol=1e-4, atol=1e-7)
    assert sorted(kept.index) == list(range(300))
    assert (np.diff(kept.scores) <= 0).all()


@pytest.mark.parametrize("labels", [[0, 2**31], [0, 2**32], [5, 2**32 + 5], [2**40, 2**40 + 1], [4096, 0]])
@pytest.mark.parametrize("method", ["hard", "gaussian", "matrix_linear"])
@pytest.mark.parametrize("engine", ["reference", "numba"])
def test_labels_of_any_size_are_told_apart(labels: list[int], method: Any, engine: Any) -> None:
    """They are not cut to 32 bits, where two are equal or negative."""
    rows = np.array([[0, 10], [0, 10]], np.float32), np.array([0.9, 0.8], np.float32)
    settings = PLAIN | {"method": method, "tiou": 0.5, "per_class": True}
    kept = suppress_segments(*rows, np.array(labels), **settings, engine=engine)
    assert kept.index.tolist() == [0, 1]
    assert kept.labels.tolist() == labels
    assert kept.scores.tolist() == rows[1].tolist()


@pytest.mark.parametrize("labels", [[0.2, 0.7], ["a", "b"], [None, 1]])
def test_labels_that_are_no_whole_numbers_are_refused(labels: list[Any]) -> None:
    with pytest.raises(
        TadError, match=r"^suppression: labels are of type .*; give class ids, which are whole numbers$"
    ):
        suppress_segments(np.array([[0, 1], [0, 1]]), np.array([0.5, 0.4]), np.array(labels), **PLAIN)


@pytest.mark.parametrize(
    ("segment", "score"), [([1, np.nan], 0.5), ([np.inf, 2], 0.5), ([2, 1], 0.5), ([1, 2], np.nan), ([1, 2], -0.1)]
)
def test_refuses_what_is_no_segment(segment: list[float], score: float) -> None:
    with pytest.raises(TadError, match="candidate 1: "):
        suppress_segments(np.array([[0, 1], segment]), np.array([0.5, score]), np.array([0, 0]), **PLAIN)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("method", "softer"),
        ("sigma", -0.5),
        ("sigma", float("nan")),
        ("tiou", 0.0),
        ("min_score", -1.0),
        ("topk", 0),
        ("voting", 1.5),
        ("voting_weight", "tiou"),
        ("agreement", 2),
    ],
)
def test_refuses_settings_out_of_range(name: str, value: Any) -> None:
    with pytest.raises(TadError, match=rf"^suppression: {name}: {value!r}: must be "):
        suppress_segments(np.zeros((1, 2)), np.ones(1), np.zeros(1, int), **(PLAIN | {name: value}))


def in_another_process(code: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def test_needs_no_torch() -> None:
    code = (
        "import sys, numpy as np; from tad.nms import suppress_segments; import tad.nms.reference\n"
        f"suppress_segments(np.ones((1, 2)), np.ones(1), np.zeros(1, int), **{PLAIN})\n"
        "assert not {'torch', 'triton'} & set(sys.modules)"
    )
    done = in_another_process(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("before", "device", "message"),
    [
        ("import sys; sys.modules['triton'] = None", "cuda", "suppression on CUDA needs triton"),
        ("import torch; torch.cuda.is_available = lambda: False", "cuda", "'cuda' is requested, but 0 CUDA devices"),
        ("", "cpu", "device: 'cpu': the engine triton runs on CUDA"),
    ],
)
def test_triton_that_cannot_run_is_one_line(before: str, device: str, message: str) -> None:
    if "None" not in before:
        pytest.importorskip("triton")
    code = (
        f"{before}\nimport numpy as np; from tad.nms import suppress_segments; one = np.ones(1)\n"
        f"suppress_segments(np.ones((1, 2)), one, one.astype(int), engine='triton', device={device!r}, **{PLAIN})"
    )
    done = in_another_process(code)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("tad.core.errors.TadError: "), done.stderr
    assert message in last
