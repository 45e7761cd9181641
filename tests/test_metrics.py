"""mAP and recall: published numbers, plain-loop definition, ties, duplicates, refusals, protocols."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metrics_cases import perfect, random_case, truth_of

from tad.core.errors import TadError
from tad.metrics import evaluate, matching, protocol, reference
from tad.metrics.inputs import clean_instances
from tad.metrics.matching import assign
from tad.metrics.protocols import TABLE

TIOU = [0.3, 0.5, 0.7]


def assert_equals_definition(truth: dict[str, Any], found: dict[str, Any]) -> None:
    result = evaluate(truth, found, tiou=TIOU, labels=["c0", "c1", "c2"], duplicates="keep", shortest=0.0)
    for k, label in enumerate(result.labels):
        instances = {v: [(s, e) for s, e, name in rows if name == label] for v, rows in truth.items()}
        detections = [(d["score"], v, *d["segment"]) for v, rows in found.items() for d in rows if d["label"] == label]
        for h, threshold in enumerate(TIOU):
            assert result.ap[h, k] == pytest.approx(
                reference.average_precision(instances, detections, threshold), abs=1e-12
            )
    for h, threshold in enumerate(TIOU):
        for r, depth in enumerate(result.recall_at):
            values = []
            for label in result.labels:
                instances = {v: [(s, e) for s, e, name in rows if name == label] for v, rows in truth.items()}
                detections = [
                    (d["score"], v, *d["segment"]) for v, rows in found.items() for d in rows if d["label"] == label
                ]
                values.append(reference.recall(instances, detections, threshold, depth=depth))
            assert result.recall[h, r] == pytest.approx(np.mean(values), abs=1e-12)


@pytest.mark.parametrize("case", ["thumos_like", "anet_like", "absent_classes"])
def test_published_evaluator(shared: Path, case: str) -> None:
    found = json.loads((shared / f"golden/eval_{case}_pred.json").read_text())["results"]
    expected = json.loads((shared / f"golden/eval_{case}_expected.json").read_text())
    truth = truth_of(shared / f"golden/eval_{case}_gt.json", "test")
    labels = {label for rows in truth.values() for *_, label in rows} | {d["label"] for r in found.values() for d in r}
    rules = protocol("actionformer").rules()
    result = evaluate(truth, found, tiou=expected["tiou"], labels=sorted(labels), **rules)
    assert np.abs(result.ap - expected["ap_per_class"]).max() <= 1e-9
    assert np.abs(result.mean_ap - expected["mAP"]).max() <= 1e-9
    assert abs(result.average_mean_ap - expected["average_mAP"]) <= 1e-9
    assert np.abs(result.recall - expected["mRecall"]).max() <= 1e-9
    assert result.duplicates > 0
    corrected = evaluate(truth, found, tiou=expected["tiou"], labels=sorted(labels))
    wrong = np.abs(corrected.ap - expected["ap_per_class"]).max(axis=0) > 1e-9
    assert wrong.sum() == (case == "anet_like")  # one label without instances passes for another class there
    assert len(corrected.unscored) == (case == "anet_like")


def test_real_detections_give_the_published_map(shared: Path) -> None:
    truth = truth_of(shared / "data/annotations/thumos14.json", "test")
    found = json.loads((shared / "data/detections/actionformer_thumos14_test_detections.json").read_text())["results"]
    expected = json.loads((shared / "data/detections/actionformer_thumos14_expected.json").read_text())
    result = evaluate(truth, found, tiou=expected["tIoU"])
    assert (result.videos, sum(result.instances), result.detections) == (212, 3358, 42400)
    assert [round(100 * x, 2) for x in result.mean_ap] == [82.13, 77.80, 70.95, 59.40, 43.88]
    np.testing.assert_allclose(result.mean_ap, expected["mAP"], atol=6e-7)
    assert result.average_mean_ap == pytest.approx(expected["avg"], abs=6e-7)
    for k, label in enumerate(result.labels):
        np.testing.assert_allclose(result.ap[:, k], expected["per_class_AP"][label], atol=6e-7)


@pytest.mark.parametrize("grid", [False, True])
def test_equals_the_definition(grid: bool) -> None:
    for seed in range(60):
        assert_equals_definition(*random_case(seed, grid=grid))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.randoms(use_true_random=False))
def test_the_order_of_a_file_does_not_matter(seed: int, shuffler: Any) -> None:
    truth, found = random_case(seed, grid=True)
    shuffled = {v: shuffler.sample(found[v], len(found[v])) for v in shuffler.sample(sorted(found), len(found))}
    first, second = (evaluate(truth, x, tiou=TIOU, labels=["c0", "c1", "c2"]) for x in (found, shuffled))
    assert np.array_equal(first.ap, second.ap)
    assert np.array_equal(first.recall, second.recall)


def test_perfect_detections_score_one_everywhere(shared: Path) -> None:
    tiou = np.linspace(0.3, 1.0, 8)
    for path, subset in (("thumos14.json", "test"), ("activity_net.v1-3.json", "validation")):
        truth = truth_of(shared / "data/annotations" / path, subset)
        clean = {
            v: clean_instances(rows, duplicates="drop", tolerance=1e-3, shortest=1e-3)[0] for v, rows in truth.items()
        }
        result = evaluate(clean, perfect(clean), tiou=tiou)
        assert result.mean_ap.tolist() == [1.0] * 8, path
        assert (result.recall == 1.0).all(), path


@pytest.mark.parametrize("name", ["thumos14-213", "thumos14-212", "thumos14-211", "thumos14-210"])
def test_perfect_detections_score_one_under_each_protocol(shared: Path, name: str) -> None:
    rules = protocol(name)
    truth = truth_of(shared / "data/annotations/thumos14.json", "test")
    truth = {video_id: rows for video_id, rows in truth.items() if video_id not in rules.left_out}
    result = evaluate(truth, perfect(truth), tiou=np.linspace(0.3, 1.0, 8), **rules.rules())
    assert result.mean_ap.tolist() == [1.0] * 8


def test_perfect_detections_score_one_on_activitynet_once_its_12_empty_instances_are_dropped(shared: Path) -> None:
    folder = shared / "data/annotations"
    entries = json.loads((folder / "anet_anno_action_bmn.json").read_text())
    official = json.loads((folder / "activity_net.v1-3.json").read_text())["database"]
    rows = {v: [(*a["segment"], a["label"]) for a in entry["annotations"]] for v, entry in entries.items()}
    kept = {v: [row for row in found if row[1] > row[0]] for v, found in rows.items()}
    assert sum(map(len, rows.values())) - sum(map(len, kept.values())) == 12
    truth = {
        v: clean_instances(found, duplicates="drop", tolerance=1e-3, shortest=0.0)[0]  # a repeated detection is wrong
        for v, found in kept.items()
        if official[v.removeprefix("v_")]["subset"] == "validation"
    }
    assert len(truth) == 4728
    result = evaluate(truth, perfect(truth), tiou=np.linspace(0.5, 0.95, 10), **protocol("activitynet").rules())
    assert result.mean_ap.tolist() == [1.0] * 10


def test_a_point_is_found_by_itself_alone() -> None:
    rules = {"duplicates": "keep", "shortest": 0.0}
    truth = {"a": [(1.0, 1.0, "x"), (4.0, 6.0, "x")], "b": [(0.0, 2.0, "x")]}
    result = evaluate(truth, perfect(truth), tiou=[0.5, 1.0], **rules)
    assert result.mean_ap.tolist() == [1.0, 1.0]
    assert (result.recall == 1.0).all()
    assert (result.points, sum(result.instances)) == (1, 3)
    for segment in ([0.9, 1.1], [1.0, 2.0], [1.5, 1.5], [4.0, 4.0]):  # around it, from it on, elsewhere
        found = perfect(truth)
        found["a"][0] = {"label": "x", "score": 2.0, "segment": segment}
        assert evaluate(truth, found, tiou=[0.5], **rules).average_mean_ap == pytest.approx(4 / 9)
    assert evaluate(truth, perfect(truth), tiou=[0.5]).points == 0  # too short to count


def test_activitynet_counts_7630_instances(shared: Path) -> None:
    truth = truth_of(shared / "data/annotations/activity_net.v1-3.json", "validation")
    result = evaluate(truth, perfect(truth), tiou=[0.5], **protocol("activitynet13").rules())
    assert (result.videos, sum(result.instances)) == (4926, 7630)
    assert (result.too_short, result.duplicates) == (3, 21)
    assert (protocol("activitynet13").videos, protocol("activitynet13").instances) == (4926, 7630)


def test_threshold_is_inclusive_and_second_detections_are_wrong() -> None:
    truth = {"a": [(0.0, 2.0, "x")]}
    half = {"a": [{"label": "x", "score": 0.9, "segment": [0, 1]}]}
    assert evaluate(truth, half, tiou=[0.5, 0.51]).mean_ap.tolist() == [1.0, 0.0]
    twice = {"a": [{"label": "x", "score": s, "segment": [0, 2]} for s in (0.9, 0.8)]}
    truth["b"] = [(0.0, 2.0, "x")]
    twice["b"] = [{"label": "x", "score": 0.1, "segment": [0, 2]}]
    assert evaluate(truth, twice, tiou=[0.5]).ap.tolist() == [[pytest.approx((1 + 2 / 3) / 2)]]


def test_duplicates_and_points_are_dropped_and_counted() -> None:
    truth = {"a": [(0, 2, "x"), (0.001, 2, "x"), (0, 2, "y"), (5, 5.0005, "x")]}
    found = {"a": [{"label": c, "score": 1, "segment": [0, 2]} for c in "xy"]}
    result = evaluate(truth, found, tiou=[0.5])
    assert (result.duplicates, result.too_short, result.instances) == (1, 1, (1, 1))
    assert result.average_mean_ap == 1.0
    assert evaluate(truth, found, tiou=[0.5], **protocol("plain").rules()).instances == (3, 1)


def test_classes_without_detections_count_zero_and_videos_are_accounted_for() -> None:
    truth = {"a": [(0, 2, "x")], "b": [(0, 2, "y")], "c": []}
    found = {"a": [{"label": "x", "score": 1, "segment": [0, 2]}], "z": []}
    result = evaluate(truth, found, tiou=[0.5])
    assert result.ap.tolist() == [[1.0, 0.0]]
    assert (result.missing, result.outside) == (("b", "c"), ("z",))


@pytest.mark.parametrize(
    ("truth", "found", "message"),
    [
        ({"a": []}, {"a": []}, "no instance in 1 videos"),
        ({"a": [(0, 1, "run")]}, {"b": []}, "none of 1 videos is among the 1"),
        ({"a": [(0, 1, "run")]}, {"a": [{"label": "runn", "score": 1, "segment": [0, 1]}]}, "did you mean 'run'"),
        ({"a": [(0, 1, "run")]}, {"a": [{"label": "run", "score": np.nan, "segment": [0, 1]}]}, "finite"),
        ({"a": [(0, 1, "run")]}, {"a": [{"label": "run", "score": 1, "segment": [0, np.nan]}]}, "finite"),
        ({"a": [(0, 1, "run")]}, {"a": [{"label": "run", "score": 1, "segment": [2, 1]}]}, "start <= end"),
        ({"a": [(0, 1, "run")]}, {"a": [{"label": "run", "score": 1, "segment": [2]}]}, "each entry needs"),
        ({"a": [(0, 1, "run")]}, {"a": [{"label": "run", "segment": [1, 2]}]}, "each entry needs"),
        ({"a": [(0, np.nan, "run")]}, {"a": []}, "ground truth of a: segment"),
    ],
)  # fmt: skip
def test_refusals(truth: Any, found: Any, message: str) -> None:
    with pytest.raises(TadError, match=message) as error:
        evaluate(truth, found, tiou=[0.5])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("tiou", [[0.5, 0.5], [0.3, 0.7, 0.3000000001]])
def test_a_threshold_counts_once(tiou: list[float]) -> None:
    """The average would weight it twice, and the table by threshold show it once."""
    found = {"a": [{"label": "run", "score": 0.5, "segment": [0, 1]}]}
    with pytest.raises(TadError, match=r"^tiou: 0\.[35] is given 2 times, and would count as often; keep one$"):
        evaluate({"a": [(0, 1, "run")]}, found, tiou=tiou)


def test_infinite_numbers_are_not_taken_for_lengths() -> None:
    found = {"a": [{"label": "run", "score": float("inf"), "segment": [0, 1]}]}
    with pytest.raises(TadError, match=r"\(1 such\); correct the file$"):
        evaluate({"a": [(0, 1, "run")]}, found, tiou=[0.5])


def test_unknown_labels_of_the_ground_truth_are_refused() -> None:
    with pytest.raises(TadError, match="ground truth of a: unknown label 'walk'"):
        evaluate({"a": [(0, 1, "walk")]}, {"a": []}, tiou=[0.5], labels=["walks"])


def test_protocols_leave_out_what_they_say(shared: Path) -> None:
    truth = truth_of(shared / "data/annotations/thumos14.json", "test")
    truth["video_test_0001292"] = []  # in the official files: only Ambiguous segments
    for name in ("thumos14-213", "thumos14-212", "thumos14-211", "thumos14-210"):
        rules = protocol(name)
        left = {v: rows for v, rows in truth.items() if v not in rules.left_out}
        assert len(left) == rules.videos == int(name[-3:])
        assert sum(map(len, left.values())) == rules.instances


def test_every_protocol_is_readable_and_others_are_refused() -> None:
    names = [line[:-1] for line in TABLE.read_text().splitlines() if line and line[0] not in " #"]
    assert {"thumos14-212", "activitynet", "hacs", "plain"} <= set(names)
    assert all(protocol(name).summary for name in names)
    with pytest.raises(TadError, match="did you mean 'thumos14-21"):
        protocol("thumos14_212")


@given(st.integers(0, 2**32))
def test_the_assignment_is_that_of_a_loop_over_detections(seed: int) -> None:
    rng = np.random.default_rng(seed)
    detections, instances = rng.integers(1, 12), rng.integers(1, 9)
    wishes = [rng.permutation(instances)[: rng.integers(0, instances + 1)] for _ in range(detections)]
    expected: dict[int, int] = {}
    for d, own in enumerate(wishes):
        free = [g for g in own if g not in expected.values()]
        expected |= {d: free[0]} if free else {}
    which = np.concatenate(wishes).astype(np.int64)
    matched, held = assign(np.repeat(np.arange(detections), [len(own) for own in wishes]), which, instances)
    assert dict(zip(matched.tolist(), held.tolist(), strict=True)) == expected


@pytest.mark.parametrize("pairs", [1, 7])
def test_pairs_are_compared_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch, pairs: int) -> None:
    truth, found = random_case(3, grid=True)
    expected = evaluate(truth, found, tiou=TIOU, labels=["c0", "c1", "c2"])
    monkeypatch.setattr(matching, "PAIRS", pairs)
    result = evaluate(truth, found, tiou=TIOU, labels=["c0", "c1", "c2"])
    assert np.array_equal(result.ap, expected.ap)
    assert np.array_equal(result.recall, expected.recall)
    assert np.array_equal(result.detail.taken, expected.detail.taken)


def test_a_score_needs_neither_torch_nor_numba(tmp_path: Path) -> None:
    """Their imports take longer than scoring THUMOS14."""
    truth, found = {"a": [(0.0, 2.0, "x")]}, {"a": [{"label": "x", "score": 1.0, "segment": [0.0, 2.0]}]}
    database = {"a": {"subset": "test", "annotations": [{"segment": truth["a"][0][:2], "label": "x"}]}}
    (tmp_path / "truth.json").write_text(json.dumps({"database": database}))
    (tmp_path / "found.json").write_text(json.dumps({"results": found}))
    words = ["evaluate", "found.json", "--annotations", "truth.json", "--protocol", "plain", "--out", "map.json"]
    code = f"import sys; from tad.commands.cli import main; assert main({[*words, '--tiou', '0.5']}) == 0\n"
    code += "print(sorted({'torch', 'numba', 'matplotlib'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "[]"
