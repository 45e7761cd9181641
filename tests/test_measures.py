"""The devkit's rule, proposals and the measures on frames: beside plain loops, on cases worked by hand, perfect."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from metrics_cases import perfect, random_case, truth_of

from tad.core.errors import TadError
from tad.datasets._any import read_any
from tad.metrics import evaluate, protocol
from tad.metrics.bootstrap import draw, resample
from tad.metrics.files import ground_truth
from tad.metrics.frames import (
    average_precision,
    edit_score,
    frame_labels,
    frame_map,
    matched,
    runs,
    segmentation,
)
from tad.metrics.inputs import clean_instances
from tad.metrics.proposals import average_recall
from tad.metrics.protocols import TABLE

TIOU = [0.3, 0.5, 0.7]
TIOU_ALL = [k / 20 for k in range(1, 20)]
LABELS = ["c0", "c1", "c2"]


def share(a: Any, b: Any) -> float:
    a, b = sorted(a[:2]), sorted(b[:2])
    inter = min(a[1], b[1]) - max(a[0], b[0])
    return inter / (max(a[1], b[1]) - min(a[0], b[0])) if inter > 0 else 0.0


def devkit_ap(truth: Any, found: Any, ambiguous: Any, label: str, threshold: float) -> float:
    """TH14evalDet_Updated in plain loops: (score, right, wrong) of all videos, precision at each right one.

    Octave runs the published files to the same numbers, ties, reversed and ambiguous segments included.
    """
    rows = []
    for video in sorted(truth):
        instances = [row[:2] for row in truth[video] if row[2] == label]
        own = [d for d in found.get(video, ()) if d["label"] == label]
        own.sort(key=lambda d: -d["score"])  # stable: the file's order
        free = [True] * len(own)
        for instance in instances:
            shares = [share(d["segment"], instance) if is_free else -1.0 for d, is_free in zip(own, free, strict=True)]
            if shares and max(shares) > threshold:
                free[int(np.argmax(shares))] = False
        for d, is_free in zip(own, free, strict=True):
            unclear = any(share(d["segment"], a) > 0 for a in ambiguous.get(video, ()))
            if not is_free or not unclear:
                rows.append((-d["score"], not is_free))
    rows.sort(key=lambda row: row[0])
    hits = [row[-1] for row in rows]
    total = sum(row[2] == label for entries in truth.values() for row in entries)
    return sum(sum(hits[: k + 1]) / (k + 1) for k in range(len(hits)) if hits[k]) / total


@pytest.mark.parametrize("grid", [False, True])
def test_devkit_equals_plain_loops(grid: bool) -> None:
    for seed in range(40):
        truth, found = random_case(seed, grid=grid)
        ambiguous = {"v0": [(3.0, 5.0)], "v1": [(0.0, 2.0), (8.0, 9.0)]}
        rules = protocol("thumos14-devkit").rules()
        result = evaluate(truth, found, tiou=TIOU, labels=LABELS, ambiguous=ambiguous, **rules)
        for k, label in enumerate(result.labels):
            for h, threshold in enumerate(TIOU):
                expected = devkit_ap(truth, found, ambiguous, label, threshold)
                assert result.ap[h, k] == pytest.approx(expected, abs=1e-12)
        once = np.ones((1, len(truth)), np.int64)
        np.testing.assert_allclose(resample(result.matches, once)[0], result.mean_ap, atol=1e-12)


def test_devkit_is_strict_at_the_threshold_and_excuses_what_is_ambiguous() -> None:
    truth = {"a": [(0.0, 2.0, "x")]}
    rules = protocol("thumos14-devkit").rules()
    half = {"a": [{"label": "x", "score": 0.9, "segment": [0, 1]}]}
    assert evaluate(truth, half, tiou=[0.49, 0.5], **rules).mean_ap.tolist() == [1.0, 0.0]
    late = {"a": [{"label": "x", "score": s, "segment": [b, b + 2]} for s, b in ((0.9, 7), (0.8, 0))]}
    assert evaluate(truth, late, tiou=[0.5], **rules).average_mean_ap == 0.5
    assert evaluate(truth, late, tiou=[0.5], ambiguous={"a": [(8.9, 12)]}, **rules).average_mean_ap == 1.0


def test_a_devkit_resample_counts_copies() -> None:
    truth, found = random_case(4)
    matches = evaluate(truth, found, tiou=TIOU, labels=LABELS, matching="devkit", duplicates="keep").matches
    ids = list(matches.video_ids)
    for counts in draw(len(ids), resamples=10, seed=1):
        copies = [(v, f"{v}#{k}") for v, n in zip(ids, counts, strict=True) for k in range(n)]
        if not any(truth[v] for v, _ in copies):
            continue
        again = evaluate(
            {name: truth[v] for v, name in copies}, {name: found.get(v, []) for v, name in copies},
            tiou=TIOU, labels=LABELS, matching="devkit", duplicates="keep",
        )  # fmt: skip
        np.testing.assert_allclose(resample(matches, counts[None])[0], again.mean_ap, atol=1e-12)


@pytest.mark.parametrize("name", [line[:-1] for line in TABLE.read_text().splitlines() if line and line[0] not in " #"])
def test_perfect_detections_score_one_under_every_protocol(name: str) -> None:
    rng = np.random.default_rng(2)
    truth = {
        f"v{v}": [(float(s), float(s) + rng.random() + 0.5, f"c{rng.integers(3)}") for s in range(0, 40, 4)]
        for v in range(5)
    }
    rules = protocol(name)
    tiou = [t for t in rules.tiou or TIOU if t < 1]
    result = evaluate(truth, perfect(truth), tiou=tiou, labels=LABELS, **rules.rules())
    assert result.mean_ap.tolist() == [1.0] * len(tiou)
    assert (result.recall == 1.0).all()


REAL = {
    "activitynet13": ("activity_net.v1-3.json", "val"),
    "activitynet13-available": ("activity_net.v1-3.json", "val"),
    "thumos14-213": ("thumos14_official_test", "test"),
    "thumos14-devkit": ("thumos14_official_test", "test"),
}
CASES = [(name, *REAL.get(name, ("thumos14.json", "test"))) for name in sorted(yaml.safe_load(TABLE.read_text()))]
CASES += [(name, *REAL["activitynet13"]) for name in ("plain", "activitynet", "actionformer")]


@pytest.mark.parametrize(("name", "file", "split"), CASES)
def test_perfect_detections_of_real_annotations_score_one(shared: Path, name: str, file: str, split: str) -> None:
    rules = protocol(name)
    table = read_any(shared / "data/annotations" / file)
    truth = ground_truth(table, split, rules)[0]
    unclear = {video_id: table.videos[video_id].ambiguous for video_id in truth}
    how = rules.model_dump(include={"duplicates", "tolerance", "shortest"})
    counted = {video_id: clean_instances(rows, **how)[0] for video_id, rows in truth.items()}
    result = evaluate(truth, perfect(counted), tiou=TIOU_ALL, labels=table.labels, ambiguous=unclear, **rules.rules())
    assert result.mean_ap.tolist() == [1.0] * len(TIOU_ALL)
    assert (result.recall == 1.0).all()
    assert result.points == (3 if name == "plain" and split == "val" else 0)
    if name.startswith("thumos14") or name.startswith("activitynet13"):
        assert rules.videos == result.videos
        assert rules.instances in (0, sum(result.instances))


def plain_recall(truth: Any, found: Any, tiou: list[float], most: int) -> np.ndarray:
    """The curve of ActivityNet's proposal task, threshold by threshold and point by point."""
    videos = sorted(v for v in truth if truth[v])
    ranked = {v: sorted(found.get(v, ()), key=lambda d: (-d["score"], *d["segment"])) for v in videos}
    total = sum(map(len, found.values()))  # those in videos without instances as well
    kept = {v: rows[: min(int(len(rows) * (most * len(videos) / total)), len(rows))] for v, rows in ranked.items()}
    taken = sum(map(len, kept.values()))
    curve = np.zeros((len(tiou), most))
    for h, threshold in enumerate(tiou):
        for n in range(1, most + 1):
            hits = 0
            for v in videos:
                seen = int(len(kept[v]) * (n / most * (most * len(videos) / taken)))
                hits += sum(any(share(d["segment"], g) >= threshold for d in kept[v][:seen]) for g in truth[v])
            curve[h, n - 1] = hits / sum(len(truth[v]) for v in videos)
    return curve


def test_average_recall_equals_plain_loops() -> None:
    for seed in range(12):
        truth, found = random_case(seed)
        if not any(found.get(v) for v in truth if truth[v]):
            continue
        for most in (5, 20):
            result = average_recall(truth, found, tiou=TIOU, most=most)
            np.testing.assert_allclose(result.recall, plain_recall(truth, found, TIOU, most), atol=1e-12)


@pytest.mark.parametrize(
    ("case", "area"),  # as OpenTAD's recall evaluator gives them for these files
    [("thumos_like", 0.7493109375), ("anet_like", 0.8751693121693119), ("absent_classes", 0.6089093567251461)],
)
def test_average_recall_of_the_golden_files(shared: Path, case: str, area: float) -> None:
    truth = truth_of(shared / f"golden/eval_{case}_gt.json", "test")
    found = json.loads((shared / f"golden/eval_{case}_pred.json").read_text())["results"]
    result = average_recall(truth, {v: rows for v, rows in found.items() if truth.get(v)})
    assert result.auc == pytest.approx(area, abs=1e-9)
    few = average_recall(truth, found, tiou=TIOU, most=3)
    np.testing.assert_allclose(few.recall, plain_recall(truth, found, TIOU, 3), atol=1e-12)


def test_proposals_in_videos_without_actions_lower_the_share_of_all_others() -> None:
    """As eval_proposal.py counts: 4 of a file's 8 proposals lie in a video without actions, so that each other video is
    asked for half as many, and the axis goes as far as those that were taken."""
    truth = {"a": [(0.0, 2.0, "x")], "quiet": []}
    found = {
        v: [{"label": "x", "score": 0.9 - k / 10, "segment": [8 - 4 * k, 10 - 4 * k]} for k in range(3)] for v in truth
    }
    alone = average_recall(truth, {"a": found["a"]}, tiou=[0.5], most=2)
    whole = average_recall(truth, found, tiou=[0.5], most=2)
    assert alone.recall.tolist() == [[0.0, 0.0]]  # the third is right, and two are looked at
    assert (alone.number.tolist(), whole.number.tolist()) == ([1.0, 2.0], [1.0, 2.0])
    found["a"].reverse()
    for d, score in zip(found["a"], (0.9, 0.8, 0.7), strict=True):
        d["score"] = score
    assert average_recall(truth, {"a": found["a"]}, tiou=[0.5], most=1).recall.tolist() == [[1.0]]
    assert average_recall(truth, found, tiou=[0.5], most=1).recall.tolist() == [[0.0]]  # int(3 · 1 / 6) of them
    assert average_recall(truth, found, tiou=[0.5], most=1, left_out={"quiet"}).recall.tolist() == [[1.0]]


def test_average_recall_by_hand_and_perfect() -> None:
    truth = {"a": [(0.0, 2.0, "x"), (5.0, 7.0, "y")], "b": []}
    found = {"a": [{"label": "x", "score": s, "segment": seg} for s, seg in ((0.9, [0, 2]), (0.8, [9, 10]))]}
    result = average_recall(truth, found, tiou=[0.5], most=2)
    assert result.recall.tolist() == [[0.5, 0.5]]
    assert (result.number.tolist(), result.videos, result.instances) == ([1.0, 2.0], 1, 2)
    assert (result.average_recall(1), result.auc) == (0.5, 0.25)
    many = {"a": [(float(k), k + 0.9, "x") for k in range(100)]}
    assert average_recall(many, perfect(many)).average_recall(100) == 1.0
    with pytest.raises(TadError, match="none is in the 1 videos"):
        average_recall(truth, {"b": found["a"]}, tiou=[0.5])
    nothing = average_recall(truth, {"a": []}, tiou=[0.5])
    assert (nothing.average_recall(100), nothing.auc) == (0.0, 0.0)


def test_frame_ap_has_no_order_among_ties() -> None:
    assert average_precision(np.array([0.5, 0.5, 0.5, 0.5]), np.array([True, False, False, True])) == 0.5
    assert average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True])) == pytest.approx(5 / 6)


def test_frame_map_by_hand() -> None:
    truth, durations = {"a": [(0.0, 2.0, "x")], "b": [(0.0, 1.0, "y")]}, {"a": 4.0, "b": 2.0}
    found = {
        "a": [{"label": "x", "score": 0.9, "segment": [0, 1]}, {"label": "x", "score": 0.5, "segment": [1, 3]}],
        "b": [{"label": "y", "score": 0.3, "segment": [0, 1]}],
    }
    scores = frame_map(truth, found, durations=durations, labels=["x", "y"], rate=1.0)
    assert scores == {"x": pytest.approx((1 + 2 / 3) / 2), "y": 1.0}
    with pytest.raises(TadError, match="video 'b' has no duration"):
        frame_map(truth, found, durations={"a": 4.0}, labels=["x", "y"], rate=1.0)


def test_segmentation_by_hand() -> None:
    truth, found = np.array([0, 0, 0, 0, -1, 1, 1, 1], np.int32), np.array([0, 0, -1, 0, 1, 1, 1, 1], np.int32)
    assert runs(found) == [(0, 0, 2), (0, 3, 4), (1, 4, 8)]
    assert matched(truth, found, overlap=0.5) == (2, 1, 0)
    assert matched(truth, found, overlap=0.8) == (0, 3, 2)
    assert edit_score(truth, found) == pytest.approx(1 - 1 / 3)
    scores = segmentation([truth], [found], overlaps=[0.5])
    assert (scores.f1[0.5], scores.accuracy) == (pytest.approx(2 * 2 / (2 * 2 + 1)), 6 / 8)
    with pytest.raises(TadError, match="must be equal"):
        segmentation([truth], [found[:-1]])


def test_perfect_detections_are_perfect_frames() -> None:
    truth = {"a": [(0.0, 2.0, "x"), (2.0, 3.0, "y")], "b": [(1.0, 2.5, "y")]}
    durations = {"a": 5.0, "b": 3.0}
    assert set(frame_map(truth, perfect(truth), durations=durations, labels=["x", "y"], rate=4.0).values()) == {1.0}
    pairs = frame_labels(truth, perfect(truth), durations=durations, labels=["x", "y"], rate=4.0, least=0.0)
    assert [len(x) for x in pairs[0]] == [20, 12]
    scores = segmentation(*pairs)
    assert (set(scores.f1.values()), scores.edit, scores.accuracy) == ({1.0}, 1.0, 1.0)
    nothing = frame_labels(truth, {"a": []}, durations=durations, labels=["x", "y"], rate=4.0, least=0.0)
    assert segmentation(*nothing).f1 == {0.1: 0.0, 0.25: 0.0, 0.5: 0.0}


@pytest.mark.parametrize(("end", "covered"), [(2.0, 2), (2.4, 2), (2.6, 3), (3.4, 3)])
def test_a_frame_is_covered_where_its_middle_is(end: float, covered: int) -> None:
    """The instance is of the first two of ten frames, the detection of the first `covered` ones."""
    found = {"v": [{"label": "a", "score": 0.9, "segment": [0.0, end]}]}
    ap = frame_map({"v": [(0.0, 2.0, "a")]}, found, durations={"v": 10.0}, labels=["a"], rate=1.0)
    assert ap["a"] == pytest.approx(2 / covered)


def test_the_first_of_two_proposals_is_one_proposal() -> None:
    rows = [{"label": "a", "score": score, "segment": segment} for score, segment in ((0.9, [20, 30]), (0.8, [0, 10]))]
    curve = average_recall({"v": [(0.0, 10.0, "a")]}, {"v": rows}, tiou=(0.5,), most=2)
    assert curve.recall.tolist() == [[0.0, 1.0]]
    assert curve.number.tolist() == [1.0, 2.0]
