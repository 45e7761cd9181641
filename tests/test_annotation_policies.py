"""What is done about annotations that cannot be right: units by durations, cutting, missing and drawn splits."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from table_tools import outcome, read_as, segments, table_of, write

from tad.annotations.checks import check
from tad.annotations.doubts import doubts
from tad.annotations.table import Instance, Table, Video, read_table
from tad.annotations.units import Span, likely_unit, span_of
from tad.core.errors import TadError
from tad.datasets._splits import draw_test
from tad.settings.stages import AnnotateSpec
from tad.stages.annotate import annotate

# -- units by durations ------------------------------------------------------------------------------------------------


@st.composite
def videos_in_seconds(draw: st.DrawFn) -> list[tuple[float, float, float]]:
    """Last end, duration and rate of a few videos; each ends in its last three quarters."""
    count = draw(st.integers(2, 8))
    durations = draw(st.lists(st.floats(10, 4000), min_size=count, max_size=count))
    shares = draw(st.lists(st.floats(0.25, 1), min_size=count, max_size=count))
    rates = draw(st.lists(st.sampled_from([24.0, 25.0, 29.97, 30.0, 50.0, 60.0]), min_size=count, max_size=count))
    return [(share * length, length, rate) for share, length, rate in zip(shares, durations, rates, strict=True)]


@example([(10.0, 10.0, 24.0)] * 3)  # 240 frames are not four minutes
@given(videos_in_seconds())
def test_the_unit_is_named_by_what_fits(videos: list[tuple[float, float, float]]) -> None:
    assert likely_unit([Span("v", last, length, rate) for last, length, rate in videos]) is None
    frames = likely_unit([Span("v", last * rate, length, rate) for last, length, rate in videos])
    assert frames is not None
    assert frames.setting == "frames"
    rates = sorted({rate for _, _, rate in videos})
    assert f"frames at {rates[0]:g}" in frames.words
    assert f"{rates[-1]:g} per second" in frames.words
    milliseconds = likely_unit([Span("v", last * 1000, length, rate) for last, length, rate in videos])
    assert milliseconds is not None
    assert milliseconds.setting == "milliseconds"
    microseconds = likely_unit([Span("v", last * 1e6, length, rate) for last, length, rate in videos])
    assert microseconds is not None
    assert microseconds.words == "microseconds"


SHOTS: dict[str, tuple[list[tuple[float, float]], float]] = {  # video → seconds of its instances, duration
    "a": ([(3, 9), (14, 30), (50, 95.5)], 100.0), "b": ([(1, 2.5), (60, 80), (130, 196)], 200.0),
    "c": ([(0.5, 4), (7, 11), (12, 27)], 30.0),
}  # fmt: skip
WRITTEN: dict[str, tuple[Any, str]] = {  # (start or end, duration) → what the file has, and what is said of it
    "times of day": (lambda t, d: t + 36_000, "times of day, or times in a longer recording (the first are at about 1"),
    "in a recording": (lambda t, d: t + 250_000, "look like times in a longer recording (the first are at about 69:2"),
    "Unix": (lambda t, d: t + 1.7e9, "look like Unix times; convert them to seconds from the start of the video"),
    "JavaScript": (lambda t, d: 1000 * (t + 1.7e9), "look like Unix times in milliseconds; convert them to seconds"),
    "clock": (lambda t, d: 60 * int(t), "look like hours and minutes that were meant as minutes and seconds (spread"),
    "frames": (lambda t, d: 25 * t, "look like frames; set `unit: frames`"),
    "milliseconds": (lambda t, d: 1000 * t, "look like milliseconds; set `unit: milliseconds`"),
    "days": (lambda t, d: t / 86_400, "look like days, as spreadsheets store clock times"),
    "fractions": (lambda t, d: t / d, "look like fractions of the duration; convert"),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_times_are_is_named(name: str) -> None:
    factor, said = WRITTEN[name]
    for length in (3, 1):
        videos = {
            v: Video("train", d, tuple(Instance(factor(s, d), factor(e, d), "x") for s, e in rows[-length:]))
            for v, (rows, d) in SHOTS.items()
        }
        message = outcome(lambda videos=videos: check(Table("own", ("x",), videos), source="own.csv"))[1]  # type: ignore[misc]
        assert message.startswith("own.csv: all videos: ")
        assert said in message, length


@pytest.mark.parametrize(("durations", "refused"), [
    ((300, 900, 500), ""), ((30, 20, 10), "the times end about 5 times later than the videos, so they look like per"),
    ((30, 900, 500), "the last of most videos is near it, although the videos last 30 to 900 s; the times"),
])  # fmt: skip
def test_per_cent_of_the_duration_is_said(
    durations: tuple[int, ...],
    refused: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # the middle of a long line is cut out, and a temporary folder may have a long name
    rows = [("a", 10, 50), ("a", 60, 100), ("b", 5, 98.5), ("c", 0, 97)]
    long = dict(zip("abc", durations, strict=True))
    text = table_of(
        [(v, s, e, "x", "test" if v == "c" else "train", long[v]) for v, s, e in rows],
        header="video,start,end,label,split,duration",
    )
    spec = AnnotateSpec.model_validate({"dataset": "own", "format": {"name": "csv"}})
    message = outcome(lambda: annotate(write(Path(), text), Path("out.json"), spec=spec))[1]
    assert refused in message
    if not refused:
        (line,) = [r.message for r in caplog.records if "per cent" in r.message]
        assert "no time exceeds 100, and the last of most videos is near it, although the videos last 300 to" in line
    seconds = table_of([(v, s, 0.97 * d, "x", "test", d) for (v, d), s in zip(long.items(), (1, 2, 3), strict=True)],
                       header="video,start,end,label,split,duration")  # fmt: skip
    caplog.clear()
    annotate(write(Path(), seconds), Path("out.json"), spec=spec)
    assert not [r for r in caplog.records if "per cent" in r.message]


@pytest.mark.parametrize(
    ("last", "videos", "words"),
    [
        (2.5, 3, "lie in the first 0.83 % of their video; the times may be minutes"),
        (25.0, 5, "lie in the first 8.3 % of their video; the durations may be in another unit (frames, milliseconds)"),
        (2.5, 2, ""), (60.0, 5, ""),
    ],
)  # fmt: skip
def test_times_that_stay_at_the_beginning_of_every_video_are_said(last: float, videos: int, words: str) -> None:
    table = Table(
        "own", ("run",), {f"v{k}": Video("train", 300.0, (Instance(1.5, last, "run"),)) for k in range(videos)}
    )
    found = doubts(table)
    assert len(found) == bool(words)
    assert words in "".join(found)


@pytest.mark.parametrize(("rows", "said"), [
    ([("a", "None"), ("b", "x"), ("b", "None")], "label 'None' (video 'a', line 2 and 1 more) counts as a class; if"),
    ([("a", "-"), ("b", "x")], "label '-' (video 'a', line 2) counts as a class; if it stands for a missing value"),
    ([("a", "x;y"), ("b", "x"), ("b", "y")], "label 'x;y' (video 'a', line 2) counts as a class of its own, although"),
    ([("a", "gieÃ\u0178en"), ("b", "x")], "label 'gieÃ\u0178en' (video 'a', line 2) looks like 'gießen'"),
    ([("cafÃ©", "x"), ("b", "x")], "video 'cafÃ©' looks like 'café', read in a wrong encoding"),
    ([("a", "x"), ("b", '"""y"""')], "label '\"y\"' (video 'b', line 3) is in quotation marks, which count"),
    ([("Clip", "x"), ("clip", "x")], "hyphens or blanks, or in '.0' ('Clip' and 'clip'); they count"),
    ([("7", "x"), ("7.0", "x")], "hyphens or blanks, or in '.0' ('7' and '7.0'); they count"),
    ([("a", "x;y"), ("b", "x")], ""), ([("a", "Ärger"), ("b", "São Paulo")], ""),
])  # fmt: skip
def test_what_is_only_likely_is_a_warning(rows: list[tuple[str, str]], said: str, tmp_path: Path) -> None:
    text = table_of([(v, 3 * k, 3 * k + 2, x, "train") for k, (v, x) in enumerate(rows)])
    found = doubts(read_as("csv", write(tmp_path, text)))
    assert len(found) == bool(said)
    assert not said or said in found[0]


@pytest.mark.parametrize(("label", "said"), [
    ("nan", "video 'b', line 3: label 'nan' stands for a missing value"),
    ("gie\ufffden", "video 'b', line 3: label 'gie\ufffden' has lost letters in a wrong encoding"),
    ("X", "video 'a', line 2: labels 'X' and 'x' differ only in case"),
])  # fmt: skip
def test_a_label_that_is_none_is_named_with_its_row(label: str, said: str, tmp_path: Path) -> None:
    text = table_of([("a", 1, 2, "x", "train"), ("b", 1, 2, label, "train"), ("b", 3, 4, label, "train")])
    message = outcome(lambda: check(read_as("csv", write(tmp_path, text)), source="own.csv"))[1]
    assert said in message


@pytest.mark.parametrize("policy", ["error", "drop", "clip"])
@pytest.mark.parametrize(
    ("start", "end", "rate", "said"),
    [(1250.0, 2000.0, 25.0, True), (1250.5, 2000.0, 25.0, False), (1250.0, 4000.0, 25.0, False),
     (1250.0, 2000.0, None, False), (90.0, 150.0, 25.0, False), (250.0, 300.0, 25.0, False)],
)  # fmt: skip
def test_one_video_in_frames_among_others_is_named(
    start: float, end: float, rate: float | None, said: bool, policy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Only if its times are whole numbers which, at its frame rate, fit and reach far into it."""
    videos = {f"v{k}": Video("train", 100.0, (Instance(1.0, 60.0, "run"),), rate=30.0) for k in range(5)}
    videos["b"] = Video("train", 100.0, (Instance(start, end, "run", "line 9"),), rate=rate)
    message = outcome(lambda: check(Table("own", ("run",), videos), source="own.csv", on_invalid=policy))[1]
    sentence = "the times of video 'b' look like frames at 25 per second; convert them to seconds"
    assert (sentence in message + caplog.text) == said


def test_swapped_columns_are_named(tmp_path: Path) -> None:
    text = table_of([("a", 4, 2, "x", "train"), ("b", 9, 3, "x", "train")])
    message = outcome(lambda: check(read_as("csv", write(tmp_path, text)), source="own.csv"))[1]
    assert "all 2 instances end before they start, so the columns of starts and ends may be swapped" in message


@pytest.mark.parametrize("starts", [(1500,), (1500, 1504, 1509)])
def test_times_of_day_that_lie_close_together_may_be_frames(starts: tuple[int, ...]) -> None:
    """A single instance of each video, or few short ones, lie as close together in frames: both are named then."""
    spans = [
        span_of(v, [(s + k, s + k + (50 if len(starts) == 1 else 6)) for s in starts], 100.0 + k, 25.0)
        for k, v in enumerate("abcd")
    ]
    unit = likely_unit(spans)
    assert unit is not None
    assert (unit.setting, unit.doubtful) == ("frames", True)
    assert unit.words.startswith(
        "frames at 25 per second or, less likely, times of day, or times in a longer recording"
    )


def test_one_overrun_is_no_unit() -> None:
    assert likely_unit([Span("a", 31, 29.75), Span("b", 5, 9)]) is None
    assert likely_unit([Span("a", 300, 10, 25.0), *(Span(f"v{k}", 5, 9, 25.0) for k in range(9))]) is None


def test_an_instance_begins_before_the_end_of_its_video() -> None:
    videos = {
        split: Video(split, 20.0, (Instance(3.0, 5.0, "a"), Instance(start, 20.5, "a")))
        for split, start in (("train", 20.0), ("test", 19.75))
    }
    table = check(Table("own", ("a",), videos), source="own.csv", on_invalid="drop")
    assert segments(table) == [("train", 3.0, 5.0, "a"), ("test", 3.0, 5.0, "a"), ("test", 19.75, 20.5, "a")]
    assert [item.video for item in table.dropped] == ["train"]


def test_frames_become_seconds_with_what_is_ambiguous() -> None:
    video = Video("train", 20.0, (Instance(25, 50, "a"),), ambiguous=((100, 150),), rate=25.0, in_frames=True)
    for seconds, rate in ((video.in_seconds(), 25), (video.in_seconds(50.0), 50)):  # a decoded rate goes first
        assert seconds.instances == (Instance(25 / rate, 50 / rate, "a"),)
        assert seconds.ambiguous == ((100 / rate, 150 / rate),)
        assert seconds.in_seconds() == seconds


# -- cutting -----------------------------------------------------------------------------------------------------------

ends = st.floats(-20, 60, allow_nan=False)


@given(st.lists(st.tuples(ends, ends), min_size=1, max_size=8), st.floats(5, 40))
def test_clip_leaves_what_lies_in_the_video_and_lists_the_rest(
    drawn: list[tuple[float, float]], duration: float
) -> None:
    instances = [Instance(start, end, "x", f"line {k}") for k, (start, end) in enumerate(drawn)]
    good = Instance(1.0, 2.0, "fine", "line good")
    table = Table("own", ("fine", "x"), {"a": Video("train", duration, (good, *instances))})
    found = check(table, source="own.csv", on_invalid="clip")
    left = found.videos["a"].instances
    assert left[0] == good
    assert len(left) + len(found.dropped) == len(drawn) + 1
    before = {i.entry: i for i in instances}
    changed = [i for i in left[1:] if (i.start, i.end) != (before[i.entry].start, before[i.entry].end)]
    assert [i.entry for i in changed] == [item.entry for item in found.clipped]
    for i in left[1:]:
        whole = before[i.entry]
        assert 0 <= i.start < i.end <= duration + 1.0
        assert i.start == max(whole.start, 0)
        assert i.end in (whole.end, min(whole.end, duration))
    for item in found.dropped:
        whole = before[item.entry]
        inside = min(whole.end, duration) - max(whole.start, 0)
        assert inside <= 1e-3 or "repeats" in item.cause


@pytest.mark.parametrize("fmt", ["csv", "activitynet"])
def test_clip_is_a_setting_of_every_own_format(fmt: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if fmt == "csv":
        source = write(tmp_path, table_of(
            [("a", 0.8, 31, "x", "train", 29.75), ("a", 2, 3, "x", "train", 29.75), ("b", 0, 1, "x", "test", 9)],
            header="video,start,end,label,split,duration",
        ))  # fmt: skip
    else:
        entry = {
            "duration": 29.75,
            "annotations": [{"segment": [0.8, 31], "label": "x"}, {"segment": [2, 3], "label": "x"}],
        }
        other = {"subset": "testing", "duration": 9, "annotations": [{"segment": [0, 1], "label": "x"}]}
        source = write(tmp_path, json.dumps({"database": {"a": {**entry, "subset": "train"}, "b": other}}), "own.json")
    spec = {"dataset": "own", "format": {"name": fmt}}
    with pytest.raises(TadError, match=r"1.25 s after the video .*or cut them at the ends of their video with clip"):
        annotate(source, tmp_path / "out.json", spec=AnnotateSpec.model_validate(spec))
    out = annotate(source, tmp_path / "out.json", spec=AnnotateSpec.model_validate(spec | {"on_invalid": "clip"}))
    table = read_table(out)
    assert segments(table) == [("a", 0.8, 29.75, "x"), ("a", 2, 3, "x"), ("b", 0, 1, "x")]
    assert [(c.video, c.cause) for c in table.clipped] == [
        ("a", "beyond: 0.8-31 s ends 1.25 s after the video (29.75 s)")
    ]
    assert not table.dropped
    assert any("cut at the ends of their video" in record.message for record in caplog.records)


# -- splits ------------------------------------------------------------------------------------------------------------


def test_words_for_splits_are_mapped_in_every_own_format(tmp_path: Path) -> None:
    rows = [("a", 1, 2, "x", "Training"), ("b", 1, 2, "x", "dev"), ("c", 1, 2, "x", "unused")]
    source = write(tmp_path, table_of(rows))
    with pytest.raises(TadError, match=r"line 3: unknown subset 'dev'.*map it with the setting splits"):
        read_as("csv", source)
    words = {"Dev": "test", "unused": ""}
    table = read_as("csv", source, splits=words)
    assert {v: video.split for v, video in table.videos.items()} == {"a": "train", "b": "test"}
    database = {v: {"subset": p, "annotations": [{"segment": [s, e], "label": x}]} for v, s, e, x, p in rows}
    table = read_as("activitynet", write(tmp_path, json.dumps({"database": database}), "x.json"), splits=words)
    assert {v: video.split for v, video in table.videos.items()} == {"a": "train", "b": "test"}


@pytest.mark.parametrize(("split", "said"), [("train", "nothing can be scored"), ("test", "nothing can be trained")])
def test_a_missing_split_is_said_and_can_be_drawn(
    split: str, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = write(tmp_path, table_of([(f"v{k}", 1, 2, "xy"[k % 2], split) for k in range(10)]))
    spec: dict[str, Any] = {"dataset": "own", "format": {"name": "csv"}}
    annotate(source, tmp_path / "out.json", spec=AnnotateSpec.model_validate(spec))
    (line,) = [r.message for r in caplog.records if said in r.message]
    assert "test_share: 0.2" in line
    caplog.clear()
    spec["format"]["settings"] = {"test_share": 0.2}
    table = read_table(annotate(source, tmp_path / "out.json", spec=AnnotateSpec.model_validate(spec)))
    assert (len(table.split("train")), len(table.split("test"))) == (8, 2)
    assert not [r for r in caplog.records if "no video is in split" in r.message]
    assert any("2 of 10 videos drawn into test" in note for note in table.notes)


def test_videos_without_a_split_are_drawn_and_others_stay(tmp_path: Path) -> None:
    rows = [(f"v{k}", 1, 2, "x", "") for k in range(10)] + [("w", 1, 2, "x", "test"), ("u", 1, 2, "x", "train")]
    table = read_as("csv", write(tmp_path, table_of(rows)), test_share=0.3)
    assert table.videos["w"].split == "test"
    assert table.videos["u"].split == "train"
    assert len(table.split("test")) == 4
    database = {f"v{k}": {"annotations": [{"segment": [1, 2], "label": "x"}]} for k in range(10)}
    source = write(tmp_path, json.dumps({"database": database}), "x.json")
    assert len(read_as("activitynet", source, test_share=0.3).split("test")) == 3
    with pytest.raises(TadError, match="no subset"):
        read_as("activitynet", source)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sets(st.sampled_from("abcd")), min_size=2, max_size=40), st.floats(0.05, 0.9), st.integers(0, 9))
def test_the_draw_is_by_seed_and_leaves_each_label_to_train_on(labels: list[set[str]], share: float, seed: int) -> None:
    videos = {
        f"v{k}": Video("train", None, tuple(Instance(0, 1, label) for label in sorted(own)))
        for k, own in enumerate(labels)
    }
    found, message = outcome(lambda: draw_test(videos, share=share, seed=seed, unassigned=set(videos)))
    if message:
        assert "only one with one of its labels" in message
        return
    drawn = found[0]
    assert drawn == draw_test(dict(reversed(videos.items())), share=share, seed=seed, unassigned=set(videos))[0]
    test = {v for v, video in drawn.items() if video.split == "test"}
    assert 0 < len(test) <= max(round(share * len(videos)), 1)
    assert len(test) < len(videos)
    everywhere = {i.label for video in videos.values() for i in video.instances}
    assert {i.label for v in drawn.values() if v.split == "train" for i in v.instances} == everywhere
    assert all(math.isclose(len(test), round(share * len(videos)), abs_tol=1) for _ in [0] if not everywhere)


def test_a_share_that_cannot_be_is_refused() -> None:
    videos = {"a": Video("train", None, (Instance(0, 1, "x"),))}
    with pytest.raises(TadError, match=r"test_share: 1.5"):
        draw_test(videos, share=1.5, seed=0, unassigned={"a"})
    with pytest.raises(TadError, match="one video cannot be in train and in test"):
        draw_test(videos, share=0.5, seed=0, unassigned={"a"})
