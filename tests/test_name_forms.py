"""Ids and labels that are written in another Unicode form, or with blanks, and one-class files: scored, or refused."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tad
from tad.core.errors import TadError
from tad.metrics import evaluate
from tad.metrics.columns import Columns, collect
from tad.metrics.files import PROPOSAL
from tad.metrics.frames import frame_map
from tad.metrics.grounding import read_queries, retrieval
from tad.metrics.proposals import average_recall
from tad.training.data.inputs import label_names

NAMES = ("clip", "café", "été 2", "ångström", "Übung", "한국", "が")
LABELS = ("run", "sauté", "schön")
FORMS = ("NFC", "NFD")
TIOU = (0.5, 0.7)

row = st.tuples(st.integers(0, 20), st.integers(1, 8), st.sampled_from(range(len(LABELS))))
videos = st.lists(st.tuples(st.lists(row, min_size=1, max_size=4), st.lists(row, max_size=4)), min_size=1, max_size=6)
forms = st.lists(st.sampled_from(FORMS), min_size=2 * len(NAMES), max_size=2 * len(NAMES))


def written(names: tuple[str, ...], case: Any, chosen: list[str], labels: list[str]) -> tuple[Any, Any]:
    """The case with these names of videos, each side in the forms that were chosen."""
    truth: dict[str, Any] = {}
    found: dict[str, Any] = {}
    for v, (instances, detections) in enumerate(case):
        one, other = (unicodedata.normalize(chosen[2 * v + side], names[v]) for side in (0, 1))
        truth[one] = [(float(a), float(a + n), unicodedata.normalize(labels[0], LABELS[k])) for a, n, k in instances]
        found[other] = [
            {"label": unicodedata.normalize(labels[1], LABELS[k]), "score": 1 / (2 + 10 * v + j), "segment": [a, a + n]}
            for j, (a, n, k) in enumerate(detections)
        ]
    return truth, found


@settings(max_examples=60, deadline=None)
@given(videos, forms, st.sampled_from([("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")]))
def test_the_form_of_a_name_changes_no_score(case: Any, chosen: list[str], labels: Any) -> None:
    plain, written_so = (
        written(tuple(f"v{v}" for v in range(len(NAMES))), case, ["NFC"] * 2 * len(NAMES), ["NFC", "NFC"]),
        written(NAMES, case, chosen, list(labels)),
    )
    known = {label for _, rows in plain[0].items() for *_, label in rows}
    if not known & {e["label"] for entries in plain[1].values() for e in entries}:
        return  # refused alike
    wanted, got = (tad.evaluate(found, truth, tiou=TIOU, protocol="plain") for truth, found in (plain, written_so))
    assert sorted(wanted.AP) == sorted(got.AP) == sorted(known)
    assert wanted.evaluation.ap == pytest.approx(got.evaluation.ap)
    assert got.evaluation.missing == got.evaluation.outside == ()
    low, high = (evaluate(truth, found, tiou=TIOU) for truth, found in (plain, written_so))
    assert low.average_mean_ap == pytest.approx(high.average_mean_ap)
    assert low.detections == high.detections
    assert average_recall(*plain).recall.sum() == pytest.approx(average_recall(*written_so).recall.sum())
    scores = []
    for truth, found in (plain, written_so):
        names = sorted({label for rows in truth.values() for *_, label in rows})
        per_label = frame_map(truth, found, durations=dict.fromkeys(truth, 30.0), labels=names, rate=2.0)
        scores.append(sorted(per_label.values()))
    assert scores[0] == pytest.approx(scores[1])


def test_arrays_with_ids_in_another_form_are_scored() -> None:
    columns = collect({"café": [{"label": "run", "score": 0.5, "segment": [0, 10]}]}.items())
    other = Columns(
        tuple(unicodedata.normalize("NFD", v) for v in columns.video_ids), columns.labels, columns.video,
        columns.label, columns.segments, columns.scores,
    )  # fmt: skip
    assert tad.evaluate(other, {"café": [(0, 10, "run")]}).average_mAP == 1.0


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ({"café": [(0, 1, "run")], "cafe\u0301": [(0, 1, "run")]}, "given twice"),
        ({"a": [(0, 1, "Run"), (2, 3, "run")]}, "labels 'Run' and 'run' differ only in case"),
        ({"a": [(0, 1, "nan")]}, "label 'nan' stands for a missing value"),
    ],
)
def test_names_that_are_one_are_refused(truth: Any, message: str) -> None:
    with pytest.raises(TadError, match=message):
        tad.evaluate({"a": [{"label": "run", "score": 0.5, "segment": [0, 1]}]}, truth)


def test_the_evaluator_itself_refuses_two_names_of_one_thing() -> None:
    found = {"a": [{"label": "run", "score": 0.5, "segment": [0, 1]}]}
    with pytest.raises(TadError, match="are one label"):
        evaluate({"a": [(0, 1, "run "), (2, 3, "run")]}, found, tiou=TIOU)
    with pytest.raises(TadError, match="given twice"):
        evaluate({"café": [(0, 1, "run")], "cafe\u0301": [(0, 1, "run")], "a": []}, found, tiou=TIOU)


def test_queries_with_ids_in_another_form_are_found(tmp_path: Path) -> None:
    truth, found = tmp_path / "truth.jsonl", tmp_path / "found.jsonl"
    truth.write_text(json.dumps({"qid": "é", "relevant_windows": [[0, 10]]}, ensure_ascii=False))
    found.write_text(json.dumps({"qid": "e\u0301", "pred_relevant_windows": [[0, 10, 1.0]]}, ensure_ascii=False))
    queries = read_queries(truth, "relevant_windows", 2), read_queries(found, "pred_relevant_windows", 3)
    assert retrieval(*queries).ap.mean() == 1.0
    assert retrieval({"e\u0301": [[0.0, 10.0]]}, {"e\u0301": [[0.0, 10.0, 0.5]]}).ap.mean() == 1.0


# -- files with one label ----------------------------------------------------------------------------------------------

TWO = {"a": [(0.0, 10.0, "jump"), (20.0, 30.0, "run")]}


@pytest.mark.parametrize(
    ("label", "message"),
    [("Jump", "unknown label 'Jump'"), ("walk", "unknown label 'walk'"), ("jump", ""), (PROPOSAL, "")],
)
def test_only_class_agnostic_detections_are_proposals(label: str, message: str, tmp_path: Path) -> None:
    """A detector of one class that is not annotated is no proposal generator, whose label stands for all classes."""
    rows = [{"label": label, "score": 0.5, "segment": [0, 10]}, {"label": label, "score": 0.4, "segment": [20, 30]}]
    path = tmp_path / "found.json"
    path.write_text(json.dumps({"labels": [label], "results": {"a": rows}}))
    if message:
        with pytest.raises(TadError, match=message):
            tad.evaluate(path, TWO)
        return
    scores = tad.evaluate(path, TWO)
    wanted = {"jump": 1.0, "run": 0.0} if label == "jump" else {PROPOSAL: 1.0}
    assert {name: ap[0.5] for name, ap in scores.AP.items()} == wanted


def test_the_label_of_proposals_is_that_of_training() -> None:
    assert label_names(None, class_agnostic=True) == [PROPOSAL]  # type: ignore[arg-type]
