"""Mean average precision and recall, as ActionFormer's evaluator defines them.

Detections of a class are sorted by score. Ties are broken by video id, start and end, so that the order of a file does
not matter; with `ties="file"` (for scripts with a stable sort) they are broken by video id, then by file order.
"""

# D detections, G instances, H tIoU thresholds, K classes, R recall depths, V videos

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tad.core.errors import TadError
from tad.metrics.bootstrap import Matches
from tad.metrics.columns import Columns, id_text
from tad.metrics.inputs import Detections, Rows, Truth, detection_rows, in_videos, truth_rows
from tad.metrics.matching import score_classes
from tad.metrics.moments import Nearness, as_points, grid_frames, last_of_each, score_near, score_soccernet

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Detail:
    """Which detection matches which instance under ActivityNet's rule.

    Attributes:
        segments: (D, 2) seconds and scores: (D,) of the detections, by class, then descending score.
        taken: (H, D) index of the instance that a detection matches, -1 for none.
        instances: (G, 2) seconds. classes: (G,) index of the label. videos: (G,) index into `Matches.video_ids`.
    """

    segments: Array
    scores: Array
    taken: NDArray[np.int32]
    instances: Array
    classes: NDArray[np.int64]
    videos: NDArray[np.int64]


@dataclass(frozen=True)
class Evaluation:
    """The scores of an evaluation, and counts of what was scored.

    Attributes:
        tiou: (H,) thresholds; for moments, the numbers of the tolerances.
        names: (H,) the thresholds as texts: 0.5, or for moments 2f and 0.5s.
        weights: (H,) weights of the thresholds in the average mAP; None: equal ones.
        near: for moments, the rule that was used.
        labels: (K,) classes that have instances; only these count.
        ap: (H, K) average precision. recall: (H, R) recall at depth `recall_at` (R,), averaged over classes.
        instances: (K,) number of instances per class, without duplicates and instances that are too short.
        duplicates, too_short: number of instances that were dropped.
        points: number of instances that count and have zero length; only a detection at the same single time matches
            one (with segments as given: every detection of zero length does).
        reversed: number of instances and detections that count and end before they start (only with segments as given).
        videos: number of videos with a ground truth entry, with or without instances.
        missing: videos with a ground truth entry but none in the detections; their instances count as missed.
        outside: videos of the detections without a ground truth entry; they do not count.
        detections: number of detections that were scored.
        unscored: label → number of detections that do not count because their class has no instance.
        unknown_labels: the same for labels that are not annotated at all.
        matches: which detections match an instance, for `tad.metrics.bootstrap`.
        detail: which instance each detection matches, for `tad.metrics.diagnosis`.
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
    reversed: int
    videos: int
    missing: tuple[str, ...]
    outside: tuple[str, ...]
    detections: int
    unscored: dict[str, int]
    unknown_labels: dict[str, int]
    matches: Matches = field(repr=False, compare=False)
    detail: Detail = field(repr=False, compare=False)
    names: tuple[str, ...] = ()
    weights: Array | None = field(default=None, repr=False, compare=False)
    near: Nearness | None = field(default=None, repr=False, compare=False)

    @property
    def mean_ap(self) -> Array:
        """mAP per tIoU (H,), fractions."""
        return np.asarray(self.ap.mean(axis=1))

    @property
    def average_mean_ap(self) -> float:
        """Average mAP over the thresholds, the main score, as a fraction."""
        return float(self.mean_ap.mean() if self.weights is None else self.mean_ap @ self.weights)


def sort_order(
    classes: NDArray[np.int64], scores: Array, videos: NDArray[np.int64], segments: Array, *, ties: str = "fixed"
) -> Any:
    """Return indices (D,) that sort by class, descending score and video, then by start and end.

    With ties `file`, the last key is the order of the input instead.
    """
    if ties == "file":
        return np.lexsort((videos, -scores, classes))  # lexsort is stable
    order = np.lexsort((-scores, classes))
    same = (np.diff(scores[order]) == 0) & (np.diff(classes[order]) == 0)
    if same.any():  # the sort with five keys is slow and rarely needed
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
    ties: Literal["fixed", "file"] = "fixed",
    segments: Literal["checked", "as given"] = "checked",
    ambiguous: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    near: Nearness | None = None,
) -> Evaluation:
    """Score detections against ground truth: mAP as ActionFormer's evaluator or the THUMOS'14 kit defines it.

    Args:
        truth: video id → (start, end, label) in seconds, for every video to evaluate, including videos with background
            only.
        detections: video id → entries {"label", "score", "segment": [start, end]} (the `results` of an ActivityNet
            results file), or the same as columns, which is faster.
        tiou: thresholds.
        labels: all labels that may occur; by default those of the ground truth.
        duplicates, tolerance, shortest: with duplicates `drop`, instances of a class whose starts and ends differ by at
            most `tolerance` seconds count once; instances shorter than `shortest` do not count (see
            `tad.metrics.protocols`).
        recall_at: recall uses the best k · n detections of a video with n instances of the class.
        absent_labels: "ignore": detections of labels without instances do not count. "collide" reproduces
            ActionFormer's evaluator to the last digit: it numbers the classes that have instances 0, 1, … but does not
            renumber other detected label ids, so that these count for the class that was given their number.
        matching: the rule by which detections match instances, and the definition of AP: "activitynet" is the rule of
            the ActivityNet challenge, "devkit" that of the THUMOS'14 development kit (see `tad.metrics.devkit`), the
            only one to use `ambiguous`.
        ties: order of detections of equal score: fixed (by video, start, end), or that of the file within a video.
        segments: "as given" treats reversed and zero-length segments as the protocol's own script does (see
            `tad.metrics.matching.overlaps` and `tad.metrics.devkit`). "checked" refuses detections that end before
            they start, and drops such instances as too short.
        ambiguous: video id → (start, end) of segments that are neither action nor background.
        near: score moments within tolerances, by a rule of `tad.metrics.moments`, in place of `tiou` and `matching`;
            the video's frame rates are needed for tolerances in frames.

    Raises:
        TadError: no threshold, no instances, no common video, no known label, or values that are not finite.
    """
    if near is not None:  # the caller may have made points of the detections
        segments, shortest = "as given", -np.inf
        detections = as_points(in_videos(detections, sorted(truth))[0], near)
    thresholds, threshold_names = _thresholds(tiou, near)
    names = list(labels) if labels is not None else sorted({label for rows in truth.values() for _, _, label in rows})
    ids, as_given = sorted(truth), segments == "as given"
    rules = {"duplicates": duplicates, "tolerance": tolerance, "shortest": -np.inf if as_given else shortest}
    true, dropped = _instances(truth, ids, names, rules, as_given=as_given)
    seen, apart = _detected(detections, ids, names, as_given=as_given)
    scored = np.flatnonzero(np.bincount(true.label, minlength=len(names)))
    class_of, unscored = _class_table(names, scored, seen.label, absent_labels)
    facts = dropped | apart | _counts(true, seen, unscored)
    sets = _Sets(
        true, seen, class_of, ids, np.array(thresholds, np.float64), np.array(recall_at, np.int64), ties, as_given, near
    )
    ap, recall, matches, detail = _score(sets, ambiguous or {}) if matching == "devkit" else _score(sets, None)
    return Evaluation(
        tiou=thresholds, names=threshold_names, labels=tuple(names[k] for k in scored), ap=ap,
        recall_at=tuple(recall_at), recall=recall.mean(axis=2),
        instances=tuple(np.bincount(matches.truth_class, minlength=len(scored)).tolist()),
        matches=matches, detail=detail, near=near, weights=near.weights if near else None, **facts,
    )  # fmt: skip


def _thresholds(tiou: Sequence[float], near: Nearness | None) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """Return the thresholds, or the numbers of the tolerances, and their names, by which they are reported.

    Raises:
        TadError: there is none, a threshold is not in (0, 1], or two have the same name.
    """
    values = tuple(t.value for t in near.tolerances) if near else tuple(tiou)
    if not values or not (near or all(0 < t <= 1 for t in values)):
        raise TadError(f"tiou: {list(values)}: give at least one threshold, each in (0, 1]")
    names = tuple(map(str, near.tolerances)) if near else tuple(f"{t:g}" for t in values)
    if twice := [name for name in names if names.count(name) > 1]:
        what = "tolerances" if near else "tiou"
        raise TadError(f"{what}: {twice[0]} is given {names.count(twice[0])} times, and would count as often; keep one")
    return values, names


def _counts(true: Rows, seen: Rows, unscored: dict[str, int]) -> dict[str, Any]:
    """Return counts of the instances and detections that count, by field of `Evaluation`."""
    return {
        "points": int((true.segments[:, 0] == true.segments[:, 1]).sum()),
        "reversed": sum(int((rows.segments[:, 0] > rows.segments[:, 1]).sum()) for rows in (true, seen)),
        "detections": len(seen.label) - sum(unscored.values()),
        "unscored": unscored,
    }


def _instances(
    truth: Truth, ids: Sequence[str], names: Sequence[str], rules: dict[str, Any], *, as_given: bool
) -> tuple[Rows, dict[str, int]]:
    """Return the instances that count, and the numbers of those dropped, by field of `Evaluation`.

    Raises:
        TadError: there is no instance; see also `truth_rows`.
    """
    true, copies, short = truth_rows(truth, ids, {name: k for k, name in enumerate(names)}, rules, as_given=as_given)
    if not len(true.label):
        raise TadError(
            f"ground truth: no instance in {len(ids)} videos, so that mAP is undefined; is this the right split?"
        )
    return true, {"duplicates": copies, "too_short": short}


def _detected(
    detections: Detections | Columns, ids: list[str], names: Sequence[str], *, as_given: bool
) -> tuple[Rows, dict[str, Any]]:
    """Return the detections in videos with ground truth, and what only one of the two has, by field of `Evaluation`.

    Raises:
        TadError: none of the videos with detections has ground truth; see also `detection_rows`.
    """
    columns, given = in_videos(detections, ids)
    known = set(map(id_text, ids))
    if given and given.isdisjoint(known):
        raise TadError(
            f"detections: none of {len(given)} videos is among the {len(ids)} of the ground truth, for example "
            f"'{min(given)}'; are split and video ids right?"
        )
    seen = detection_rows(columns, ids, names, as_given=as_given)
    in_truth = np.array([id_text(video_id) in known for video_id in columns.video_ids], bool)
    return seen, {
        "videos": len(ids),
        "missing": tuple(video_id for video_id in ids if id_text(video_id) not in given),
        "outside": tuple(sorted(given - known)),
        "unknown_labels": columns.unknown_labels(names, videos=in_truth),
    }


def _class_table(
    names: Sequence[str], scored: NDArray[np.int64], seen: NDArray[np.int64], absent_labels: str
) -> tuple[NDArray[np.int64], dict[str, int]]:
    """Return a table label id → index in the result (-1 for none), and per label the detections that do not count."""
    class_of = np.full(len(names), -1, np.int64)
    if absent_labels == "collide":
        class_of[: len(scored)] = np.arange(len(scored))
    class_of[scored] = np.arange(len(scored))
    per_label = np.bincount(seen, minlength=len(names))
    return class_of, {name: int(n) for name, n, row in zip(names, per_label, class_of, strict=True) if row < 0 and n}


@dataclass(frozen=True)
class _Sets:
    """Inputs of the scoring: instances, detections, label id → class or -1, videos, thresholds and rules."""

    true: Rows
    seen: Rows
    class_of: NDArray[np.int64]
    ids: list[str]
    tiou: Array
    recall_at: NDArray[np.int64]
    ties: str
    as_given: bool
    near: Nearness | None


def _by_video(segments: Mapping[str, Sequence[tuple[float, float]]], ids: Sequence[str]) -> tuple[Array, Any]:
    """Return the segments (A, 2), sorted by video, and the offset of each video's first segment (V + 1,)."""
    rows = [list(segments.get(video_id, ())) for video_id in ids]
    flat = np.array([sorted(segment) for own in rows for segment in own], np.float64).reshape(-1, 2)
    return flat, np.cumsum([0, *map(len, rows)])


def _score(
    sets: _Sets, ambiguous: Mapping[str, Sequence[tuple[float, float]]] | None
) -> tuple[Array, Array, Matches, Detail]:
    """Compute AP (H, K), recall (H, R, K) and the matches; by the devkit's rule unless `ambiguous` is None."""
    if ambiguous is not None and sets.as_given:  # the devkit's script reads reversed segments as forward ones
        sets = replace(sets, true=sets.true.forward(), seen=sets.seen.forward())
    if sets.near is not None:
        return _score_moments(sets, sets.near)
    videos, true = len(sets.ids), sets.true
    classes = sets.class_of[sets.seen.label]
    counted = np.flatnonzero(classes >= 0)
    classes, video, segments = classes[counted], sets.seen.video[counted], sets.seen.segments[counted]
    scores = sets.seen.scores[counted]
    order = sort_order(classes, scores, video, segments, ties=sets.ties)
    segments, video, classes, scores = segments[order], video[order], classes[order], scores[order]
    true_group = sets.class_of[true.label] * videos + true.video
    by_group = np.argsort(true_group, kind="stable")
    total = int(sets.class_of.max()) + 1
    starts = np.searchsorted(classes, np.arange(total + 1))
    group = classes * videos + video
    instances = np.ascontiguousarray(true.segments[by_group])
    group_of = true_group[by_group]
    groups = np.unique(group_of)  # (class, video) with instances; all detections of others are in one more group
    first = np.append(np.searchsorted(group_of, groups), [len(group_of)] * 2)
    at = np.minimum(np.searchsorted(groups, group), len(groups) - 1)
    group = np.where(groups[at] == group, at, len(groups))
    ap, recall, taken = score_classes(
        segments, group, starts, instances, first,
        bounds=np.searchsorted(group_of // videos, np.arange(total + 1)),
        tious=sets.tiou, depths=sets.recall_at, as_given=sets.as_given,
    )  # fmt: skip
    true_class, true_video = group_of // videos, group_of % videos
    detail = Detail(segments, scores, taken, instances, true_class, true_video)
    found, touches = taken >= 0, None
    if ambiguous is not None:
        from tad.metrics.devkit import devkit_precision, match_instances, touching

        found = match_instances(segments, group, instances, first, sets.tiou)
        touches = touching(segments, video, *_by_video(ambiguous, sets.ids))
        ap = devkit_precision(found, touches, starts, np.bincount(true_class, minlength=total))
    return ap, recall, Matches(tuple(sets.ids), video, starts, found, true_video, true_class, touches), detail


def _score_moments(sets: _Sets, near: Nearness) -> tuple[Array, Array, Matches, Detail]:
    """Compute AP (H, K), recall (H, R, K; 0 under SoccerNet's rule, which has none) and the matches of moments."""
    videos = len(sets.ids)
    total = int(sets.class_of.max()) + 1
    label_G, time_G = sets.class_of[sets.true.label], near.times(sets.true.segments, "instances")
    group_G = label_G * videos + sets.true.video
    classes = sets.class_of[sets.seen.label]
    rows = np.flatnonzero(classes >= 0)
    order_G = np.lexsort((time_G, group_G))
    if near.rule == "soccernet":  # one event of a class per frame
        rows = rows[last_of_each(classes[rows] * videos + sets.seen.video[rows], _frames(sets, rows, near))]
        chosen = last_of_each(group_G[order_G], grid_frames(time_G[order_G], near.grid_rate))
        order_G = order_G[chosen]
    scores, video, segments = sets.seen.scores[rows], sets.seen.video[rows], sets.seen.segments[rows]
    order = sort_order(classes[rows], scores, video, segments, ties=sets.ties)
    rows, scores, video, segments = rows[order], scores[order], video[order], segments[order]
    classes, time_G, group_G = classes[rows], time_G[order_G], group_G[order_G]
    group, starts = classes * videos + video, np.searchsorted(classes, np.arange(total + 1))
    first = np.searchsorted(group_G, np.arange(total * videos + 1))
    recall, curves = np.zeros((len(near.tolerances), len(sets.recall_at), total)), None
    if near.rule == "soccernet":
        frames = _frames(sets, rows, near), grid_frames(time_G, near.grid_rate)
        ap, taken, curves = score_soccernet(frames, scores, group, first, videos=videos, near=near)
    else:
        ap, recall, taken = score_near(
            segments[:, 0], group, starts, time_G, first,
            rates_V=near.rates_of(sets.ids), near=near, depths=sets.recall_at,
        )  # fmt: skip
    truth_class, truth_video = group_G // videos, group_G % videos
    instances = np.stack([time_G, time_G], axis=1)
    detail = Detail(segments, scores, taken, instances, truth_class, truth_video)
    matches = Matches(tuple(sets.ids), video, starts, taken >= 0, truth_video, truth_class, None, curves)
    return ap, recall, matches, detail


def _frames(sets: _Sets, rows: NDArray[np.int64], near: Nearness) -> NDArray[np.int64]:
    """Return the frames of detections on SoccerNet's grid."""
    return grid_frames(sets.seen.segments[rows, 0], near.grid_rate)
