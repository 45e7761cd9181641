"""Detections that cannot be right are refused, what is only likely is said, and seconds are never refused."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_evaluate_checks import GOOD, SEEN, one, run

from tad.annotations.table import Instance, Table, Video
from tad.core.errors import TadError
from tad.core.files import read_json
from tad.metrics.columns import Columns, collect
from tad.metrics.overrun import outside_their_videos

Change = Callable[[float, float], float]  # (seconds, duration) → what the file has


def videos(seed: int = 0, count: int = 6) -> dict[str, Video]:
    """Videos of 60 to 300 s, full of instances."""
    draw = random.Random(seed)
    table = {}
    for k in range(count):
        duration, time, instances = draw.uniform(60, 300), 0.0, []
        while time < duration - 8:
            start = time + draw.uniform(0, 4)
            time = start + draw.uniform(2, 4)
            instances.append(Instance(start, time, "x"))
        table[f"v{k}"] = Video("test", duration, tuple(instances))
    return table


def detected(truth: dict[str, Video], change: Change) -> Columns:
    return collect(
        (v, [{"label": "x", "score": 0.5, "segment": [change(i.start, d), change(i.end, d)]} for i in video.instances])
        for v, video in truth.items()
        for d in (video.duration or 1.0,)
    )


UNITS: dict[str, tuple[Change, str, bool]] = {  # what the file has, what it looks like, whether that is certain
    "frames": (lambda t, d: 25 * t, "frames (about ", True),
    "frames of two rates": (lambda t, d: (30 if d > 150 else 25) * t, "frames (about ", True),
    "milliseconds": (lambda t, d: 1000 * t, "milliseconds", True),
    "microseconds": (lambda t, d: 1e6 * t, "microseconds", True),
    "7.5 features a second": (lambda t, d: 7.5 * t, "positions on the grid of the features (about ", True),
    "3.1 features a second": (lambda t, d: 3.125 * t, "positions on the grid of the features (about ", True),
    "1.9 features a second": (lambda t, d: 1.875 * t, "positions on the grid of the features (about 1.", False),
    "a feature in 2.13 s": (lambda t, d: 0.46875 * t, "positions on the grid of the features (one in about 2.", False),
    "a feature in 16 s": (lambda t, d: t / 16, "positions on the grid of the features (one in about 16 s)", True),
    "resized": (lambda t, d: 128 * t / d, "positions on a grid of about 1", False),
    "per cent": (lambda t, d: 100 * t / d, "per cent of the duration", False),
    "fractions": (lambda t, d: t / d, "fractions of the duration", True),
    "minutes": (lambda t, d: t / 60, "minutes", True),
    "hours": (lambda t, d: t / 3600, "hours", True),
    "days": (lambda t, d: t / 86_400, "days, as spreadsheets store clock times (0.5 is 12 hours)", True),
    "times of day": (lambda t, d: t + 50_400, "times of day, or times in a longer recording (the first are", True),
    "an hour later": (lambda t, d: t + 3600, "times of day, or times in a longer recording (the first are", True),
    "Unix times": (lambda t, d: t + 1.7e9, "Unix times", True),
}  # fmt: skip


@pytest.mark.parametrize("name", UNITS)
def test_what_times_look_like_is_named(name: str, tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    change, words, certain = UNITS[name]
    for seed in range(3):
        truth = videos(seed)
        columns, table = detected(truth, change), Table("t", ("x",), truth)
        found = outside_their_videos(columns, table, truth)
        assert found["look_like"].startswith(words)
        assert f"the times look like {words}" in caplog.messages[-1]
        assert caplog.messages[-1].endswith(", not seconds of the video; if they are, convert them")
        if certain:
            with pytest.raises(TadError) as error:
                outside_their_videos(columns, table, truth, refused_as=tmp_path / "f.json")
            assert str(error.value).startswith(f"{tmp_path / 'f.json'}: ")
            assert f"the times look like {words}" in str(error.value)
            assert str(error.value).endswith("not seconds of the video; convert them")
        else:
            assert outside_their_videos(columns, table, truth, refused_as=tmp_path / "f.json") == found


@pytest.mark.parametrize(("factor", "words"), [
    (25, "frames"), (1000, "milliseconds"), (7.5, "positions on the grid of the features"), (1 / 60, "minutes"),
    (2, ""), (1, ""), (0.5, ""),
])  # fmt: skip
def test_without_durations_the_ground_truth_tells(factor: float, words: str, tmp_path: Any) -> None:
    timed = videos()
    truth = {v: Video("test", None, video.instances) for v, video in timed.items()}
    columns = detected(timed, lambda t, d: factor * t)
    found = outside_their_videos(columns, Table("t", ("x",), truth), truth, refused_as=tmp_path)
    assert (found["look_like"], found["compared"]) == (words, 0)
    assert found["factor"] == pytest.approx(factor if words else 1)


@pytest.mark.parametrize(("full", "words"), [(0, "positions on the grid"), (1, ""), (5, "")])
def test_one_video_with_detections_to_its_end_shows_seconds(
    full: int, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    truth = videos()
    found = {
        v: [
            {"label": "x", "score": 0.5, "segment": [i.start, i.end]} for i in video.instances if k < full or i.end < 50
        ]
        for k, (v, video) in enumerate(truth.items())
    }
    counts = outside_their_videos(collect(found.items()), Table("t", ("x",), truth), truth)
    assert counts["look_like"][: len("positions on the grid")] == words
    reached = max(rows[-1]["segment"][1] / (truth[v].duration or 1) for v, rows in found.items())  # type: ignore[index]
    assert not words or f"no detection ends in the last {100 * (1 - reached):.0f} % of any" in caplog.messages[-1]


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 8), st.floats(0.05, 1), st.integers(0, 3), st.booleans(), st.floats(0, 0.9))
def test_seconds_are_never_refused(seed: int, count: int, share: float, wild: int, dense: bool, begin: float) -> None:
    """Neither sparse detections, nor one long video, nor a few wild ends make another unit certain."""
    truth = videos(seed, count)
    draw = random.Random(seed)
    if not dense:  # few instances, anywhere in the video
        truth = {
            v: Video("test", video.duration, video.instances[int(begin * len(video.instances)) :][:2])
            for v, video in truth.items()
        }
    found = {
        v: [
            {"label": "x", "score": 0.5, "segment": [i.start, i.end]}
            for i in video.instances
            if draw.random() < share or i == video.instances[-1]
        ]
        for v, video in truth.items()
    }
    for v in list(found)[: wild if count > 3 * wild else 0]:
        found[v].append({"label": "x", "score": 0.1, "segment": [0.0, 1e5]})
    columns, table = collect(found.items()), Table("t", ("x",), truth)
    assert outside_their_videos(columns, table, truth, refused_as=Path("f.json"))["factor"] > 0


@pytest.mark.parametrize(("found", "said"), [
    ({"p": [one(50, 450)], "q": [one(100, 500, "turn")]}, "2 of 2 detections end after the end of their video: in 2 of"
     " 2 videos, the last detection ends typically 23.8 times later than the video; the times look like frames (about"
     " 23.8 per second), not seconds of the video; convert them"),
    ({"p": [one(5000, 18000)], "q": [one(9000, 20000, "turn")]}, "950 times later than the video; the times look like"
     " milliseconds, not"),
    (SEEN | {"p": [one(2, 6), one(2, 6, "NaN")]}, "p, entry 1: label 'NaN' stands for a missing value; write"),
    (SEEN | {"p": [one(2, 6), one(2, 6, " ")]}, "p, entry 1: label ' ' stands for a missing value"),
    ({"p.MP4": SEEN["p"], "q": SEEN["q"]}, "video 'p.MP4' is not annotated, but 'p' is and has no detections; write"),
    ({"day 1/p": SEEN["p"], "q": SEEN["q"]}, "video 'day 1/p' is not annotated, but 'p' is"),
    ({"v_P": SEEN["p"], "q": SEEN["q"]}, "video 'v_P' is not annotated, but 'p' is"),
    ({"\ufeffp": SEEN["p"], "q": SEEN["q"]}, "is not annotated, but 'p' is"),
    ({"p": [one(6, 2)], "q": [one(3, 1, "turn")]}, "(2 such); all are reversed, so starts and ends may be swapped"),
    ({"p": [one(6, 2), one(8, 2)], "q": [one(1, 2, "turn")]}, "(2 such); are they [start, length] or [centre"),
    ({"p": [one(2, 6, score="84%")]}, "score '84%' is not a number; give a number, or remove the entry"),
    ({"p": [one(2, 6, score="0.5")]}, "score '0.5' is not a number; write it without quotes"),
    ({"p": [{"label": "jump", "score": 1, "segment": {"start": 2, "end": 6}}]}, "{'start': 2, 'end': 6} is not [start"),
])  # fmt: skip
def test_detections_that_cannot_be_right_are_refused(tmp_path: Path, capsys: Any, found: Any, said: str) -> None:
    assert run(tmp_path, GOOD, found) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "map.json").exists()


def test_repeated_detections_and_missing_labels_are_said(tmp_path: Path, capsys: Any) -> None:
    found = {"p": [one(2, 6), one(2, 6), one(2, 6, score=0.4), one(7, 8, "none", 0.1)], "q": SEEN["q"]}
    assert run(tmp_path, GOOD, found) == 0
    document = read_json(tmp_path / "map.json")
    assert document["detections"]["repeated"] == 1
    assert any("1 of 5 detections repeat another one exactly" in line for line in document["warnings"])
    said = "(first: 'none', video p, entry 3); 'none' may stand for a missing label"
    assert any(said in line for line in document["warnings"])
    assert run(tmp_path, GOOD, SEEN) == 0
    assert read_json(tmp_path / "map.json")["detections"]["repeated"] == 0


def test_detections_of_one_video_in_frames_are_named(caplog: pytest.LogCaptureFixture) -> None:
    truth = {v: replace(video, rate=25.0) for v, video in videos().items()}
    table = Table("d", ("x",), truth)
    seconds = detected(truth, lambda t, d: t)
    frames = detected(truth, lambda t, d: float(round(25 * t)))
    mixed = collect((v, (frames if v == "v3" else seconds).of_video(v)) for v in truth)
    assert outside_their_videos(mixed, table, truth)["end_beyond"]
    assert "; the times of video 'v3' look like frames at 25 per second; convert them to seconds" in caplog.text
    caplog.clear()
    outside_their_videos(seconds, table, truth)
    assert not caplog.text
