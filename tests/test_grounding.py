"""Temporal grounding as Moment-DETR's evaluation scores it: by hand, beside plain loops, and what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metrics_cases import script_ap, script_tiou

from tad.commands.cli import main
from tad.core.errors import TadError
from tad.core.files import read_json
from tad.metrics.grounding import by_length, read_durations, retrieval

TIOU = [0.5, 0.7]


def script(truth: Any, found: Any, threshold: float) -> tuple[float, float]:
    """AP of one query and whether its first window is right, in plain loops."""
    ap = script_ap(truth, found[:10], threshold)
    if not found:
        return ap, 0.0
    start, end, _ = found[0]
    low, high = truth[int(np.argmax([script_tiou((start, end), instance) for instance in truth]))]
    inter, span = max(min(end, high) - max(start, low), 0), max(end, high) - min(start, low)
    return ap, float((inter / span if span else 0) >= threshold)


window = st.tuples(st.integers(0, 12), st.integers(0, 6)).map(lambda w: [float(w[0]), float(w[0] + w[1])])
scored = st.tuples(window, st.integers(0, 3)).map(lambda w: [*w[0], w[1] / 4])
query = st.tuples(st.lists(window, min_size=1, max_size=4), st.lists(scored, max_size=14))


@settings(max_examples=100, deadline=None)
@given(st.lists(query, min_size=1, max_size=4))
def test_equals_plain_loops_with_ties_and_points(queries: Any) -> None:
    truth = {f"q{k}": windows for k, (windows, _) in enumerate(queries)}
    found = {f"q{k}": windows for k, (_, windows) in enumerate(queries)}
    result = retrieval(truth, found, tiou=TIOU)
    for h, threshold in enumerate(TIOU):
        for k, name in enumerate(result.queries):
            ap, right = script(truth[name], found[name], threshold)
            assert result.ap[h, k] == pytest.approx(ap, abs=1e-12)
            assert result.r1[h, k] == bool(right)


def test_ties_keep_the_order_of_the_file_and_r1_looks_at_its_first_line() -> None:
    truth = {"q": [[0.0, 10.0]]}
    right, wrong = [0.0, 10.0, 0.5], [50.0, 60.0, 0.5]
    assert retrieval(truth, {"q": [right, wrong]}).ap.mean() == 1.0
    assert retrieval(truth, {"q": [wrong, right]}).ap.mean() == 0.5
    better = [50.0, 60.0, 0.9]
    assert retrieval(truth, {"q": [right, better]}).r1.all()
    assert retrieval(truth, {"q": [right, better]}).ap.mean() == 0.5
    assert retrieval(truth, {"q": [wrong] * 10 + [right]}).ap.mean() == 0.0  # the eleventh is not looked at


def test_queries_count_alike_and_lengths_apart() -> None:
    truth = {"a": [[0.0, 10.0], [20.0, 31.0]], "b": [[0.0, 100.0]], "none": []}
    found = {"a": [[0.0, 10.0, 0.9]], "b": [[0.0, 100.0, 0.1]]}
    assert retrieval(truth, found).document()["average_mAP"] == 0.75
    parts = by_length(truth, found)
    assert {name: (part["queries"], part["average_mAP"]) for name, part in parts.items()} == {
        "short": (1, 1.0), "middle": (1, 0.0), "long": (1, 1.0),
    }  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(st.lists(query, min_size=1, max_size=3), st.floats(0.1, 5))
def test_scores_are_ranks(queries: Any, power: float) -> None:
    truth = {f"q{k}": windows for k, (windows, _) in enumerate(queries)}
    found = {f"q{k}": windows for k, (_, windows) in enumerate(queries)}
    changed = {q: [[s, e, 3 * w**power - 7] for s, e, w in windows] for q, windows in found.items()}
    one, other = retrieval(truth, found, tiou=TIOU), retrieval(truth, changed, tiou=TIOU)
    assert np.array_equal(one.ap, other.ap)
    assert np.array_equal(one.r1, other.r1)


def run(folder: Path, truth: list[Any], found: Any) -> int:
    (folder / "gt.jsonl").write_text("".join(json.dumps(row) + "\n" for row in truth))
    text = found if isinstance(found, str) else "".join(json.dumps(row) + "\n" for row in found)
    (folder / "preds.jsonl").write_text(text)
    command = ["evaluate", folder / "preds.jsonl", "--annotations", folder / "gt.jsonl", "--protocol", "moment-detr"]
    return main([str(word) for word in [*command, "--out", folder / "map.json"]])


TRUTH = [{"qid": 7, "query": "a man waves", "vid": "v", "duration": 150, "relevant_windows": [[2, 14]]},
         {"qid": 8, "query": "a dog barks", "vid": "v", "duration": 150, "relevant_windows": [[20, 22]]}]  # fmt: skip


@pytest.mark.parametrize(("change", "said", "counts"), [
    ({"pred_relevant_windows": [[14, 2, 0.5]]}, "1 of 1 predicted windows end before they start", (0, 1, 0)),
    ({"pred_relevant_windows": [[60, 420, 0.5]]}, "1 of 1 detections end after the end of their video", (0, 0, 1)),
    ({"relevant_windows": [[14, 2]]}, "1 of 1 annotated windows end before they start", (1, 0, 0)),
    ({"relevant_windows": [[100, 190]]}, "1 of 1 annotated windows end after their video (first: query 7)", (0, 0, 0)),
])  # fmt: skip
def test_windows_that_cannot_be_right_are_counted(
    tmp_path: Path, change: dict[str, Any], said: str, counts: tuple[int, int, int]
) -> None:
    truth = {"qid": 7, "vid": "a", "duration": 150, "relevant_windows": [[2, 14]]}
    found = {"qid": 7, "pred_relevant_windows": [[2, 14, 0.5]]}
    truth, found = truth | {k: v for k, v in change.items() if k in truth}, found | change
    assert run(tmp_path, [truth], [found]) == 0
    document = read_json(tmp_path / "map.json")
    assert any(said in warning for warning in document["warnings"])
    odd = document["windows"]
    assert (odd["reversed"]["annotated"], odd["reversed"]["predicted"], odd["times"]["end_beyond"]) == counts


@pytest.mark.parametrize("duration", ["150", -1, [150], True])
def test_a_duration_that_is_no_number_is_refused(tmp_path: Path, duration: Any) -> None:
    """Windows could not be compared with their video."""
    truth = {"qid": 7, "vid": "a", "duration": duration, "relevant_windows": [[2, 14]]}
    path = tmp_path / "truth.jsonl"
    path.write_text(json.dumps(truth), encoding="utf-8")
    with pytest.raises(TadError, match=r"truth.jsonl: line 1: duration .* is not a number of seconds; write one"):
        read_durations(path)


def test_files_of_the_published_layout(tmp_path: Path, capsys: Any) -> None:
    found = [{"qid": 7, "pred_relevant_windows": [[2, 14, 0.9]], "pred_saliency_scores": [0.1]},
             {"qid": 9, "pred_relevant_windows": [[2, 14, 0.9]]}]  # fmt: skip
    assert run(tmp_path, TRUTH, found) == 0
    score = read_json(tmp_path / "map.json")
    assert (score["average_mAP"], score["R1"]["0.7"], score["queries"]) == (0.5, 0.5, 2)
    assert (score["without_predictions"], score["not_annotated"]) == (["8"], ["9"])
    assert "1 of 2 queries have no prediction and score 0" in score["warnings"][0]
    assert "average mAP        50.00" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (
            [{"qid": 7, "pred_relevant_windows": [[2, 14, True]]}],
            r"line 1: pred_relevant_windows\[0\] is \[2, 14, True\]",
        ),
        ([{"qid": 7, "pred_relevant_windows": [[2, 14]]}], r"not \[start, end, score\]"),
        ([{"qid": 7, "pred_relevant_windows": []}] * 2, "line 2: query 7 is listed twice"),
        ([{"qid": 7}], "no 'qid' and 'pred_relevant_windows' among qid"),
        ('{"qid": 7, "pred_relevant_windows": [[NaN, 2, 1]]}\n', "is \\[nan, 2, 1\\]"),
        ("{", "line 1: not valid JSON"),
        ("", "no query"),
        ([{"qid": 70, "pred_relevant_windows": [[2, 14, 0.5]]}], "none of 1 queries is among the 2"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, capsys: Any, found: Any, message: str) -> None:
    assert run(tmp_path, TRUTH, found) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if "WARNING" not in line]
    assert len(errors) == 1
    assert re.search(message, errors[0]), errors
