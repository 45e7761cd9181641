"""Mean average precision and recall as ActionFormer's evaluator defines them: instances and detections → numbers.

Detections of a class are ordered by score; ties by video id, start, end, so that the order of a file never matters.
"""

# D detections, G instances, H tIoU thresholds, K classes, R recall depths, V videos

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tad.errors import TadError
from tad.metrics.bootstrap import Matches
from tad.metrics.columns import Columns
from tad.metrics.inputs import Detections, Rows, Truth, detection_rows, in_videos, truth_rows

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Detail:
    """Who takes whom under ActivityNet's rule.

    Attributes:
        segments: (D, 2) seconds and scores: (D,) of the detections, by class, then descending score.
        taken: (H, D) row of the instance that a detection takes, -1 for none.
        instances: (G, 2) seconds. classes: (G,) rows of the labels. videos: (G,) rows of `Matches.video_ids`.
    """

    segments: Array
    scores: Array
    taken: NDArray[np.int32]
    instances: Array
    classes: NDArray[np.int64]
    videos: NDArray[np.int64]


@dataclass(frozen=True)
class Evaluation:
    """What was found, and of what.

    Attributes:
        tiou: (H,) thresholds. labels: (K,) classes that have instances, the only ones that count.
        ap: (H, K). recall: (H, R) mean over classes of the recall at depth `recall_at` (R,).
        instances: per class (K,), after duplicates and too short ones were dropped.
        duplicates, too_short: instances that were dropped.
        points: instances that count and have no length; only a detection of the same single time finds one.
        videos: videos with ground truth entry, whether they hold instances or not.
        missing: those of them without an entry in the detections; their instances count as missed.
        outside: videos of the detections without ground truth entry; they do not count.
        detections: how many were scored.
        unscored: label → detections whose class has no instance, which do not count.
        matches: which detection finds an instance, for `tad.metrics.bootstrap`.
        detail: which instance it is, for `tad.metrics.diagnosis`.
    """

    tiou: tuple[float, ...]
    labels: tuple[str, ...]
    ap: Array
    recall_at: tuple[int, ...]
    recall: Array
    instances: tuple[int, ...]
    duplicates: int
    too_short: int
    points: int
    videos: int
    missing: tuple[str, ...]
    outside: tuple[str, ...]
    detections: int
    unscored: dict[str, int]
    matches: Matches = field(repr=False, compare=False)
    detail: Detail = field(repr=False, compare=False)

    @property
    def mean_ap(self) -> Array:
        """mAP per tIoU (H,), fractions."""
        return np.asarray(self.ap.mean(axis=1))

    @property
    def average_mean_ap(self) -> float:
        """The mean of `mean_ap`: the headline number, a fraction."""
        return float(self.mean_ap.mean())


def sort_order(classes: NDArray[np.int64], scores: Array, videos: NDArray[np.int64], segments: Array) -> Any:
    """Rows by class, then descending score, then video, start, end (D,)."""
    order = np.lexsort((-scores, classes))
    same = (np.diff(scores[order]) == 0) & (np.diff(classes[order]) == 0)
    if same.any():  # the five-key sort is slow, and seldom needed
        order = np.lexsort((segments[:, 1], segments[:, 0], videos, -scores, classes))
    return order


def evaluate(
    truth: Truth,
    detections: Detections | Columns,
    *,
    tiou: Sequence[float],
    labels: Sequence[str] | None = None,
    duplicates: Literal["drop", "keep"] = "drop",
    tolerance: float = 1e-3,
    shortest: float = 1e-3,
    recall_at: Sequence[int] = (1, 5),
    absent_labels: Literal["ignore", "collide"] = "ignore",
    matching: Literal["activitynet", "devkit"] = "activitynet",
    ambiguous: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> Evaluation:
    """Score detections against ground truth: mAP as ActionFormer's evaluator or THUMOS'14's own defines it.

    Args:
        truth: video id → (start, end, label) in seconds; every video that is to be evaluated, background included.
        detections: video id → entries {"label", "score", "segment": [start, end]} (the `results` of an ActivityNet
            results file), or the same as columns, which is faster.
        tiou: thresholds.
        labels: all labels that may occur; those of the ground truth if not given.
        duplicates, tolerance, shortest: instances of a class whose starts and ends lie within `tolerance` seconds
            count once, shorter than `shortest` not at all (see `tad.metrics.protocols`).
        recall_at: recall looks at the best k · n detections of a video with n instances of the class.
        absent_labels: detections of labels that have no instance do not count. "collide" is ActionFormer's evaluator
            to the last digit: it numbers the classes that have instances 0, 1, … and leaves other detected label ids
            as they are, so that they pass for the class which has got their number.
        matching: how detections find instances and what AP is: the ActivityNet challenge's rule, or that of the
            THUMOS'14 development kit (see `tad.metrics.devkit`), which alone looks at `ambiguous`.
        ambiguous: video id → (start, end) of segments that are neither action nor background.

    Raises:
        TadError: no threshold, no instances, no video in common, unknown labels, values that are not finite.
    """
    if not len(tiou) or not all(0 < t <= 1 for t in tiou):
        raise TadError(f"tiou: {list(tiou)}: thresholds in (0, 1] are needed")
    names = list(labels) if labels is not None else sorted({label for rows in truth.values() for _, _, label in rows})
    known = {name: k for k, name in enumerate(names)}
    ids = sorted(truth)
    rules = {"duplicates": duplicates, "tolerance": tolerance, "shortest": shortest}
    true, copies, short = truth_rows(truth, ids, known, rules)
    if not len(true.label):
        raise TadError(
            f"ground truth: {len(ids)} videos without a single instance, so there is no mAP; is this the right split?"
        )
    columns, given = in_videos(detections, ids)
    outside = _outside(ids, given)
    seen = detection_rows(columns, ids, names)
    counts = np.bincount(true.label, minlength=len(names))
    scored = np.flatnonzero(counts)
    class_of, unscored = _class_table(names, scored, seen.label, absent_labels)
    sets = _Sets(true, seen, class_of, ids, np.array(tiou, np.float64), np.array(recall_at, np.int64))
    ap, recall, matches, detail = _score(sets, ambiguous or {}) if matching == "devkit" else _score(sets, None)
    return Evaluation(
        tiou=tuple(tiou),
        labels=tuple(names[k] for k in scored),
        ap=ap,
        recall_at=tuple(recall_at),
        recall=recall.mean(axis=2),
        instances=tuple(int(counts[k]) for k in scored),
        duplicates=copies,
        too_short=short,
        points=int((true.segments[:, 0] == true.segments[:, 1]).sum()),
        videos=len(ids),
        missing=tuple(video_id for video_id in ids if video_id not in given),
        outside=tuple(outside),
        detections=len(seen.label) - sum(unscored.values()),
        unscored=unscored,
        matches=matches,
        detail=detail,
    )


def _outside(ids: Sequence[str], given: set[str]) -> list[str]:
    """The videos of the detections (`given`) that have no ground truth.

    Raises:
        TadError: none has.
    """
    outside = sorted(given - set(ids))
    if len(outside) == len(given):
        example = f", for example '{outside[0]}' is not" if outside else ""
        raise TadError(
            f"detections: none of {len(given)} videos is among the {len(ids)} of the ground truth{example}; "
            "are split and video ids right?"
        )
    return outside


def _class_table(
    names: Sequence[str], scored: NDArray[np.int64], seen: NDArray[np.int64], absent_labels: str
) -> tuple[NDArray[np.int64], dict[str, int]]:
    """Label id → row of the result, -1 for none; and per label the detections that do not count."""
    class_of = np.full(len(names), -1, np.int64)
    if absent_labels == "collide":
        class_of[: len(scored)] = np.arange(len(scored))
    class_of[scored] = np.arange(len(scored))
    per_label = np.bincount(seen, minlength=len(names))
    return class_of, {name: int(n) for name, n, row in zip(names, per_label, class_of, strict=True) if row < 0 and n}


@dataclass(frozen=True)
class _Sets:
    """What is scored: instances, detections, label id → class or -1, videos, thresholds, recall depths."""

    true: Rows
    seen: Rows
    class_of: NDArray[np.int64]
    ids: list[str]
    tiou: Array
    recall_at: NDArray[np.int64]


def _by_video(segments: Mapping[str, Sequence[tuple[float, float]]], ids: Sequence[str]) -> tuple[Array, Any]:
    """Segments (A, 2) of the videos in their order, and where each video's begin (V + 1,)."""
    rows = [list(segments.get(video_id, ())) for video_id in ids]
    flat = np.array([segment for own in rows for segment in own], np.float64).reshape(-1, 2)
    return flat, np.cumsum([0, *map(len, rows)])


def _score(
    sets: _Sets, ambiguous: Mapping[str, Sequence[tuple[float, float]]] | None
) -> tuple[Array, Array, Matches, Detail]:
    """AP (H, K), recall (H, R, K) and who found what; by the devkit's rule if there is `ambiguous`."""
    from tad.metrics.kernels import score_classes

    videos, true = len(sets.ids), sets.true
    classes = sets.class_of[sets.seen.label]
    counted = np.flatnonzero(classes >= 0)
    classes, video, segments = classes[counted], sets.seen.video[counted], sets.seen.segments[counted]
    scores = sets.seen.scores[counted]
    order = sort_order(classes, scores, video, segments)
    segments, video, classes, scores = segments[order], video[order], classes[order], scores[order]
    true_group = sets.class_of[true.label] * videos + true.video
    by_group = np.argsort(true_group, kind="stable")
    total = int(sets.class_of.max()) + 1
    starts = np.searchsorted(classes, np.arange(total + 1))
    group = classes * videos + video
    instances = np.ascontiguousarray(true.segments[by_group])
    first = np.searchsorted(true_group[by_group], np.arange(total * videos + 1))
    ap, recall, taken = score_classes(segments, group, starts, instances, first, videos, sets.tiou, sets.recall_at)
    counts_VK = np.ascontiguousarray(np.bincount(true_group, minlength=total * videos).reshape(total, videos).T)
    group_of = true_group[by_group]
    detail = Detail(segments, scores, taken, instances, group_of // videos, group_of % videos)
    found, touches = taken >= 0, None
    if ambiguous is not None:
        from tad.metrics.devkit import devkit_precision, match_instances, touching

        found = match_instances(segments, group, instances, first, sets.tiou)
        touches = touching(segments, video, *_by_video(ambiguous, sets.ids))
        ap = devkit_precision(found, touches, starts, counts_VK.sum(axis=0))
    return ap, recall, Matches(tuple(sets.ids), video, starts, found, counts_VK, touches), detail
