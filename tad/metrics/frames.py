"""Measures on frames: mAP of dense labels, and F1@k, edit score and accuracy as in action segmentation.

Frame t is at time (t + 1/2) / rate. The score of a class in a frame is the highest score of its detections that cover
the frame. The label of a frame is the class with the highest score, or background if no detection covers it.
"""

# D detections, F frames (of all videos), K classes, V videos

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tad.core.errors import TadError
from tad.metrics.columns import Columns, label_text
from tad.metrics.inputs import Detections, Truth, detection_rows, in_videos

Array = NDArray[np.float64]
Labels = NDArray[np.int32]
BACKGROUND = -1
OVERLAPS = (0.10, 0.25, 0.50)


def frame_counts(truth: Truth, durations: Mapping[str, float], *, rate: float) -> NDArray[np.int64]:
    """Return the number of frames of each video (V,), sorted by video id.

    Raises:
        TadError: a video without a duration.
    """
    missing = [video_id for video_id in sorted(truth) if not durations.get(video_id)]
    if missing:
        raise TadError(
            f"annotations: video '{missing[0]}' has no duration ({len(missing)} such), which measures on frames need;"
            " add durations, or do not ask for these measures"
        )
    return np.array([max(round(durations[video_id] * rate), 1) for video_id in sorted(truth)], np.int64)


def _cover(
    segments_D2: Array, scores_D: Array, video_D: NDArray[np.int64], first: NDArray[np.int64], rate: float, out_F: Array
) -> None:
    """Write to out[f] the highest score of the segments that cover frame f of their video."""
    start, length = first[video_D], first[video_D + 1] - first[video_D]
    edges_D2 = np.clip(np.ceil(segments_D2 * rate - 0.5), 0, length[:, None]).astype(np.int64) + start[:, None]
    for (low, high), score in zip(edges_D2.tolist(), scores_D.tolist(), strict=True):
        np.maximum(out_F[low:high], score, out=out_F[low:high])


def average_precision(scores_F: Array, truth_F: NDArray[np.bool_]) -> float:
    """Compute the AP of one class: Σ (recall step · precision) over the distinct scores, so that ties have no order.

    Only the order of the scores matters; frames without a detection have the score -inf and rank last.
    """
    order = np.argsort(-scores_F, kind="stable")
    ranked, hits = scores_F[order], np.cumsum(truth_F[order])
    last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    steps = np.diff(np.concatenate([[0], hits[last]]))
    return float((steps * hits[last] / (last + 1)).sum() / hits[-1])


def require_probabilities(scores: Array, purpose: str) -> None:
    """Check that scores lie in [0, 1], for a purpose that needs probabilities.

    Raises:
        TadError: scores outside [0, 1]; the message gives their range.
    """
    low, high = float(scores.min()), float(scores.max())
    if low < 0 or high > 1:
        raise TadError(
            f"detections: scores from {low:g} to {high:g} are not probabilities, which {purpose} needs; map them to "
            "[0, 1] (for example by a sigmoid for logits), or do not ask for it"
        )


@dataclass(frozen=True)
class _Frames:
    """Detections and instances, to be mapped to frames; `first` (V + 1,) is the offset of each video's first frame."""

    labels: tuple[str, ...]
    rows: Any
    true: tuple[NDArray[np.int64], NDArray[np.int64], Array]
    first: NDArray[np.int64]
    rate: float

    def of_class(self, k: int) -> tuple[Array, NDArray[np.bool_]]:
        """Return the scores of one class (F,), -inf without detection, and the mask of its annotated frames (F,)."""
        label, video, segments = self.true
        own, there = self.rows.label == k, label == k
        scores, truth = np.full(self.first[-1], -np.inf), np.zeros(self.first[-1])
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
    """Compute per-frame AP over all videos, as MultiTHUMOS and Charades do: label → fraction.

    Only classes that have a frame are included.

    Args:
        truth, detections: as in `evaluate`. durations: seconds of each video. labels: all labels that may occur.
        rate: frames per second at which videos are sampled.

    Raises:
        TadError: a video without a duration, unknown labels, or no frame of any class.
    """
    frames = _on_frames(truth, detections, durations, labels, rate)
    per_label = {}
    for k, label in enumerate(labels):
        scores_F, truth_F = frames.of_class(k)
        if truth_F.any():
            per_label[label] = average_precision(scores_F, truth_F)
    if not per_label:
        raise TadError("ground truth: no frame lies in an instance; is this the right split?")
    return per_label


def runs(labels_F: Labels) -> list[tuple[int, int, int]]:
    """Split a video's labels (F,) into segments (label, first frame, frame after the last), without background."""
    edges = np.concatenate([[0], np.flatnonzero(np.diff(labels_F)) + 1, [len(labels_F)]])
    spans = zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    return [(int(labels_F[a]), a, b) for a, b in spans if b > a and labels_F[a] != BACKGROUND]


def matched(truth_F: Labels, found_F: Labels, *, overlap: float) -> tuple[int, int, int]:
    """Count true positive, false positive and missed segments of one video (Lea et al. 2017).

    Predicted segments are matched in order of time: each is compared with the segment of its label that has the largest
    intersection over union, and is right if that reaches `overlap` and the segment is not matched yet.
    """
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
    """Compute 1 − Levenshtein distance of the two segment label sequences / length of the longer one; a fraction."""
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
    """Scores of action segmentation, as fractions.

    Attributes:
        f1: overlap → F1 over the segments of all videos.
        edit: edit score, averaged over videos.
        accuracy: share of frames with the right label.
    """

    f1: dict[float, float]
    edit: float
    accuracy: float


def segmentation(
    truth_F: Sequence[Labels], found_F: Sequence[Labels], *, overlaps: Sequence[float] = OVERLAPS
) -> Segmentation:
    """Compute F1@k, edit score and frame accuracy of label sequences, one (F,) int array per video, -1 for background.

    Background forms no segments but counts in the accuracy, as in MS-TCN's evaluation.

    Raises:
        TadError: sequences of different lengths.
    """
    for v, (one, other) in enumerate(zip(truth_F, found_F, strict=True)):
        if one.shape != other.shape or not len(one):
            raise TadError(
                f"video {v}: {len(one)} labelled and {len(other)} predicted frames; the numbers must be equal"
            )
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
    least: float | None = None,
    background: Collection[str] = (),
) -> tuple[list[Labels], list[Labels]]:
    """Return the inputs of `segmentation`: per video the annotated and the predicted label of each frame (F,).

    Where instances overlap, the class that comes later in `labels` wins.

    Args:
        least: a probability; detections with scores up to it are ignored. None: no detection is ignored.
        background: labels that stand for background, in the annotations and in the detections.

    Raises:
        TadError: a video without a duration, or `least` given and scores that are not probabilities.
    """
    frames = _on_frames(truth, detections, durations, labels, rate)
    if least is not None and len(frames.rows.scores):
        require_probabilities(frames.rows.scores, f"the minimum score of a frame label ({least:g})")
    best = np.full(frames.first[-1], -np.inf if least is None else least)
    found = np.full(frames.first[-1], BACKGROUND, np.int32)
    true = np.full(frames.first[-1], BACKGROUND, np.int32)
    ignored = {label_text(label) for label in background}
    for k, label in enumerate(labels):
        scores_F, truth_F = frames.of_class(k)
        ahead = scores_F > best
        number = np.int32(BACKGROUND if label_text(label) in ignored else k)
        best, found = np.where(ahead, scores_F, best), np.where(ahead, number, found)
        true[truth_F] = number
    cuts = frames.first[1:-1]
    return np.split(true, cuts), np.split(found, cuts)
