"""Suppression of moments by distance: worked examples, and compiled loops against the reference."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tad.core.errors import TadError
from tad.nms import Kept, nms


def suppressed(times: Any, scores: Any, labels: Any = None, **more: Any) -> Kept:
    points = np.repeat(np.array(times, np.float32)[:, None], 2, axis=1)
    labels = None if labels is None else np.array(labels)
    options: dict[str, Any] = {"method": "hard", "window": 2.0, "min_score": 0.0} | more
    return nms(points, np.array(scores, np.float32), labels, kind="moments", **options)


def test_hard_removes_up_to_the_window() -> None:
    kept = suppressed([10, 12, 13, 14, 30], [0.9, 0.8, 0.7, 0.6, 0.1])
    assert kept.index.tolist() == [0, 2, 4]  # 12 goes with 10, 14 with 13
    assert kept.segments.tolist() == [[10, 10], [13, 13], [30, 30]]


def test_soft_lowers_by_the_square_of_the_distance() -> None:
    kept = suppressed([10, 11, 12, 10], [0.8, 0.4, 0.4, 0.3], method="soft")
    # 11 is one away from 10 and then, with a fourth of its score, one from 12
    assert kept.index.tolist() == [0, 2, 1]
    assert kept.scores.tolist() == pytest.approx([0.8, 0.4, 0.4 / 16])
    assert suppressed([10, 11], [0.8, 0.4], method="soft", min_score=0.2).index.tolist() == [0]


def test_classes_are_separate_unless_wanted() -> None:
    assert suppressed([5, 5], [0.5, 0.6], [0, 1]).index.tolist() == [1, 0]
    assert suppressed([5, 5], [0.5, 0.6], [0, 1], per_class=False).index.tolist() == [1]


@pytest.mark.parametrize("method", ["hard", "soft", "none"])
@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20), st.integers(0, 2)), max_size=40),
    window=st.sampled_from([0.5, 1.0, 2.5, 7.0]),
    least=st.sampled_from([0.0, 0.1]),
    per_class=st.booleans(),
    topk=st.sampled_from([3, 100]),
)
def test_compiled_loops_equal_the_reference(
    method: str, rows: Any, window: float, least: float, per_class: bool, topk: int
) -> None:
    """To the bit, with ties of times and scores, for two videos in one call."""
    times, scores, labels = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
    values = [s / 20 for s in scores]
    offsets = np.array([0, len(rows) // 3, len(rows)])
    options = {
        "method": method, "window": window, "min_score": least, "per_class": per_class, "topk": topk,
        "offsets": offsets,
    }  # fmt: skip
    one, other = (
        suppressed([t / 2 for t in times], values, np.array(labels, np.int64), engine=engine, **options)
        for engine in ("reference", "numba")
    )
    for name in ("index", "segments", "scores", "labels", "offsets"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_settings_and_segments_that_do_not_fit_are_refused() -> None:
    with pytest.raises(TadError, match="method: 'gaussian': must be one of hard, soft, none"):
        suppressed([1], [0.5], method="gaussian")
    with pytest.raises(TadError, match="window: 0"):
        suppressed([1], [0.5], window=0)
    with pytest.raises(TadError, match=r"candidate 0, \[1.0, 2.0\], has a length; use kind segments"):
        nms(np.array([[1, 2]], np.float32), np.ones(1, np.float32), kind="moments", method="hard")
