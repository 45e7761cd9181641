"""Kinds of error, buckets and calibration: by hand, beside plain loops, and as pictures."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from metrics_cases import perfect, random_case

from tad.commands.cli import main
from tad.core.files import read_json
from tad.metrics import evaluate, protocol
from tad.metrics.diagnosis import DEPTH, KINDS, Diagnosis
from tad.metrics.diagnosis_figures import draw_all, draw_calibration, worst

TIOU = [0.3, 0.5, 0.7]
LABELS = ["c0", "c1", "c2"]


def diagnose(truth: Any, found: Any, tiou: list[float] = TIOU, **durations: float) -> Diagnosis:
    labels = sorted({label for rows in truth.values() for *_, label in rows} | {"x", "y", *LABELS})
    return Diagnosis(evaluate(truth, found, tiou=tiou, labels=labels), durations=durations)


def entries(*rows: tuple[float, str, float, float]) -> list[dict[str, Any]]:
    return [{"score": score, "label": label, "segment": [start, end]} for score, label, start, end in rows]


def test_one_detection_of_every_kind() -> None:
    truth = {"a": [(0.0, 10.0, "x"), (20.0, 30.0, "y")]}
    found = {"a": entries(
        (0.9, "x", 0, 10), (0.8, "x", 0, 9), (0.7, "x", 20, 30), (0.6, "x", 0, 3), (0.5, "x", 20, 23),
        (0.4, "x", 50, 60), (0.9, "y", 20, 30),
    )}  # fmt: skip
    diagnosis = diagnose(truth, found, [0.5])
    kinds = [KINDS[k] for k in diagnosis.kinds_HD[0]]
    assert kinds == [*KINDS, "true positive"]
    errors = diagnosis.errors()
    assert errors["mAP"] == 1.0
    assert sum(errors["share"].values()) == pytest.approx(1)
    assert errors["profile"][0] == pytest.approx([1, 0, 0, 0, 0, 0])
    assert errors["profile"][1] == pytest.approx([0, 1, 0, 0, 0, 0])


def test_removing_a_kind_gains_what_it_cost() -> None:
    truth = {"a": [(0.0, 10.0, "x")]}
    found = {"a": entries((0.9, "x", 50, 60), (0.8, "x", 0, 10), (0.7, "x", 70, 80))}
    errors = diagnose(truth, found, [0.5]).errors()
    assert errors["mAP"] == 0.5
    assert errors["gain"]["background"]["mAP"] == 0.5
    assert {kind: gain["mAP"] for kind, gain in errors["gain"].items() if kind != "background"} == dict.fromkeys(
        ("double detection", "wrong label", "localization", "confusion"), 0.0
    )


def test_the_own_label_wins_where_instances_coincide() -> None:
    truth = {"a": [(0.0, 10.0, "x"), (0.0, 10.0, "y")]}
    found = {"a": entries((0.9, "y", 0, 10), (0.8, "y", 0, 10), (0.9, "x", 0, 10), (0.8, "x", 0, 10))}
    assert [KINDS[k] for k in diagnose(truth, found, [0.5]).kinds_HD[0]] == ["true positive", "double detection"] * 2


def normalised_ap(rights: list[bool], instances: int, norm: float) -> float:
    precision = []
    for d in range(len(rights)):
        credit = sum(rights[: d + 1]) / instances * norm
        precision.append(credit / (credit + (d + 1 - sum(rights[: d + 1]))) if credit else 0.0)
    return sum(max(precision[d:]) for d in range(len(rights)) if rights[d]) / instances


def test_normalised_map_equals_plain_loops() -> None:
    for seed in range(12):
        truth, found = random_case(seed)
        diagnosis = diagnose(truth, found)
        result, starts = diagnosis.result, diagnosis.matches.starts
        norm = float(np.mean(result.instances))
        values = []
        for k, count in enumerate(result.instances):
            first, last = starts[k], min(starts[k + 1], starts[k] + DEPTH * count)
            values += [normalised_ap(list(row[first:last]), count, norm) for row in diagnosis.right_HD]
        errors = diagnosis.errors()
        assert errors["normalised_mAP"] == pytest.approx(np.mean(values), abs=1e-12)
        assert errors["mAP"] == pytest.approx(result.average_mean_ap, abs=1e-12)
        assert all(gain["mAP"] >= -1e-12 for gain in errors["gain"].values())


def test_buckets_hold_all_instances_once() -> None:
    truth, found = random_case(5)
    durations = {video_id: 50.0 for video_id in truth}
    diagnosis = diagnose(truth, found, **durations)
    for buckets in ("thumos14", "activitynet", "quintiles"):
        described = diagnosis.characteristics(buckets)
        for fact in ("coverage", "length", "instances"):
            rows = described[fact]
            assert sum(row["count"] for row in rows) == len(diagnosis.detail.classes)
            weighted = sum(row["count"] * row["missed"] for row in rows if row["count"])
            assert weighted / len(diagnosis.detail.classes) == pytest.approx(described["missed"])
    assert diagnose(truth, found).characteristics("quintiles")["coverage"] == []


def test_instances_without_length_are_in_the_first_bucket() -> None:
    truth = {"a": [(5.0, 5.0, "x"), (10.0, 40.0, "x")], "b": [(0.0, 2.0, "x"), (3.0, 3.0, "x")]}
    found = {"a": entries((0.9, "x", 10, 40)), "b": entries((0.8, "x", 0, 2))}
    result = evaluate(truth, found, tiou=[0.5], **protocol("plain").rules())
    diagnosis = Diagnosis(result, durations={"a": 50.0, "b": 50.0})
    for buckets in ("thumos14", "activitynet", "quintiles"):
        described = diagnosis.characteristics(buckets)
        for fact in ("coverage", "length", "instances"):
            assert sum(row["count"] for row in described[fact]) == 4
        first = described["length"][0]
        assert (first["count"] >= 2, first["missed"] > 0) == (True, True)


def test_missed_instances_are_found_in_their_bucket() -> None:
    truth = {"a": [(0.0, 2.0, "x"), (10.0, 40.0, "x")], "b": [(0.0, 2.0, "x")]}
    found = {"a": entries((0.9, "x", 10, 40)), "b": entries((0.8, "x", 0, 2))}
    described = diagnose(truth, found, [0.5], a=100.0, b=100.0).characteristics("thumos14")
    rows = {row["size"]: row for row in described["length"] if row["count"]}
    assert {size: (row["count"], row["missed"]) for size, row in rows.items()} == {"XS": (2, 0.5), "XL": (1, 0.0)}
    assert described["missed_per_class"] == {"x": pytest.approx(1 / 3)}


@pytest.mark.parametrize("scores", [(-1.0, -2.0), (7.5, 0.5), (1.0001, 0.2)])
def test_scores_that_are_no_probabilities_have_no_calibration(scores: tuple[float, float], tmp_path: Path) -> None:
    truth = {"a": [(0.0, 10.0, "x")]}
    rows = [(scores[0], [0, 10]), (scores[1], [20, 30])]
    found = {"a": [{"label": "x", "score": score, "segment": segment} for score, segment in rows]}
    document = diagnose(truth, found, [0.5]).document("quintiles")
    calibration = document["calibration"]
    assert (calibration["bins"], calibration["error"]) == ([], None)
    assert re.fullmatch(r"scores from \S+ to \S+ are not probabilities", calibration["refused"])
    assert draw_calibration(document, tmp_path / "c.png", "t").stat().st_size > 5000


def test_perfect_scores_are_calibrated() -> None:
    truth = random_case(2)[0]
    calibration = diagnose(truth, perfect(truth)).calibration()
    assert [(row["score"], row["right"]) for row in calibration["bins"]] == [(1.0, 1.0)]
    assert calibration["error"] == 0.0
    half = {"a": entries((0.5, "x", 0, 2), (0.5, "x", 8, 9))}
    assert diagnose({"a": [(0.0, 2.0, "x")]}, half, [0.5]).calibration()["error"] == 0.0


def test_pictures_of_ordinary_and_of_empty_detections(tmp_path: Path) -> None:
    truth, found = random_case(6)
    for name, detections in (("some", found), ("none", {video_id: [] for video_id in truth})):
        document = diagnose(truth, detections).document("quintiles")
        json.dumps(document, allow_nan=False)
        for path in draw_all(document, tmp_path / name, "toy"):
            assert path.read_bytes()[:4] == b"\x89PNG"


def test_the_sentence_of_a_picture_is_true_without_errors_and_without_detections() -> None:
    truth, found = random_case(6)
    said = [
        worst(diagnose(truth, detections).document("quintiles")["errors"])
        for detections in (found, perfect(truth), {video_id: [] for video_id in truth})
    ]
    assert said[0].startswith("Removing ")
    assert said[1] == "No kind of false detection lowers the score (average mAP 100.0)."
    assert said[2].startswith("There are no detections")


def test_one_command_diagnoses_anybodys_detections(shared: Path, tmp_path: Path, capsys: Any) -> None:
    found = shared / "data/detections/actionformer_thumos14_test_detections.json"
    truth = shared / "data/annotations/thumos14.json"
    arguments = ["diagnose", str(found), "--annotations", str(truth), "--protocol", "thumos14-212"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    document = read_json(tmp_path / "diagnosis.json")
    assert document["errors"]["mAP"] == pytest.approx(0.66831, abs=1e-4)
    assert document["characteristics"]["buckets"] == "thumos14"
    assert (tmp_path / "errors.png").is_file()
    assert "localization" in capsys.readouterr().out
