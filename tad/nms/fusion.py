"""Combine detections with video-level class scores: the last step for class-agnostic detectors."""

# V videos, M kept segments, K classes

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tad.nms.types import Kept

Array = NDArray[np.float64]
Rows = NDArray[np.int64]


def combined(scores: Array, class_scores: Array, *, combine: str) -> Array:
    """Combine two scores by their `product`, or by its square root (`sqrt`), the geometric mean."""
    product = scores * class_scores
    return np.sqrt(product) if combine == "sqrt" else product


def _one_video(
    scores_M: Array, labels_M: Rows, class_K: Array, rule: tuple[str, int, str, int]
) -> tuple[Rows, Rows, Array]:
    """Fuse one video → rows, labels and scores, by descending score, then row."""
    labels, topk, combine, most = rule
    if labels == "keep":
        rows, label = np.arange(len(scores_M)), labels_M
        scores = combined(scores_M, class_K[label], combine=combine)
    else:
        best = np.argsort(-class_K, kind="stable")[:topk]
        rows = np.tile(np.arange(min(len(scores_M), most)), len(best))
        label = np.repeat(best, min(len(scores_M), most))
        scores = combined(scores_M[rows], class_K[label], combine=combine)
    order = np.lexsort((rows, -scores))
    return rows[order], label[order], scores[order]


def fuse(
    kept: Kept,
    class_scores: Sequence[Array],
    *,
    labels: str,
    topk: int,
    combine: str,
    detections: int,
) -> Kept:
    """Combine suppressed segments with the class scores of their videos.

    Args:
        class_scores: (K,) per video, ≥ 0; the labels of the result are indices into it.
        labels: `replace`: repeat each of the best `detections` segments of a video for each of the best `topk` classes
            of the video, ignoring its label (ActionFormer on ActivityNet: 200 segments, 2 classes). `keep`: keep the
            label of each segment and combine its score with the score of that class.
        combine: `sqrt` or `product` of the two scores.

    Returns:
        Segments by descending score; `index` may contain a candidate several times.
    """
    rule = (labels, topk, combine, detections)
    index, label, scores, ends = [], [], [], [0]
    for v, class_K in enumerate(class_scores):
        a, b = kept.offsets[v], kept.offsets[v + 1]
        own = (kept.scores[a:b].astype(np.float64), kept.labels[a:b].astype(np.int64))
        rows, names, values = _one_video(*own, np.asarray(class_K, np.float64), rule)
        index.append(rows + a)
        label.append(names)
        scores.append(values)
        ends.append(ends[-1] + len(rows))
    row = np.concatenate([np.zeros(0, np.int64), *index]).astype(np.int64)
    return Kept(
        kept.index[row],
        kept.segments[row],
        np.concatenate([np.zeros(0), *scores]).astype(np.float32),
        np.concatenate([np.zeros(0, np.int64), *label]).astype(np.int64),
        np.array(ends, np.int64),
    )
