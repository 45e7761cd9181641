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
from tad.plugins import nearest

Truth = Mapping[str, Sequence[tuple[float, float, str]]]
Detections = Mapping[str, Sequence[Mapping[str, Any]]]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Evaluation:
    """What was found, and of what.

    Attributes:
        tiou: (H,) thresholds. labels: (K,) classes that have instances, the only ones that count.
        ap: (H, K). recall: (H, R) mean over classes of the recall at depth `recall_at` (R,).
        instances: per class (K,), after duplicates and too short ones were dropped.
        duplicates, too_short: instances that were dropped.
        videos: videos with ground truth entry, whether they hold instances or not.
        missing: those of them without an entry in the detections; their instances count as missed.
        outside: videos of the detections without ground truth entry; they do not count.
        detections: how many were scored.
        unscored: label → detections whose class has no instance, which do not count.
        matches: which detection finds an instance, for `tad.metrics.bootstrap`.
    """

    tiou: tuple[float, ...]
    labels: tuple[str, ...]
    ap: Array
    recall_at: tuple[int, ...]
    recall: Array
    instances: tuple[int, ...]
    duplicates: int
    too_short: int
    videos: int
    missing: tuple[str, ...]
    outside: tuple[str, ...]
    detections: int
    unscored: dict[str, int]
    matches: Matches = field(repr=False, compare=False)

    @property
    def mean_ap(self) -> Array:
        """mAP per tIoU (H,), fractions."""
        return np.asarray(self.ap.mean(axis=1))

    @property
    def average_mean_ap(self) -> float:
        """The mean of `mean_ap`: the headline number, a fraction."""
        return float(self.mean_ap.mean())


def clean_instances(
    instances: Sequence[tuple[float, float, str]], *, duplicates: str, tolerance: float, shortest: float
) -> tuple[list[tuple[float, float, str]], int, int]:
    """The instances of a video that count, in order, and how many were duplicates and how many too short."""
    kept: list[tuple[float, float, str]] = []
    copies = short = 0
    for start, end, label in instances:
        if end - start < shortest:
            short += 1
        elif duplicates == "drop" and any(
            name == label and abs(start - s) <= tolerance and abs(end - e) <= tolerance for s, e, name in kept
        ):
            copies += 1
        else:
            kept.append((start, end, label))
    return kept, copies, short


def _unknown(label: Any, known: Mapping[str, int], where: str) -> TadError:
    return TadError(f"{where}: unknown label '{label}'; {nearest(str(label), list(known))}")


def _check_rows(rows: Array, ids: Sequence[str], what: str) -> None:
    """Rows (class, video, start, end, score) must hold finite numbers, and no segment may end before it starts."""
    bad = ~(np.isfinite(rows).all(axis=1) & (rows[:, 2] <= rows[:, 3]))
    if bad.any():
        _, video, start, end, score = rows[np.flatnonzero(bad)[0]]
        raise TadError(
            f"{what} of {ids[int(video)]}: segment [{start}, {end}] with score {score}: finite numbers with "
            f"start <= end are needed ({int(bad.sum())} such); correct the file"
        )


def _truth_rows(
    truth: Truth, ids: Sequence[str], known: Mapping[str, int], rules: dict[str, Any]
) -> tuple[Array, int, int]:
    """Rows (class, video, start, end, 0) of the instances that count, then how many are duplicates and too short."""
    rows, copies, short = [], 0, 0
    for video, video_id in enumerate(ids):
        for *_, label in truth[video_id]:
            if label not in known:
                raise _unknown(label, known, f"ground truth of {video_id}")
        kept, more_copies, more_short = clean_instances(truth[video_id], **rules)
        copies, short = copies + more_copies, short + more_short
        rows += [(known[label], video, start, end, 0.0) for start, end, label in kept]
    table = np.array(rows, np.float64).reshape(-1, 5)
    _check_rows(table, ids, "ground truth")
    return table, copies, short


def _detection_rows(detections: Detections, ids: Sequence[str], known: Mapping[str, int]) -> Array:
    """Rows (class, video, start, end, score) of the detections in the videos `ids`."""
    rows: list[tuple[Any, ...]] = []
    for video, video_id in enumerate(ids):
        try:
            rows += [
                (known[entry["label"]], video, float(start), float(end), float(entry["score"]))
                for entry in detections.get(video_id, ())
                for start, end in (entry["segment"],)
            ]
        except (KeyError, TypeError, ValueError) as error:
            labels = [entry["label"] for entry in detections[video_id] if isinstance(entry, dict) and "label" in entry]
            for label in labels:
                if label not in known:
                    raise _unknown(label, known, f"detections of {video_id}") from None
            raise TadError(
                f"detections of {video_id}: {error!r}: each entry needs label, score and segment [start, end]"
            ) from None
    table = np.array(rows, np.float64).reshape(-1, 5)
    _check_rows(table, ids, "detections")
    return table


def sort_order(classes: NDArray[np.int64], scores: Array, videos: NDArray[np.int64], segments: Array) -> Any:
    """Rows by class, then descending score, then video, start, end (D,)."""
    order = np.lexsort((-scores, classes))
    same = (np.diff(scores[order]) == 0) & (np.diff(classes[order]) == 0)
    if same.any():  # the five-key sort is slow, and seldom needed
        order = np.lexsort((segments[:, 1], segments[:, 0], videos, -scores, classes))
    return order


def evaluate(
    truth: Truth,
    detections: Detections,
    *,
    tiou: Sequence[float],
    labels: Sequence[str] | None = None,
    duplicates: Literal["drop", "keep"] = "drop",
    tolerance: float = 1e-3,
    shortest: float = 1e-3,
    recall_at: Sequence[int] = (1, 5),
    absent_labels: Literal["ignore", "collide"] = "ignore",
) -> Evaluation:
    """Score detections against ground truth, ActivityNet mAP by ActionFormer's conventions.

    Args:
        truth: video id → (start, end, label) in seconds; every video that is to be evaluated, background included.
        detections: video id → entries {"label", "score", "segment": [start, end]} (the `results` of an ActivityNet
            results file).
        tiou: thresholds, inclusive.
        labels: all labels that may occur; those of the ground truth if not given.
        duplicates, tolerance, shortest: instances of a class whose starts and ends lie within `tolerance` seconds
            count once, shorter than `shortest` not at all (see `tad.metrics.protocols`).
        recall_at: recall looks at the best k · n detections of a video with n instances of the class.
        absent_labels: detections of labels that have no instance do not count. "collide" is ActionFormer's evaluator
            to the last digit: it numbers the classes that have instances 0, 1, … and leaves other detected label ids
            as they are, so that they pass for the class which has got their number.

    Raises:
        TadError: no threshold, no instances, no video in common, unknown labels, values that are not finite.
    """
    if not len(tiou) or not all(0 < t <= 1 for t in tiou):
        raise TadError(f"tiou: {list(tiou)}: thresholds in (0, 1] are needed")
    names = list(labels) if labels is not None else sorted({label for rows in truth.values() for _, _, label in rows})
    known = {name: k for k, name in enumerate(names)}
    ids = sorted(truth)
    rules = {"duplicates": duplicates, "tolerance": tolerance, "shortest": shortest}
    true, copies, short = _truth_rows(truth, ids, known, rules)
    if not len(true):
        raise TadError(
            f"ground truth: {len(ids)} videos without a single instance, so there is no mAP; is this the right split?"
        )
    outside = sorted(set(detections) - set(ids))
    if len(outside) == len(detections):
        example = f", for example '{outside[0]}' is not" if outside else ""
        raise TadError(
            f"detections: none of {len(detections)} videos is among the {len(ids)} of the ground truth{example}; "
            "are split and video ids right?"
        )
    seen = _detection_rows(detections, ids, known)
    counts = np.bincount(true[:, 0].astype(np.int64), minlength=len(names))
    scored = np.flatnonzero(counts)
    class_of, unscored = _class_table(names, scored, seen, absent_labels)
    ap, recall, matches = _score(true, seen, class_of, ids, np.array(tiou, np.float64), np.array(recall_at, np.int64))
    return Evaluation(
        tiou=tuple(tiou),
        labels=tuple(names[k] for k in scored),
        ap=ap,
        recall_at=tuple(recall_at),
        recall=recall.mean(axis=2),
        instances=tuple(int(counts[k]) for k in scored),
        duplicates=copies,
        too_short=short,
        videos=len(ids),
        missing=tuple(video_id for video_id in ids if video_id not in detections),
        outside=tuple(outside),
        detections=len(seen) - sum(unscored.values()),
        unscored=unscored,
        matches=matches,
    )


def _class_table(
    names: Sequence[str], scored: NDArray[np.int64], seen: Array, absent_labels: str
) -> tuple[NDArray[np.int64], dict[str, int]]:
    """Label id → row of the result, -1 for none; and per label the detections that do not count."""
    class_of = np.full(len(names), -1, np.int64)
    if absent_labels == "collide":
        class_of[: len(scored)] = np.arange(len(scored))
    class_of[scored] = np.arange(len(scored))
    per_label = np.bincount(seen[:, 0].astype(np.int64), minlength=len(names))
    return class_of, {name: int(n) for name, n, row in zip(names, per_label, class_of, strict=True) if row < 0 and n}


def _score(
    true: Array, seen: Array, class_of: NDArray[np.int64], ids: list[str], tiou: Array, recall_at: NDArray[np.int64]
) -> tuple[Array, Array, Matches]:
    """Rows (label id, video, start, end, score) → AP (H, K), recall (H, R, K) and who found something."""
    from tad.metrics.kernels import score_classes

    videos = len(ids)
    seen = seen[class_of[seen[:, 0].astype(np.int64)] >= 0]
    classes, video = class_of[seen[:, 0].astype(np.int64)], seen[:, 1].astype(np.int64)
    order = sort_order(classes, seen[:, 4], video, seen[:, 2:4])
    true_group = class_of[true[:, 0].astype(np.int64)] * videos + true[:, 1].astype(np.int64)
    by_group = np.argsort(true_group, kind="stable")
    total = int(class_of.max()) + 1
    starts = np.searchsorted(classes[order], np.arange(total + 1))
    ap, recall, found = score_classes(
        np.ascontiguousarray(seen[order, 2:4]),
        (classes * videos + video)[order],
        starts,
        np.ascontiguousarray(true[by_group, 2:4]),
        np.searchsorted(true_group[by_group], np.arange(total * videos + 1)),
        videos,
        tiou,
        recall_at,
    )
    instances = np.bincount(true_group, minlength=total * videos).reshape(total, videos).T
    return ap, recall, Matches(tuple(ids), video[order], starts, found, np.ascontiguousarray(instances))
