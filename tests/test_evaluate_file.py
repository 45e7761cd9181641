"""`tad evaluate` on anybody's files: published numbers, streaming, other layouts, and what goes wrong in them."""

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from metrics_cases import random_case

from tad.commands.cli import main
from tad.core.errors import TadError
from tad.core.files import read_json
from tad.metrics import evaluate, protocol
from tad.metrics import results_file as stream
from tad.metrics.columns import collect
from tad.metrics.results_file import read_results

TRUTH = {
    "database": {
        "a": {"subset": "test", "duration": 9, "annotations": [{"segment": [0, 2], "label": "x"}]},
        "b": {"subset": "train", "duration": 9, "annotations": [{"segment": [0, 2], "label": "y"}]},
    }
}
FOUND = {"results": {"a": [{"label": "x", "score": 0.9, "segment": [0, 2]}]}}


def run(tmp_path: Path, found: Any, *options: str, truth: Any = TRUTH, protocol: str = "activitynet") -> int:
    for name, value in (("found.json", found), ("truth.json", truth)):
        (tmp_path / name).write_text(value if isinstance(value, str) else json.dumps(value))
    files = [str(tmp_path / name) for name in ("found.json", "truth.json", "map.json")]
    command = ["evaluate", files[0], "--annotations", files[1], "--protocol", protocol, "--out", files[2]]
    return main([*command, *options])


def test_actionformers_detections_give_the_published_numbers(shared: Path, tmp_path: Path, capsys: Any) -> None:
    files = [
        shared / "data/detections/actionformer_thumos14_test_detections.json",
        "--annotations", shared / "data/annotations/thumos14.json",
    ]  # fmt: skip
    assert main(["evaluate", *map(str, files), "--protocol", "thumos14-212", "--out", str(tmp_path / "map.json")]) == 0
    score = read_json(tmp_path / "map.json")
    assert [round(100 * x, 2) for x in score["mAP"].values()] == [82.13, 77.80, 70.95, 59.40, 43.88]
    assert score["protocol"]["complete"]
    assert score["split"] == "test"
    assert "average mAP        66.83" in capsys.readouterr().out


def test_one_command_needs_nothing_else(tmp_path: Path, capsys: Any) -> None:
    assert run(tmp_path, FOUND, "--measures", "proposals,frames,segmentation") == 0
    score = read_json(tmp_path / "map.json")
    assert score["average_mAP"] == 1.0
    assert (score["split"], score["videos"]["evaluated"]) == ("test", 1)
    assert score["proposals"]["AR"]["100"] == 1.0
    assert score["frames"]["mAP"] == score["segmentation"]["accuracy"] == 1.0
    assert "average mAP       100.00" in capsys.readouterr().out


def test_the_measures_on_frames_have_options_of_their_own(tmp_path: Path, capsys: Any) -> None:
    weak = [{"label": "x", "score": 0.2, "segment": [0, 9]}, {"label": "x", "score": 0.9, "segment": [0, 2]}]
    both = ["--measures", "frames,segmentation"]
    assert run(tmp_path, {"results": {"a": weak}}, *both, "--frame-rate", "4", "--frame-score", "0.5") == 0
    score = read_json(tmp_path / "map.json")
    assert (score["frames"]["rate"], score["segmentation"]["rate"]) == (4.0, 4.0)
    assert (score["segmentation"]["least_score"], score["segmentation"]["accuracy"]) == (0.5, 1.0)
    assert run(tmp_path, {"results": {"a": weak}}, *both) == 0
    score = read_json(tmp_path / "map.json")
    assert score["frames"]["rate"] == 10.0
    assert score["segmentation"]["accuracy"] == pytest.approx(2 / 9)


def test_instances_without_length_are_counted(tmp_path: Path, capsys: Any) -> None:
    truth = {"database": {"a": TRUTH["database"]["a"] | {"annotations": [{"segment": [1, 1], "label": "x"}]}}}
    found = {"results": {"a": [{"label": "x", "score": 0.9, "segment": [1, 1]}]}}
    assert run(tmp_path, found, truth=truth, protocol="plain") == 0
    score = read_json(tmp_path / "map.json")
    assert (score["average_mAP"], score["instances_without_length"]) == (1.0, 1)
    assert "1 instances have no length: any detection without length finds one" in capsys.readouterr().out


def test_what_does_not_count_is_named(tmp_path: Path, capsys: Any) -> None:
    assert run(tmp_path, {"results": FOUND["results"] | {"b": [], "typo": []}}, "--split", "test") == 0
    found = read_json(tmp_path / "map.json")["detections"]
    assert (found["unknown_videos"], found["videos_of_other_splits"]) == (["typo"], ["b"])
    assert found["videos_outside_the_split"] == 2
    said = capsys.readouterr()
    assert "1 videos of the detections are not annotated, for example 'typo'" in said.err
    assert "1 videos with and 0 without detections, 0 of the split left out, 1 instances" in said.out
    assert "duplicate instances dropped (0), shorter than 0.001 s dropped (0)" in said.out
    assert "1 detections scored, 2 videos of theirs are not in the split and do not count" in said.out


def test_nothing_detected_is_a_score_of_zero(tmp_path: Path, capsys: Any) -> None:
    assert run(tmp_path, {"results": {"a": []}}, "--measures", "proposals,frames,segmentation") == 0
    score = read_json(tmp_path / "map.json")
    assert score["average_mAP"] == score["proposals"]["AUC"] == score["segmentation"]["edit"] == 0.0
    assert score["frames"]["mAP"] == pytest.approx(2 / 9)  # all frames are tied: the share that is action
    assert score["segmentation"]["accuracy"] == pytest.approx(7 / 9)  # seconds without an instance
    assert "proposals AUC            0.00" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("found", "options", "message"),
    [
        (FOUND, ["--tiou", "0.5;0.7"], "--tiou 0.5;0.7: give numbers separated by commas"),
        (FOUND, ["--measures", "proposal"], "measures.0: Input should be"),
        (FOUND, ["--measures", "frames", "--frame-rate", "0"], "frame_rate: Input should be greater than 0"),
        (FOUND, ["--frame-rate", "5"], "--frame-rate 5: no chosen measure uses it; add --measures frames or"),
        (FOUND, ["--measures", "frames", "--frame-score", "0.5"], "--frame-score 0.5: .* add --measures segmentation"),
        (FOUND, ["--split", "train"], "none of 1 videos is among the 1 of the ground truth"),
        ({"results": {"zz": []}}, [], "none of its 1 videos \\(zz …\\) is annotated \\(a, b …\\)"),
        ({"results": {"a": [], "b": []}}, [], "several splits \\(train 1, test 1\\); choose one with --split"),
        ({"results": {"a": [{"label": "z", "score": 1, "segment": [0, 1]}]}}, [], "unknown label 'z'"),
        ({"results": {"a": [{"label": 3, "score": 1, "segment": [0, 1]}]}}, [], "label 3 is not text"),
        ({"results": {"a": [{"label": "x", "score": 1, "segment": [2, 1]}]}}, [], "start <= end"),
        ({"results": {"a": [{"label": "x", "score": 1}]}}, [], "each entry needs label, score and segment"),
        ({"results": {"a": 3}}, [], "each entry needs label, score and segment"),
        ({"results": []}, [], "'results' must be {video id"),
        ('{"results": {"a": [], "a": []}}', [], "key 'a' is given twice"),
        ('{"results": {"a": [{"score": 1, "score": 2}]}}', [], "key 'score' is given twice"),
        ('{"results": {"a": [{"x": {"y": 1, "y": 2}, "score": 1}]}}', [], "key 'y' is given twice"),
        ('{"results": {"a": [{"label": "a:b", "score": 1, "score": 2}]}}', [], "key 'score' is given twice"),
        ('{"results": {"a": [{"label": "x", "score": NaN, "segment": [0, 1]}]}}', [], "NaN is not JSON"),
        ('{"results": {"a": [{"label": "x", "score": 1e999, "segment": [0, 1]}]}}', [], "score inf: needs finite"),
        (json.dumps(FOUND)[:-9], [], "not valid JSON"),
        (json.dumps(FOUND) + "}", [], "not valid JSON: '}' after the end"),
        (json.dumps(FOUND) + "\n" + json.dumps(FOUND), [], "holds several JSON objects \\(JSON lines, or several"),
        ("version https://git-lfs.github.com/spec/v1\n", [], "is a pointer of Git LFS, not the file itself"),
        (TRUTH, [], "is an annotation file \\('database'\\)"),
        (FOUND["results"], [], "if these are the videos, put them under one key 'results'"),
        ({"average_mAP": 1, "stamp": {}}, [], "is a score \\(map.json\\)"),
        ([FOUND["results"]["a"][0]], [], "looks like a list of detections"),
        ("a 0.0 2.0 7 0.9\n", [], "THUMOS'14 devkit text file"),
        ("video,start,end,label,score\n", [], "looks like CSV"),
        ("", [], "is empty"),
        ("video_test_0000085  170.6 172.9\n", [], "THUMOS'14 annotations"),
        (FOUND | {"labels": 3}, [], "'labels' is 3, not a list"),
        (FOUND | {"excluded": ["b"]}, [], "'excluded' is \\['b'\\], not an object"),
        (FOUND | {"stamp": "x"}, [], "'stamp' is 'x', not an object"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(tmp_path: Path, capsys: Any, found: Any, options: list[str], message: str) -> None:
    assert run(tmp_path, found, *options) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error
    assert not (tmp_path / "map.json").exists()


def test_pickles_and_hdf5_are_named_and_not_opened(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "exploded"),)

    (tmp_path / "eval_results.pkl").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(TadError, match=r"Python pickle \(ActionFormer's eval_results.pkl"):
        read_results(tmp_path / "eval_results.pkl")
    assert not (tmp_path / "exploded").exists()
    np.save(tmp_path / "scores.npy", np.zeros((2, 4)))
    with pytest.raises(TadError, match="looks like a NumPy array"):
        read_results(tmp_path / "scores.npy")
    (tmp_path / "c.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(TadError, match="run tad suppress on it first"):
        read_results(tmp_path / "c.h5")


@pytest.mark.parametrize("block", [1, 7, 64])
def test_reading_in_pieces_changes_nothing(tmp_path: Path, monkeypatch: Any, block: int) -> None:
    truth, found = random_case(3)
    path = tmp_path / "found.json"
    text = json.dumps({"version": 'é\u2028\\"', "results": found, "external_data": {"used": False}}, indent=block % 3)
    path.write_text(text, encoding="utf-8")
    whole, head = read_results(path)
    monkeypatch.setattr(stream, "BLOCK", block)
    pieces, again = read_results(path)
    assert head == again == {"version": 'é\u2028\\"', "external_data": {"used": False}}
    for one in (whole, pieces):
        assert [one.of_video(v) for v in found] == [
            [{**d, "segment": list(d["segment"])} for d in found[v]] for v in found
        ]
    direct, columns = (evaluate(truth, x, tiou=[0.5], labels=["c0", "c1", "c2"]) for x in (found, pieces))
    assert np.array_equal(direct.ap, columns.ap)


@pytest.mark.parametrize("number", ["1.5", "-2", "1.25e-1", "3E+2", "12", "0.0"])
def test_numbers_at_the_end_of_a_block_are_read_whole(tmp_path: Path, monkeypatch: Any, number: str) -> None:
    path = tmp_path / "found.json"
    for text in (f'{{"v": {number}, "results": {{"a": []}}}}', f'{{"results": {{"a": []}}, "v": {number}}}'):
        path.write_text(text)
        for block in range(1, len(text) + 2):
            monkeypatch.setattr(stream, "BLOCK", block)
            assert read_results(path)[1] == {"v": json.loads(number)}, block


def test_columns_and_dicts_score_alike() -> None:
    truth, found = random_case(8, grid=True)
    del truth["v1"]
    columns = collect(found.items())
    for name in ("activitynet", "thumos14-devkit"):
        one, other = (
            evaluate(truth, x, tiou=[0.3, 0.6], labels=["c0", "c1", "c2"], **protocol(name).rules())
            for x in (found, columns)
        )
        assert np.array_equal(one.ap, other.ap)
        assert (one.outside, one.detections) == (other.outside, other.detections) == (("v1",), one.detections)


@pytest.mark.slow
def test_a_large_file_is_read_in_bounded_memory(tmp_path: Path) -> None:
    """170 MB of detections in a process that may hold 1 GiB; as a whole they would take more."""
    entry = json.dumps([{"label": "x", "score": 0.123456789, "segment": [12.3456789, 23.456789]}] * 2000)
    path = tmp_path / "large.json"
    with open(path, "w") as file:
        file.write('{"results": {' + ",".join(f'"v{k}": {entry}' for k in range(1200)) + "}}")
    assert path.stat().st_size > 160e6
    code = (
        "import re; from tad.metrics.results_file import read_results;"
        f"columns, _ = read_results({str(path)!r}); assert len(columns) == 2400000;"
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"  # ru_maxrss starts at the parent's
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1 << 20  # KiB
