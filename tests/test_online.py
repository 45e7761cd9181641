"""`OnlineDetector`: bit-equal in whatever parts features arrive, equal to the batched network, of constant size."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_causal import VARIANTS, causal
from torch import nn

from tad.core.errors import TadError
from tad.detectors._points.online import Found, OnlineDetector
from tad.layers.rows import Past

LENGTH = 72


def features(length: int = LENGTH, seed: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((length, 6)).astype(np.float32)


def in_parts(detector: nn.Module, feats_TC: np.ndarray, *sizes: int) -> list[Found]:
    """The candidates at all points, of features pushed in parts of these sizes; the rest at once."""
    online, found, first = OnlineDetector(detector, threshold=0.0, min_length=-1.0), [], 0
    for size in sizes:
        found += online.push(feats_TC[first : first + size])
        first += size
    return found + online.push(feats_TC[first:])


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_by_one_and_at_once_are_equal_to_the_bit(variant: str) -> None:
    detector, feats_TC = causal(variant), features()
    whole = in_parts(detector, feats_TC)
    assert len(whole) == 3 * (72 + 36 + 18 + 9)
    assert in_parts(detector, feats_TC, *[1] * LENGTH) == whole


@settings(max_examples=25, deadline=None)
@given(
    variant=st.sampled_from(sorted(VARIANTS)), sizes=st.lists(st.integers(0, 17), max_size=12), seed=st.integers(0, 99)
)
def test_any_parts_are_equal_to_the_bit(variant: str, sizes: list[int], seed: int) -> None:
    detector, feats_TC = causal(variant, seed=seed), features(seed=seed)
    assert in_parts(detector, feats_TC, *sizes) == in_parts(detector, feats_TC)


@settings(max_examples=25, deadline=None)
@given(variant=st.sampled_from(sorted(VARIANTS)), now=st.integers(0, LENGTH - 2), seed=st.integers(0, 99))
def test_the_future_changes_nothing_that_was_found(variant: str, now: int, seed: int) -> None:
    detector, feats_TC = causal(variant), features(seed=seed)
    changed = feats_TC.copy()
    changed[now + 1 :] = 10 * np.random.default_rng(seed + 1).standard_normal(changed[now + 1 :].shape)
    before = [f for f in in_parts(detector, feats_TC) if f.now <= now]
    assert [f for f in in_parts(detector, changed) if f.now <= now] == before
    assert in_parts(detector, feats_TC[: now + 1]) == before


@pytest.mark.parametrize("variant", VARIANTS)
def test_equal_to_the_batched_network(variant: str) -> None:
    """The network that was trained is the oracle: other kernels, the same function."""
    detector, feats_TC = causal(variant), features()
    raw = detector.raw(torch.from_numpy(feats_TC)[None], torch.tensor([LENGTH]))
    (oracle,) = detector.decode_candidates(raw, 1, score_threshold=0.0, topk=10000, min_length=-1.0)
    own = in_parts(detector, feats_TC)
    assert len(oracle.scores_N) == len(own)
    rows = zip(oracle.segments_N2.tolist(), oracle.scores_N.tolist(), oracle.labels_N.tolist(), strict=True)
    for (start, end), score, label in rows:
        near = [f for f in own if f.label == label and abs(f.start - start) < 1e-3 and abs(f.end - end) < 1e-3]
        assert any(abs(f.score - score) < 1e-5 for f in near), (start, end, score, label)


@pytest.mark.parametrize("variant", VARIANTS)
def test_work_and_memory_do_not_grow_with_the_stream(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state keeps its size, and equal phases of the pyramid read equally many stored rows."""
    mine: list[Past] = []
    read: list[int] = []
    create, push = Past.__init__, Past.push

    def listed(self: Past, *given: Any, **named: Any) -> None:
        create(self, *given, **named)
        mine.append(self)

    def counted(self: Past, x_TC: np.ndarray) -> np.ndarray:
        rows = push(self, x_TC)
        read[-1] += len(rows)
        return rows

    monkeypatch.setattr(Past, "__init__", listed)
    monkeypatch.setattr(Past, "push", counted)
    online = OnlineDetector(causal(variant), threshold=0.5)
    size = sum(past.nbytes for past in mine)
    for row_C in features(800):
        read.append(0)
        online.push(row_C[None])
    assert len(mine) > 20
    assert sum(past.nbytes for past in mine) == size
    assert read[:8] == read[-8:]  # the last level has a point at every eighth feature


def test_refusals() -> None:
    detector: Any = causal("tridet")
    online = OnlineDetector(detector, threshold=0.1)
    with pytest.raises(TadError, match="trained with 6 channels"):
        online.push(np.zeros((1, 7), np.float32))
    with pytest.raises(TadError, match="NaN or infinity"):
        online.push(np.full((1, 6), np.nan, np.float32))
    with pytest.raises(TadError, match=r"needs whole videos; train one .* causal: true"):
        OnlineDetector(causal("tridet", causal=False), threshold=0.1)
