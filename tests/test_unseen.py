"""Open-vocabulary protocols: mAP of unseen classes over splits, against an evaluation of these classes alone."""

import random

import numpy as np
import pytest

import tad
from tad.core.errors import TadError
from tad.metrics.measures import headlines
from tad.metrics.unseen import drawn_splits, unseen_measures

LABELS = tuple(f"class {k:02}" for k in range(12))
TIOU = (0.3, 0.5, 0.7)
Truth = dict[str, list[tuple[float, float, str]]]
Found = dict[str, list[dict[str, object]]]


def data(seed: int = 0) -> tuple[Truth, Found]:
    """Random instances, and detections near half of them, some with a wrong class."""
    rng = random.Random(seed)
    truth: Truth = {}
    found: Found = {}
    for v in range(8):
        truth[f"v{v}"], found[f"v{v}"] = [], []
        for _ in range(6):
            start, length, label = rng.uniform(0, 90), rng.uniform(2, 10), rng.choice(LABELS)
            truth[f"v{v}"].append((start, start + length, label))
            for _ in range(3):
                near = start + rng.gauss(0, 1), start + length + rng.gauss(0, 1)
                named = label if rng.random() < 0.7 else rng.choice(LABELS)
                found[f"v{v}"].append({"label": named, "score": rng.random(), "segment": [*sorted(near)]})
    return truth, found


def test_a_split_is_the_evaluation_of_its_unseen_classes_alone() -> None:
    truth, found = data()
    scores = tad.evaluate(found, truth, tiou=TIOU, measures=["unseen"])
    for name, size in (("50/50", 6), ("75/25", 3)):
        measured = scores.measures["unseen"][name]
        averages = []
        assert len(measured["splits"]) == 10
        for split in measured["splits"].values():
            unseen = split["unseen"]
            assert len(set(unseen)) == size
            alone = {v: [row for row in rows if row[2] in unseen] for v, rows in truth.items()}
            own = {v: [row for row in rows if row["label"] in unseen] for v, rows in found.items()}
            averages.append(tad.evaluate(own, alone, tiou=TIOU).average_mAP)
            assert split["average_mAP"] == pytest.approx(averages[-1], abs=1e-12)
        assert measured["average_mAP"] == pytest.approx(np.mean(averages), abs=1e-12)
        assert measured["std"]["average_mAP"] == pytest.approx(np.std(averages, ddof=1), abs=1e-12)
        assert measured["average_mAP"] == pytest.approx(np.mean(list(measured["mAP"].values())), abs=1e-12)
        assert measured["drawn"]
    numbers = headlines(scores.measures)
    assert numbers == {f"unseen {n}": one["average_mAP"] for n, one in scores.measures["unseen"].items()}


def test_splits_are_random_and_the_same_each_time() -> None:
    splits = drawn_splits(LABELS, 0.25)
    assert splits == drawn_splits(LABELS[::-1], 0.25)  # whatever the order of the labels
    assert len({tuple(split) for split in splits}) > 7
    assert {label for split in splits for label in split} == set(LABELS)
    assert drawn_splits(LABELS[:2], 0.25, splits=1)[0][0] in LABELS[:2]


def test_published_splits_can_be_given() -> None:
    truth, found = data(1)
    given = {"mine": [[LABELS[0], LABELS[1]]]}
    measured = tad.evaluate(found, truth, tiou=TIOU, measures=["unseen"], unseen_splits=given).measures["unseen"]
    assert list(measured) == ["mine"]
    assert measured["mine"]["splits"]["0"]["unseen"] == [LABELS[0], LABELS[1]]
    assert measured["mine"]["std"]["average_mAP"] == 0
    assert not measured["mine"]["drawn"]
    for splits, words in (([["clas 01"]], "no class 'clas 01' has instances"), ([[]], "without unseen classes")):
        with pytest.raises(TadError, match=words):
            tad.evaluate(found, truth, tiou=TIOU, measures=["unseen"], unseen_splits={"mine": splits})


def test_a_class_counts_once_in_a_split() -> None:
    truth, found = data()
    evaluation = tad.evaluate(found, truth, tiou=TIOU).evaluation
    twice = {"mine": [[LABELS[0], LABELS[0], LABELS[1]]]}
    with pytest.raises(TadError, match=f"class '{LABELS[0]}' is named twice"):
        unseen_measures(evaluation, twice)
