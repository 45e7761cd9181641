"""Labels whose times or names a reader could silently change: slots of ELAN, units of merged files, odd line ends."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_samples import eaf
from video_tools import encode

from tad.annotations.table import Table, Video, read_table
from tad.commands.new import new
from tad.core.errors import TadError
from tad.datasets import annotation_tool, csv
from tad.datasets._epic_actions import read_actions
from tad.datasets._formats.table import read
from tad.datasets._official import ordered_labels
from tad.datasets._parse import read_database, read_labels
from tad.datasets._text import lines_of
from tad.datasets.annotation_tool_settings import Settings
from tad.datasets.epic import read as read_epic
from tad.datasets.epic_settings import Settings as EpicSettings
from tad.settings.config import Config
from tad.stages.annotate import annotate


def spans(table: Table) -> list[tuple[float, float, str]]:
    return [(i.start, i.end, i.label) for video in table.videos.values() for i in video.instances]


# -- ELAN --------------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(start=st.integers(0, 3000), length=st.integers(1, 2000), part=st.sampled_from(["", ".0", ".25", ".5"]))
def test_a_time_of_elan_is_read_whatever_wrote_it(
    tmp_path_factory: pytest.TempPathFactory, start: int, length: int, part: str
) -> None:
    """A slot with decimals is no slot without a time, which lies halfway between its neighbours."""
    path = tmp_path_factory.mktemp("eaf") / "clip.eaf"
    path.write_text(eaf(first=start, second=f'TIME_VALUE="{start + length}{part}"'), encoding="utf-8")
    wanted = (start / 1000, (start + length + float(part or 0)) / 1000, "tennis swing")
    assert spans(read(path)) == [pytest.approx(wanted)]


@pytest.mark.parametrize(
    ("given_slot", "origin", "message"),
    [
        ('TIME_VALUE="2 s"', "", "TIME_VALUE of time slot 'ts2' is '2 s', not milliseconds"),
        ('TIME_VALUE=""', "", "TIME_VALUE of time slot 'ts2' is ''"),
        ('TIME_VALUE="²"', "", "TIME_VALUE of time slot 'ts2' is '²'"),
        ('TIME_VALUE="4000"', 'TIME_ORIGIN="soon"', "TIME_ORIGIN of 'tennis26.mp4' is 'soon'"),
    ],
)
def test_times_of_elan_that_are_none_are_refused(tmp_path: Path, given_slot: str, origin: str, message: str) -> None:
    path = tmp_path / "clip.eaf"
    path.write_text(eaf(second=given_slot, origin=origin), encoding="utf-8")
    with pytest.raises(TadError, match=message):
        read(path)


def test_an_offset_with_decimals_counts(tmp_path: Path) -> None:
    path = tmp_path / "clip.eaf"
    path.write_text(eaf(first=1500, second='TIME_VALUE="3500"', origin='TIME_ORIGIN="500.5"'), encoding="utf-8")
    assert spans(read(path)) == [pytest.approx((2.0005, 4.0005, "tennis swing"))]


# -- frames ------------------------------------------------------------------------------------------------------------


def studio(path: Path, start: Any, end: Any, rate: float | None, label: str = "walk") -> Path:
    data: dict[str, Any] = {"video": "/x/clip.mp4"} | ({} if rate is None else {"fps": rate})
    result = {"value": {"ranges": [{"start": start, "end": end}], "timelinelabels": [label]}, "type": "timelinelabels"}
    path.write_text(json.dumps([{"id": 1, "annotations": [{"result": [result]}], "data": data}]), encoding="utf-8")
    return path


@pytest.mark.parametrize("rates", [(30.0, None), (None, 30.0), (30.0, 30.0)])
def test_files_of_one_video_are_merged_in_seconds(tmp_path: Path, rates: tuple[float | None, float | None]) -> None:
    """A file that states no frame rate has that of the other file of this video: both are frames."""
    studio(tmp_path / "a.json", 60, 120, rates[0])
    studio(tmp_path / "b.json", 150, 300, rates[1])
    table = read(tmp_path)
    assert spans(table) == [(2.0, 4.0, "walk"), (5.0, 10.0, "walk")]
    assert not table.videos["clip"].in_frames


def test_seconds_and_frames_of_one_video_are_not_mixed(tmp_path: Path) -> None:
    labels = {"classes": ["walk"], "labels": {"clip": [{"label": "walk", "timestamps": [2.0, 4.0]}]}}
    support = {"classes": ["walk"], "labels": {"clip": [{"label": "walk", "support": [61, 120]}]}}
    for name, content in (("a", labels), ("b", support)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    with pytest.raises(TadError, match=r"b\.json: the times of video 'clip' are frames here and seconds in another"):
        read(tmp_path)


@pytest.mark.parametrize("first", [61, 61.0, "61"])
def test_the_first_frame_of_fiftyone_is_number_1(tmp_path: Path, first: Any) -> None:
    content = {"classes": ["walk"], "labels": {"clip": [{"label": "walk", "support": [first, 120]}]}}
    (tmp_path / "labels.json").write_text(json.dumps(content))
    assert spans(read(tmp_path / "labels.json")) == [(60.0, 120.0, "walk")]


def test_points_in_frames_are_no_points_in_seconds(tmp_path: Path) -> None:
    """`points: 2` are two seconds, not two frames."""
    path = studio(tmp_path / "a.json", 60, 60, None)
    with pytest.raises(TadError, match="the points in time of video 'clip' are frames, and `points` are seconds"):
        annotation_tool.read(path, Settings(points=2.0, split="train"))
    table = annotation_tool.read(path, Settings(points=2.0, split="train", rate=30.0))
    assert spans(table) == [(1.0, 3.0, "walk")]
    assert spans(annotation_tool.read(studio(path, 60, 60, 30.0), Settings(points=2.0, split="train"))) == [
        (1.0, 3.0, "walk")
    ]


def test_tad_new_states_the_rate_of_videos_with_points_in_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table that annotate makes has segments of two seconds, although no file states a frame rate."""
    monkeypatch.chdir(tmp_path)
    names = ("clip_a", "clip_b")
    for name in names:
        encode(Path("videos") / f"{name}.mp4", 100, rate=25, width=32, height=32)
    results = [{"value": {"ranges": [{"start": 50, "end": 50}], "timelinelabels": ["walk"]}, "type": "timelinelabels"}]
    tasks = [
        {"id": k, "annotations": [{"result": results}], "data": {"video": f"{v}.mp4"}} for k, v in enumerate(names)
    ]
    Path("studio.json").write_text(json.dumps(tasks))
    list(
        new("kitchen", videos=Path("videos"), labels=Path("studio.json"), offline=True, check_videos=False, points=2.0)
    )
    config = Config.read(Path("config.yaml"))
    assert config.dataset("kitchen").settings["rate"] == 25
    spec: Any = config.spec("annotate", dataset="kitchen")
    table = read_table(annotate(Path("studio.json"), Path("out/table.json"), spec=spec))
    assert spans(table) == [(1.0, 3.0, "walk")] * 2


# -- tables ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_video_with_excluded_rows_is_refused_in_any_order(tmp_path: Path, order: tuple[int, int]) -> None:
    rows = ["v1,0,1,a,train", "v1,5,6,a,none"]
    path = tmp_path / "own.csv"
    path.write_text("\n".join(["video,start,end,label,split", "v2,0,1,a,test", *(rows[k] for k in order)]) + "\n")
    with pytest.raises(TadError, match=r"video 'v1' is (in train|excluded) above and (in train|excluded) here"):
        csv.read(path, csv.settings_of({"splits": {"none": ""}}))


ODD = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=6), min_size=1, max_size=5),
       st.sampled_from(["\n", "\r\n", "\r"]))  # fmt: skip
def test_lines_end_where_editors_end_them(lines: list[str], end: str) -> None:
    assert lines_of(end.join([*lines, "last"])) == [*lines, "last"]
    assert lines_of(end.join([*lines, ""])) == lines


@pytest.mark.parametrize("mark", ODD)
def test_no_separator_within_a_label_makes_two_of_it(tmp_path: Path, mark: str) -> None:
    """Read as one label, which the check of labels refuses with its name, or as one with a blank."""
    names = tmp_path / "labels.txt"
    names.write_text(f"run{mark}fast\njump\n", encoding="utf-8")
    assert read_labels(names) == (f"run{mark}fast", "jump")
    cue = tmp_path / "clip.srt"
    cue.write_text(f"1\n00:00:02,000 --> 00:00:04,000\nrun{mark}fast\n", encoding="utf-8")
    assert spans(read(cue)) == [(2.0, 4.0, "run fast")]
    track = tmp_path / "clip.txt"
    track.write_text(f"2.0\t4.0\trun{mark}fast\n", encoding="utf-8")
    assert spans(read(track)) == [(2.0, 4.0, "run fast")]


def test_labels_of_published_files_are_composed_with_their_numbers(tmp_path: Path) -> None:
    """The class order follows label_id, whatever form the letters have."""
    one = {"segment": [0, 1], "label": "saute\u0301", "label_id": 1}
    other = {"segment": [2, 3], "label": "rôtir", "label_id": 0}
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"database": {"v": {"subset": "training", "annotations": [one, other]}}}))
    videos: dict[str, Video] = read_database(path)
    assert ordered_labels(path, videos) == ("rôtir", "sauté")
    table = read_epic(path, EpicSettings(target="verb"))
    assert table.labels[:2] == ("rôtir", "sauté")


def test_digits_that_are_no_numbers_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "EPIC_100_validation.csv"
    path.write_text(
        "video_id,start_timestamp,stop_timestamp,verb_class,noun_class\nP01_01,00:00:01.00,00:00:02.00,²,3\n"
    )
    with pytest.raises(TadError, match="line 2: class '²' is not a class id"):
        read_actions(path)
