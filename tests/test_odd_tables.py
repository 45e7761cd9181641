"""What spreadsheets, scripts and joined files make of a CSV table: it is read and said, or refused in one line."""

import gzip
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from table_tools import ROWS, outcome, read_as, segments, table_of, write, xlsx

from tad.annotations.checks import check
from tad.annotations.doubts import doubts
from tad.annotations.table import exclude
from tad.core.errors import TadError
from tad.core.ids import alike
from tad.datasets import csv as own_csv
from tad.datasets._columns import OTHER_UNITS, OTHER_WORDS, UNIT_ENDS, unit_of
from tad.datasets._csv import read_sheet
from tad.datasets._formats import table as formats
from tad.datasets._names import VideoNames
from tad.datasets._parse import read_labels
from tad.datasets._times import clock

EXPECTED = [(video, start, end, label) for video, start, end, label, _ in ROWS]
TEXT = table_of()
HEADER, FIRST, *REST = TEXT.splitlines()
TAIL = "\n".join(REST) + "\n"


def quoted(row: tuple[object, ...], marks: str) -> list[str]:
    return [f"{marks[0]}{value}{marks[-1]}" for value in row]


def with_labels(marks: str) -> str:
    return table_of([(v, s, e, f"{marks[0]}{x}{marks[-1]}", p) for v, s, e, x, p in ROWS])


SINGLE = "\n".join([",".join(quoted(tuple(HEADER.split(",")), "'")), *(",".join(quoted(r, "'")) for r in ROWS)]) + "\n"
READ: dict[str, tuple[str, str]] = {  # file → what is said of it
    "separated by |": (TEXT.replace(",", "|"), "1 header with columns separated by |"),
    "Markdown": (
        "".join(
            f"| {line} |\n".replace(",", " | ") for line in (HEADER, "---,:--,--:,:-:,---", *TEXT.splitlines()[1:])
        ),
        "1 header with columns separated by |",
    ),
    "comment above": ("# exported on Monday, by us\n#\n" + TEXT, "2 comment lines (#)"),
    "comment between": (f"{HEADER}\n{FIRST}\n# second day\n{TAIL}", "1 comment lines (#)"),
    "comment below": (f"{TEXT}# the end, of all\n", "1 comment lines (#)"),
    "comments of a spreadsheet": (f"# ours,,,,\n{HEADER}\n# day 1,,,,\n{FIRST}\n{TAIL}", "2 comment lines (#)"),
    "header as a comment": (f"# made by numpy\n# {TEXT}", "1 header that begins with #; 1 comment lines (#)"),
    "all in single quotes": (SINGLE, "1 header in single quotes"),
    "labels in single quotes": (with_labels("'"), "quotation marks around all values of column 'label'"),
    "labels in typographic quotes": (with_labels("“”"), "quotation marks around all values of column 'label'"),
    "labels in backticks": (with_labels("`"), "quotation marks around all values of column 'label'"),
    "two files in one": (f"{HEADER}\n{FIRST}\n{HEADER}\n{TAIL}", "1 repetitions of the header"),
    "two marked files in one": (
        f"\ufeff{HEADER}\n{FIRST}\n\ufeff{HEADER}\n{TAIL}",
        "1 byte order marks within the file; 1 repetitions of the header",
    ),
    "marked twice": (f"\ufeff\ufeff{TEXT}", "1 byte order marks within the file"),
    "empty cells at the end": (TEXT.replace(f"{FIRST}\n", f"{FIRST},,\n"), ""),
    "empty name at the end": (TEXT.replace(HEADER, f"{HEADER},"), ""),
    "times of pandas": (
        TEXT.replace("1.5,4.25", "0 days 00:00:01.500000,0 days 00:00:04.25"),
        "2 clock times (h:mm:ss or mm:ss)",
    ),
}


@pytest.mark.parametrize("name", READ)
def test_a_table_of_an_odd_form_is_read_and_said(name: str, tmp_path: Path) -> None:
    text, said = READ[name]
    source = write(tmp_path, text)
    table = read_as("csv", source)
    assert segments(table) == EXPECTED
    assert {v: video.split for v, video in table.videos.items()} == {"a": "train", "b": "train", "c": "test"}
    assert "; ".join(table.notes) == said
    assert formats.recognise(source) == "csv"  # as `tad new` reads it
    assert segments(own_csv.read_unassigned(source)) == EXPECTED


REFUSED: dict[str, tuple[str | bytes, str]] = {
    "a row after #": (f"{HEADER}\n#{FIRST}\n{TAIL}", "line 2: begins with '#' as comments do, and has the 5 values"),
    "some labels in quotes": (
        TEXT.replace("run", "'run'"), "line 3: label 'run' is in quotation marks, and other values of the column"),
    "a comma in single quotes": (
        with_labels("'").replace("run", "run, fast"), "line 3: 6 values for 5 columns; quote a value that holds the"),
    "an open quote": (TEXT.replace("run", '"run'), "a value spans several lines; close its double quotes"),
    "a title": (f"Our labels\n{TEXT}", "line 2: 5 values for 1 column; if the first line is a title"),
    "separated by spaces": (TEXT.replace(",", " "), "line 1: the columns are separated by spaces; separate them by"),
    "separated by colons": (TEXT.replace(",", ":"), "line 1: the columns are separated by colons; separate them by"),
    "per cent": (TEXT.replace("4.25", "4.25%"), "line 2: time '4.25%' is in per cent; convert it to seconds"),
    "no time": (TEXT.replace("4.25", ""), "line 2: no time; give start and end in seconds"),
    "thousands": (
        TEXT.replace("70.5", '"1,170.5"'), "line 3: time '1,170.5' has a thousands separator; write 1234.5"),
    "thousands by spaces": (
        TEXT.replace("70.5", "1\u202f170.5"), "has a thousands separator; write 1234.5, for example"),
    "frames of a time code": (TEXT.replace("70.5", "0:01:10:12"), "line 3: '0:01:10:12' is not an unambiguous clock"),
    "no name": (TEXT.replace("\na,", "\nNaN,"), "line 2: video 'NaN' stands for a missing value; give the name"),
    "a number of Excel": (TEXT.replace("\na,", "\n1.23E+11,"), "is a number that a spreadsheet has shortened"),
    "a number of pandas": (TEXT.replace("\na,", "\n1.2345678901234568e+17,"), "that a spreadsheet has shortened"),
    "JSON lines": ('{"video": "a", "start": 1}\n{"video": "b"}\n', "own.csv: is JSON, not a CSV table; rename it"),
    "a list": ('[{"video": "a", "start": 1, "end": 2}]', "own.csv: is JSON, not a CSV table; rename it to .json"),
    "a web page": ("<!DOCTYPE html><html><p>404</p></html>", "is a web page or XML, not a CSV table; download"),
    "gzip": (gzip.compress(TEXT.encode()), "own.csv: is compressed by gzip; unpack it (gunzip)"),
    "zip": (b"PK\x03\x04" + bytes(30), "own.csv: is a zip archive or a spreadsheet; unpack it"),
    "pickle": (b"\x80\x04\x95abc", "is a Python pickle, which could run code"),
    "pointer": ("version https://git-lfs.github.com/spec/v1\nsize 123\n", "is a pointer of Git LFS, not the file"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_table_that_cannot_be_read_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    text, said = REFUSED[name]
    message = outcome(lambda: read_as("csv", write(tmp_path, text)))[1]
    assert said in message
    assert message.startswith(f"{tmp_path / 'own.csv'}: ")
    assert "\n" not in message
    assert len(message) < 400


def test_the_remedy_for_a_name_that_begins_with_a_mark_works(tmp_path: Path) -> None:
    text = f'{HEADER}\n"#{FIRST[0]}"{FIRST[1:]}\n{TAIL}'
    assert segments(read_as("csv", write(tmp_path, text)))[0][0] == "#a"
    named = table_of([(f"#{v}", *row) for v, *row in ROWS])  # all names begin with it
    assert [row[0] for row in segments(read_as("csv", write(tmp_path, named)))] == ["#a", "#b", "#c"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.text("ab#'\"|,; 1\n", max_size=6), st.text("ab#'\"|,; 1\n", max_size=6)), min_size=1, max_size=4
    )
)
def test_what_a_writer_of_csv_quotes_stays_as_it_is(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    """Values of a written table come back, but for spaces around them; or one line says which mark is unclear.

    A row of one value that begins with `#` is a comment of a spreadsheet, and is counted.
    """
    import csv

    path = tmp_path_factory.mktemp("written") / "x.csv"
    with open(path, "w", newline="") as handle:
        csv.writer(handle, quoting=csv.QUOTE_ALL).writerows([("video", "label"), *rows])
    sheet, message = outcome(lambda: list(read_sheet(path).named({"video": "video", "label": "label"})))
    if message:
        assert "quotation marks" in message
        return
    stripped = [(a.strip(), b.strip()) for a, b in rows]
    comments = sum(a[:1] == "#" and not b for a, b in stripped)
    expected = [{"video": a, "label": b} for a, b in stripped if (a or b) and not (a[:1] == "#" and not b)]
    if not any(set(a + b) & set("'\"") for a, b in rows):
        assert [row for _, row in sheet] == expected
        assert any(note.startswith(f"{comments} ") for note in read_sheet(path).notes) == (comments > 0)


@pytest.mark.parametrize(("name", "video"), [
    ("https://www.youtube.com/watch?v=a-cdefghij_", "a-cdefghij_"), ("https://youtu.be/a-cdefghij_?t=3", "a-cdefghij_"),
    ("https://x.org/v/day%201.mp4?dl=1#t=3", "day 1"), ("file:///clips/caf%C3%A9.mkv", "café"),
    ("s3://box/a.mp4", "a"),
])  # fmt: skip
def test_an_address_is_its_files_id(name: str, video: str) -> None:
    assert VideoNames().read(name, "x") == video


@pytest.mark.parametrize(("text", "seconds"), [
    ("0 days 00:00:01.5", 1.5), ("1 day, 0:00:02", 86402.0), ("2 days 01:00:00", 176400.0), ("1 day 5", None),
    ("1 days 0:60:00", None),
])  # fmt: skip
def test_days_before_a_clock_time(text: str, seconds: float | None) -> None:
    assert clock(text) == seconds


def test_json_that_is_no_single_value_is_named(tmp_path: Path) -> None:
    database = json.dumps({"database": {"a": {"subset": "train", "annotations": []}}})
    with pytest.raises(TadError, match=re.escape("holds several JSON values (JSON lines, or several files in one)")):
        read_as("activitynet", write(tmp_path, f"{database}\n{database}\n", "x.json"))
    with pytest.raises(TadError, match="is compressed by gzip"):
        read_as("activitynet", write(tmp_path, gzip.compress(database.encode()), "x.json"))
    with pytest.raises(TadError, match=r"line 1, column \d+: not valid JSON .*; the file is truncated"):
        read_as("activitynet", write(tmp_path, database[:-9], "x.json"))


FILES: dict[str, tuple[str, str, str]] = {  # a file beside the table, which a setting names → what is said
    "durations twice": ("duration_file", "video,duration\na,90\na.mp4,30\n", "line 3: video 'a' lasts 30 s here, 90 s"),
    "durations of others": (
        "duration_file",
        "video,duration\nx,90\n",
        "names none of the 3 videos of own.csv ('x' here",
    ),
    "numbers in disorder": ("label_file", "1 run\n0 jump\n", "line 2: number 0 comes after 1, and the order of the"),
    "no duration": ("duration_file", "video,duration\na,nan\n", "line 2: video 'a' lasts nan s; give its duration"),
    "no rate": ("duration_file", "video,count,fps\na,250,0\n", "line 2: '0' frames per second; give the frame rate"),
    "a comment": ("label_file", "# classes\njump\nrun\n", "line 1: '# classes' looks like a comment; remove the line"),
    "compressed": ("label_file", "PK\x03\x04...", "is a zip archive or a spreadsheet"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_beside_the_table_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    setting, text, said = FILES[name]
    write(tmp_path, text, "beside.csv")
    message = outcome(lambda: read_as("csv", write(tmp_path, TEXT), **{setting: "beside.csv"}))[1]
    assert said in message
    assert message.startswith(f"{tmp_path / 'beside.csv'}: ")
    assert "\n" not in message


def test_files_beside_the_table_are_read_as_it_is(tmp_path: Path) -> None:
    write(tmp_path, "0\trun\n1\tjump\n", "labels.txt")
    write(tmp_path, "# by hand\nvideo|duration\na|1:30\nb|79,95\n", "long.csv")
    table = read_as("csv", write(tmp_path, TEXT), label_file="labels.txt", duration_file="long.csv")
    assert table.labels == ("run", "jump")
    assert [video.duration for video in table.videos.values()] == [90, 79.95, None]


# -- names of columns, labels and settings -----------------------------------------------------------------------------

WORDS = {unit: (*ends, *OTHER_WORDS.get(unit, ())) for unit, ends in {**UNIT_ENDS, **OTHER_UNITS}.items()}
FORMS = ["start_{}", "Start ({})", "Anfang in {}", "start.{}", "time [{}]", "start-{}"]


@given(st.sampled_from(sorted(WORDS)), st.data(), st.sampled_from(FORMS), st.sampled_from([str, str.upper, str.title]))
def test_a_unit_at_the_end_of_a_name_is_understood(unit: str, data: st.DataObject, form: str, case: type[str]) -> None:
    word = data.draw(st.sampled_from(WORDS[unit]))
    if len(case(word)) == len(word):  # a letter whose capital is another one
        assert unit_of(case(form.format(word))) == unit


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("start", ""), ("time", ""), ("Beginn", ""), ("start_time", ""), ("timestamp", ""), ("clip", ""), ("onset", ""),
        ("startFrame", "frames"), ("start_frame_no", "frames"), ("Frame Index (start)", "frames"), ("frame", "frames"),
        ("Startbild", "frames"), ("startMs", "milliseconds"), ("開始ミリ秒", "milliseconds"), ("開始秒", "seconds"),
    ],
)  # fmt: skip
def test_units_that_stand_elsewhere_in_a_name(name: str, unit: str) -> None:
    assert unit_of(name) == unit


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("start_cs", "are in centiseconds; convert"), ("Anfang in Minuten", "are in minutes; convert"),
        ("start_sample", "are in samples; convert"), ("Dauer (min)", "durations in 'Dauer (min)' are in minutes"),
    ],
)  # fmt: skip
def test_a_setting_does_not_hide_the_unit_of_a_column(tmp_path: Path, column: str, said: str) -> None:
    """The advice to name a column with the setting `columns` must not make seconds of another unit."""
    if column.startswith("Dauer"):
        text, columns = f"video,start,end,label,{column}\na,1,2,run,3\n", {"duration": column}
    else:
        end = column.replace("start", "end").replace("Anfang", "Ende")
        text, columns = f"video,{column},{end},label\na,1,2,run\n", {"start": column, "end": end}
    message = outcome(lambda: read_as("csv", write(tmp_path, text), columns=columns, split="train"))[1]
    assert said in message


@pytest.mark.parametrize(
    ("header", "unit", "start", "said"),
    [("start_ms,end_ms", "seconds", 1000.0, "seconds, as the setting unit says, although their columns say millis"),
     ("start_ms,end_ms", "", 1.0, "times are milliseconds, as their columns say"),
     ("start_s,end_s", "clock", 1000.0, "")],
)  # fmt: skip
def test_what_decides_about_the_unit_is_said(tmp_path: Path, header: str, unit: str, start: float, said: str) -> None:
    table = read_as("csv", write(tmp_path, f"video,{header},label\na,1000,2000,x\n"), unit=unit, split="train")
    assert table.videos["a"].instances[0].start == start
    notes = [note for note in table.notes if note.startswith("times are")]
    assert len(notes) == bool(said)
    assert said in "".join(notes)


def test_settings_may_be_typed_in_another_unicode_form(tmp_path: Path) -> None:
    """What names columns, splits or videos is composed; the names of files are not."""
    text = "fichier,de\u0301but,fin,étiquette,partie\ncafé,1,2,run,été\n"
    columns = {"video": "fichier", "start": "début", "end": "fin", "label": "e\u0301tiquette", "split": "partie"}
    table = read_as("csv", write(tmp_path, text), columns=columns, splits={"e\u0301te\u0301": "test"})
    assert segments(table) == [("café", 1.0, 2.0, "run")]
    assert table.videos["café"].split == "test"
    assert "café" in exclude(table, {"cafe\u0301": "too dark"}).excluded
    write(tmp_path, "video,duration\ncafé,9\n", "dure\u0301e.csv")
    assert read_as("csv", tmp_path / "own.csv", columns=columns, splits={"été": "test"},
                   duration_file="dure\u0301e.csv").videos["café"].duration == 9  # fmt: skip


ALIKE = [("Run", "Ｒｕｎ"), ("high jump", "high_jump"), ("high-jump", "high\u2011jump"), ("baker's", "baker’s"),
         ("7", "７"), ("JUMP", "jump")]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_labels_that_are_only_written_differently_are_refused(tmp_path: Path, one: str, other: str) -> None:
    path = write(tmp_path, f"video,start,end,label\na,1,2,{one}\na,3,4,{other}\n")
    assert alike(one) == alike(other)
    with pytest.raises(TadError, match=f"line 3: labels '{one}' and '{other}' differ only .*; write them alike"):
        check(read_as("csv", path, split="train"), source="own.csv")


@pytest.mark.parametrize(("one", "other"), [("1_12", "11_2"), ("re-sign", "resign"), ("run", "ruin"), ("a b", "ab")])
def test_other_labels_are_other_classes(tmp_path: Path, one: str, other: str) -> None:
    path = write(tmp_path, f"video,start,end,label\na,1,2,{one}\na,3,4,{other}\n")
    assert len(check(read_as("csv", path, split="train"), source="own.csv").labels) == 2


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("a", "highjump"), ("b", "high jump")], "labels 'high jump' and 'highjump' differ only in blanks or hyphens"),
        ([("a", "Run"), ("b", "R\u0443n")], "has a word of Latin and Cyrillic letters, some of which look alike"),
        ([("clip1", "run"), ("clip１", "run")], "2 videos have names that differ only in case, in kinds of letters"),
        ([("my clip", "run"), ("my_clip", "run")], "('my clip' and 'my_clip'); they count as different videos"),
        ([("a_12", "run"), ("a_1 2", "jump rope"), ("b", "бег Run")], ""),
    ],
)  # fmt: skip
def test_names_that_look_alike_are_said(tmp_path: Path, rows: list[tuple[str, str]], said: str) -> None:
    text = "".join(f"{video},{k},{k + 1},{label}\n" for k, (video, label) in enumerate(rows))
    sentences = doubts(read_as("csv", write(tmp_path, "video,start,end,label\n" + text), split="train"))
    assert said in "; ".join(sentences)
    assert bool(sentences) == bool(said)


LINES: dict[str, tuple[str, tuple[str, ...]]] = {
    "numbered": ("7 jump\n9 run\n", ("jump", "run")),
    "numbers that are names": ("100 m\n200 m\n", ("100 m", "200 m")),
    "some numbers": ("2 hands\nrun\n", ("2 hands", "run")),
    "only numbers": ("0\n1\n", ("0", "1")),
}


@pytest.mark.parametrize("name", LINES)
def test_numbers_of_labels_are_told_from_labels(tmp_path: Path, name: str) -> None:
    text, expected = LINES[name]
    assert read_labels(write(tmp_path, text, "labels.txt")) == expected


def test_videos_of_the_split_file_without_a_row_are_said(tmp_path: Path) -> None:
    write(tmp_path, "video,split\na,train\nb,train\nc,test\nd,test\n", "splits.csv")
    table = read_as("csv", write(tmp_path, table_of([row[:4] for row in ROWS], header="video,start,end,label")),
                    split_file="splits.csv")  # fmt: skip
    assert "1 video of splits.csv has no row here and is left out (first: 'd'" in "; ".join(table.notes)


# -- spreadsheets ------------------------------------------------------------------------------------------------------

NAMES = ["video", "start", "end", "label"]
SHEET = [NAMES, ["a", 1, 2, "run"], ["b", 3, 4, "jump"]]
BOTH = [("a", 1.0, 2.0, "run"), ("b", 3.0, 4.0, "jump")]
FORMULA, DIVIDED = "<c><f>B2+2</f></c>", '<c t="e"><f>1/0</f><v>#DIV/0!</v></c>'
WAITING = {"properties": '<calcPr fullCalcOnLoad="1"/>'}
SHEETS: dict[str, tuple[list[list[object]], dict[str, object], list[tuple[object, ...]], str]] = {
    "a hidden sheet first": ([NAMES, ["x", 5, 6, "old"]], {"others": {"now": SHEET}, "hidden": ["a"]}, BOTH,
                             "sheet 'now' is read, and not 'a'"),
    "an empty sheet first": ([], {"others": {"now": SHEET}}, BOTH, "sheet 'now' is read, and not 'a'"),
    "a sheet of notes": (SHEET, {"others": {"notes": [["by hand"]]}}, BOTH, "sheet 'a' is read, and not 'notes'"),
    "one name for several rows": ([NAMES, ["a", 1, 2, "run"], ["<c/>", 3, 4, "jump"]], {"merged": "A2:A3"},
                                  [BOTH[0], ("a", 3.0, 4.0, "jump")], "1 cell merged with the one above it"),
    "clock times over a day": ([NAMES, ["a", (1.25, "time"), (1.5, "duration"), "run"]], {},
                               [("a", 108_000.0, 129_600.0, "run")], "2 clock times (h:mm:ss or mm:ss)"),
    "a formula with its value": ([NAMES, ["a", 1, "<c><f>B2+1</f><v>2</v></c>", "run"], *SHEET[2:]], {}, BOTH, ""),
    "a formula in no column": ([[*NAMES, "note"], ["a", 1, 2, "run", FORMULA], ["b", 3, 4, "jump", ""]], {}, BOTH, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", SHEETS)
def test_what_a_spreadsheet_means_is_read(tmp_path: Path, name: str) -> None:
    rows, settings, expected, said = SHEETS[name]
    table = read_as("csv", xlsx(tmp_path / "own.xlsx", rows, **settings), split="train")
    assert segments(table) == expected
    assert "; ".join(table.notes) == said


NOT_CERTAIN: dict[str, tuple[list[list[object]], dict[str, object], str]] = {
    "two tables": (SHEET, {"others": {"test": SHEET}}, "the sheets 'a', 'test' have the same columns, and one sheet"),
    "an uncomputed time": ([NAMES, ["a", 1, FORMULA, "run"]], {}, "line 2: time #FORMULA! stands for a formula"),
    "only formulas": ([*SHEET, ["c", FORMULA, FORMULA, FORMULA]], {}, "line 4: time #FORMULA! stands for a formula"),
    "a failed formula": ([*SHEET, ["c", 1, DIVIDED, "run"]], {}, "line 4: time #DIV/0! stands for a formula without"),
    "values that are placeholders": ([NAMES, ["a", 1, "<c><f>B2+2</f><v>0</v></c>", "run"]], WAITING,
                                     "line 2: time #FORMULA! stands for a formula without a value; open the table"),
    "an uncomputed name": ([NAMES, [FORMULA, 1, 2, "run"]], {}, "line 2: video '#FORMULA!' stands for a missing value"),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_CERTAIN)
def test_what_a_spreadsheet_does_not_say_is_refused(tmp_path: Path, name: str) -> None:
    rows, settings, said = NOT_CERTAIN[name]
    path = xlsx(tmp_path / "own.xlsx", rows, **settings)
    message = outcome(lambda: read_as("csv", path, split="train"))[1]
    assert message.startswith(f"{path}: ")
    assert said in message
