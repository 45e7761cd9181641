"""Protocols that name a published script score as that script does: cases worked by hand from its rules."""

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metrics_cases import random_case, script_ap, truth_of

from tad.core.errors import TadError
from tad.metrics import evaluate, protocol
from tad.metrics.bootstrap import resample
from tad.metrics.columns import collect
from tad.metrics.proposals import average_recall

PLAIN = protocol("plain")
KIT = protocol("thumos14-devkit")


def one(segment: Any, score: float = 0.9, label: str = "x") -> dict[str, Any]:
    return {"label": label, "score": score, "segment": list(segment)}


def test_a_reversed_instance_is_there_and_not_found_under_activitynets_script() -> None:
    truth = {"a": [(10.0, 0.0, "x"), (1.0, 5.0, "x")]}
    result = evaluate(truth, {"a": [one((1, 5))]}, tiou=[0.5], **PLAIN.rules())
    assert (result.average_mean_ap, result.reversed, sum(result.instances)) == (0.5, 1, 2)
    ours = evaluate(truth, {"a": [one((1, 5))]}, tiou=[0.5], **protocol("activitynet").rules())
    assert (ours.average_mean_ap, ours.too_short) == (1.0, 1)


def test_nothing_by_nothing_is_a_hit_under_activitynets_script() -> None:
    truth = {"a": [(3.0, 3.0, "x")]}
    for segment, right in (((3, 3), 1.0), ((7, 7), 1.0), ((2.9, 3.1), 0.0), ((3, 4), 0.0)):
        assert evaluate(truth, {"a": [one(segment)]}, tiou=[0.5, 0.95], **PLAIN.rules()).average_mean_ap == right
    backward = {"a": [(5.0, 3.0, "x")]}  # as long as the detection, but backward: 0 / 0 again
    assert evaluate(backward, {"a": [one((20, 22))]}, tiou=[0.95], **PLAIN.rules()).average_mean_ap == 1.0
    assert evaluate(backward, {"a": [one((3, 6))]}, tiou=[0.1], **PLAIN.rules()).average_mean_ap == 0.0


def test_reversed_detections_are_wrong_under_the_script_and_refused_elsewhere() -> None:
    truth = {"a": [(0.0, 2.0, "x")]}
    found = {"a": [one((3, 0), 0.9), one((0, 2), 0.8)]}
    assert evaluate(truth, found, tiou=[0.5], **PLAIN.rules()).average_mean_ap == 0.5
    turned = evaluate(truth, {"a": found["a"][:1]}, tiou=[0.5], **KIT.rules())
    assert (turned.average_mean_ap, turned.reversed) == (1.0, 1)  # the kit turns it round: 2 of 3 s
    with pytest.raises(TadError, match="start <= end"):
        evaluate(truth, found, tiou=[0.5], **protocol("activitynet").rules())


whole = st.tuples(st.integers(0, 8), st.integers(0, 8))


@settings(max_examples=150, deadline=None)
@given(st.lists(whole, min_size=1, max_size=6), st.lists(whole, max_size=8))
def test_activitynets_script_on_any_segments(instances: Any, found: Any) -> None:
    detections = [(start, end, 1 - k / 10) for k, (start, end) in enumerate(found)]
    result = evaluate(
        {"a": [(float(a), float(b), "x") for a, b in instances]},
        {"a": [one((s, e), score) for s, e, score in detections]},
        tiou=[0.25, 0.5, 1.0],
        **PLAIN.rules(),
    )
    expected = [script_ap(instances, detections, t) for t in (0.25, 0.5, 1.0)]
    np.testing.assert_allclose(result.ap[:, 0], expected, atol=1e-12)


def test_of_instances_that_overlap_equally_the_last_is_taken() -> None:
    """In two lines: the first detection may take either instance, the second only the first one of the file."""
    truth = {"a": [(0.0, 4.0, "x"), (4.0, 8.0, "x")]}
    found = {"a": [one((2, 6), 0.9), one((0, 4), 0.8)]}
    for name in ("plain", "activitynet", "thumos14-212", "epic"):
        assert evaluate(truth, found, tiou=[0.3], **protocol(name).rules()).average_mean_ap == 1.0, name
    found["a"][1] = one((4, 8), 0.8)
    for name in ("plain", "activitynet", "thumos14-212", "epic"):
        assert evaluate(truth, found, tiou=[0.3], **protocol(name).rules()).average_mean_ap == 0.5, name
    truth["a"].reverse()
    assert evaluate(truth, found, tiou=[0.3], **PLAIN.rules()).average_mean_ap == 1.0


def test_the_kit_orders_ties_as_the_file_and_others_do_not_look_at_it() -> None:
    truth = {"a": [(0.0, 2.0, "x")]}
    pair = [one((0, 2), 0.5), one((6, 8), 0.5)]
    assert evaluate(truth, {"a": pair}, tiou=[0.5], **KIT.rules()).average_mean_ap == 1.0
    assert evaluate(truth, {"a": pair[::-1]}, tiou=[0.5], **KIT.rules()).average_mean_ap == 0.5
    for name in ("plain", "activitynet", "thumos14-212"):
        scores = {evaluate(truth, {"a": list(p)}, tiou=[0.5], **protocol(name).rules()).average_mean_ap
                  for p in permutations(pair)}  # fmt: skip
        assert scores == {1.0}, name
    videos = {"b": [one((0, 2), 0.5)], "a": [one((6, 8), 0.5)]}  # videos by id, wherever the file has them
    both, columns = truth | {"b": [(0.0, 2.0, "x")]}, collect(videos.items())
    assert columns.video_ids == ("b", "a")
    assert evaluate(both, columns, tiou=[0.5], **KIT.rules()).average_mean_ap == 0.25


def test_the_kit_measures_overlap_by_the_span_and_knows_no_points() -> None:
    truth = {"a": [(2.0, 2.0, "x"), (5.0, 3.0, "x")]}
    result = evaluate(truth, {"a": [one((2, 2), 0.9), one((3, 5), 0.8)]}, tiou=[0.5], **KIT.rules())
    assert result.average_mean_ap == 0.25  # the second of two, and one of two instances
    once = np.ones((1, 1), np.int64)
    np.testing.assert_allclose(resample(result.matches, once)[0], result.mean_ap)


def test_a_proposal_without_length_finds_nothing() -> None:
    truth = {"a": [(3.0, 3.0, "x"), (5.0, 6.0, "x")]}
    curve = average_recall(truth, {"a": [one((3, 3), 0.9), one((5, 6), 0.8)]})
    assert curve.average_recall(100) == 0.5


def test_thresholds_are_those_of_the_scripts() -> None:
    """numpy.linspace(0.1, 0.5, 5)[2] is above 0.3, so a tIoU of 3 / 10 does not reach it in EPIC-KITCHENS' script."""
    epic = protocol("epic")
    assert epic.exact([0.3]) == [np.linspace(0.1, 0.5, 5)[2]] != [0.3]
    assert epic.exact([0.31, 0.5]) == [0.31, 0.5]
    assert KIT.exact([0.3]) == [0.3]


@st.composite
def rising(draw: Any) -> list[float]:
    """Strictly rising floats, from minus a thousand to a thousand."""
    values = draw(st.sets(st.floats(-1e3, 1e3, allow_nan=False).map(lambda x: x + 0.0), min_size=8, max_size=8))
    return sorted(values)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), rising(), st.sampled_from(["plain", "activitynet", "thumos14-devkit", "epic"]))
def test_scores_are_ranks(seed: int, values: list[float], name: str) -> None:
    """Any strictly increasing change of scores leaves every AP and every recall as it is, to the bit."""
    truth, found = random_case(seed, grid=True)
    ranks = {score: k for k, score in enumerate(sorted({d["score"] for rows in found.values() for d in rows}))}
    changed = {v: [d | {"score": values[ranks[d["score"]]]} for d in rows] for v, rows in found.items()}
    before, after = (
        evaluate(truth, x, tiou=[0.3, 0.5], labels=["c0", "c1", "c2"], **protocol(name).rules())
        for x in (found, changed)
    )
    assert np.array_equal(before.ap, after.ap)
    assert np.array_equal(before.recall, after.recall)
    if any(found.get(v) for v in truth if truth[v]):
        curves = [average_recall(truth, x, tiou=[0.3, 0.5], most=10) for x in (found, changed)]
        assert np.array_equal(curves[0].recall, curves[1].recall)


@pytest.mark.parametrize(("digits", "moved"), [(17, 0.0), (4, 0.0022)])
@pytest.mark.parametrize("name", ["thumos14-212", "thumos14-devkit"])
def test_ties_move_published_scores_as_the_docs_say(shared: Path, name: str, digits: int, moved: float) -> None:
    """ActionFormer's 42,400 detections as published (6 tied across videos, none within one), and with the scores
    rounded to four digits, as OpenTAD writes them: percentage points between the fixed order and the file's, both ways
    round."""
    truth = truth_of(shared / "data/annotations/thumos14.json", "test")
    found = json.loads((shared / "data/detections/actionformer_thumos14_test_detections.json").read_text())["results"]
    found = {v: [d | {"score": round(d["score"], digits)} for d in rows] for v, rows in found.items()}
    flipped = {v: rows[::-1] for v, rows in found.items()}
    rules = protocol(name).rules()
    score = [
        evaluate(truth, x, tiou=[0.3, 0.4, 0.5, 0.6, 0.7], **(rules | {"ties": ties})).mean_ap
        for x, ties in ((found, "fixed"), (found, "file"), (flipped, "fixed"), (flipped, "file"))
    ]
    assert np.array_equal(score[0], score[2])
    assert 100 * max(np.abs(x - score[0]).max() for x in score) == pytest.approx(moved, abs=0.0004)
