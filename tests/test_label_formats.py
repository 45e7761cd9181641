"""Files of annotation tools: every format is recognised and read, and what is written is read back equal."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import h5py
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_samples import CVAT, FRAMES, SAMPLES, SOCCER, SWINGS
from table_tools import read_as, xlsx

from tad.annotations.checks import check
from tad.annotations.table import Instance, Table, Video
from tad.core.errors import TadError
from tad.datasets._formats.table import FORMATS, WRITTEN, read, recognise, write
from tad.datasets._parse import labels_of
from tad.datasets.annotation_tool_settings import Tool
from tad.settings.stages import AnnotateSpec
from tad.stages.annotate import annotate


def segments(table: Table) -> list[tuple[str, float, float, str]]:
    return [(v, i.start, i.end, i.label) for v, video in table.videos.items() for i in video.instances]


def test_settings_name_all_formats() -> None:
    assert set(get_args(Tool)) == {"", *FORMATS}


def put(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(("tool", "name", "content", "expected"), SAMPLES)
def test_a_sample_is_recognised_and_read(
    tmp_path: Path, tool: str, name: str, content: Any, expected: list[Any]
) -> None:
    path = put(tmp_path / name, content)
    assert recognise(path) == tool
    table = read(path)
    assert segments(table) == [(v, pytest.approx(a), pytest.approx(b), label) for v, a, b, label in expected]
    assert all(video.in_frames == (expected == FRAMES or tool == "cvat") for video in table.videos.values())


def test_every_read_format_has_a_sample() -> None:
    assert {tool for tool, *_ in SAMPLES} == set(FORMATS) - {"nwb", "boris"}  # tested below, and by round trips


@pytest.mark.parametrize(("tool", "name", "content", "_expected"), SAMPLES)
@pytest.mark.parametrize("harm", [lambda t: t[: len(t) // 2], lambda t: t.replace("4", "x"), lambda t: t[::-1]])
def test_a_damaged_sample_is_read_or_refused_in_one_line(
    tmp_path: Path, tool: str, name: str, content: Any, _expected: Any, harm: Callable[[str], str]
) -> None:
    """No damage ends in a traceback, whatever is read."""
    path = put(tmp_path / name, harm(content if isinstance(content, str) else json.dumps(content)))
    for call in (lambda: read(path), lambda: read(path, tool=tool)):
        said = refusal(call)
        assert not said or (str(path) in said and "\n" not in said)


def refusal(call: Callable[[], Any]) -> str:
    """The message of the call's TadError; empty if it succeeds."""
    try:
        call()
    except TadError as error:
        return str(error)
    return ""


def swap(value: Any, junk: Any) -> list[Any]:
    """Copies of a JSON value with one part of it replaced by `junk`."""
    if isinstance(value, dict):
        return [junk, *({**value, key: part} for key, inner in value.items() for part in swap(inner, junk))]
    if isinstance(value, list):
        return [
            junk,
            *([*value[:k], part, *value[k + 1 :]] for k, inner in enumerate(value) for part in swap(inner, junk)),
        ]
    return [junk]


@pytest.mark.parametrize("junk", [None, 3, "x", [], {}, [1, 2, 3], {"a": 1}, True])
def test_json_with_other_types_is_read_or_refused(tmp_path: Path, junk: Any) -> None:
    for tool, name, content, _ in SAMPLES:
        if isinstance(content, str):
            continue
        for value in swap(content, junk):
            path = put(tmp_path / name, value)
            assert "\n" not in refusal(lambda path=path, tool=tool: read(path, tool=tool))


# -- round trips -------------------------------------------------------------------------------------------------------

SEGMENTED = [tool for tool in WRITTEN if tool != "soccernet"]  # its events have no length: test_moments.py
MS = st.integers(0, 5_000_000)
TEXT = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=8)
LABELS = st.lists(TEXT, min_size=1, max_size=3).map(" ".join)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """Tables of one to three videos, whose instances of one label do not overlap."""
    videos = {}
    for k in range(draw(st.integers(1, 3))):
        found = []
        for label in draw(st.lists(LABELS, max_size=3, unique=True)):
            ends = sorted(draw(st.lists(MS, max_size=6, unique=True)))
            pairs = zip(ends[::2], ends[1::2], strict=False)
            found += [Instance(a / 1000, b / 1000, label, score=draw(st.none() | st.floats(0, 1))) for a, b in pairs]
        videos[f"clip {k}"] = Video(
            "", draw(st.none() | st.integers(6_000_000, 7_000_000).map(lambda x: x / 1000)), tuple(found)
        )
    return Table("own", labels_of(videos), videos)


@pytest.mark.parametrize("tool", SEGMENTED)
@settings(max_examples=40, deadline=None)
@given(table=tables())
def test_what_is_written_is_read_back_equal(tmp_path_factory: pytest.TempPathFactory, tool: str, table: Table) -> None:
    """Videos, times to the millisecond, and labels of any script; durations where the format has them."""
    from unicodedata import normalize

    folder = tmp_path_factory.mktemp("out")
    normal = {
        v: replace(x, instances=tuple(replace(i, label=normalize("NFC", i.label)) for i in x.instances))
        for v, x in table.videos.items()
    }
    paths = write(
        table, folder / "out" if FORMATS[tool].per_video else folder / f"out{FORMATS[tool].suffix}", tool=tool
    )
    assert all(path.suffix == FORMATS[tool].suffix for path in paths)
    source = paths[0].parent if FORMATS[tool].per_video else paths[0]
    assert recognise(source) == tool
    back = read(source)
    for video_id, video in normal.items():
        key = lambda i: (i.start, i.end, i.label)  # noqa: E731
        assert sorted(back.videos[video_id].instances, key=key) == sorted(video.instances, key=key)
        if tool in ("csv", "activitynet", "boris"):
            assert back.videos[video_id].duration == video.duration
    assert set(back.videos) == set(normal)


@pytest.mark.parametrize("tool", SEGMENTED)
def test_hostile_labels_are_inert(tmp_path: Path, tool: str) -> None:
    labels = [
        "<script>alert(1)</script>",
        "]]>",
        "a,b;c",
        '"q"',
        "'; DROP",
        "00:00:01 --> x",
        "7",
        "WEBVTT",
        "&amp;",
        "<i>a</i>",
    ]
    instances = tuple(Instance(k, k + 0.5, label) for k, label in enumerate(labels))
    table = Table("own", tuple(sorted(labels)), {"clip": Video("", 20.0, instances)})
    (path,) = write(table, tmp_path / f"clip{FORMATS[tool].suffix}", tool=tool)
    assert [i.label for i in read(path).videos["clip"].instances] == labels


@pytest.mark.parametrize("label", ["", " ", "a\nb", "a\x00b", "\ud800"])
@pytest.mark.parametrize("tool", WRITTEN)
def test_labels_that_no_format_can_hold_are_refused(tmp_path: Path, tool: str, label: str) -> None:
    table = Table("own", (label,), {"clip": Video("", 20.0, (Instance(0, 1, label),))})
    with pytest.raises(TadError, match="empty or has a control character"):
        write(table, tmp_path / "out", tool=tool)
    assert not list(tmp_path.iterdir())


def test_an_instance_does_not_become_a_point(tmp_path: Path) -> None:
    table = Table("own", ("a",), {"clip": Video("", 20.0, (Instance(1.0001, 1.0003, "a"),))})
    for tool in SEGMENTED:
        (path,) = write(table, tmp_path / f"clip{FORMATS[tool].suffix}", tool=tool)
        (instance,) = read(path).videos["clip"].instances
        assert instance.end > instance.start


def test_read_only_and_unknown_formats_say_so(tmp_path: Path) -> None:
    table = Table("own", ("a",), {"clip": Video("", 20.0, (Instance(1, 2, "a"),))})
    with pytest.raises(TadError, match="cannot be written; choose one of csv, "):
        write(table, tmp_path / "x", tool="cvat")
    with pytest.raises(TadError, match="did you mean 'elan'"):
        write(table, tmp_path / "x", tool="elann")
    overlap = Video("", 20.0, (Instance(1, 3, "a"), Instance(2, 4, "a")))
    with pytest.raises(TadError, match="overlap at 2 s"):
        write(replace(table, videos={"clip": overlap}), tmp_path / "x.boris", tool="boris")


# -- other files -------------------------------------------------------------------------------------------------------


def test_nwb_bouts(tmp_path: Path) -> None:
    path = tmp_path / "session.nwb"
    with h5py.File(path, "w") as file:
        file.attrs["nwb_version"] = "2.9.0"
        video = file.create_group("acquisition/video")
        video["external_file"] = ["./clips/tennis26.mp4"]
        bouts = file.create_group("processing/behavior/bouts")
        bouts.attrs["neurodata_type"] = "EthogramBouts"
        bouts["start_time"], bouts["stop_time"] = [2.0, 4.8], [4.0, 7.0]
        bouts["label"] = ["tennis swing"] * 2
        bouts["source_video"] = h5py.SoftLink("/acquisition/video")
    assert recognise(path) == "nwb"
    assert segments(read(path)) == SWINGS
    with h5py.File(path, "a") as file:
        del file["processing/behavior/bouts/label"]
    with pytest.raises(TadError, match="no columns start_time, stop_time, label"):
        read(path)


def test_a_spreadsheet_is_read_like_a_csv_file(tmp_path: Path) -> None:
    rows: list[list[str | float]] = [
        ["Video", "Start (s)", "End (s)", "Action"],
        ["tennis26.mp4", 2.0, 4, "tennis swing"],
    ]
    path = xlsx(tmp_path / "own.xlsx", [*rows, ["tennis26.mp4", 4.8, "00:00:07", "tennis swing"]])
    assert recognise(path) == "csv"
    assert segments(read(path)) == SWINGS
    (tmp_path / "bad.xlsx").write_bytes(path.read_bytes()[:300])
    with pytest.raises(TadError, match="not a readable spreadsheet"):
        read(tmp_path / "bad.xlsx")
    with pytest.raises(TadError, match="the table is empty"):
        read(xlsx(tmp_path / "empty.xlsx", []))


CUES = [("clip", 1.0, 2.0, "run"), ("clip", 3.5, 4.0, "jump")]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    "text",
    [
        "1\n00:00:01,000 --> 00:00:02,000\nrun\n\n2\n00:00:03,500 --> 00:00:04,000\njump\n",
        "1\n0:01 --> 0:02\nrun\n\n2\n00:00:03,5 --> 00:00:04\njump\n",
        "1\n00:00:01.000000-->00:00:02.000000\nrun\n\n2\n00:03.500 -->00:04.000 align:start\njump\n",
        "1\n00:00:01,000 --> 00:00:02,000\nrun\n2\n00:00:03,500 --> 00:00:04,000\njump",
    ],
)
def test_every_cue_is_read(tmp_path: Path, text: str, end: str) -> None:
    """Whole seconds, other digits, no blanks around the arrow, and no blank line between two cues."""
    path = tmp_path / "clip.srt"
    path.write_bytes(text.replace("\n", end).encode())
    assert segments(read(path)) == CUES


@pytest.mark.parametrize("timing", ["00:00:01,000 -> 00:00:02,000", "-00:00:01,0 --> 00:00:02,0", "01.5 --> 02.5",
                                    "00:00:01:12 --> 00:00:02:10", "00:00:01,000 ==> 00:00:02,000"])  # fmt: skip
def test_a_cue_is_never_lost_among_others(tmp_path: Path, timing: str) -> None:
    path = put(tmp_path / "clip.srt", f"1\n00:00:05,000 --> 00:00:06,000\nrun\n\n2\n{timing}\njump\n")
    with pytest.raises(TadError, match=r"clip.srt: line 6: '.*' is not of the form 00:00:02,000 --> 00:00:04,000"):
        read(path)


def test_several_checked_boxes_are_several_labels(tmp_path: Path) -> None:
    """VIA stores the ids of the chosen options, separated by commas; a label may have a comma itself."""
    metadata = {"1_a": {"vid": "1", "z": [1, 2], "xy": [], "av": {"1": "0,2"}},
                "1_b": {"vid": "1", "z": [3, 4], "xy": [], "av": {"1": "1"}}}  # fmt: skip
    project = {
        "project": {}, "config": {}, "metadata": metadata, "view": {"1": {"fid_list": ["1"]}},
        "file": {"1": {"fname": "clip.mp4"}},
        "attribute": {"1": {"options": {"0": "run", "1": "run, fast", "2": "jump"}}},
    }  # fmt: skip
    found = [("clip", 1, 2, "run"), ("clip", 1, 2, "jump"), ("clip", 3, 4, "run, fast")]
    assert segments(read(put(tmp_path / "via.json", project))) == found


def test_tasks_of_several_annotators_are_said(tmp_path: Path) -> None:
    one = {"result": [{"value": {"ranges": [{"start": 25, "end": 50}], "timelinelabels": ["run"]}}]}
    task = {"id": 1, "data": {"video": "/data/upload/1/clip.mp4", "fps": 25}, "annotations": [one]}
    assert not read(put(tmp_path / "one.json", [task])).notes
    for others, said in ((one,), True), (({**one, "was_cancelled": True},), False):
        notes = read(put(tmp_path / "two.json", [{**task, "annotations": [one, *others]}])).notes
        assert any("1 tasks with several annotations" in note for note in notes) == said


def test_a_folder_of_one_file_per_video(tmp_path: Path) -> None:
    for video in ("a", "b"):
        put(tmp_path / f"{video}.srt", "1\n00:00:02,000 --> 00:00:04,000\njump\n")
    put(tmp_path / "a.mp4", "a video is not read")
    assert segments(read(tmp_path)) == [("a", 2.0, 4.0, "jump"), ("b", 2.0, 4.0, "jump")]
    put(tmp_path / "c.eaf", SAMPLES[3][2])
    with pytest.raises(TadError, match=r"several formats \(SubRip subtitles \(.srt\): a.srt …; ELAN"):
        read(tmp_path)
    with pytest.raises(TadError, match="no annotation file in this folder"):
        read(put(tmp_path / "d" / "x.mp4", "") if (tmp_path / "d").mkdir() else (tmp_path / "d"))


# -- the data set format -----------------------------------------------------------------------------------------------


def test_annotate_reads_an_export(tmp_path: Path) -> None:
    for video in "abcde":
        put(tmp_path / f"{video}.srt", "1\n00:00:02,000 --> 00:00:04,000\njump\n")
    spec = AnnotateSpec.model_validate(
        {"dataset": "own", "format": {"name": "annotation_tool", "settings": {"test_share": 0.2, "names": {"a": "z"}}}}
    )
    out = annotate(tmp_path, tmp_path / "out" / "table.json", spec=spec)
    videos = json.loads(out.read_text())["videos"]
    assert set(videos) == {"z", *"bcde"}
    assert sorted(video["split"] for video in videos.values()) == ["test", *["train"] * 4]


def test_settings_of_the_data_set_format(tmp_path: Path) -> None:
    path = put(tmp_path / "Labels-v2.json", SOCCER)
    with pytest.raises(TadError, match=r"video '2'.*9-9 s has no length; .*`kind: moments`.*points: 2"):
        check(read_as("annotation_tool", path, split="train"), source="x")
    table = read_as("annotation_tool", path, split="train", points=3.0, names={"2": "2_720p"})
    assert segments(table) == [("2_720p", 7.5, 10.5, "Goal")]
    with pytest.raises(TadError, match="belongs to no split"):
        read_as("annotation_tool", path, points=3.0)
    with pytest.raises(TadError, match="no video is called '3'"):
        read_as("annotation_tool", path, points=3.0, names={"3": "x"})
    frames = put(tmp_path / "x.xml", CVAT)
    assert segments(read_as("annotation_tool", frames, split="train", rate=30.0))[0] == SWINGS[0]


def test_the_samples_of_the_cases(shared: Path) -> None:
    """Every sample of a tool is read, with the instances that its README gives."""
    folder = shared / "cases" / "tools"
    if not folder.is_dir():
        pytest.skip("no samples here")
    for path in sorted(folder.iterdir()):
        found = segments(read(path))
        assert found, path
        if path.suffix == ".csv":
            with path.open() as handle:
                assert sum(1 for row in csv.reader(handle) if row and not row[0].startswith("#")) >= len(found)
