"""What people's annotation files look like: times, names, encodings, columns; what is certain is read and said."""

import json
import logging
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from table_tools import ROWS, outcome, read_as, segments, table_of, write

from tad.annotations.checks import check
from tad.annotations.table import Instance, Table, Video, read_table
from tad.core.errors import TadError
from tad.core.ids import invisible, unsafe
from tad.datasets._names import VideoNames
from tad.datasets._times import Times, clock, has_decimal_commas
from tad.settings.stages import AnnotateSpec
from tad.stages.annotate import annotate
from tad.video.listing import list_videos

EXPECTED = [(video, start, end, label) for video, start, end, label, _ in ROWS]


# -- times -------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 360_000_000), st.sampled_from([".", ","]))
def test_clock_times_are_their_seconds(milliseconds: int, point: str) -> None:
    seconds = milliseconds / 1000
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    end = f"{rest // 1000:02d}{point}{rest % 1000:03d}"
    times = Times()
    for text in (f"{hours}:{minutes:02d}:{end}", f"{hours:02d}:{minutes:02d}:{end}", f"{60 * hours + minutes}:{end}"):
        assert times.read(text, "x") == pytest.approx(seconds, abs=1e-6)
    assert times.seen.total() == 3


@given(st.floats(0, 1e6).map(lambda x: round(x, 3)))
def test_numbers_in_each_unit(seconds: float) -> None:
    assert Times().read(str(seconds), "x") == Times("seconds").read(seconds, "x") == seconds
    assert Times("milliseconds").read(str(1000 * seconds), "x") == pytest.approx(seconds)
    assert Times("frames").read(str(seconds), "x") == seconds
    assert Times().read(f"{seconds} s", "x") == seconds
    assert Times().read(f"{1000 * seconds:.3f}ms", "x") == pytest.approx(seconds)
    commas = Times(decimal_commas=True)
    assert commas.read(f"{seconds:.3f}".replace(".", ","), "x") == pytest.approx(seconds)
    assert commas.seen.total() == 1


@settings(max_examples=400)
@given(st.one_of(st.text("0123456789:.,;-+eE snaif", max_size=12), st.text(max_size=12), st.none(), st.booleans()))
def test_whatever_stands_there_is_a_number_or_one_line(value: Any) -> None:
    for times in (Times(), Times("frames"), Times("clock"), Times("milliseconds", decimal_commas=True)):
        found, message = outcome(lambda times=times: times.read(value, "file: line 2"))  # type: ignore[misc]
        if message:
            assert message.startswith("file: line 2: ")
            assert len(message.splitlines()) == 1 or not str(value).isprintable()
        else:
            assert isinstance(found, float)
            assert not isinstance(value, bool)
            assert re.search(r"\d|nan|inf", str(value), re.IGNORECASE)


@pytest.mark.parametrize(
    "text", ["1:61", "1:60:00", "00:00:01:12", "1:2:3:4", "1;30", "01:02:03;15", ":30", "1:", "-1:00"]
)
def test_clock_times_with_another_or_no_meaning_are_refused(text: str) -> None:
    assert clock(text) is None
    with pytest.raises(TadError, match="unambiguous"):
        Times().read(text, "x")


def test_a_clock_time_in_a_file_of_frames_names_the_setting() -> None:
    with pytest.raises(TadError, match="the times are frames; set unit: clock"):
        Times("frames").read("0:10", "x")
    with pytest.raises(TadError, match="setting unit: 'minutes'"):
        Times("minutes")


@pytest.mark.parametrize(
    ("cells", "delimiter", "expected"),
    [
        (["1,5", "2,25"], ";", True), (["1,500", "2,000"], ";", True), (["1,500", "2,25"], "\t", True),
        (["1,500", "2,000"], "\t", False), (["1,5", "2.5"], ";", False), (["1.5"], ";", False),
        (["1.234,5"], ";", False),
    ],
)  # fmt: skip
def test_commas_are_decimal_commas_where_that_is_certain(cells: list[str], delimiter: str, expected: bool) -> None:
    assert has_decimal_commas(cells, delimiter=delimiter) is expected


def clocked(seconds: float) -> str:
    return f"{int(seconds) // 3600:02d}:{int(seconds) // 60 % 60:02d}:{seconds % 60:06.3f}"


def comma(seconds: float) -> str:
    return f"{seconds:.2f}".replace(".", ",")


def scaled(factor: float, header: str, *more: int) -> str:
    return table_of([(v, factor * s, factor * e, x, p, *more) for v, s, e, x, p in ROWS], header=header)


WRITTEN: dict[str, tuple[str, str]] = {  # file → what the log says of it
    "clock times": (table_of([(v, clocked(s), clocked(e), x, p) for v, s, e, x, p in ROWS]), "6 clock times"),
    "minutes": (table_of([(v, f"{int(s) // 60}:{s % 60:g}", e, x, p) for v, s, e, x, p in ROWS]), "3 clock times"),
    "decimal commas": (
        table_of([(v, comma(s), comma(e), x, p) for v, s, e, x, p in ROWS], comma=";"),
        "6 decimal commas",
    ),
    "quoted decimal commas": (
        table_of([(v, f'"{comma(s)}"', f'"{comma(e)}"', x, p) for v, s, e, x, p in ROWS]),
        "6 decimal commas",
    ),
    "units": (table_of([(v, f"{s} s", f"{1000 * e}ms", x, p) for v, s, e, x, p in ROWS]), "6 times with their unit"),
    "suffix": (table_of([(f"{v}.MP4", s, e, x, p) for v, s, e, x, p in ROWS]), "3 names with the extension"),
    "folder": (table_of([(f"day 1/cam/{v}", s, e, x, p) for v, s, e, x, p in ROWS]), "3 names with the folder"),
    "Windows": (table_of([(rf"D:\films\{v}.avi", s, e, x, p) for v, s, e, x, p in ROWS]), "3 names with the folder"),
    "network": (table_of([(rf"\\box\films\{v}.avi", s, e, x, p) for v, s, e, x, p in ROWS]), "3 names with the folder"),
    "names": (table_of(header="File Name,Onset,Offset,Behavior,Subset"), "column 'Behavior' is label"),
    "seconds in names": (table_of(header="file,Start (s),End (s),activity,set"), "column 'Start (s)' is start"),
    "milliseconds in names": (
        scaled(1000, "clip,start_ms,end_ms,class,partition"),
        "times are milliseconds",
    ),
    "frames with their rate": (
        scaled(8, "video,start_frame,end_frame,label,split,fps", 8),
        "times are frames",
    ),
    "frames by camel case": (
        scaled(8, "video,startFrame,endFrame,label,split,FPS", 8),
        "times are frames",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_certain_is_read_and_said(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text, said = WRITTEN[name]
    source = write(tmp_path, text)
    spec = AnnotateSpec.model_validate({"dataset": "own", "format": {"name": "csv"}})
    table = read_table(annotate(source, tmp_path / "out.json", spec=spec))
    assert segments(table) == [(v, pytest.approx(s), pytest.approx(e), x) for v, s, e, x in EXPECTED]
    assert {v: video.split for v, video in table.videos.items()} == {"a": "train", "b": "train", "c": "test"}
    warnings = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    lines = [line for line in warnings if "is read with these conversions" in line]
    assert len(lines) == 1
    assert said in lines[0]
    assert any(said in note for note in table.notes)


@pytest.mark.parametrize("unit", ["seconds", "milliseconds", "frames", "clock"])
def test_the_unit_is_a_setting_of_both_own_formats(unit: str, tmp_path: Path) -> None:
    written = {"seconds": str, "milliseconds": lambda t: 1000 * t, "frames": lambda t: 25 * t, "clock": clocked}[unit]
    rows = [(v, written(s), written(e), x, p) for v, s, e, x, p in ROWS]
    rate = {"rate": 25.0} if unit == "frames" else {}
    table = read_as("csv", write(tmp_path, table_of(rows)), unit=unit, **rate)
    assert segments(table) == [(v, pytest.approx(s), pytest.approx(e), x) for v, s, e, x in EXPECTED]
    database = {
        f"{v}.mp4": {"subset": p, "fps": 25, "annotations": [{"segment": [s, e], "label": x}]} for v, s, e, x, p in rows
    }
    source = write(tmp_path, json.dumps({"database": database}), "own.json")
    table = read_as("activitynet", source, unit=unit)
    assert segments(table) == [(v, pytest.approx(s), pytest.approx(e), x) for v, s, e, x in EXPECTED]
    assert "3 names with the extension of the file" in table.notes


def test_durations_and_rates_have_decimal_commas_and_clock_times_too(tmp_path: Path) -> None:
    rows = [("a", "30", "45", "x", "train", "0:12", "29,97"), ("b", "1,5", "60", "x", "test", "9,5", "25")]
    text = table_of(rows, header="video,start,end,label,split,duration,fps", comma=";")
    table = read_as("csv", write(tmp_path, text), unit="frames")
    assert [video.duration for video in table.videos.values()] == [12.0, 9.5]
    assert table.videos["a"].instances[0].end == pytest.approx(45 / 29.97)
    assert table.videos["b"].instances[0].start == pytest.approx(1.5 / 25)


def test_frames_without_a_rate_wait_for_the_decoded_one(tmp_path: Path) -> None:
    text = table_of(
        [(v, 25 * s, 25 * e, x, p) for v, s, e, x, p in ROWS], header="video,start_frame,end_frame,label,split"
    )
    source = write(tmp_path, text)
    spec = AnnotateSpec.model_validate({"dataset": "own", "format": {"name": "csv"}})
    out = annotate(source, tmp_path / "out.json", spec=spec)
    with pytest.raises(TadError, match="times of 3 videos, first 'a', are frame numbers"):
        read_table(out)
    table = read_table(out, in_frames=True)
    assert all(video.in_frames for video in table.videos.values())
    assert table.videos["a"].in_seconds(25.0).instances == (Instance(1.5, 4.25, "jump"),)


# -- columns -----------------------------------------------------------------------------------------------------------


def test_columns_are_named_by_a_setting(tmp_path: Path) -> None:
    header = "Werk,Von,Bis,Handlung,Teil"
    columns = {"video": "Werk", "start": "von", "end": "BIS", "label": "Handlung", "split": "Teil"}
    source = write(tmp_path, table_of(header=header))
    assert segments(read_as("csv", source, columns=columns)) == EXPECTED
    with pytest.raises(TadError, match=r"line 1: no column 'video'.*setting columns: \{video: …\}"):
        read_as("csv", source)
    with pytest.raises(
        TadError, match="line 1: no column 'Wark', which the setting columns names for video; did you mean"
    ):
        read_as("csv", source, columns=columns | {"video": "Wark"})
    with pytest.raises(TadError, match="setting columns: 'begin'"):
        read_as("csv", source, columns={"begin": "Von"})


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("video,begin,end,onset,offset,label,split", "begin, end or onset, offset could be them; set columns"),
        ("video,clip,start,end,action,class,split", "action or class could be it; set columns: {label: action}"),
        ("file,filename,start,end,label,x,split", "file or filename could be it; set columns: {video: file}"),
    ],
)  # fmt: skip
def test_two_columns_that_could_be_one_are_refused_with_the_setting(header: str, said: str, tmp_path: Path) -> None:
    rows = [("a", 1, 2, 3, 4, "jump", "train")]
    with pytest.raises(TadError, match=re.escape(said)):
        read_as("csv", write(tmp_path, table_of(rows, header=header)))


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (("start (min)", "end (min)"), "columns 'start (min)' and 'end (min)' are in minutes; convert"),
        (("start_us", "end_us"), "are in microseconds; convert"), (("begin_h", "stop_h"), "are in hours; convert"),
        (("start", "duration"), "no column 'end'; 'duration' is taken for the duration of the video"),
    ],
)  # fmt: skip
def test_times_of_another_meaning_are_refused_although_the_columns_are_named(
    tmp_path: Path, columns: tuple[str, str], said: str
) -> None:
    text = table_of([("a", 1, 2, "jump", "train")], header=f"video,{columns[0]},{columns[1]},label,split")
    named = {} if "duration" in columns else dict(zip(("start", "end"), columns, strict=True))
    with pytest.raises(TadError, match=re.escape(said)):
        read_as("csv", write(tmp_path, text), columns=named)
    with pytest.raises(TadError, match=r"no column '(start|end)'"):  # no remedy that is refused afterwards
        read_as("csv", write(tmp_path, text))
    limits = table_of([("a", 1, 2, "jump", "train")], header="video,t_min,t_max,label,split")
    table = read_as("csv", write(tmp_path, limits), columns={"start": "t_min", "end": "t_max"})
    assert segments(table) == [("a", 1, 2, "jump")]


@pytest.mark.parametrize("delimiter", ["|", ";", ":", ","])
def test_the_delimiter_that_a_spreadsheet_states_is_used(tmp_path: Path, delimiter: str) -> None:
    text = table_of([("a", 1, 2, "jump", "train")], header="video,start,end,label,split").replace(",", delimiter)
    assert segments(read_as("csv", write(tmp_path, f"sep={delimiter}\n{text}"))) == [("a", 1, 2, "jump")]


def test_our_own_names_come_first(tmp_path: Path) -> None:
    rows = [("a", 1, 2, "jump", "train", 30, 60, "x", "other.mp4")]
    text = table_of(rows, header="video,start,end,label,split,start_frame,end_frame,action,filename")
    table = read_as("csv", write(tmp_path, text))
    assert segments(table) == [("a", 1, 2, "jump")]
    assert table.notes == ()


# -- names, labels, Unicode --------------------------------------------------------------------------------------------

stems = st.text("abcXYZ019_- äéİß漢字ñ.", min_size=1, max_size=12).filter(
    lambda s: not unsafe(s) and not s.endswith(".") and "." not in s
)
folders = st.lists(st.sampled_from(["videos", "day 1", "Ä", "x.y"]), max_size=3)


@given(stems, folders, st.sampled_from(["", ".mp4", ".MKV", ".webm"]))
def test_a_path_is_its_files_id(stem: str, parts: list[str], suffix: str) -> None:
    expected = unicodedata.normalize("NFC", stem)
    for form in ("NFC", "NFD"):
        name = unicodedata.normalize(form, "/".join([*parts, stem + suffix]))
        assert VideoNames().read(name, "x") == expected
        assert VideoNames().read(rf"C:\films\{stem}{suffix}", "x") == expected
    assert VideoNames().read(expected, "x") == expected


@pytest.mark.parametrize("name", ["../up", "/etc/x", "x\\y", "..", "videos/", "a/../b", "videos/.hidden"])
def test_what_may_be_no_path_stays_and_is_refused(name: str) -> None:
    assert unsafe(VideoNames().read(name, "x"))


def test_one_id_from_two_folders_is_refused() -> None:
    names = VideoNames()
    assert names.read("x/a.mp4", "line 2") == names.read("a", "line 3") == names.read("x/a.mp4", "line 4") == "a"
    with pytest.raises(TadError, match=r"line 5: 'y/a\.mp4' and 'x/a\.mp4' above would both be the video 'a'; rename"):
        names.read("y/a.mp4", "line 5")


ENCODED = {"utf-8": b"", "utf-8-sig": b"", "utf-16": b"", "utf-16-be": b"\xfe\xff", "utf-32": b""}


@pytest.mark.parametrize("encoding", ENCODED)
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_every_marked_encoding_is_read(encoding: str, ending: str, tmp_path: Path) -> None:
    rows = [("Küche", 1, 2, "gießen", "train"), ("台所", 1, 2, "gießen", "test")]
    data = ENCODED[encoding] + table_of(rows).replace("\n", ending).encode(encoding)
    assert segments(read_as("csv", write(tmp_path, data))) == [("Küche", 1, 2, "gießen"), ("台所", 1, 2, "gießen")]
    database = {"Küche": {"subset": "train", "annotations": [{"segment": [1, 2], "label": "gießen"}]}}
    data = ENCODED[encoding] + json.dumps({"database": database}, ensure_ascii=False).encode(encoding)
    assert segments(read_as("activitynet", write(tmp_path, data, "x.json"))) == [("Küche", 1, 2, "gießen")]


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20))
def test_unmarked_text_that_is_not_utf8_is_never_guessed(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for encoding in ("utf-16-le", "latin-1"):
            try:
                data = table_of([("a", 1, 2, text.replace(",", ""), "train")]).encode(encoding)
                data.decode("utf-8")
                plain = b"\0" not in data
            except UnicodeEncodeError:
                continue
            except UnicodeDecodeError:
                plain = False
            path = Path(folder) / "x.csv"
            path.write_bytes(data)
            if not plain:
                with pytest.raises(TadError, match="UTF-8"):
                    read_as("csv", path)


def test_one_word_in_two_unicode_forms_is_one(tmp_path: Path) -> None:
    composed, decomposed = "café", unicodedata.normalize("NFD", "café")
    assert composed != decomposed
    rows = [
        (composed, 1, 2, composed, "train"),
        (decomposed, 3, 4, decomposed, "train"),
        ("b", 1, 2, decomposed, "test"),
    ]
    table = read_as("csv", write(tmp_path, table_of(rows)))
    assert table.labels == (composed,)
    assert segments(table) == [(composed, 1, 2, composed), (composed, 3, 4, composed), ("b", 1, 2, composed)]
    assert "3 cells in decomposed Unicode form (composed now)" in table.notes
    database = {decomposed: {"subset": "train", "annotations": [{"segment": [1, 2], "label": decomposed}]}}
    table = read_as("activitynet", write(tmp_path, json.dumps({"database": database}), "x.json"))
    assert segments(table) == [(composed, 1, 2, composed)]
    (tmp_path / "labels.txt").write_text(f"1 {decomposed}\n", encoding="utf-8")
    assert read_as("csv", write(tmp_path, table_of(rows)), label_file="labels.txt").labels == (composed,)
    (tmp_path / "splits.csv").write_text(f"video,split\n{decomposed}.mp4,test\n", encoding="utf-8")
    text = table_of([(composed, 1, 2, "x")], header="video,start,end,label")
    assert read_as("csv", write(tmp_path, text), split_file="splits.csv").videos[composed].split == "test"
    (tmp_path / "long.csv").write_text(f"video,duration\n{decomposed}.mp4,9\n", encoding="utf-8")
    assert read_as("csv", write(tmp_path, text), split="test", duration_file="long.csv").videos[composed].duration == 9


def test_video_files_have_composed_ids_too(tmp_path: Path) -> None:
    (tmp_path / unicodedata.normalize("NFD", "Übung.mp4")).write_bytes(b"x")
    assert list(list_videos(tmp_path)) == ["Übung"]
    (tmp_path / "a\u200bb.mp4").write_bytes(b"x")
    with pytest.raises(TadError, match=r"invisible character \(U\+200B ZERO WIDTH SPACE\)"):
        list_videos(tmp_path)


@given(
    st.text(max_size=10),
    st.sampled_from("\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e\u202e\u034f\u3164\u2800\ufe0f"),
    st.text(max_size=10),
)
def test_what_nobody_sees_is_found(before: str, hidden: str, after: str) -> None:
    assert invisible(before + hidden + after).startswith("U+")
    assert not invisible("跳ぶ café 100 %")


def test_an_invisible_character_in_a_label_is_refused(tmp_path: Path) -> None:
    table = read_as("csv", write(tmp_path, table_of([("a", 1, 2, "jump\u200b", "train"), ("b", 1, 2, "jump", "test")])))
    with pytest.raises(TadError, match=r"label 'jump\\u200b' holds an invisible character .*; remove it"):
        check(table, source="x")


@pytest.mark.parametrize(("labels", "said"), [
    (("jump\nhigh", "run"), "line break"), (("a\x1bb", "run"), "control character"),
    (("7", "7.0"), "differ only as text, not as numbers"), (("nan", "run"), "stands for a missing value"),
    (("#N/A", "run"), "stands for a missing value"), (("7", "07"), ""), (("7", "7.5"), ""), (("None", "run"), ""),
])  # fmt: skip
def test_labels_that_a_spreadsheet_or_pandas_spoils(tmp_path: Path, labels: tuple[str, str], said: str) -> None:
    videos = {
        split: Video(split, 9.0, (Instance(1.0, 2.0, label, "line 2"),))
        for split, label in zip(("train", "test"), labels, strict=True)
    }
    table = Table("own", tuple(sorted(labels)), videos)
    if said:
        with pytest.raises(TadError, match=said) as caught:
            check(table, source="x")
        assert "\n" not in str(caught.value)
    else:
        assert check(table, source="x").labels == table.labels


@pytest.mark.parametrize(("text", "seconds"), [
    ("0:59.999", 59.999), ("0:60", None), ("1:60:00", None), ("1:59:59", 7199.0), ("75:00", 4500.0),
])  # fmt: skip
def test_sixty_is_the_next_minute_or_hour(text: str, seconds: float | None) -> None:
    assert clock(text) == seconds
