"""Scores of moments: E2E-Spot's and SoccerNet's rules, on small inputs worked out by hand and against slow loops."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tad
from tad.core.errors import TadError
from tad.metrics import evaluate
from tad.metrics.bootstrap import draw, resample
from tad.metrics.moments import Nearness, tolerance
from tad.metrics.protocols import protocol
from tad.stages.evaluate import evaluate_file

Events = dict[str, list[tuple[float, str]]]
Found = dict[str, list[tuple[float, str, float]]]
RATE = 25.0


def near(*texts: str, rule: str = "moments", grid: float = 2.0, rate: float = RATE, **more: Any) -> Nearness:
    rates = dict.fromkeys("abcdefgh", rate)
    return Nearness(tuple(map(tolerance, texts)), rates, rule=rule, grid_rate=grid, **more)  # type: ignore[arg-type]


def score(truth: Events, found: Found, rule: Nearness, **more: Any) -> Any:
    instances = {v: [(t, t, label) for t, label in rows] for v, rows in truth.items()}
    detections = {
        v: [{"label": label, "score": s, "segment": [t, t]} for t, label, s in rows] for v, rows in found.items()
    }
    return evaluate(instances, detections, tiou=(), near=rule, duplicates="keep", **more)


def frames(events: dict[str, list[tuple[Any, ...]]]) -> Any:
    return {v: [(frame / RATE, *rest) for frame, *rest in rows] for v, rows in events.items()}


# -- E2E-Spot ----------------------------------------------------------------------------------------------------------


def test_a_worked_example() -> None:
    """Video a has events at frames 10, 12 and 40; b at 7. Four detections hit, two do not."""
    truth = frames({"a": [(10, "x"), (12, "x"), (40, "x")], "b": [(7, "x")]})
    found = frames({"a": [(11, "x", 0.9), (13, "x", 0.8), (14, "x", 0.7), (42, "x", 0.5)], "b": [(7, "x", 0.6)]})
    result = score(truth, found, near("0f", "1f", "2f"))
    # 0f: only b's, of rank 4: precision 1/4, once of 4 instances
    # 1f: 11 → 10 (the earlier of two as near), 13 → 12, b at rank 4: (1 + 1 + 3/4) / 4
    # 2f: also 42 → 40 at rank 5; 14 is left without an event: (1 + 1 + 4/5 + 4/5) / 4
    assert result.mean_ap.tolist() == pytest.approx([0.25 / 4, 2.75 / 4, 3.6 / 4])
    assert result.average_mean_ap == pytest.approx((0.25 + 2.75 + 3.6) / 12)
    assert result.names == ("0f", "1f", "2f")
    assert result.recall[:, 1].tolist() == pytest.approx([0.25, 0.75, 1.0])  # of 5 times as many detections


def slow(truth: Events, found: Found, label: str, within: float) -> float:
    """AP of a class as the definition says it, by loops over all pairs; times are frame numbers."""
    rows = sorted(((s, v, t) for v, own in found.items() for t, name, s in own if name == label), reverse=True)
    free = {v: sorted(t for t, name in own if name == label) for v, own in truth.items()}
    total, hits = sum(map(len, free.values())), []
    matched = 0
    for rank, (_, v, t) in enumerate(rows, 1):
        nearest = min(free.get(v, []), key=lambda other: (abs(other - t), other), default=None)
        if nearest is not None and abs(nearest - t) <= within:
            free[v].remove(nearest)
            matched += 1
            hits.append(matched / rank)
    return sum(max(hits[k:]) for k in range(len(hits))) / total


EVENT = st.tuples(st.integers(0, 40), st.sampled_from("xy"))


@settings(max_examples=60, deadline=None)
@given(
    truth=st.fixed_dictionaries({v: st.lists(EVENT, max_size=8, unique=True) for v in "abc"}),
    found=st.fixed_dictionaries({v: st.lists(EVENT, max_size=12) for v in "abc"}),
    seed=st.integers(0, 99),
)
def test_it_is_the_loop_over_detections(truth: Any, found: Any, seed: int) -> None:
    labels = {name for rows in truth.values() for _, name in rows}
    if not labels:
        return
    scores = iter(np.random.default_rng(seed).permutation(100) / 100)
    found = {v: [(t, name, float(next(scores))) for t, name in rows] for v, rows in found.items()}
    result = score(frames(truth), frames(found), near("0f", "1f", "3f"), labels=["x", "y"])
    for (h, within), (k, label) in product(enumerate((0, 1, 3)), enumerate(result.labels)):
        assert result.ap[h, k] == pytest.approx(slow(truth, found, label, within), abs=1e-12)
    names = resample(result.matches, np.ones((1, 3), np.int64))
    assert names[0].tolist() == pytest.approx(result.mean_ap.tolist())


def test_equal_scores_do_not_depend_on_the_order_of_the_file() -> None:
    truth, rows = frames({"a": [(10, "x"), (20, "x")]}), [(12.0, "x", 0.5), (20.0, "x", 0.5), (9.0, "x", 0.5)]
    results = [score(truth, frames({"a": order}), near("1f")).ap.tolist() for order in (rows, rows[::-1])]
    assert results[0] == results[1] == [[pytest.approx((1 + 2 / 3) / 2)]]


def test_seconds_and_frames_of_different_rates() -> None:
    truth, found = {"a": [(1.0, "x")]}, {"a": [(1.1, "x", 0.5)]}
    assert score(truth, found, near("0.1s", "0.09s")).mean_ap.tolist() == [1.0, 0.0]
    assert score(truth, found, near("2f", "3f", rate=25.0)).mean_ap.tolist() == [0.0, 1.0]
    assert score(truth, found, near("1f", "3f", rate=10.0)).mean_ap.tolist() == [1.0, 1.0]


def test_no_detections_score_0_and_no_rate_is_said() -> None:
    truth: Events = {"a": [(1.0, "x")], "b": []}
    for rule in (near("1f"), near("1s", rule="soccernet")):
        result = score(truth, {"a": [], "b": []}, rule)
        assert result.mean_ap.tolist() == [0.0]
        assert np.nanmax(resample(result.matches, draw(2))) == 0.0
    unknown = Nearness((tolerance("1f"),), {"a": 25.0})
    with pytest.raises(TadError, match=r"the frame rate of 1 of 2 videos, first 'b', is unknown.*column fps"):
        score(truth, {"a": [], "b": []}, unknown)


# -- SoccerNet ---------------------------------------------------------------------------------------------------------


def test_soccernets_rule_worked_out() -> None:
    """At 2 frames a second and a tolerance of 2 s, an event takes the best detection at most 2 frames away."""
    truth = {"a": [(10.0, "x"), (11.0, "x"), (30.2, "x"), (30.4, "x")]}  # the last two are one frame
    found = {"a": [(9.5, "x", 0.3), (10.9, "x", 0.9), (31.49, "x", 0.6), (50.0, "x", 0.95)]}
    result = score(truth, found, near("2s", rule="soccernet"), ties="file")
    assert result.instances == (3,)
    # frames: events 20, 22, 60; detections 19, 21, 62, 100. Event 20 takes 21 (score 0.9), 22 nothing, 60 takes 62.
    # thresholds up to 0.6: precision 2/3 at recall 2/3, up to 0.9: 1/2 at 1/3. AP: 7 of 11 values of recall.
    assert result.matches.found.sum() == 2
    assert result.mean_ap.tolist() == pytest.approx([7 * (2 / 3) / 11])
    counts = np.array([[1], [2]])
    assert resample(result.matches, counts)[:, 0].tolist() == pytest.approx([7 * (2 / 3) / 11] * 2)


@pytest.mark.parametrize(("scores", "said"), [((0.0, 1.0), False), ((-0.5, 0.2), True), ((0.5, 95.0), True)])
def test_scores_beyond_soccernets_thresholds_are_said(
    scores: tuple[float, float], said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    found = {"a": [(10.0, "x", scores[0]), (30.0, "x", scores[1])]}
    score({"a": [(10.0, "x")]}, found, near("1s", rule="soccernet"), ties="file")
    assert ("lie outside [0, 1], where this protocol's thresholds are" in caplog.text) == said
    caplog.clear()
    score({"a": [(10.0, "x")]}, found, near("1s"))
    assert not caplog.text


def test_of_several_detections_in_a_frame_the_last_counts() -> None:
    truth, rule = {"a": [(10.0, "x")]}, near("1s", rule="soccernet")
    for order, expected in (((0.9, 0.2), 0.2), ((0.2, 0.9), 0.9)):
        result = score(truth, {"a": [(10.1, "x", s) for s in order]}, rule, ties="file")
        assert result.detections == 2
        assert result.detail.scores.tolist() == [expected]


def test_averages_of_soccernet() -> None:
    rules = protocol("soccernet-v2")
    rule = near(*rules.tolerances, rule="soccernet", averages=rules.averages)
    weights = rule.average_weights()
    assert list(weights) == ["tight", "loose"]
    mean_ap = np.arange(1.0, 17.0)
    assert mean_ap @ weights["tight"] == pytest.approx((1.5 + 2.5 + 3.5 + 4.5) / 4)
    assert mean_ap @ weights["loose"] == pytest.approx(sum(k + 0.5 for k in range(5, 16)) / 11)
    result = score({"a": [(10.0, "x")]}, {"a": [(10.0, "x", 0.8)]}, rule)
    assert result.average_mean_ap == pytest.approx(float(result.mean_ap @ weights["tight"]))


# -- files -------------------------------------------------------------------------------------------------------------

CSV = "video,time,label,fps,split\na,1.0,x,25,test\na,2.0,x,25,test\nb,1.0,y,25,test\n"


def files(tmp_path: Path, segment: float = 0.0) -> tuple[Path, Path]:
    labels, results = tmp_path / "labels.csv", tmp_path / "detections.json"
    labels.write_text(CSV)
    rows = {"a": [("x", 1.04), ("x", 2.2)], "b": [("y", 1.0)]}
    found = {v: [{"label": n, "score": 0.5, "segment": [t, t + segment]} for n, t in own] for v, own in rows.items()}
    results.write_text(json.dumps({"results": found}))
    return labels, results


def test_a_results_file_is_scored(tmp_path: Path) -> None:
    labels, results = files(tmp_path)
    document = json.loads(evaluate_file(results, labels, tmp_path / "map.json", protocol_name="moments").read_text())
    assert document["tolerances"] == ["1f", "2f"]
    assert document["mAP"] == {"1f": 0.75, "2f": 0.75}
    assert set(document["interval"]["mAP"]) == {"1f", "2f"}
    assert tad.evaluate(results, labels, protocol="moments", tolerances=["0.2s"]).mAP == {"0.2s": 1.0}


def test_segments_need_a_chosen_time(tmp_path: Path) -> None:
    labels, results = files(tmp_path, segment=1.0)
    with pytest.raises(TadError, match=r"3 of 3 detections have a length, the first from 1.04 to 2.04 s.*--moment"):
        evaluate_file(results, labels, tmp_path / "map.json", protocol_name="moments")
    for at, expected in (("start", 0.75), ("middle", 0.0)):
        out = evaluate_file(results, labels, tmp_path / "m.json", protocol_name="moments", settings={"moment": at})
        assert json.loads(out.read_text())["average_mAP"] == expected


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("activitynet", {}, "has no length; .*use a protocol of moments"),
        ("moments", {"tolerances": ["1"]}, "tolerances"),
        ("moments", {"measures": ["frames"]}, "eval.measures: frames: for segments"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, name: str, settings: dict[str, Any], said: str) -> None:
    labels, results = files(tmp_path)
    with pytest.raises(TadError, match=said) as error:
        evaluate_file(results, labels, tmp_path / "map.json", protocol_name=name, settings=settings)
    assert "\n" not in str(error.value)


def test_moments_are_diagnosed(tmp_path: Path) -> None:
    """A detection 5 frames away is a localization error, one of the other class within the tolerance a wrong label."""
    labels, results = files(tmp_path)
    found = json.loads(results.read_text())
    found["results"]["b"].append({"label": "x", "score": 0.4, "segment": [1.0, 1.0]})
    results.write_text(json.dumps(found))
    path = tmp_path / "diagnosis" / "diagnosis.json"
    evaluate_file(results, labels, tmp_path / "map.json", protocol_name="moments", diagnosis=path)
    document = json.loads(path.read_text())
    assert document["tolerances"] == ["1f", "2f"]
    share = document["errors"]["share"]
    assert share["true positive"] == 0.5
    assert share["localization"] == share["wrong label"] == 0.25
    assert set(document["characteristics"]) >= {"gap", "instances"}
    assert (path.parent / "errors.png").is_file()
