"""Measures on frames: mAP of dense labels, and F1@k, edit score and accuracy of segmentation-style data sets.

Detections become frames at times (t + 1/2) / rate: the score of a class is the highest of its detections that cover the
frame; the label of a frame is that of the class with the highest score, or background where nothing covers it.
"""

# D detections, F frames (of all videos), K classes, V videos

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tad.compiled import compiled
from tad.errors import TadError
from tad.metrics.columns import Columns
from tad.metrics.inputs import Detections, Truth, detection_rows, in_videos

Array = NDArray[np.float64]
Labels = NDArray[np.int32]
BACKGROUND = -1
OVERLAPS = (0.10, 0.25, 0.50)


def frame_counts(truth: Truth, durations: Mapping[str, float], *, rate: float) -> NDArray[np.int64]:
    """Frames of each video, in the order of their ids (V,).

    Raises:
        TadError: a video without a duration.
    """
    missing = [video_id for video_id in sorted(truth) if not durations.get(video_id)]
    if missing:
        raise TadError(
            f"annotations: video '{missing[0]}' has no duration ({len(missing)} such), which frames are counted from;"
            " add durations, or leave the measures on frames out"
        )
    return np.array([max(round(durations[video_id] * rate), 1) for video_id in sorted(truth)], np.int64)


@compiled
def _cover(segments: Any, scores: Any, video: Any, first: Any, rate: Any, out: Any) -> None:
    """out[f] = the highest score of the segments that cover frame f of their video."""
    for d in range(len(segments)):
        a, b = first[video[d]], first[video[d] + 1]
        low = max(int(np.ceil(segments[d, 0] * rate - 0.5)), 0)
        high = min(int(np.ceil(segments[d, 1] * rate - 0.5)), b - a)
        for f in range(a + low, a + high):
            if scores[d] > out[f]:
                out[f] = scores[d]


def average_precision(scores_F: Array, truth_F: NDArray[np.bool_]) -> float:
    """AP of one class: Σ (recall step · precision) over the distinct scores, so that ties have no order."""
    order = np.argsort(-scores_F, kind="stable")
    ranked, hits = scores_F[order], np.cumsum(truth_F[order])
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    steps = np.diff(np.concatenate([[0], hits[last]]))
    return float((steps * hits[last] / (last + 1)).sum() / hits[-1])


@dataclass(frozen=True)
class _Frames:
    """Detections and instances on frames: `first` (V + 1,) where each video's begin."""

    labels: tuple[str, ...]
    rows: Any
    true: tuple[NDArray[np.int64], NDArray[np.int64], Array]
    first: NDArray[np.int64]
    rate: float

    def of_class(self, k: int) -> tuple[Array, NDArray[np.bool_]]:
        """Scores (F,) and whether there is an instance (F,) of one class."""
        label, video, segments = self.true
        own, there = self.rows.label == k, label == k
        scores, truth = np.zeros(self.first[-1]), np.zeros(self.first[-1])
        _cover(self.rows.segments[own], self.rows.scores[own], self.rows.video[own], self.first, self.rate, scores)
        _cover(segments[there], np.ones(int(there.sum())), video[there], self.first, self.rate, truth)
        return scores, truth > 0


def _on_frames(
    truth: Truth, detections: Detections | Columns, durations: Mapping[str, float], labels: Sequence[str], rate: float
) -> _Frames:
    ids = sorted(truth)
    rows = detection_rows(in_videos(detections, ids)[0], ids, labels)
    known = {name: k for k, name in enumerate(labels)}
    flat = [(known[label], v, s, e) for v, video_id in enumerate(ids) for s, e, label in truth[video_id]]
    table = np.array(flat, np.float64).reshape(-1, 4)
    true = table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), np.ascontiguousarray(table[:, 2:])
    first = np.concatenate([[0], np.cumsum(frame_counts(truth, durations, rate=rate))])
    return _Frames(tuple(labels), rows, true, first, rate)


def frame_map(
    truth: Truth,
    detections: Detections | Columns,
    *,
    durations: Mapping[str, float],
    labels: Sequence[str],
    rate: float,
) -> dict[str, float]:
    """AP of every class that has a frame, over the frames of all videos (MultiTHUMOS, Charades): label → fraction.

    Args:
        truth, detections: as in `evaluate`. durations: seconds of each video. labels: all that may occur.
        rate: frames per second at which videos are looked at.

    Raises:
        TadError: a video without a duration, unknown labels, no frame of any class.
    """
    frames = _on_frames(truth, detections, durations, labels, rate)
    found = {}
    for k, label in enumerate(labels):
        scores_F, truth_F = frames.of_class(k)
        if truth_F.any():
            found[label] = average_precision(scores_F, truth_F)
    if not found:
        raise TadError("ground truth: no frame lies in an instance; is this the right split?")
    return found


def runs(labels_F: Labels) -> list[tuple[int, int, int]]:
    """Segments (label, first frame, frame after the last) of a video's labels (F,), background left out."""
    edges = np.concatenate([[0], np.flatnonzero(np.diff(labels_F)) + 1, [len(labels_F)]])
    spans = zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    return [(int(labels_F[a]), a, b) for a, b in spans if b > a and labels_F[a] != BACKGROUND]


def matched(truth_F: Labels, found_F: Labels, *, overlap: float) -> tuple[int, int, int]:
    """Right, wrong and missed segments of one video: each found one, in time, takes the segment of its label with the
    largest intersection over union, and is right if that reaches `overlap` and was not taken (Lea et al. 2017)."""
    true = runs(truth_F)
    taken = [False] * len(true)
    right = wrong = 0
    for label, a, b in runs(found_F):
        shares = [
            max(min(b, d) - max(a, c), 0) / (max(b, d) - min(a, c)) if label == name else 0.0 for name, c, d in true
        ]
        best = int(np.argmax(shares)) if shares else -1
        if best >= 0 and shares[best] >= overlap and not taken[best]:
            taken[best] = True
            right += 1
        else:
            wrong += 1
    return right, wrong, taken.count(False)


def edit_score(truth_F: Labels, found_F: Labels) -> float:
    """1 − Levenshtein distance of the two orders of labels / the longer one's length; a fraction."""
    one, other = ([label for label, _, _ in runs(x)] for x in (truth_F, found_F))
    if not one and not other:
        return 1.0
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        previous, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return 1 - row[-1] / max(len(one), len(other))


@dataclass(frozen=True)
class Segmentation:
    """Fractions.

    Attributes:
        f1: overlap → F1 over the segments of all videos. edit: mean over videos. accuracy: share of right frames.
    """

    f1: dict[float, float]
    edit: float
    accuracy: float


def segmentation(
    truth_F: Sequence[Labels], found_F: Sequence[Labels], *, overlaps: Sequence[float] = OVERLAPS
) -> Segmentation:
    """F1@k, edit score and frame accuracy of label sequences, one (F,) int array per video, -1 for background.

    Background makes no segments but counts in the accuracy (MS-TCN's evaluation).

    Raises:
        TadError: sequences of different lengths.
    """
    for v, (one, other) in enumerate(zip(truth_F, found_F, strict=True)):
        if one.shape != other.shape or not len(one):
            raise TadError(f"video {v}: {len(one)} labelled and {len(other)} predicted frames; they must be as many")
    f1 = {}
    for overlap in overlaps:
        right, wrong, missed = np.sum(
            [matched(one, other, overlap=overlap) for one, other in zip(truth_F, found_F, strict=True)], axis=0
        )
        f1[overlap] = float(2 * right / (2 * right + wrong + missed)) if right else 0.0
    edit = [edit_score(one, other) for one, other in zip(truth_F, found_F, strict=True)]
    hits = sum(int((one == other).sum()) for one, other in zip(truth_F, found_F, strict=True))
    return Segmentation(f1, float(np.mean(edit)), hits / sum(map(len, truth_F)))


def frame_labels(
    truth: Truth,
    detections: Detections | Columns,
    *,
    durations: Mapping[str, float],
    labels: Sequence[str],
    rate: float,
    least: float,
) -> tuple[list[Labels], list[Labels]]:
    """What `segmentation` compares: per video the annotated and the detected label of each frame (F,).

    `least`: detections that score no more are not looked at. Where instances overlap the later class of `labels` wins.

    Raises:
        TadError: a video without a duration, unknown labels.
    """
    frames = _on_frames(truth, detections, durations, labels, rate)
    best, found = np.full(frames.first[-1], least), np.full(frames.first[-1], BACKGROUND, np.int32)
    true = np.full(frames.first[-1], BACKGROUND, np.int32)
    for k in range(len(labels)):
        scores_F, truth_F = frames.of_class(k)
        ahead = scores_F > best
        best, found = np.where(ahead, scores_F, best), np.where(ahead, np.int32(k), found)
        true[truth_F] = k
    cuts = frames.first[1:-1]
    return np.split(true, cuts), np.split(found, cuts)
