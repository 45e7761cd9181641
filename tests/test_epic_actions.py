"""EPIC-KITCHENS' action detection: pairs of two runs, submissions, and the challenge's three scores."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tad.commands.cli import main
from tad.core.errors import TadError
from tad.core.files import read_json
from tad.datasets._epic_actions import read_actions
from tad.datasets.epic import clock
from tad.metrics import epic_actions
from tad.metrics.columns import collect

HEADER = "narration_id,participant_id,video_id,start_timestamp,stop_timestamp,verb,verb_class,noun,noun_class\n"
ROWS = [
    ("P01_11", "00:00:01.00", "00:00:03.00", 0, 2),
    ("P01_11", "00:00:05.00", "00:00:09.00", 1, 2),
    ("P01_11", "00:00:05.00", "00:00:09.00", 1, 2),  # twice, as in the official file: both count
    ("P02_03", "00:01:00.00", "00:01:04.00", 0, 11),
]


@pytest.fixture
def official(tmp_path: Path) -> Path:
    folder = tmp_path / "epic-kitchens-100-annotations"
    folder.mkdir()
    lines = [f"n{k},P,{v},{s},{e},x,{verb},y,{noun}\n" for k, (v, s, e, verb, noun) in enumerate(ROWS)]
    (folder / "EPIC_100_validation.csv").write_text(HEADER + "".join(lines))
    for target, count in (("verb", 97), ("noun", 300)):
        names = [f"{k},{target}-name-{k}\n" for k in range(count)]
        (folder / f"EPIC_100_{target}_classes.csv").write_text("id,key\n" + "".join(names))
    return folder


def one(start: float, end: float, label: str, score: float) -> dict[str, Any]:
    return {"label": label, "score": score, "segment": [start, end]}


def write(path: Path, results: Any, **head: Any) -> Path:
    path.write_text(json.dumps({**head, "results": results}))
    return path


def evaluate(official: Path, first: Path, *options: Any) -> int:
    out = official.parent / "map.json"
    command = ["evaluate", first, "--annotations", official, "--protocol", "epic-action", "--out", out, *options]
    return main([str(word) for word in command])


VERBS = {
    "P01_11": [one(1, 3, "verb-name-0", 0.9), one(5, 9, "verb 1", 0.8), one(5, 9, "1", 0.5)],
    "P02_03": [one(60, 64, "0", 0.7)],
}
NOUNS = {
    "P01_11": [one(1, 3, "noun-name-2", 0.6), one(5, 9, "id_002", 0.5)],
    "P02_03": [one(60, 64, "noun 11", 0.4), one(60, 64, "12", 0.9)],
}


def test_two_runs_give_actions_verbs_and_nouns(official: Path, tmp_path: Path, capsys: Any) -> None:
    files = write(tmp_path / "v.json", VERBS), "--nouns", write(tmp_path / "n.json", NOUNS)
    assert evaluate(official, *files, "--submission", tmp_path / "c2.json") == 0
    score = read_json(tmp_path / "map.json")
    assert score["average_mAP"] == 1.0
    assert set(score["AP"]) == {"0,2", "1,2", "0,11"}
    assert score["verb"]["average_mAP"] == 1.0
    assert score["noun"]["average_mAP"] == pytest.approx((2 / 3 + 1) / 2)  # one of three instances of 2 is missed
    assert list(score["mAP"]) == ["0.1", "0.2", "0.3", "0.4", "0.5"]
    assert (score["instances"], score["protocol"]["complete"]) == (4, False)
    assert score["pairs"] == {"least_tiou": 0.5, "most_per_video": 2000}
    said = capsys.readouterr().out
    assert "average mAP, verbs 100.00" in said
    made = read_json(tmp_path / "c2.json")
    assert (made["version"], made["challenge"]) == ("0.2", "action_detection")
    assert made["results"]["P02_03"][0] == {
        "verb": 0, "noun": 12, "action": "0,12", "score": 0.7 * 0.9, "segment": [60.0, 64.0],
    }  # fmt: skip


def test_a_submission_is_scored_as_its_pairs_were(official: Path, tmp_path: Path, capsys: Any) -> None:
    files = write(tmp_path / "v.json", VERBS), "--nouns", write(tmp_path / "n.json", NOUNS)
    assert evaluate(official, *files, "--submission", tmp_path / "c2.json") == 0
    actions = read_json(tmp_path / "map.json")["AP"]
    assert evaluate(official, tmp_path / "c2.json") == 0
    score = read_json(tmp_path / "map.json")
    assert score["AP"] == actions
    # the script scores each entry three times: noun 2 of the third instance, once in its file, is in two pairs
    assert (score["verb"]["average_mAP"], score["noun"]["average_mAP"]) == (1.0, 1.0)
    assert "pairs" not in score


def test_segments_of_a_pair_lie_in_the_middle_and_scores_multiply() -> None:
    verbs = collect({"a": [one(0, 4, "3", 0.5), one(10, 20, "4", 0.5)]}.items())
    nouns = collect({"a": [one(2, 6, "7", 0.4), one(1, 4, "8", 1.0)], "b": [one(0, 1, "7", 1.0)]}.items())
    found = epic_actions.pairs(verbs, nouns, tiou=1 / 3)
    entries = [(d["label"], d["score"], d["segment"]) for d in found.of_video("a")]
    assert entries == [("3,8", 0.5, [0.5, 4.0]), ("3,7", pytest.approx(0.2), [1.0, 5.0])]
    assert found.video_ids == ("a", "b")
    assert len(epic_actions.pairs(verbs, nouns, tiou=0.34)) == 1


grid = st.tuples(st.integers(0, 6), st.integers(1, 4), st.integers(0, 2), st.integers(0, 20))


@settings(max_examples=60, deadline=None)
@given(st.lists(grid, max_size=8), st.lists(grid, max_size=8), st.sampled_from([0.1, 0.5, 1.0]))
def test_pairs_equal_plain_loops(verbs: Any, nouns: Any, tiou: float) -> None:
    first, second = ([one(s, s + n, str(c), w / 20) for s, n, c, w in rows] for rows in (verbs, nouns))
    found = epic_actions.pairs(collect([("a", first)]), collect([("a", second)]), tiou=tiou)
    expected = []
    for v in first:
        for n in second:
            inter = min(v["segment"][1], n["segment"][1]) - max(v["segment"][0], n["segment"][0])
            union = max(v["segment"][1], n["segment"][1]) - min(v["segment"][0], n["segment"][0])
            if inter > 0 and inter >= tiou * union:
                middle = [(a + b) / 2 for a, b in zip(v["segment"], n["segment"], strict=True)]
                expected.append((-v["score"] * n["score"], f"{v['label']},{n['label']}", middle))
    expected.sort(key=lambda row: row[0])
    assert [(-d["score"], d["label"], d["segment"]) for d in found.of_video("a")] == expected


def script_map(truth: list[Any], entries: list[Any], threshold: float) -> float:
    """The challenge's script in plain loops: mean over the classes of the truth; scores are distinct."""
    scores = []
    for label in {row[3] for row in truth}:
        taken: set[int] = set()
        hits = []
        own = [(k, row) for k, row in enumerate(truth) if row[3] == label]
        for video, start, end, _, _ in sorted((e for e in entries if e[3] == label), key=lambda e: -e[4]):
            overlaps = []
            for k, (name, a, b, *_) in own:
                inter = max(min(b, end) - max(a, start), 0)
                if name == video:
                    overlaps.append((inter / ((b - a) + (end - start) - inter), k))
            hit = next((k for o, k in sorted(overlaps, reverse=True) if o >= threshold and k not in taken), None)
            hits.append(hit is not None)
            taken |= {hit} if hit is not None else set()
        precision = [sum(hits[: d + 1]) / (d + 1) for d in range(len(hits))]
        scores.append(sum(max(precision[d:]) for d in range(len(hits)) if hits[d]) / len(own))
    return float(np.mean(scores))


@pytest.mark.parametrize("seed", range(3))
def test_submissions_equal_the_script_in_plain_loops(official: Path, tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    results: dict[str, Any] = {}
    for video, offset in (("P01_11", 0.0), ("P02_03", 58.0)):
        starts, ends, scores = rng.integers(0, 7, 60), rng.integers(1, 6, 60), rng.permutation(60) / 60
        verbs, nouns = rng.integers(0, 2, 60).tolist(), rng.choice([2, 11], 60).tolist()
        results[video] = [
            {"verb": v, "noun": n, "action": f"{v},{n}", "score": float(w), "segment": [offset + s, offset + s + e]}
            for s, e, w, v, n in zip(
                starts.tolist(), ends.tolist(), scores + offset / 1e4, verbs, nouns, strict=True
            )
        ]  # fmt: skip
    assert evaluate(official, write(tmp_path / "c2.json", results, version="0.2")) == 0
    score = read_json(tmp_path / "map.json")
    for target, name in (("action", lambda v, n: f"{v},{n}"), ("verb", lambda v, n: v), ("noun", lambda v, n: n)):
        truth = [(video, clock(s, ""), clock(e, ""), name(v, n), 0) for video, s, e, v, n in ROWS]
        rows = [(video, d) for video in results for d in results[video]]
        entries = [(video, *d["segment"], name(d["verb"], d["noun"]), d["score"]) for video, d in rows]
        for k, value in enumerate((score if target == "action" else score[target])["mAP"].values()):
            expected = script_map(truth, entries, float(np.linspace(0.1, 0.5, 5)[k]))
            assert value == pytest.approx(expected, abs=1e-12), (target, k)


def entry(action: str, **rest: int) -> dict[str, Any]:
    return {"action": action, "score": 1, "segment": [0, 1], **rest}


@pytest.mark.parametrize(
    ("found", "nouns", "message"),
    [
        (one(0, 1, "verb-nam-0", 0.5), NOUNS, "is not a verb of EPIC-KITCHENS-100; did you mean 'verb-name-0'"),
        (one(0, 1, "97", 0.5), NOUNS, "'97' is not a verb"),
        (one(0, 1, "3", -0.5), NOUNS, "not probabilities"),
        (one(0, 1, "3", 0.5), None, "action '3' is not a pair 'verb,noun' of class ids.*--nouns"),
        (entry("1,3", verb=1, noun=2), None, "action '1,3' differs from verb and noun 1,2"),
        (entry("1,300"), None, "is not a pair 'verb,noun' of class ids"),
    ],
)
def test_what_is_wrong_is_one_line(
    official: Path, tmp_path: Path, capsys: Any, found: Any, nouns: Any, message: str
) -> None:
    options = ["--nouns", write(tmp_path / "n.json", nouns)] if nouns else []
    assert evaluate(official, write(tmp_path / "v.json", {"P01_11": [found]}), *options) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error


def test_options_of_other_protocols_and_other_annotations_are_refused(
    official: Path, tmp_path: Path, capsys: Any
) -> None:
    with pytest.raises(TadError, match=r"protocol epic-action needs EPIC_100_validation\.csv"):
        read_actions(tmp_path)
    found = write(tmp_path / "v.json", VERBS)
    command = ["evaluate", found, "--annotations", official, "--protocol", "epic", "--nouns", found, "--out", "x.json"]
    assert main([str(word) for word in command]) == 1
    assert "goes with --protocol epic-action" in capsys.readouterr().err
    assert evaluate(official, found, "--measures", "frames") == 1
    assert "--measures frames: protocol epic-action does not use it" in capsys.readouterr().err
