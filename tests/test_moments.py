"""Annotations with one time (`kind: moments`): read, checked and written."""

import json
from pathlib import Path
from typing import Any

import pytest

from tad.annotations.table import Instance, Table, Video, read_table
from tad.core.errors import TadError
from tad.datasets._formats.table import FORMATS, read, recognise, write
from tad.settings.config import Config
from tad.settings.stages import AnnotateSpec
from tad.stages.annotate import annotate

CSV = "video,{time},label,split,duration\na,{first},serve,train,20\na,4,bounce,train,20\nb,0,serve,test,9\n"


def times(table: Table) -> list[tuple[str, float, float, str]]:
    return [(v, i.start, i.end, i.label) for v, video in table.videos.items() for i in video.instances]


def annotated(tmp_path: Path, text: str, *, name: str = "labels.csv", form: str = "csv", **more: Any) -> Table:
    settings = more.pop("settings", {})
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    values = {"dataset": "own", "format": {"name": form, "settings": settings}, "kind": "moments", **more}
    return read_table(annotate(path, tmp_path / "table.json", spec=AnnotateSpec.model_validate(values)))


@pytest.mark.parametrize(
    ("column", "first", "settings"),
    [
        ("time", "1.5", {}), ("Time (ms)", "1500", {}), ("timestamp", "0:01.500", {}),
        ("when", "1.5", {"columns": {"time": "when"}}),
    ],
)  # fmt: skip
def test_a_column_of_times(tmp_path: Path, column: str, first: str, settings: dict[str, Any]) -> None:
    text = CSV.format(time=column, first=first)
    if column == "Time (ms)":
        text = text.replace("a,4,", "a,4000,")
    table = annotated(tmp_path, text, settings=settings)
    assert table.kind == "moments"
    assert times(table) == [("a", 1.5, 1.5, "serve"), ("a", 4.0, 4.0, "bounce"), ("b", 0.0, 0.0, "serve")]


def test_a_column_of_frames_is_converted_at_the_rate(tmp_path: Path) -> None:
    table = annotated(tmp_path, CSV.format(time="frame", first="3"), settings={"rate": 2.0})
    assert [start for _, start, *_ in times(table)] == [1.5, 2.0, 0.0]
    assert {video.rate for video in table.videos.values()} == {2.0}


def test_equal_starts_and_ends_are_moments(tmp_path: Path) -> None:
    text = "video,start,end,label,split\na,1.5,1.5,x,train\nb,2,2,x,test\n"
    assert [start for _, start, *_ in times(annotated(tmp_path, text))] == [1.5, 2.0]


@pytest.mark.parametrize(("at", "time"), [("start", 1.0), ("middle", 2.0), ("end", 3.0)])
def test_a_time_of_segments_may_be_chosen(tmp_path: Path, at: str, time: float) -> None:
    text = "video,start,end,label,split\na,1,3,x,train\nb,1,3,x,test\n"
    assert times(annotated(tmp_path, text, moment=at)) == [(v, time, time, "x") for v in "ab"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a,nan,serve,train,20", "line 5: nan is not a time; give it in seconds"),
        ("a,-1,serve,train,20", "line 5: -1 s lies before the video; give 0 or later"),
        ("a,23,serve,train,20", "line 5: 23 s lies 3.00 s after the end of the video (20 s); correct the time"),
        ("a,4,bounce,train,20", "line 5: 'bounce' 4 s repeats line 3; remove one of them"),
    ],
)
def test_a_wrong_moment_is_refused_in_one_line(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(TadError) as error:
        annotated(tmp_path, CSV.format(time="time", first="1") + line + "\n")
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    table = annotated(tmp_path, CSV.format(time="time", first="1") + line + "\n", on_invalid="clip")
    assert len(times(table)) == 3  # a moment cannot be clipped: it is left out and listed
    assert [item.entry for item in table.dropped] == ["line 5"]


def test_the_other_kind_is_named_as_the_remedy(tmp_path: Path) -> None:
    segments = "video,start,end,label,split\na,1,3,x,train\nb,1,3,x,test\n"
    with pytest.raises(TadError, match=r"1-3 s has a length, but the data set has `kind: moments`.*moment: start"):
        annotated(tmp_path, segments)
    with pytest.raises(TadError, match=r"4-4 s has no length; .* set `kind: moments` in the data set's row"):
        annotated(tmp_path, CSV.format(time="time", first="1").replace("a,1,", "a,4,"), kind="segments")


def test_other_units_are_recognised(tmp_path: Path) -> None:
    rows = "".join(f"v{k},{k}5000,x,{'train' if k else 'test'},60\n" for k in range(3))
    with pytest.raises(TadError, match="look like milliseconds"):
        annotated(tmp_path, "video,time,label,split,duration\n" + rows)


def test_the_row_of_a_data_set() -> None:
    row = {"format": "csv", "annotations": "x.csv", "moment": "start"}
    with pytest.raises(TadError, match="moment: start needs `kind: moments`"):
        Config({"datasets": {"own": row}})
    config = Config({"datasets": {"own": row | {"kind": "moments"}}})
    assert config.spec("annotate", dataset="own").model_dump(include={"kind", "moment"}) == {
        "kind": "moments", "moment": "start",
    }  # fmt: skip


# -- annotation tools --------------------------------------------------------------------------------------------------

GAME = {
    "UrlLocal": "england/one/",
    "annotations": [
        {"gameTime": "1 - 00:09", "label": "Goal", "position": "9000", "team": "home", "visibility": "visible"},
        {"gameTime": "2 - 01:10", "label": "Corner", "position": "70400"},
    ],
}


def test_games_of_soccernet(tmp_path: Path) -> None:
    """The halves of one game are called 1 and 2; those of several games begin with the name of their folder."""
    table = annotated(
        tmp_path, json.dumps(GAME), name="games/one/Labels-v2.json", form="annotation_tool",
        settings={"split": "train"},
    )  # fmt: skip
    assert times(table) == [("1", 9.0, 9.0, "Goal"), ("2", 70.4, 70.4, "Corner")]
    (tmp_path / "games" / "two").mkdir()
    (tmp_path / "games" / "two" / "Labels-v2.json").write_text(json.dumps(GAME))
    assert list(read(tmp_path / "games").videos) == ["one_1", "one_2", "two_1", "two_2"]


def test_boris_point_events(tmp_path: Path) -> None:
    head = "Observation id,Source,Media duration (s),FPS,Subject,Behavior,Behavior type,Time,Media file name"
    rows = "".join(f"o,player #1:a.mp4,10.0,25,,lick,POINT,{t},a.mp4\n" for t in (2.5, 4))
    more: dict[str, Any] = {"form": "annotation_tool", "name": "x.csv", "settings": {"split": "train"}}
    table = annotated(tmp_path, f"{head}\n{rows}", **more)
    assert times(table) == [("a", 2.5, 2.5, "lick"), ("a", 4.0, 4.0, "lick")]
    assert table.videos["a"].rate == 25.0
    row = {"format": "annotation_tool", "kind": "moments", "settings": {"points": 2.0}}
    with pytest.raises(TadError, match=r"settings\.points makes segments of moments; remove it, or `kind: moments`"):
        Config({"datasets": {"own": row}})


@pytest.mark.parametrize("scores", [False, True])
@pytest.mark.parametrize("tool", ["csv", "soccernet", "boris", "activitynet"])
def test_what_is_written_is_read_back_equal(tmp_path: Path, tool: str, scores: bool) -> None:
    found = [(1.25, "lick"), (1.25, "paw"), (4.2, "lick"), (61.004, "lick")]
    instances = tuple(Instance(t, t, label, score=0.5 + t / 1000 if scores else None) for t, label in found)
    videos = {"mouse 2": Video("", 70.0, instances), "other": Video("", 9.0, ())}
    table = Table("own", ("lick", "paw"), videos, kind="moments")
    form = FORMATS[tool]
    paths = write(table, tmp_path / ("out" if form.per_video else f"out{form.suffix}"), tool=tool)
    source = paths[0].parent if form.per_video else paths[0]
    assert recognise(source) == tool
    back = read(source)
    assert sorted(times(back)) == sorted(times(table))
    assert set(back.videos) == set(videos)
    if tool == "soccernet":
        assert [i.score for i in back.videos["mouse 2"].instances] == [i.score for i in instances]
    if tool == "csv":
        assert paths[0].read_text().startswith("video,time,label,")


def test_soccernet_holds_no_segments(tmp_path: Path) -> None:
    table = Table("own", ("x",), {"a": Video("", 9.0, (Instance(1, 3, "x"),))})
    with pytest.raises(TadError, match="'x' 1-3 s has a length, and SoccerNet's events have one time"):
        write(table, tmp_path / "a.json", tool="soccernet")
