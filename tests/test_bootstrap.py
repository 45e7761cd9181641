"""Resampled scores equal the evaluator's on data sets that hold the drawn videos as copies; size, speed, intervals."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tad.metrics import bootstrap, evaluate, matching, protocol
from tad.metrics.bootstrap import describe, draw, interval, resample

TIOU = [0.3, 0.5, 0.7]


def random_case(seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Videos of three classes (one of them rare), scores all different."""
    rng = np.random.default_rng(seed)

    def segment() -> tuple[float, float]:
        start = rng.random() * 30
        return start, start + rng.random() * 10 + 0.1

    truth, found = {}, {}
    for v in range(7):
        truth[f"v{v}"] = [(*segment(), f"c{rng.integers(2)}") for _ in range(rng.integers(0, 6))]
        found[f"v{v}"] = [
            {"label": f"c{rng.integers(3)}", "score": float(rng.random()), "segment": segment()} for _ in range(25)
        ]
    truth["v0"] += [(1.0, 2.0, "c0"), (4.0, 9.0, "c2")]
    del found["v3"]
    return truth, found


def copied(rows: dict[str, Any], ids: list[str], counts: np.ndarray) -> dict[str, Any]:
    return {f"{v}#{k}": rows[v] for v, n in zip(ids, counts, strict=True) if v in rows for k in range(n)}


@pytest.mark.parametrize("seed", range(4))
def test_a_resample_is_the_evaluation_of_copied_videos(seed: int) -> None:
    truth, found = random_case(seed)
    matches = evaluate(truth, found, tiou=TIOU).matches
    ids = list(matches.video_ids)
    counts_NV = draw(len(ids), resamples=25, seed=seed)
    assert (counts_NV.sum(axis=1) == len(ids)).all()
    assert (counts_NV[:, 0] == 0).any()  # some draws lack the only video with class c2
    resampled_NH = resample(matches, counts_NV)
    labels = ["c0", "c1", "c2"]
    for counts, values in zip(counts_NV, resampled_NH, strict=True):
        again = evaluate(copied(truth, ids, counts), copied(found, ids, counts), tiou=TIOU, labels=labels)
        np.testing.assert_allclose(values, again.mean_ap, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_compiled_loops_over_classes_give_the_same_bits(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of classes are scored and resampled by `tad.metrics.many_classes`; NumPy's way is the definition."""
    truth, found = random_case(seed)
    found["v0"] += [{"label": "c2", "score": 0.9, "segment": (4.0, 9.0)}]  # matches alike at all thresholds
    counts_NV = draw(len(truth), resamples=300, seed=seed)  # not a multiple of the block
    results = []
    for few in (500, 0):
        monkeypatch.setattr(bootstrap, "FEW_CLASSES", few)
        monkeypatch.setattr(matching, "FEW_CLASSES", few)
        result = evaluate(truth, found, tiou=TIOU)
        results.append((result.ap, result.recall, resample(result.matches, counts_NV)))
    for definition, compiled in zip(*results, strict=True):
        np.testing.assert_array_equal(definition, compiled)


def test_drawing_each_video_once_is_the_evaluation_itself() -> None:
    truth, found = random_case(9)
    result = evaluate(truth, found, tiou=TIOU)
    once = np.ones((1, len(truth)), np.int64)
    np.testing.assert_allclose(resample(result.matches, once)[0], result.mean_ap, rtol=0, atol=1e-12)


def test_a_draw_without_instances_has_no_score_and_does_not_count() -> None:
    truth = {"a": [(0.0, 1.0, "x")], "b": []}
    found = {"a": [{"label": "x", "score": 0.5, "segment": [0.0, 1.0]}], "b": []}
    values = resample(evaluate(truth, found, tiou=[0.5]).matches, np.array([[2, 0], [0, 2]]))
    assert values[0, 0] == 1
    assert np.isnan(values[1, 0])
    assert interval(values[:, 0]) == (1, 1)


def test_the_same_seed_gives_the_same_interval_and_says_what_it_is() -> None:
    truth, found = random_case(2)
    result = evaluate(truth, found, tiou=TIOU)
    one, again, other = (
        describe(resample(result.matches, draw(7, seed=s)), [f"{t:g}" for t in TIOU], seed=s) for s in (0, 0, 1)
    )
    assert one == again != other
    assert (one["method"], one["level"], one["resamples"], one["seed"]) == (
        "percentile bootstrap over videos", 0.95, 1000, 0,
    )  # fmt: skip
    low, high = one["average_mAP"]
    assert 0 <= low < result.average_mean_ap < high <= 1
    assert list(one["mAP"]) == ["0.3", "0.5", "0.7"]


def test_an_interval_leaves_out_as_much_on_either_side() -> None:
    assert interval(np.random.default_rng(0).permutation(1001) / 1000) == pytest.approx((0.025, 0.975))


def test_published_detections_in_seconds(shared: Path) -> None:
    database = json.loads((shared / "data/annotations/thumos14.json").read_text())["database"]
    rules = protocol("thumos14-212")
    truth = {
        v: [(*map(float, a["segment"]), a["label"]) for a in video["annotations"]]
        for v, video in database.items()
        if video["subset"] == "Test" and v not in rules.left_out
    }
    found = json.loads((shared / "data/detections/actionformer_thumos14_test_detections.json").read_text())["results"]
    result = evaluate(truth, found, tiou=[0.3, 0.4, 0.5, 0.6, 0.7], **rules.rules())
    resample(result.matches, draw(212, resamples=1))  # compiled
    begun = time.perf_counter()
    values_NH = resample(result.matches, draw(212))
    assert time.perf_counter() - begun < 10  # 0.2 s on a free core
    low, high = interval(values_NH.mean(axis=1))
    assert low < result.average_mean_ap < high
    assert 0.02 < high - low < 0.12
