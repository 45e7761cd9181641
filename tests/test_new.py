"""`tad new`: labels of any kind and a folder of videos become a configuration of under 20 lines that resolves."""

import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from video_tools import encode

from tad.annotations.table import Dropped, Instance, Table, Video, read_table, write_table
from tad.commands import new_features
from tad.commands.new import OPTIONS, _sound, new
from tad.commands.new_stages import _cause
from tad.commands.plan_size import finished
from tad.commands.plan_trial import Effort
from tad.core.errors import Message, MissingError, Remedy, TadError
from tad.core.files import write_json
from tad.datasets import _any
from tad.settings.config import Config
from tad.settings.paths import path_of
from tad.settings.stages import AnnotateSpec
from tad.stages.annotate import annotate
from tad.workflow.records import BENCHMARK, write_benchmark

ROOT = Path(__file__).parents[1]

VIDEOS = ("clip_a", "clip_b", "clip_c", "clip_d", "clip_e")
SECONDS, RATE = 4, 25
ROWS = [(v, 0.5 + k / 10, 2.5, ("jump", "run")[k % 2]) for k, v in enumerate(VIDEOS)]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for name in VIDEOS:
        encode(folder / f"{name}.mp4", SECONDS * RATE, rate=RATE, width=32, height=32)
    return folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def csv_of(rows: list[tuple[Any, ...]], header: str = "video,start,end,label") -> str:
    return "\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n"


def made(videos: Path, labels: str | Path, **options: Any) -> tuple[list[str], dict[str, Any], Table]:
    """What `tad new` says and writes, and the table that `tad annotate` makes with it."""
    if isinstance(labels, str):
        path = Path("labels.csv")
        path.write_text(labels)
        labels = path
    said = list(new("kitchen", videos=videos, labels=labels, offline=True, check_videos=False, **options))
    values = yaml.safe_load(Path("config.yaml").read_text())
    config = Config.read(Path("config.yaml"))
    spec = config.spec("annotate", dataset="kitchen")
    assert isinstance(spec, AnnotateSpec)
    row = config.dataset("kitchen")
    return said, values, read_table(annotate(Path(row.annotations), Path("out/table.json"), spec=spec), in_frames=True)


def spans(table: Table) -> list[tuple[str, float, float, str]]:
    return sorted((v, i.start, i.end, i.label) for v, video in table.videos.items() for i in video.instances)


def test_a_csv_file(videos: Path) -> None:
    said, values, table = made(videos, csv_of(ROWS))
    assert spans(table) == sorted(ROWS)
    assert len(Path("config.yaml").read_text().splitlines()) < 20
    row = values["datasets"]["kitchen"]
    assert row["settings"]["test_share"] == 0.2
    assert {video.split for video in table.videos.values()} == {"train", "test"}
    assert said[-1] == "next: tad run kitchen"
    assert any(line.startswith("settings: detector.regression_ranges") for line in said)
    assert values["runs"]["kitchen"]["train"]["epochs"] == 200  # two steps per epoch


@pytest.mark.parametrize(
    ("header", "factor", "unit", "line"),
    [
        ("video,start,end,label", RATE, "frames", "times are frames at 25 per second, because as seconds they would"),
        ("video,start,end,label", 1000, "milliseconds", "times are milliseconds, because as seconds they would"),
        ("video,start_frame,end_frame,label", RATE, None, "times are frames, at 25 per second"),
        ("video,Start (ms),End (ms),label", 1000, None, "times are milliseconds, as their columns say"),
        ("Clip name.mp4,begin,end,behaviour", 1, None, "column 'behaviour' is label"),
    ],
)
def test_units_and_columns_are_recognised(
    videos: Path, header: str, factor: float, unit: str | None, line: str
) -> None:
    rows = [(v, round(a * factor), round(b * factor), label) for v, a, b, label in ROWS]
    options = {"columns": ["video=Clip name.mp4"]} if "Clip" in header else {}
    rows = ROWS if "Clip" in header else rows  # type: ignore[assignment]
    said, values, table = made(videos, csv_of(rows, header), **options)
    assert any(line in words for words in said), said
    assert values["datasets"]["kitchen"]["settings"].get("unit") == unit
    seconds = {v: video.in_seconds(RATE) for v, video in table.videos.items()}
    found = sorted((v, i.start, i.end, i.label) for v, video in seconds.items() for i in video.instances)
    assert found == [(v, pytest.approx(a, abs=0.021), pytest.approx(b, abs=0.021), x) for v, a, b, x in sorted(ROWS)]


TOOLS = {"frames": RATE, "milliseconds": 1000}


@pytest.mark.parametrize("unit", TOOLS)
@pytest.mark.parametrize("given", [False, True])
def test_units_of_labels_that_are_no_table(videos: Path, tmp_path: Path, unit: str, given: bool) -> None:
    """Audacity's labels are seconds, but a script may have written frames; `tad annotate` reads them as `tad new`."""
    folder = tmp_path / "audacity"
    folder.mkdir()
    for video, start, end, label in ROWS:
        (folder / f"{video}.txt").write_text(f"{start * TOOLS[unit]}\t{end * TOOLS[unit]}\t{label}\n")
    said, values, table = made(videos, folder, **({"unit": unit} if given else {}))
    assert values["datasets"]["kitchen"]["settings"]["unit"] == unit
    assert any("because as seconds they would end after their videos" in line for line in said) != given
    seconds = {v: video.in_seconds(RATE) for v, video in table.videos.items()}
    found = sorted((v, i.start, i.end, i.label) for v, video in seconds.items() for i in video.instances)
    assert found == [(v, pytest.approx(a), pytest.approx(b), x) for v, a, b, x in sorted(ROWS)]


def test_a_remedy_of_tad_new_can_be_followed(videos: Path, tmp_path: Path) -> None:
    """Doubtful units in JSON, and of a table whose videos are called otherwise: --unit is accepted."""
    rows = [(v, 5 + k, 95 + k, x) for k, (v, _, _, x) in enumerate(ROWS)]
    database = {v: {"subset": "", "annotations": [{"segment": [a, b], "label": x}]} for v, a, b, x in rows}
    (tmp_path / "labels.json").write_text(json.dumps({"database": database}))
    for labels in (tmp_path / "labels.json", csv_of([(v.upper(), *row) for v, *row in rows])):
        with pytest.raises(TadError, match="; give --unit frames, or convert them to seconds"):
            made(videos, labels)
        _, _, table = made(videos, labels, unit="frames")
        assert table.videos["clip_a"].in_seconds(RATE).instances[0].end == 95 / RATE
        Path("config.yaml").unlink()
    with pytest.raises(TadError, match="--unit clock is for CSV files and spreadsheets, and this is activitynet"):
        made(videos, tmp_path / "labels.json", unit="clock")
    with pytest.raises(TadError, match="give --points 2 for a segment of 2 s around each"):
        made(videos, csv_of([("clip_a", 1, 1, "run"), *ROWS[1:]]))
    made(videos, csv_of([("clip_a", 1, 1, "run"), *ROWS[1:]]), points=2.0)
    Path("config.yaml").unlink()
    other = csv_of([(v.upper(), *row) for v, *row in ROWS], "video,start,end,what")
    with pytest.raises(TadError, match="with --columns; call the columns video, start, end and label"):
        made(videos, other, columns=["label=what"])


def test_a_split_in_the_labels_is_kept(videos: Path) -> None:
    rows = [(*row, "test" if k > 2 else "train") for k, row in enumerate(ROWS)]
    said, values, table = made(videos, csv_of(rows, "video,start,end,label,split"))
    assert "settings" not in values["datasets"]["kitchen"]
    assert {v for v, video in table.videos.items() if video.split == "test"} == {"clip_d", "clip_e"}
    assert "split: as the labels say (train 3, test 2 videos)" in said


def test_one_video_can_be_trained_on(videos: Path) -> None:
    """Nothing can be drawn for testing: this is said, and the next command ends with the training."""
    said, values, table = made(videos, csv_of([ROWS[0]]))
    assert values["datasets"]["kitchen"]["settings"] == {"split": "train"}
    assert [video.split for video in table.videos.values()] == ["train"]
    assert any("all videos are for training, because one video cannot be in train and in test" in line for line in said)
    assert said[-1] == "next: tad run results/kitchen/model.safetensors"


def test_the_seed_covers_the_classes(videos: Path) -> None:
    """Every class that is in several videos is among the drawn test videos, where a seed does that."""
    said, _, table = made(videos, csv_of(ROWS), test_share=0.4)
    tested = {i.label for video in table.videos.values() if video.split == "test" for i in video.instances}
    trained = {i.label for video in table.videos.values() if video.split == "train" for i in video.instances}
    assert tested == trained == {"jump", "run"}
    assert any("2 of 2 classes occur in them" in line for line in said)


def test_exports_of_tools(videos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "subs"
    folder.mkdir()
    for video, start, end, label in ROWS:
        (folder / f"{video.upper()}.en.srt").write_text(
            f"1\n00:00:00,{start * 1000:03.0f} --> 00:00:0{end:.3f}\n{label}\n"
        )
    said, values, table = made(videos, folder)
    assert spans(table) == sorted(ROWS)
    row = values["datasets"]["kitchen"]
    assert row["format"] == "annotation_tool"
    assert row["settings"]["names"]["CLIP_A.en"] == "clip_a"
    assert "labels: SubRip subtitles (.srt), 5 instances of 2 classes in 5 videos" in said


def test_points_in_time(videos: Path, tmp_path: Path) -> None:
    labels = tmp_path / "events.json"
    events = [{"gameTime": f"{k} - 00:02", "position": "2000", "label": "goal"} for k in (1, 2)]
    labels.write_text(json.dumps({"UrlLocal": "", "annotations": events}))
    with pytest.raises(TadError, match="none of its videos"):
        made(videos, labels)
    halves = tmp_path / "halves"
    halves.mkdir()
    for k, name in enumerate(VIDEOS[:2], 1):
        (halves / f"{k}_720p.mp4").symlink_to(videos / f"{name}.mp4")
    said, values, table = made(halves, labels)
    assert any("all entries are points in time, so the data set has moments" in line for line in said)
    assert values["datasets"]["kitchen"]["kind"] == "moments"
    assert values["runs"]["kitchen"]["detector"]["name"] == "spot_moments"
    assert spans(table) == [("1_720p", 2.0, 2.0, "goal"), ("2_720p", 2.0, 2.0, "goal")]
    Path("config.yaml").unlink()
    _, values, table = made(halves, labels, points=1.0)
    assert spans(table) == [("1_720p", 1.5, 2.5, "goal"), ("2_720p", 1.5, 2.5, "goal")]
    assert values["datasets"]["kitchen"]["settings"]["names"] == {"1": "1_720p", "2": "2_720p"}


def test_labelled_videos_without_a_file_are_excluded(videos: Path) -> None:
    said, values, table = made(videos, csv_of([*ROWS, ("gone", 1, 2, "run")]))
    assert values["datasets"]["kitchen"]["exclude"] == {"gone": "no video file"}
    assert "gone" not in table.videos
    assert any("1 labelled video without a file" in line for line in said)


@pytest.mark.parametrize("name", ["CLIP_A", "Clip_a", "clip_a-cut"])
def test_a_name_in_another_case_is_its_file(videos: Path, name: str) -> None:
    said, _, table = made(videos, csv_of([(name, 1, 2, "run"), *ROWS[1:]]))
    assert "labels: '" + name + "' is the file clip_a" in said
    assert "clip_a" in table.videos


def test_odd_tables_are_said(videos: Path) -> None:
    text = "# ours\n" + csv_of([*ROWS[:4], ("clip_e", 1, 2, "None")]).replace(",", "|")
    said, _, table = made(videos, text)
    assert "labels: 1 comment lines (#)" in said
    assert any("label 'None' (video 'clip_e', line 7) counts as a class" in line for line in said)
    assert len(spans(table)) == 5


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (csv_of([("other", 1, 2, "run")]), {}, "none of its videos (other) is in"),
        (csv_of([("clip_a", 1, 2, "run"), ("clip_b", 1, 7.5, "run")]), {}, "7.5 s ends 3.50 s after the video"),
        (csv_of([("clip_a", 1, 7.5, "run"), ("clip_b", 1, 2, "run")]), {}, "of their video with --on-invalid clip"),
        (csv_of([("clip_a", 3, 2, "run"), ("clip_b", 1, 2, "run")]), {}, "ends before it starts"),
        (csv_of([("clip_a", 3, 2, "run"), ("clip_b", 1, 2, "run")]), {}, "instances out with --on-invalid drop"),
        (
            csv_of([(v, 5 + k, 95 + k, x) for k, (v, _, _, x) in enumerate(ROWS)]),
            {},
            "or, less likely, per cent of the",
        ),
        (
            csv_of([(v, a + 36_000, b + 36_000, x) for v, a, b, x in ROWS]),
            {},
            "so they look like times of day, or times",
        ),
        (csv_of([(v, a, b, "nan") for v, a, b, _ in ROWS]), {}, "'clip_a', line 2: label 'nan' stands for a missing"),
        (csv_of(ROWS).replace(",", " "), {}, "line 1: the columns are separated by spaces"),
        (csv_of(ROWS, "a,b,c,d"), {}, "no column 'video'"),
        (csv_of(ROWS, "video,strat,end,label"), {}, "name it with --columns start=NAME"),
        (
            csv_of(ROWS, "video,start_frame,End (ms),label"),
            {"columns": ["start=start_frame", "end=End (ms)"]},
            "name two of one unit with --columns",
        ),
        (
            csv_of([(v, 5 + k, 95 + k, x) for k, (v, _, _, x) in enumerate(ROWS)]),
            {},
            "; give --unit frames, or convert them to seconds",
        ),
        (csv_of(ROWS), {"columns": ["video"]}, "write video=Clip, for example"),
        (csv_of(ROWS), {"tool": "elan"}, "is read as ELAN (.eaf); give --tool csv, or leave it out"),
        (csv_of(ROWS), {"tool": "excel"}, "annotation format 'excel'"),
        (csv_of(ROWS), {"backbone": "resnet"}, "--backbone resnet; "),
        (csv_of(ROWS), {"backbone": "s3d"}, "run: tad weights fetch s3d"),
        (csv_of(ROWS), {"test_share": 1.5}, "--test-share 1.5: give a share of the videos"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(
    videos: Path, labels: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TadError) as caught:
        made(videos, labels, **options)
    assert message in str(caught.value)
    assert not Path("config.yaml").exists()


def test_impossible_times_are_handled_as_asked(videos: Path) -> None:
    rows = [("clip_a", 1, 7.5, "run"), ("clip_b", 1, 2, "run"), ("clip_c", 1, 2, "run")]
    _, values, table = made(videos, csv_of(rows), on_invalid="clip")
    assert values["datasets"]["kitchen"]["on_invalid"] == "clip"
    assert ("clip_b", 1.0, 2.0, "run") in spans(table)


def test_a_file_that_is_no_video_is_not_counted_as_decoded(tmp_path: Path) -> None:
    """The check names what cannot be used, and says if a split has no video left."""
    sound = {"path": "a.mp4", "usable": True, "status": "ok", "cause": "", "duration": 90.0}
    text = {"path": "b.mp4", "usable": False, "status": "damaged", "cause": "text, not a video", "duration": 0.0}
    write_json(path_of("probe", dataset="kitchen", shard="00-of-01"), {"videos": {"a": sound, "b": text, "c": text}})
    videos = {"a": Video("train", 90.0, (Instance(0, 1, "x"),)), "b": Video("test", None, (Instance(0, 1, "x"),))}
    cut = (Dropped("a", "line 2", "beyond: …"),)
    write_table(Table("kitchen", ("x",), videos, clipped=cut), path_of("check", dataset="kitchen"), {})
    assert list(_sound("kitchen", Path())) == [
        "check: b.mp4: excluded, damaged: text, not a video",
        "check: decoded 1 of 2 videos, 1.5 minutes long; all other times lie within them (1 instance cut or left out)",
        "check: no usable video is left in the split test; repair the videos, or add others",
    ]


def test_names_and_files_that_exist(videos: Path) -> None:
    for name, message in (
        *(("a/b", "path separator"), ("a b", "contains a space"), ("", "is empty")),
        *(("küche", "has other characters than"), ("videos", r"folder of all runs \(as annotations, data, ")),
    ):
        with pytest.raises(TadError, match=message):
            list(new(name, videos=videos, labels=Path("x.csv")))
    made(videos, csv_of(ROWS))
    before = Path("config.yaml").read_bytes()
    assert any("config.yaml is there already (1" in line for line in made(videos, csv_of(ROWS))[0])
    with pytest.raises(TadError, match="exists already, with other rows than these; go on with `tad run kitchen`, rem"):
        made(videos, csv_of(ROWS), test_share=0.5)
    assert Path("config.yaml").read_bytes() == before
    Path("config.yaml").write_text("# mine\n")
    with pytest.raises(TadError, match="exists already; remove it, work in another folder, or write another file"):
        made(videos, csv_of(ROWS))
    with pytest.raises(TadError, match="holds no video"):
        list(new("other", videos=Path("out"), labels=Path("labels.csv"), out=Path("other.yaml")))


def test_encoders_by_what_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A published encoder whose weights are here, else one in an installed package, else the one trained here."""
    monkeypatch.setattr(new_features, "packaged", lambda entry: None)
    assert new_features.choose(tmp_path, offline=True).row == {"backbone": "r2plus1d_small"}
    weights = tmp_path / "weights.pth"
    weights.touch()
    monkeypatch.setattr(new_features, "packaged", lambda entry: weights)
    assert new_features.choose(tmp_path, offline=True).row["weights"] == "package"
    folder = tmp_path / "data/weights/s3d"
    folder.mkdir(parents=True)
    (folder / "s3d-d76dad2f.pth").touch()
    assert new_features.choose(tmp_path, offline=True).row == {"backbone": "s3d", "weights": "data/weights/s3d"}


def test_the_error_of_a_stage_is_taken_from_its_log(tmp_path: Path) -> None:
    """The terminal's output depends on Snakemake's loggers, the log of a stage does not."""
    assert _cause("kitchen", tmp_path) == ""
    logs = tmp_path / "results/annotations/logs"
    logs.mkdir(parents=True)
    (logs / "kitchen.annotate.log").write_text("WARNING one thing\n")
    (logs / "other.check.log").write_text("tad check: of another data set\n")
    (logs / "kitchen.check.log").write_text("INFO 8 videos\ntad check: labels.csv: line 3 is late\n")
    assert _cause("kitchen", tmp_path) == "labels.csv: line 3 is late"
    assert _cause("kitchen", tmp_path, since=(logs / "kitchen.check.log").stat().st_mtime + 1) == ""


def test_the_benchmark_file_has_the_columns_of_snakemake(tmp_path: Path) -> None:
    """`tad plan` reads them, as those of jobs."""
    from snakemake.benchmark import BenchmarkRecord

    write_benchmark(tmp_path / "logs/kitchen.check.tsv", wall=3725.0, cpu=1862.5)
    assert list(BENCHMARK) == BenchmarkRecord.get_header()
    assert finished("check", tmp_path, planned=set()) == {"kitchen": Effort(3725.0, 1862.5)}
    row = (tmp_path / "logs/kitchen.check.tsv").read_text().splitlines()[1].split("\t")
    assert (len(row), row[1], row[8]) == (10, "1:02:05", "50.00")


def test_apply_finds_the_weights_that_a_package_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`weights: package`, which `tad new` writes, is no path."""
    from tad.commands.apply import _weights
    from tad.weights import published

    weights = tmp_path / "weights.pth"
    weights.touch()
    monkeypatch.setattr(published, "packaged", lambda entry: weights)
    features = {"own": {"backbone": "efficientnet_lite0", "weights": "package"}}
    config = Config({"datasets": {"demo": {}}, "features": features, "runs": {}})
    assert _weights(config, "demo", "own") == weights


REMEDIES = re.findall(r'\bRemedy\(\s*"([^"]+)"', "".join(path.read_text() for path in (ROOT / "tad").rglob("*.py")))


@pytest.mark.parametrize("options", [OPTIONS, _any.OPTIONS])
def test_a_remedy_that_is_replaced_is_still_said(options: dict[str, str]) -> None:
    assert set(options) <= set(REMEDIES)


def test_a_remedy_is_replaced_by_its_key_alone() -> None:
    """A value may look like a template, and other text like the remedy."""
    unit = Message((Remedy("unit", "set `unit: {x}`", "{x}"), " or convert"))
    error = MissingError("a.csv: 'set `unit: {x}`'; ", unit, Remedy("other", " {value}"))
    assert str(error) == "a.csv: 'set `unit: {x}`'; set `unit: {x}` or convert {value}"
    error.reword({"unit": "give --unit {value}"})
    assert (
        str(error)
        == str(pickle.loads(pickle.dumps(error)))
        == "a.csv: 'set `unit: {x}`'; give --unit {x} or convert {value}"
    )
    long = TadError("x" * 600, Remedy("end", "the end"))
    long.reword({"end": "another end"})
    assert len(str(long)) == 500
    assert str(long).endswith("another end")


def test_a_folder_of_videos_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(TadError, match=r"gone: no such folder; give the folder with the video files \(--videos\)$"):
        made(tmp_path / "gone", csv_of(ROWS))
