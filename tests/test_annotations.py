"""The annotation table: every malformed file is one named problem, odd but valid files pass, writing loses nothing."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from component_tools import laid

from tad.annotations.checks import check
from tad.annotations.table import Instance, Table, Video, exclude, read_table, write_table
from tad.core.errors import TadError
from tad.core.ids import unsafe
from tad.settings.stages import AnnotateSpec
from tad.stages.annotate import annotate


def good() -> dict[str, Any]:
    """A small valid file: two train videos and one test video, 30 s each."""
    return {
        "database": {
            "a": {
                "subset": "training",
                "duration": 30,
                "annotations": [{"segment": [1, 4.5], "label": "jump"}, {"segment": [10, 12], "label": "run"}],
            },
            "b": {"subset": "training", "duration": 30.0, "annotations": [{"segment": [2, 3], "label": "run"}]},
            "c": {"subset": "testing", "duration": 30.0, "annotations": [{"segment": [5, 9], "label": "jump"}]},
        }
    }


def edited(**changes: Any) -> str:
    """The valid file as text with `path__to__value=…` replaced (a number is a list index), `...` deletes."""
    value = good()
    for path, change in changes.items():
        *parents, last = [int(p) if p.isdigit() else p for p in path.split("__")]
        target: Any = value["database"]
        for parent in parents:
            target = target[parent]
        if change is ...:
            del target[last]
        elif isinstance(target, list) and last == len(target):
            target.append(change)
        else:
            target[last] = change
    return json.dumps(value)


def run(
    tmp_path: Path, text: str | bytes, fmt: str = "activitynet", *, on_invalid: str = "error", **settings: Any
) -> Table:
    """What the annotate stage makes of a file with this content."""
    source = tmp_path / ("own.csv" if fmt == "csv" else "own.json")
    source.write_bytes(text if isinstance(text, bytes) else text.encode())
    resolved = laid("datasets", fmt, settings)
    spec = AnnotateSpec.model_validate(
        {"dataset": "own", "format": {"name": fmt, "settings": resolved}, "on_invalid": on_invalid}
    )
    return read_table(annotate(source, tmp_path / "out.json", spec=spec))


SEGMENT = "a__annotations__0__segment"
LABEL = "a__annotations__0__label"
JUMP = {"segment": [1.0004, 4.5], "label": "jump"}
FAR = {f"{v}__annotations": [{"segment": [3000, 20000], "label": "run"}] for v in "abc"}
FRAMES = {f"{v}__annotations": [{"segment": [300, 700], "label": "run"}] for v in "abc"}
SHARES = {f"{v}__annotations": [{"segment": [0.1, 0.7], "label": "run"}] for v in "abc"}

# (file content, what the one-line message must say beside the file's name)
MALFORMED_JSON: dict[str, tuple[str | bytes, list[str]]] = {
    "end before start": (edited(**{SEGMENT: [4.5, 1]}), ["video 'a'", "annotations[0]", "ends before it starts"]),
    "no length": (edited(**{SEGMENT: [2, 2]}), ["video 'a'", "annotations[0]", "no length"]),
    "negative start": (edited(**{SEGMENT: [-1, 2]}), ["video 'a'", "annotations[0]", "-1", "before the video"]),
    "beyond the end": (edited(**{SEGMENT: [20, 31.5]}), ["video 'a'", "annotations[0]", "1.50 s after the video"]),
    "begins after the end": (edited(**{SEGMENT: [30.2, 30.5]}), ["video 'a'", "begins after the end"]),
    "one in milliseconds": (edited(**{SEGMENT: [1000, 4500]}), ["video 'a'", "begins after", "converted to seconds"]),
    "NaN": (edited(**{SEGMENT: [float("nan"), 2]}), ["video 'a'", "annotations[0]", "nan"]),
    "NaN as text": (edited(**{SEGMENT: ["nan", 2]}), ["video 'a'", "annotations[0]", "nan"]),
    "infinite": (edited(**{SEGMENT: [1, float("inf")]}), ["video 'a'", "annotations[0]", "inf"]),
    "null time": (edited(**{SEGMENT: [1, None]}), ["video 'a'", "annotations[0]", "None is not a number"]),
    "time code": (
        edited(**{SEGMENT: ["0:00:01:12", 2]}),
        ["video 'a'", "annotations[0]", "'0:00:01:12'", "unambiguous"],
    ),
    "decimal comma": (edited(**{SEGMENT: ["1,5", 2]}), ["video 'a'", "'1,5'", "point"]),
    "true as time": (edited(**{SEGMENT: [True, 2]}), ["video 'a'", "True is not a number"]),
    "one time": (edited(**{SEGMENT: [1]}), ["video 'a'", "annotations[0]", "[start, end]"]),
    "three times": (edited(**{SEGMENT: [1, 2, 3]}), ["video 'a'", "annotations[0]", "[start, end]"]),
    "segment missing": (edited(**{SEGMENT: ...}), ["video 'a'", "annotations[0]", "no 'segment'", "label"]),
    "label missing": (edited(**{LABEL: ...}), ["video 'a'", "annotations[0]", "label None"]),
    "label a number": (edited(**{LABEL: 3}), ["video 'a'", "annotations[0]", "label 3 is not a name"]),
    "label empty": (edited(**{LABEL: " "}), ["video 'a'", "annotations[0]", "no label"]),
    "labels by case": (edited(**{LABEL: "Run"}), ["'Run'", "'run'", "differ only in case"]),
    "duplicate": (edited(a__annotations__2=JUMP), ["video 'a'", "annotations[2]", "repeats annotations[0]"]),
    "subset typo": (edited(a__subset="trainning"), ["video 'a'", "'trainning'", "did you mean 'training'"]),
    "subset missing": (edited(a__subset=...), ["video 'a'", "no subset", "training"]),
    "milliseconds": (edited(**FAR), ["all videos", "milliseconds", "convert"]),
    "frames": (edited(**FRAMES), ["all videos", "frames", "convert"]),
    "fractions": (edited(**SHARES), ["all videos", "fractions", "convert"]),
    "empty split": (edited(c__annotations=[]), ["split 'test'", "no instance"]),
    "nothing annotated": (edited(**{f"{v}__annotations": [] for v in "abc"}), ["no instance in any split"]),
    "zero duration": (edited(a__duration=0), ["video 'a'", "duration of 0.0 s"]),
    "negative duration": (edited(a__duration=-3), ["video 'a'", "duration of -3.0 s"]),
    "duration a word": (edited(a__duration="long"), ["video 'a'", "duration", "'long' is not a number"]),
    "annotations an object": (edited(a__annotations={"segment": [1, 2]}), ["video 'a'", "must be a list"]),
    "annotation a list": (
        edited(a__annotations__0=[1, 2, "jump"]),
        ["video 'a'", "annotations[0]", "expected 'segment'"],
    ),
    "entry a list": (edited(a=[]), ["video 'a'", "expected subset"]),
    "id climbs": (edited(**{"../up": {"subset": "training"}}), ["video '../up'", "another folder"]),
    "id absolute": (edited(**{"/etc/x": {"subset": "training"}}), ["video '/etc/x'", "another folder"]),
    "id a backslash": (edited(**{"x\\y": {"subset": "training"}}), ["x\\\\y", "another folder"]),
    "id empty": (edited(**{"": {"subset": "training"}}), ["id is empty"]),
    "id a newline": (edited(**{"x\ny": {"subset": "training"}}), ["x\\ny", "control character"]),
    "id a NUL": (edited(**{"x\0y": {"subset": "training"}}), ["x\\x00y", "control character"]),
    "id padded": (edited(**{" x": {"subset": "training"}}), ["video ' x'", "space"]),
    "id endless": (edited(**{"x" * 300: {"subset": "training"}}), ["xxx", "200 bytes"]),
    "id not Unicode": (edited(**{"\ud800": {"subset": "training"}}), ["\\ud800", "Unicode"]),
    "video twice": ('{"database": {"a": {"subset": "test"}, "a": {"subset": "train"}}}', ["'a' is given 2 times"]),
    "no database": ('{"videos": {}}', ["no 'database'", "videos"]),
    "detections": ('{"results": {"a": []}}', ["these are detections"]),
    "BSN's file": ('{"v_a": {"duration_second": 3, "annotations": []}}', ["BSN's file", "no subsets"]),
    "database a list": ('{"database": []}', ["must map video ids"]),
    "database empty": ('{"database": {}}', ["not be empty"]),
    "a list": ("[]", ["expected an object"]),
    "truncated": (edited()[:-20], ["line 1", "not valid JSON"]),
    "empty file": ("", ["the file is empty"]),
    "UTF-16 without a mark": (edited().encode("utf-16-le"), ["NUL", "UTF-16"]),
    "UTF-16 cut": (edited().encode("utf-16")[:-1], ["not UTF-16, the encoding of its byte order mark"]),
    "label invisible": (edited(**{LABEL: "ju\u200bmp"}), ["ju\\u200bmp", "U+200B ZERO WIDTH SPACE"]),
    "label half a character": (edited(**{LABEL: "\ud800"}), ["\\ud800", "not valid Unicode"]),
    "id invisible": (edited(**{"x\u200dy": {"subset": "training"}}), ["x\\u200dy", "U+200D ZERO WIDTH JOINER"]),
    "endless number": (edited().replace("4.5", "4" * 5000), ["numbers have at most 19"]),
    "large number": (edited().replace("4.5", "4" * 400), ["numbers have at most 19"]),
    "deep": ("[" * 100_000, ["nested more than"]),
    "Latin-1": (edited(**{LABEL: "läuft"}).replace("\\u00e4", "ä").encode("latin-1"), ["not UTF-8"]),
}

HEAD = "video,start,end,label,split\n"
ROWS = HEAD + "a,1,4.5,jump,train\nb,2,3,run,train\nc,5,9,jump,test\n"
MALFORMED_CSV: dict[str, tuple[str, list[str]]] = {
    "no header": ("a,1,4.5,jump,train\n", ["line 1", "no column 'video'", "header"]),
    "column misspelt": (ROWS.replace("start", "strat"), ["line 1", "no column 'start'", "did you mean 'strat'"]),
    "two files": (ROWS + "a.mp4,7,8,run,train\na.mkv,8,9,run,train\n", ["line 6", "'a.mkv' and 'a.mp4'", "rename"]),
    "column twice that is ours": (ROWS.replace("split", "label"), ["line 1", "column 'label' occurs 2 times"]),
    "two columns": (
        ROWS.replace("label", "action").replace("split", "class"),
        ["action or class", "columns: {label: action}"],
    ),
    "units mixed": (ROWS.replace("start,end", "start,end_ms"), ["line 1", "no column 'end'", "columns: {end: …}"]),
    "column twice": (ROWS.replace("label", "end"), ["line 1", "column 'end' occurs 2 times"]),
    "header only": (HEAD, ["only a header"]),
    "too few values": (ROWS + "a,7,8\n", ["line 5", "3 values for 5 columns"]),
    "unquoted comma": (ROWS + "a,7,8,jump, high,train\n", ["line 5", "6 values for 5 columns", "quote"]),
    "no video": (ROWS + ",7,8,jump,train\n", ["line 5", "no video"]),
    "no end": (ROWS + "a,7,,jump,train\n", ["line 5", "no time"]),
    "a word": (ROWS + "a,7,later,jump,train\n", ["line 5", "'later' is not a number"]),
    "time code": (ROWS + "a,7,00:00:07:10,jump,train\n", ["line 5", "'00:00:07:10'", "unambiguous"]),
    "sixty-one seconds": (ROWS + "a,7,1:61,jump,train\n", ["line 5", "'1:61'", "unambiguous"]),
    "thousands or decimals": (ROWS.replace(",", "\t").replace("4.5", "4,500"), ["line 2", "'4,500' has a comma"]),
    "a large field": (ROWS + f"a,7,8,{'x' * 200_000},train\n", ["not a CSV table"]),
    "end before start": (ROWS + "a,8,7,jump,train\n", ["video 'a'", "line 5", "ends before it starts"]),
    "NaN": (ROWS + "a,nan,7,jump,train\n", ["video 'a'", "line 5", "nan"]),
    "no label": (ROWS + "a,7,8,,train\n", ["video 'a'", "line 5", "no label"]),
    "duplicate": (ROWS + "a,1,4.5,jump,train\n", ["video 'a'", "line 5", "repeats line 2"]),
    "split unknown": (ROWS + "d,7,8,jump,dev\n", ["line 5", "'dev'", "training"]),
    "two splits": (ROWS + "a,7,8,jump,test\n", ["line 5", "in train above and in test here"]),
    "no split": (ROWS + "d,7,8,jump,\n", ["line 5", "'d' belongs to no split", "split_file"]),
    "days": (HEAD + "a,1,90000000,jump,train\nb,1,90000000,jump,test\n", ["all videos", "milliseconds"]),
    "empty": (" \n", ["the file is empty"]),
}


def one_line(error: pytest.ExceptionInfo[TadError], tmp_path: Path, parts: list[str]) -> None:
    """The message is one line, begins with the file, says each part, and ends in what to do."""
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(str(tmp_path / "own."))
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize("name", MALFORMED_JSON)
def test_malformed_json_is_one_named_problem(name: str, tmp_path: Path) -> None:
    text, parts = MALFORMED_JSON[name]
    with pytest.raises(TadError) as error:
        run(tmp_path, text)
    one_line(error, tmp_path, parts)
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("name", MALFORMED_CSV)
def test_malformed_csv_is_one_named_problem(name: str, tmp_path: Path) -> None:
    text, parts = MALFORMED_CSV[name]
    with pytest.raises(TadError) as error:
        run(tmp_path, text, "csv")
    one_line(error, tmp_path, parts)


VALID_JSON: dict[str, tuple[str | bytes, int]] = {
    "as it is": (edited(), 4),
    "byte order mark": (b"\xef\xbb\xbf" + edited().encode(), 4),
    "times as text": (edited(**{SEGMENT: ["1.0", "4.5"]}), 4),
    "duration as text": (edited(a__duration="30.0"), 4),
    "no duration": (edited(a__duration=...), 4),
    "subset in capitals": (edited(a__subset="Training", c__subset="TEST"), 4),
    "background video": (edited(b__annotations=None), 3),
    "annotations missing": (edited(b__annotations=...), 3),
    "overlapping classes": (edited(a__annotations__2={"segment": [1, 4.5], "label": "run"}), 5),
    "touching instances": (edited(a__annotations__2={"segment": [4.5, 10], "label": "jump"}), 5),
    "rounded end": (edited(a__annotations__1__segment=[10, 30.8]), 4),
    "very short": (edited(**{SEGMENT: [1, 1.01]}), 4),
    "unsorted": (edited(a__annotations__2={"segment": [0.2, 0.9], "label": "run"}), 5),
    "odd ids": (
        edited(**{"-x 100% ü.mp4": {"subset": "val", "annotations": [{"segment": [0, 1], "label": "run"}]}}),
        5,
    ),
    "label padded": (edited(**{LABEL: " jump "}), 4),
    "label not ASCII": (edited(**{LABEL: "跳ぶ"}), 4),
    "more keys": (edited(a__fps=30, **{LABEL.replace("label", "label_id"): 0}), 4),
}
VALID_CSV = {
    "as it is": ROWS,
    "Windows line ends and byte order mark": "\ufeff" + ROWS.replace("\n", "\r\n"),
    "semicolons": ROWS.replace(",", ";"),
    "tabs": ROWS.replace(",", "\t"),
    "capitals and padding": ROWS.replace("video,start", " Video , START"),
    "more columns, another order": "note,label,end,start,video,split\n"
    ",jump,4.5,1,a,train\nx,run,3,2,b,train\n,jump,9,5,c,test\n",
    "quoted": ROWS.replace("jump", '"jump, high"'),
    "blank lines": ROWS.replace("\n", "\n\n"),
    "background video": ROWS + "d,,,,train\n",
    "durations": ROWS.replace("split\n", "split,duration\n")
    .replace("train\n", "train,30\n")
    .replace("test\n", "test,\n"),
}


@pytest.mark.parametrize("name", VALID_JSON)
def test_odd_json_is_accepted(name: str, tmp_path: Path) -> None:
    text, instances = VALID_JSON[name]
    table = run(tmp_path, text)
    assert sum(counter.total() for counter in table.counts().values()) == instances
    assert not table.dropped
    assert all(label == label.strip() for label in table.labels)


@pytest.mark.parametrize("name", VALID_CSV)
def test_odd_csv_is_accepted(name: str, tmp_path: Path) -> None:
    table = run(tmp_path, VALID_CSV[name], "csv")
    assert {split: counter.total() for split, counter in table.counts().items()} == {"train": 2, "test": 1}
    assert table.videos["a"].instances[0].end == 4.5


def test_each_invalid_instance_is_dropped_and_listed(tmp_path: Path) -> None:
    bad = [[4.5, 1], [-1, 2], [20, 40], [float("nan"), 2], [1.0001, 4.5]]
    changes = {f"a__annotations__{k + 2}": {"segment": segment, "label": "jump"} for k, segment in enumerate(bad)}
    table = run(tmp_path, edited(**changes), on_invalid="drop")
    assert [i.start for i in table.videos["a"].instances] == [1, 10]
    assert [(d.video, d.entry) for d in table.dropped] == [("a", f"annotations[{k}]") for k in range(2, 7)]
    kinds = [d.cause.split(":")[0] for d in table.dropped]
    assert kinds == ["degenerate", "negative", "beyond", "nan", "duplicate"]


def test_dropping_does_not_hide_an_empty_split(tmp_path: Path) -> None:
    text = edited(c__annotations__0__segment=[9, 5])
    with pytest.raises(TadError, match="split 'test' hold no instance"):
        run(tmp_path, text, on_invalid="drop")


def test_many_problems_are_counted_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = edited(a__annotations__0__segment=[4, 1], b__annotations__0__segment=[4, 1])
    with pytest.raises(TadError, match="on_invalid: drop \\(1 more problems"):
        run(tmp_path, text)
    assert sum("ends before it starts" in record.message for record in caplog.records) == 2


def test_label_file_finds_a_misspelling_and_orders(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("1 run\r\n2 jump\r\n3 fly\r\n")
    assert run(tmp_path, edited(), label_file="labels.txt").labels == ("run", "jump", "fly")
    with pytest.raises(TadError, match="unknown label 'jmup'; did you mean 'jump'"):
        run(tmp_path, edited(**{LABEL: "jmup"}), label_file="labels.txt")
    (tmp_path / "labels.txt").write_text("run\nrun\n")
    with pytest.raises(TadError, match=r"labels.txt: line 2: label 'run' is listed twice"):
        run(tmp_path, edited(), label_file="labels.txt")


def test_own_subset_names_and_left_out_subsets(tmp_path: Path) -> None:
    text = edited(a__subset="fold 1", b__subset="fold 2", c__subset="fold 3")
    table = run(tmp_path, text, splits={"fold 1": "train", "fold 2": "", "fold 3": "test"})
    assert {video_id: video.split for video_id, video in table.videos.items()} == {"a": "train", "c": "test"}
    with pytest.raises(TadError, match=r"splits\.fold 1: Input should be 'train', 'val', 'test' or ''"):
        run(tmp_path, text, splits={"fold 1": "dev", "fold 2": "", "fold 3": "test"})


def test_csv_split_file_and_durations_beside_it(tmp_path: Path) -> None:
    (tmp_path / "splits.csv").write_text("video,split\na,training\nb,train\nc,test\n")
    (tmp_path / "seconds.csv").write_text("video,count,fps\na,900,30\nb,60,30\n")
    text = "video,start,end,label\na,1,4.5,jump\nb,0.5,1.5,run\nc,5,9,jump\n"
    table = run(tmp_path, text, "csv", split_file="splits.csv", duration_file="seconds.csv")
    assert {v: (x.split, x.duration) for v, x in table.videos.items()} == {
        "a": ("train", 30.0),
        "b": ("train", 2.0),
        "c": ("test", None),
    }
    with pytest.raises(TadError, match="line 3: 7-8 s begins after the end of the video"):
        run(tmp_path, text.replace("0.5,1.5", "7,8"), "csv", split_file="splits.csv", duration_file="seconds.csv")


def test_excluded_videos_are_listed_with_their_reason(tmp_path: Path) -> None:
    table = Table("own", ("run",), {"a": Video("train", None), "b": Video("train", None, (Instance(0, 1, "run"),))})
    assert exclude(table, {"a": "too dark"}).excluded == {"a": "too dark"}
    assert list(exclude(table, {"a": "too dark"}).videos) == ["b"]
    with pytest.raises(TadError, match="no video is called 'c'"):
        exclude(table, {"c": "?"})


def test_known_defects_follow_their_own_policy() -> None:
    videos = {
        "a": Video("train", 10.0, (Instance(0, 5, "run"), Instance(0, 5, "run"), Instance(9, 30, "run"))),
        "b": Video("test", 10.0),
    }
    known = {"beyond": "keep", "duplicate": "drop", "empty": "keep"}
    checked = check(Table("own", ("run",), videos, known=known), source="x.json")
    assert [i.end for i in checked.videos["a"].instances] == [5, 30]
    assert [d.cause.split(":")[0] for d in checked.dropped] == ["duplicate"]
    with pytest.raises(TadError, match=r"known.label: keep: kinds are"):
        check(Table("own", ("run",), videos, known={"label": "keep"}), source="x.json")


def test_table_survives_writing(tmp_path: Path) -> None:
    table = Table(
        "own",
        ("run", "jump"),
        {"ü 1%": Video("train", 1 / 3, (Instance(0.1, 0.2 + 0.1, "run"),), ((0.0, 0.1),)), "b": Video("test", None)},
        {"c": "damaged"},
    )
    path = write_table(table, tmp_path / "table.json", {"identity": "1"})
    assert read_table(path) == table
    first = path.read_bytes()
    assert write_table(table, path, {"identity": "1"}).read_bytes() == first


@pytest.mark.parametrize("text", ["[]", '{"videos": {}}', '{"videos": {"a": {"split": "train"}}}', '{"videos": []}'])
def test_another_file_is_not_taken_for_a_table(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(TadError, match=r"x\.json: not an annotation table"):
        read_table(path)


def test_annotate_stamps_settings_and_content(tmp_path: Path) -> None:
    run(tmp_path, edited())
    stamp = json.loads((tmp_path / "out.json").read_text())["stamp"]
    assert stamp["stage"] == "annotate"
    assert stamp["spec"]["format"]["name"] == "activitynet"
    assert re.fullmatch("[0-9a-f]{64}", stamp["inputs"]["annotations"])
    run(tmp_path, edited(a__duration=31))
    assert json.loads((tmp_path / "out.json").read_text())["stamp"]["identity"] != stamp["identity"]


@pytest.mark.parametrize("video_id", ["video_test_0000004", "-x", "a b", "100%", "ü", "a.b", "x..y", "v_" * 50])
def test_usual_ids_are_safe(video_id: str) -> None:
    assert unsafe(video_id) == ""
