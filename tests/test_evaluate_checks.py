"""What `tad evaluate` is given is checked as `tad annotate` checks it: ground truth, detections, and what is said."""

import json
import logging
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tad.annotations.table import Instance, Table, Video
from tad.commands.cli import main
from tad.commands.stages import _content
from tad.core import notices
from tad.core.errors import TadError
from tad.core.files import read_json, write_json
from tad.datasets._any import read_checked
from tad.metrics.columns import collect
from tad.metrics.frames import frame_labels, frame_map, segmentation
from tad.metrics.overrun import outside_their_videos


def video(*rows: tuple[float, float, str], subset: str = "test", duration: float | None = 20.0) -> dict[str, Any]:
    annotations = [{"segment": [start, end], "label": label} for start, end, label in rows]
    return {"subset": subset, "annotations": annotations} | ({"duration": duration} if duration else {})


def one(start: Any, end: Any, label: Any = "jump", score: Any = 0.5) -> dict[str, Any]:
    return {"label": label, "score": score, "segment": [start, end]}


GOOD = {"p": video((2, 6, "jump")), "q": video((1, 3, "turn"))}
SEEN = {"p": [one(2, 6)], "q": [one(1, 3, "turn")]}


def run(
    folder: Path, truth: Any, found: Any, *options: str, protocol: str = "activitynet", name: str = "truth.json"
) -> int:
    text = truth if isinstance(truth, str) else json.dumps({"database": truth})
    (folder / name).write_text(text, encoding="utf-8")
    (folder / "found.json").write_text(json.dumps({"results": found}))
    command = ["evaluate", str(folder / "found.json"), "--annotations", str(folder / name), "--protocol", protocol]
    return main([*command, "--tiou", "0.5", "--out", str(folder / "map.json"), *options])


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ({"p": video((2, 6, "Jump")), "q": video((1, 3, "jump"))}, "labels 'Jump' and 'jump' differ only in case"),
        (GOOD | {"p": video((2, 6, "jump"), (8, 9, " "))}, "video 'p', annotations[1]: no label"),
        ({"p": video((50, 150, "jump")), "q": video((25, 75, "turn"))}, "so they look like frames"),
        (GOOD | {"p": video((6, 2, "jump"))}, "video 'p', annotations[0]: 6-2 s ends before it starts"),
        (GOOD | {"p": video((2, 2, "jump"))}, "2-2 s has no length"),
        (GOOD | {"p": video((2, 60, "jump"))}, "ends 40.00 s after the video (20 s)"),
        (GOOD | {"p": video((-2, 6, "jump"))}, "begins before the video"),
        (GOOD | {"p": video((2, 6, "ju\u200bmp"))}, "invisible character"),
        (GOOD | {"p": video((2, 6, "jump"), subset="dev")}, "unknown subset 'dev'"),
        (GOOD | {"p": video((2, 6, "jump"), duration=-1.0)}, "a duration of -1.0 s"),
    ],
)
def test_ground_truth_that_cannot_be_right_is_refused(tmp_path: Path, capsys: Any, truth: Any, message: str) -> None:
    assert run(tmp_path, truth, SEEN) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "map.json").exists()


def test_remedies_that_are_named_work(tmp_path: Path, capsys: Any) -> None:
    truth = GOOD | {"p": video((2, 6, "jump"), (9, 60, "jump"))}
    for option, instances, score in (("drop", 2, 1.0), ("clip", 3, 0.75), ("keep", 3, 0.75)):
        assert run(tmp_path, truth, SEEN, "--on-invalid", option) == 0
        document = read_json(tmp_path / "map.json")
        assert (document["instances"], document["average_mAP"]) == (instances, pytest.approx(score)), option
        dropped = document["instances_dropped"]
        assert (dropped["invalid"], dropped["clipped"]) == (int(option == "drop"), int(option == "clip"))
    capsys.readouterr()
    assert run(tmp_path, GOOD | {"p": video((2, 6, "jump"), subset="dev")}, SEEN) == 1
    assert "--splits" in capsys.readouterr().err
    renamed = GOOD | {"p": video((2, 6, "jump"), subset="dev"), "z": video((1, 2, "x"), subset="extra")}
    assert run(tmp_path, renamed, SEEN, "--splits", "dev=test,extra=") == 0
    assert read_json(tmp_path / "map.json")["average_mAP"] == 1.0
    assert run(tmp_path, GOOD, SEEN, "--splits", "dev=testing") == 1


def test_protocols_count_what_the_published_files_are_known_to_have(tmp_path: Path, capsys: Any) -> None:
    backward = GOOD | {"p": video((6, 2, "jump"), (2, 6, "jump"))}
    assert run(tmp_path, backward, SEEN, protocol="plain") == 0
    document = read_json(tmp_path / "map.json")
    assert (document["average_mAP"], document["reversed"]) == (0.75, 1)
    assert "video 'p', 'jump' 6 to 2 s" in document["warnings"][0]
    assert run(tmp_path, backward, SEEN, "--on-invalid", "error", protocol="plain") == 1
    assert run(tmp_path, GOOD | {"p": video((2, 6, "jump"), (9, 60, "jump"))}, SEEN, protocol="thumos14-212") == 0
    assert read_json(tmp_path / "map.json")["instances"] == 3


@pytest.mark.parametrize(
    "text",
    [
        "video,start,end,label\np,2,6,jump\nq,1,3,turn\n",
        "video;start;end;label;split\np;2,0;6,0;jump;test\nq;1,0;3,0;turn;test\n",
        "Filename,start_frame,end_frame,label,fps\np.mp4,50,150,jump,25\nq.mp4,25,75,turn,25\n",
    ],
)
def test_own_csv_is_read(tmp_path: Path, capsys: Any, text: str) -> None:
    assert run(tmp_path, text, SEEN, name="truth.csv") == 0
    document = read_json(tmp_path / "map.json")
    assert (document["average_mAP"], document["split"], document["instances"]) == (1.0, "test", 2)


def test_own_csv_passes_the_same_checks(tmp_path: Path, capsys: Any) -> None:
    assert run(tmp_path, "video,start,end,label\np,6,2,jump\nq,1,3,turn\n", SEEN, name="truth.csv") == 1
    assert "truth.csv: video 'p', line 2: 6-2 s ends before it starts" in capsys.readouterr().err
    frames = "video,start_frame,end_frame,label\np,50,150,jump\n"
    assert run(tmp_path, frames, {"p": [one(2, 6)]}, name="truth.csv") == 1
    assert "no rate is known; add a column fps" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("found", "counts", "words"),
    [
        ({"p": [one(2, 6), one(0, 90)]}, (2, 0, 1), ""),
        ({"p": [one(-4, 6), one(0, 20.9)]}, (2, 1, 0), ""),
        ({"p": [one(50, 450)]}, (1, 0, 1), "frames (about 22.5 per second)"),
        ({"p": [one(0.1, 0.5)], "q": [one(0.2, 1, "turn")]}, (2, 0, 0), "fractions of the duration"),
        ({"p": [one(0.1, 0.5)]}, (1, 0, 0), ""),
        ({"p": [], "q": [one(1, 3, "turn")], "elsewhere": [one(0, 900)]}, (1, 0, 0), ""),
    ],
)
def test_detections_outside_their_videos_are_counted(
    tmp_path: Path, capsys: Any, found: Any, counts: tuple[int, int, int], words: str
) -> None:
    assert run(tmp_path, GOOD, found) == 0
    document = read_json(tmp_path / "map.json")
    times = document["detections"]["times"]
    assert (times["compared"], times["begin_before"], times["end_beyond"]) == counts
    assert times["look_like"] == words
    told = f"{counts[2]} of {counts[0]} detections end after the end of their video and {counts[1]} begin before 0 s"
    assert any(told in line for line in document["warnings"]) == bool(counts[1] or counts[2])
    assert any(f"look like {words}" in line for line in document["warnings"]) == bool(words)


seconds = st.floats(0.5, 100, allow_nan=False)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(seconds, seconds, seconds), min_size=1, max_size=20))
@example([(20.0, 9.5, 20.5), (20.0, 8.5, 21.5)])  # within the tolerance, and beyond it
def test_the_counts_are_those_of_a_plain_loop(rows: list[tuple[float, float, float]]) -> None:
    names = [f"v{k}" for k in range(len(rows))]
    table = Table(
        "t", ("x",), {v: Video("test", d, (Instance(0, 0.1, "x"),)) for v, (d, _, _) in zip(names, rows, strict=True)}
    )
    columns = collect({v: [one(a - 10, b, "x")] for v, (_, a, b) in zip(names, rows, strict=True)}.items())
    counts = outside_their_videos(columns, table, names)
    assert counts["begin_before"] == sum(a - 10 < -1 for _, a, _ in rows)
    assert counts["end_beyond"] == sum(max(a - 10, b) > d + 1 for d, a, b in rows)


def test_classes_that_the_annotations_never_have_do_not_count_and_are_said(tmp_path: Path, capsys: Any) -> None:
    found = SEEN | {"p": [one(2, 6), one(2, 6, "swim", 0.9), one(2, 6, "swim", 0.8)]}
    assert run(tmp_path, GOOD, found) == 0
    document = read_json(tmp_path / "map.json")
    assert (document["average_mAP"], document["detections"]["unknown_labels"]) == (1.0, {"swim": 2})
    assert (
        "2 detections do not count, as their 1 classes are not annotated (first: 'swim', video p, entry 1)"
        in document["warnings"][0]
    )
    assert "'swim'" in capsys.readouterr().err


def test_labels_that_only_a_slip_tells_apart_are_refused_and_invisible_differences_are_none(
    tmp_path: Path, capsys: Any
) -> None:
    truth = GOOD | {"p": video((2, 6, "High jump é"))}
    for label in ("high jump é", "High_Jump é", "HighJump é"):
        assert run(tmp_path, truth, SEEN | {"p": [one(2, 6, label)]}) == 1
        assert f"unknown label '{label}'; did you mean 'High jump é'" in capsys.readouterr().err
    for label in (" High jump é ", "High jump e\u0301"):
        assert run(tmp_path, truth, SEEN | {"p": [one(2, 6, label)]}) == 0
        assert read_json(tmp_path / "map.json")["average_mAP"] == 1.0


def test_kinds_of_hyphens_are_a_slip(tmp_path: Path, capsys: Any) -> None:
    truth = GOOD | {"p": video((2, 6, "high-jump"))}
    for label in ("high\u2011jump", "High\u2013Jump"):
        assert run(tmp_path, truth, SEEN | {"p": [one(2, 6, label)]}) == 1
        assert "did you mean 'high-jump'" in capsys.readouterr().err


def test_ids_of_detections_are_composed_as_those_of_annotations(tmp_path: Path, capsys: Any) -> None:
    truth = {"caf\u00e9": GOOD["p"], "q": GOOD["q"]}
    assert run(tmp_path, truth, {"cafe\u0301": SEEN["p"], "q": SEEN["q"]}) == 0
    assert read_json(tmp_path / "map.json")["average_mAP"] == 1.0
    assert run(tmp_path, truth, {"cafe\u0301": SEEN["p"], "caf\u00e9": []}) == 1
    assert "the video is given twice" in capsys.readouterr().err


@pytest.mark.parametrize(("entry", "said"), [
    ({"label": "jump", "score": 0.5, "segment": [1, 2, 3]}, "entry 0: segment [1, 2, 3] is not [start, end]"),
    (None, "entry 0: None is not an object"),
    ({"class": "jump", "score": 0.5, "segment": [1, 2]}, "entry 0: no 'label' among its keys (class, score, segment)"),
    ({"label": "jump", "segment": [1, 2]}, "entry 0: no 'score' among its keys (label, segment)"),
])  # fmt: skip
def test_an_entry_of_another_form_is_named(tmp_path: Path, capsys: Any, entry: Any, said: str) -> None:
    assert run(tmp_path, GOOD, SEEN | {"p": [entry]}) == 1
    error = capsys.readouterr().err
    assert f"detections of p: {said}" in error
    assert "Error(" not in error


@pytest.mark.parametrize("bad", ["0.5", True, None, [0.5], {}])
@pytest.mark.parametrize("place", ["score", "start"])
def test_what_is_no_number_is_named(tmp_path: Path, capsys: Any, bad: Any, place: str) -> None:
    entry = one(2, 6, score=bad) if place == "score" else one(bad, 6)
    assert run(tmp_path, GOOD, SEEN | {"p": [one(2, 6), entry]}) == 1
    error = capsys.readouterr().err
    assert f"detections of p, entry 1: {place} {bad!r} is not a number" in error


def test_endless_nesting_and_numbers_are_one_line(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "truth.json").write_text(json.dumps({"database": GOOD}))
    score = '{"results": {"p": [{"label": "jump", "score": %s, "segment": [2, 6]}]}}'
    for text in ('{"results": {"p": ' + "[" * 100_000, score % ("1" + "0" * 400), score % ("1" * 9000)):
        (tmp_path / "found.json").write_text(text)
        command = ["evaluate", str(tmp_path / "found.json"), "--annotations", str(tmp_path / "truth.json")]
        assert main([*command, "--protocol", "plain", "--out", str(tmp_path / "map.json")]) == 1
        assert capsys.readouterr().err.count("\n") == 1


def test_an_empty_results_file_scores_zero_where_the_split_is_certain(tmp_path: Path, capsys: Any) -> None:
    measures = ("--measures", "proposals,frames,segmentation", "--figure", str(tmp_path / "t.png"))
    assert run(tmp_path, GOOD, {}, *measures) == 0
    document = read_json(tmp_path / "map.json")
    assert document["average_mAP"] == document["proposals"]["AUC"] == 0.0
    assert (document["videos"]["evaluated"], len(document["missing_videos"]["videos"])) == (0, 2)
    both = GOOD | {"r": video((1, 2, "jump"), subset="train")}
    assert run(tmp_path, both, {}) == 1
    assert "has no videos" in capsys.readouterr().err
    assert run(tmp_path, both, {}, "--split", "test") == 0
    assert read_json(tmp_path / "map.json")["average_mAP"] == 0.0


def test_videos_of_other_subsets_without_annotations_are_left_out_and_said(tmp_path: Path, capsys: Any) -> None:
    truth = {
        "p": video((2, 6, "jump"), subset="TEST"),
        "x": video(subset="unlabelled"),
        "y": video(subset="unlabelled"),
    }
    assert run(tmp_path, truth, {"p": [one(2, 6)]}) == 0
    assert any("(unlabelled 2)" in line for line in read_json(tmp_path / "map.json")["warnings"])


@pytest.mark.parametrize("background", ["idle", "SIL", "no action"])
def test_a_background_class_is_no_action(tmp_path: Path, capsys: Any, background: str) -> None:
    truth = {"p": video((0, 5, background), (5, 10, "jump"), (10, 20, background))}
    found = {"p": [one(5, 10), one(0, 5, background, 0.9), one(10, 20, background, 0.2)]}
    options = ("--measures", "frames,segmentation", "--background", background)
    assert run(tmp_path, truth, found, *options) == 0
    document = read_json(tmp_path / "map.json")
    assert (document["average_mAP"], document["instances"], document["frames"]["mAP"]) == (1.0, 1, 1.0)
    assert set(document["segmentation"]["F1"].values()) == {1.0}
    assert (document["segmentation"]["edit"], document["segmentation"]["accuracy"]) == (1.0, 1.0)
    assert document["segmentation"]["background"] == [background]
    assert run(tmp_path, truth, {"p": [one(5, 10)]}, *options) == 0
    assert read_json(tmp_path / "map.json")["segmentation"]["accuracy"] == 1.0
    assert not any("counts as an action" in line for line in read_json(tmp_path / "map.json")["warnings"])
    assert run(tmp_path, truth, found, *options[:2]) == 0
    assert any(f"'{background}' counts as an action" in line for line in read_json(tmp_path / "map.json")["warnings"])
    assert run(tmp_path, truth, found, *options[:3], background + "x") == 1
    assert f"eval.background: unknown label '{background}x'; did you mean '{background}'" in capsys.readouterr().err


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-50, 50, allow_nan=False), min_size=4, max_size=4, unique=True), st.randoms())
def test_measures_on_frames_look_at_the_order_of_scores_alone(values: list[float], order: Any) -> None:
    truth = {"p": [(0.0, 4.0, "a"), (6.0, 9.0, "b")]}
    spans = [(0, 3, "a"), (2, 8, "b"), (5, 9, "a"), (6, 10, "b")]
    order.shuffle(spans)
    ranked = sorted(values)
    common = {"durations": {"p": 12.0}, "labels": ["a", "b"], "rate": 2.0}
    results = []
    for scores in (ranked, [0.2, 0.4, 0.6, 0.8], [-8.0, -4.0, -2.0, -1.0]):
        found = {"p": [one(s, e, label, score) for (s, e, label), score in zip(spans, scores, strict=True)]}
        shown = segmentation(*frame_labels(truth, found, **common))
        results.append((frame_map(truth, found, **common), shown.f1, shown.edit, shown.accuracy))
    assert results[0] == results[1] == results[2]


def test_a_least_score_needs_probabilities() -> None:
    truth, common = {"p": [(0.0, 4.0, "a")]}, {"durations": {"p": 12.0}, "labels": ["a"], "rate": 2.0}
    for score in (-1.0, 1.5):
        with pytest.raises(TadError, match="are not probabilities"):
            frame_labels(truth, {"p": [one(0, 4, "a", score)]}, least=0.5, **common)
    labels = frame_labels(truth, {"p": [one(0, 4, "a", 0.5)]}, least=0.5, **common)
    assert (labels[1][0] == -1).all()


def test_real_annotations_pass_under_their_protocols(shared: Path) -> None:
    from tad.metrics import protocol

    folder = shared / "data/annotations"
    for file, name in (("thumos14.json", "thumos14-212"), ("activity_net.v1-3.json", "activitynet13"),
                       ("activity_net.v1-3.json", "plain"), ("thumos14_official_test", "thumos14-devkit")):  # fmt: skip
        counted = protocol(name).counted
        table = read_checked(folder / file, counted=counted)
        assert not table.dropped
    with pytest.raises(TadError, match=r"video_test_0000270.*--on-invalid drop"):
        read_checked(folder / "thumos14.json")


def test_warnings_are_passed_on_from_stage_to_stage(tmp_path: Path) -> None:
    import logging

    log = logging.getLogger("tad.stages.test")
    first, second = tmp_path / "a.json", tmp_path / "sub/b.json"
    with notices.collecting() as own:
        log.warning("two of %d videos are missing", 9)
        log.warning("two of %d videos are missing", 9)
        log.warning("a cache cannot be used", extra=notices.TRANSIENT)
        log.info("as usual")
        log.error("worse")
    first.write_text("{}")
    notices.store(first, own, [])
    assert notices.read(first) == {str(first): ["two of 9 videos are missing"]}
    second.parent.mkdir()
    second.write_text("{}")
    notices.store(second, ["weak test split"], [first, tmp_path / "absent"])
    behind = notices.read(second)
    assert notices.lines(behind) == [f"{first}: two of 9 videos are missing", f"{second}: weak test split"]
    assert (
        notices.lines(notices.join([behind, behind, {"c": ["weak test split"]}]))[1]
        == f"{second} and 1 more: weak test split"
    )
    first.write_text("{ }")  # another file in its place
    assert notices.read(first) == {}
    notices.store(second, [], [first])
    assert notices.read(second) == {}


def test_numpy_numbers_are_numbers() -> None:
    rows = [{"label": "x", "score": np.float32(0.5), "segment": (np.int64(1), np.float64(2))}]
    assert collect([("a", rows)]).segments.tolist() == [[1.0, 2.0]]


def test_options_that_nothing_would_look_at_are_refused(tmp_path: Path, capsys: Any) -> None:
    spec = {"run": "r", "dataset": "d", "eval": {"protocol": "plain", "tiou": [0.5]}}
    command = ["evaluate", "found.json", "--annotations", "table.json", "--spec", json.dumps(spec), "--out", "map.json"]
    for option, value in (("--tiou", "0.5"), ("--on-invalid", "drop"), ("--frame-score", "0.0"), ("--nouns", "n.json")):
        assert main([*command, option, value]) == 1
        assert f"{option} {value}: with --spec all settings come from the run's row" in capsys.readouterr().err
    assert run(tmp_path, GOOD, SEEN, "--splits", "a=b") == 1
    capsys.readouterr()
    assert run(tmp_path, GOOD, SEEN, "--figure", "f.png", protocol="moment-detr") == 1
    assert "--figure f.png: protocol moment-detr does not use it" in capsys.readouterr().err


def test_warnings_of_a_killed_attempt_are_not_lost(tmp_path: Path) -> None:
    """What an attempt logged before it was killed counts for the next one with the same work, and for no other."""
    journal, log = tmp_path / ".kept" / "model.warnings.json", logging.getLogger("tad.test")

    def killed() -> None:
        with notices.collecting(journal, key=["spec", 1]):
            log.warning("averages hold initial weights")
            log.warning("only this attempt", extra=notices.TRANSIENT)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    with notices.collecting(journal, key=["spec", 1]) as lines:
        log.warning("a dead head")
    assert lines == ["averages hold initial weights", "a dead head"]
    with notices.collecting(journal, key=["spec", 2]) as lines:
        log.warning("other settings")
    assert lines == ["other settings"]
    with notices.collecting(journal, key=["spec", 1]) as lines:  # settings changed back: the cached result is the first
        pass
    assert lines == ["averages hold initial weights", "a dead head"]


@pytest.mark.parametrize("name", ["stamped.json", "unstamped.safetensors"])
def test_warnings_are_found_by_the_content_of_the_inputs(tmp_path: Path, name: str) -> None:
    """An input that is made again with equal bytes, or a stamped one of equal identity, is the same work."""
    path = tmp_path / name
    stamped = {"identity": "a", "stage": "annotate"}

    def work() -> Any:
        return _content(Namespace(spec="{}", features=path, videos=tmp_path, out=tmp_path / "out"))

    path.write_bytes(b"weights") if path.suffix != ".json" else write_json(path, {"stamp": stamped})
    before = work()
    os.utime(path, (0, 0))
    (tmp_path / "another.mp4").touch()
    assert work() == before
    path.write_bytes(b"WEIGHTS") if path.suffix != ".json" else write_json(path, {"stamp": stamped | {"identity": "b"}})
    assert work() != before
