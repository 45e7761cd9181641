"""Suppression of overlapping candidates, usable alone: segments → the kept ones, of one video or a data set."""

# V videos, N segments (of all videos), K classes, M kept

from itertools import pairwise
from typing import Any, Literal

import numpy as np

from tad.errors import TadError
from tad.nms.types import Floats, Indices, Kept, Method, VotingWeight

__all__ = ["Kept", "suppress_segments"]

MOST_CLASSES = 4096  # above, labels are renumbered so that the counters of a video stay small


def _check(segments: Floats, scores: Floats, labels: Indices, offsets: Indices) -> None:
    """One line for data that cannot be suppressed; programmers' mistakes are assertions."""
    assert segments.shape == (len(scores), 2), f"segments (N, 2), not {segments.shape}"
    assert labels.shape == scores.shape, f"labels (N,), not {labels.shape}"
    assert labels.min(initial=0) >= 0, "labels must be >= 0"
    assert [offsets[0], offsets[-1]] == [0, len(scores)], "offsets must cover all rows"
    assert np.all(np.diff(offsets) >= 0), "offsets must rise"
    bad = ~(np.isfinite(scores) & (scores >= 0) & np.isfinite(segments).all(1) & (segments[:, 0] <= segments[:, 1]))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise TadError(
            f"candidate {row}: segment {segments[row].tolist()} with score {scores[row]}: segments must be finite with "
            f"start <= end, scores finite and >= 0; check what made the candidates ({int(bad.sum())} such)"
        )


def suppress_segments(
    segments: Floats,
    scores: Floats,
    labels: Indices,
    *,
    offsets: Indices | None = None,
    method: Method,
    sigma: float,
    tiou: float,
    min_score: float,
    per_class: bool,
    topk: int,
    voting: float,
    voting_weight: VotingWeight,
    engine: Literal["numba", "reference"] = "numba",
) -> Kept:
    """Suppress overlapping segments, each video by itself; `tad.nms.reference` states the rules.

    Args:
        segments: (N, 2) start ≤ end in any one unit (the pipeline: snippets); converted to float32.
        scores: (N,) ≥ 0. labels: (N,) class ids ≥ 0.
        offsets: (V + 1,) rows of video v are `offsets[v]:offsets[v + 1]`; without it all rows are one video.
        method … voting_weight: the fields of `tad.specs.NmsSpec` (`**spec.model_dump()` passes them all).
        engine: numba, or the reference that defines it (slow); both return the same indices.

    Returns:
        Per video at most topk segments by descending score, ties by input row.

    Raises:
        TadError: NaN, infinite or negative scores, segments that are not finite or end before they start.
    """
    segments = np.ascontiguousarray(segments, np.float32).reshape(-1, 2)
    scores, labels = np.ascontiguousarray(scores, np.float32), np.ascontiguousarray(labels)
    offsets = np.array([0, len(scores)]) if offsets is None else np.asarray(offsets)
    offsets = offsets.astype(np.int64)
    _check(segments, scores, labels, offsets)
    run = _by_reference if engine == "reference" else _by_numba
    return run(
        segments, scores, labels, offsets,
        method=method, sigma=sigma, tiou=tiou, min_score=min_score, per_class=per_class, topk=topk, voting=voting,
        voting_weight=voting_weight,
    )  # fmt: skip


def _by_reference(segments: Floats, scores: Floats, labels: Indices, offsets: Indices, **settings: Any) -> Kept:
    from tad.nms.reference import suppress_video

    index, kept_segments, kept_scores, ends = [], [], [], [0]
    for a, b in pairwise(offsets):
        rows, borders, values = suppress_video(segments[a:b], scores[a:b], labels[a:b], **settings)
        index.append(rows + a)
        kept_segments.append(borders)
        kept_scores.append(values)
        ends.append(ends[-1] + len(rows))
    rows = np.concatenate([np.zeros(0, np.int64), *index])
    return Kept(
        rows,
        np.concatenate([np.zeros((0, 2), np.float32), *kept_segments]),
        np.concatenate([np.zeros(0, np.float32), *kept_scores]),
        labels[rows],
        np.array(ends, np.int64),
    )


def _by_numba(segments: Floats, scores: Floats, labels: Indices, offsets: Indices, **settings: Any) -> Kept:
    from tad.nms.kernels import METHODS, suppress_ragged

    groups = labels.astype(np.int32) if settings["per_class"] else np.zeros(len(labels), np.int32)
    if groups.max(initial=0) >= MOST_CLASSES:
        groups = np.unique(groups, return_inverse=True)[1].astype(np.int32)
    sigma, tiou, least, voting = (np.float32(settings[name]) for name in ("sigma", "tiou", "min_score", "voting"))
    rule = (METHODS[settings["method"]], sigma, tiou, least)
    vote = (voting, settings["voting_weight"] == "score*tiou")
    classes = int(groups.max(initial=0)) + 1
    index, borders, values, ends = suppress_ragged(
        segments, scores, groups, offsets, classes, rule, settings["topk"], vote
    )
    return Kept(index, borders, values, labels[index], ends)
