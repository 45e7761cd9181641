"""The formats on the real published files: counts, quirks and protocols as documented; facts in the YAML."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest
from table_tools import read_as as read

from tad.annotations.checks import check
from tad.annotations.table import Table, read_table
from tad.core.errors import TadError
from tad.datasets import thumos14
from tad.datasets._parse import youtube_id
from tad.metrics import protocol
from tad.settings import plugins
from tad.settings.resolved import component_sections
from tad.settings.stages import AnnotateSpec
from tad.stages.annotate import annotate

Counts = dict[str, tuple[int, int]]
# instances of each class of THUMOS14 in the order of the labels [the reference, section 6]
THUMOS14_TRAIN = [30, 303, 81, 42, 143, 178, 181, 499, 103, 31, 199, 271, 192, 163, 120, 70, 66, 69, 120, 146]
THUMOS14_TEST = [41, 488, 106, 98, 217, 138, 170, 388, 48, 36, 242, 135, 169, 142, 399, 144, 48, 141, 88, 120]


@pytest.fixture(scope="module")
def files(shared: Path) -> Path:
    return shared / "data" / "annotations"


def counts(table: Table) -> Counts:
    """Split → videos and instances."""
    return {split: (len(table.split(split)), counter.total()) for split, counter in table.counts().items()}


@pytest.mark.parametrize("name", plugins.names("datasets"))
def test_a_format_has_a_protocol_and_says_where_its_files_are(name: str) -> None:
    rules = component_sections("datasets", name)["eval"]
    assert rules["tiou"] == sorted(rules["tiou"])
    assert protocol(rules["protocol"])
    assert set(plugins.document("datasets", name).get("published", {})) in (set(), {"annotations", "videos"})


@pytest.mark.parametrize("name", plugins.names("datasets"))
def test_a_reader_takes_a_file_and_the_settings_of_its_format(name: str) -> None:
    hints = get_type_hints(plugins.load("datasets", name))
    assert hints == {"source": Path, "settings": plugins.settings_class("datasets", name), "return": Table}
    with pytest.raises(TadError, match=f"dataset {name}: unheard_of"):
        plugins.read_annotations(name, Path("a.json"), {"unheard_of": 1})


def test_thresholds_are_the_published_ones() -> None:
    assert component_sections("datasets", "thumos14")["eval"]["tiou"] == [0.3, 0.4, 0.5, 0.6, 0.7]
    for name in ("activitynet13", "hacs"):
        assert component_sections("datasets", name)["eval"]["tiou"] == [round(0.5 + 0.05 * k, 2) for k in range(10)]


@pytest.mark.parametrize(
    ("file", "variant", "expected"),
    [
        ("thumos14.json", 212, {"train": (200, 3007), "test": (212, 3358)}),
        ("thumos14.json", 211, {"train": (200, 3007), "test": (211, 3329)}),
        ("thumos14.json", 210, {"train": (200, 3007), "test": (210, 3311)}),
        ("thumos14_opentad.json", 211, {"train": (200, 3003), "test": (211, 3325)}),
        ("afsd_thumos14/thumos_gt.json", 210, {"train": (200, 3007), "test": (210, 3311)}),
        (".", 213, {"train": (200, 3007), "test": (213, 3358)}),
        (".", 212, {"train": (200, 3007), "test": (212, 3358)}),
    ],
)
def test_thumos14_counts(files: Path, file: str, variant: int, expected: Counts) -> None:
    table = check(read("thumos14", files / file, variant=variant), source=file)
    assert counts(table) == expected
    assert len(table.excluded) == 213 - variant
    assert not table.dropped
    assert len(table.labels) == 20


def test_thumos14_counts_per_class(files: Path) -> None:
    found = read("thumos14", files / "thumos14.json").counts()
    assert [found["train"][label] for label in thumos14.LABELS] == THUMOS14_TRAIN
    assert [found["test"][label] for label in thumos14.LABELS] == THUMOS14_TEST
    assert list(thumos14.LABELS) == sorted(thumos14.LABELS)


def test_thumos14_text_files_and_json_agree(files: Path) -> None:
    texts = read("thumos14", files, duration_file="thumos14_frame_counts.json")
    database = read("thumos14", files / "thumos14.json")
    assert texts.videos.keys() == database.videos.keys()
    for video_id, video in database.videos.items():
        assert texts.videos[video_id].split == video.split
        key = [(i.start, i.end, i.label) for i in video.instances]
        assert sorted((i.start, i.end, i.label) for i in texts.videos[video_id].instances) == sorted(key)
        assert texts.videos[video_id].duration == pytest.approx(video.duration, abs=1.5)
    ambiguous = {s: sum(len(v.ambiguous) for v in texts.split(s).values()) for s in ("train", "test")}
    everything = read("thumos14", files, variant=213).split("test")
    assert ambiguous["train"] == 3096 - 3007
    assert sum(len(v.ambiguous) for v in everything.values()) == 3457 - 3358
    assert not everything["video_test_0001292"].instances


def test_thumos14_diving_repeats_cliff_diving(files: Path) -> None:
    for split, expected in (("train", 143), ("test", 217)):
        videos = read("thumos14", files).split(split).values()
        pairs = [{(i.start, i.end) for i in v.instances if i.label == "Diving"} for v in videos]
        cliff = [[(i.start, i.end) for i in v.instances if i.label == "CliffDiving"] for v in videos]
        assert (
            sum(segment in diving for diving, found in zip(pairs, cliff, strict=True) for segment in found) == expected
        )


def test_thumos14_thirty_instances_lie_beyond_the_end(files: Path) -> None:
    source = files / "thumos14.json"
    dropped = check(read("thumos14", source, known={"beyond": "drop"}), source="x")
    assert counts(dropped) == {"train": (200, 3003), "test": (212, 3332)}
    assert {d.video[-7:] for d in dropped.dropped} == {"0000270", "0000364", "0000814", "0000856", "0001081"}
    with pytest.raises(TadError, match=r"video_test_0000270.*HammerThrow|video_test_0000270.* after the"):
        check(read("thumos14", source, known={"beyond": "error"}), source="x")


def test_thumos14_says_which_variant_a_file_can_give(files: Path) -> None:
    with pytest.raises(TadError, match="variant 212 needs video_test_0000270, which the file lacks; set variant: 211"):
        read("thumos14", files / "thumos14_opentad.json")
    with pytest.raises(TadError, match="variant: Input should be 213, 212, 211 or 210"):
        read("thumos14", files / "thumos14.json", variant=214)


@pytest.fixture
def official(files: Path, tmp_path: Path) -> Path:
    """The official text files, writable."""
    for part in ("val", "test"):
        shutil.copytree(files / f"thumos14_official_{part}", tmp_path / "own" / part, copy_function=shutil.copyfile)
        (tmp_path / "own" / part).chmod(0o755)
    return tmp_path / "own"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("test/HighJump_test.txt", None, "HighJump_test.txt missing; unpack the official test annotations"),
        ("test/HighJump_test.txt", "", "HighJump_test.txt: the file is empty"),
        ("test/HighJump_test.txt", "video_test_0000188 14.0", "HighJump_test.txt: line 1: .* is not 'video start end'"),
        ("test/HighJump_test.txt", "video_test_0000188 14 x", "HighJump_test.txt: line 1: time 'x' is not a number"),
        ("test/HighJump_test.txt", "video_validation_0000188 1 2", "line 1: .* does not belong to the test files"),
        ("test/HighJump_test.txt", "clip 1 2", "line 1: 'clip' is not a THUMOS14 video"),
        (
            "test/HihgJump_test.txt",
            "video_test_0000188 1 2",
            "'HihgJump' is not a class of THUMOS14; did you mean 'HighJump'",
        ),
        ("more/HighJump_test.txt", "video_test_0000188 1 2", "is the same file again; keep one"),
        ("test/HighJump_test.txt", "video_test_0000188 5 2", "HighJump_test.txt line 1: 5-2 s ends before it starts"),
    ],
)
def test_thumos14_malformed_text_is_named(official: Path, name: str, content: str | None, message: str) -> None:
    path = official / name
    path.parent.mkdir(exist_ok=True)
    if content is None:
        path.unlink()
    else:
        path.write_text(content + "\n")
    with pytest.raises(TadError, match=message):
        check(read("thumos14", official), source=str(official))


def test_activitynet13_counts(files: Path) -> None:
    source = files / "activity_net.v1-3.json"
    every = read("activitynet13", source, splits={"training": "train", "validation": "val", "testing": "test"})
    assert counts(every) == {"train": (10_024, 15_410), "val": (4_926, 7_654), "test": (5_044, 0)}
    assert len(every.labels) == 200
    assert "v_v_Vg4a8igc0" in every.videos  # an id of 11 characters that begins like the prefix
    checked = check(every, source="x")
    assert counts(checked) == {"train": (10_024, 15_370), "val": (4_926, 7_630), "test": (5_044, 0)}
    kinds = [d.cause.split(":")[0] for d in checked.dropped]
    assert (kinds.count("degenerate"), kinds.count("duplicate")) == (12, 52)


def test_activitynet13_evaluates_on_the_official_validation_set(files: Path) -> None:
    table = read("activitynet13", files / "activity_net.v1-3.json")
    assert counts(table) == {"train": (10_024, 15_410), "test": (4_926, 7_654)}


@pytest.mark.parametrize(("name", "file"), [("thumos14", "thumos14.json"), ("activitynet13", "activity_net.v1-3.json")])
def test_default_table_is_the_complete_split_of_the_default_protocol(files: Path, name: str, file: str) -> None:
    table = check(read(name, files / file), source=file)
    rules = protocol(component_sections("datasets", name)["eval"]["protocol"])
    assert counts(table)["test"] == (rules.videos, rules.instances)
    assert not set(rules.left_out) & set(table.videos)


def test_activitynet13_without_blocked_videos(files: Path) -> None:
    table = read("activitynet13", files / "activity_net.v1-3.json", blocked_file="activitynet_blocked.json")
    assert counts(table)["test"] == (4_926 - 246, 7_220)
    assert len(table.excluded) == 498 + 246
    assert all("blocked" in reason for reason in table.excluded.values())


def test_activitynet13_refuses_other_files(files: Path) -> None:
    with pytest.raises(TadError, match="this is BSN's file, which has no subsets"):
        read("activitynet13", files / "anet_anno_action_bmn.json")
    with pytest.raises(TadError, match="expected a JSON list of video ids, found an object"):
        read("activitynet13", files / "activity_net.v1-3.json", blocked_file="thumos14_frame_counts.json")


def test_activitynet13_names_a_wrong_number_of_classes(tmp_path: Path) -> None:
    text = {
        "database": {"v_0123456789a": {"subset": "training", "annotations": [{"segment": [0, 1], "label": "Polo"}]}}
    }
    (tmp_path / "x.json").write_text(json.dumps(text))
    with pytest.raises(TadError, match=r"x\.json: 1 labels, expected 200 \(the rarest is 'Polo', 1 instances\)"):
        read("activitynet13", tmp_path / "x.json")
    assert list(read("activitynet13", tmp_path / "x.json", classes=0).videos) == ["v_0123456789a"]
    assert list(read("activitynet13", tmp_path / "x.json", classes=0, prefix="").videos) == ["0123456789a"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [("v_0123456789a", "0123456789a"), ("0123456789a", "0123456789a"), ("v_123456789", "v_123456789")],
)
def test_prefix_of_file_names_is_taken_off(given: str, expected: str) -> None:
    assert youtube_id(given) == expected


def test_the_same_video_with_and_without_prefix_is_refused(tmp_path: Path) -> None:
    entry = {"subset": "training", "annotations": []}
    (tmp_path / "x.json").write_text(json.dumps({"database": {"v_0123456789a": entry, "0123456789a": entry}}))
    with pytest.raises(TadError, match="the same video as 'v_0123456789a'; merge the two entries"):
        read("activitynet13", tmp_path / "x.json", classes=0)


def test_hacs_layout(tmp_path: Path) -> None:
    """No copy of the official file is at hand: its documented layout (durations as text, 200 labels, three subsets)."""
    labels = [f"label {k:03}" for k in range(200)]
    segments = [{"segment": [k / 2, k / 2 + 1], "label": label} for k, label in enumerate(labels)]
    video = {"duration": "92.166667", "url": "https://www.youtube.com/watch?v=--0edUL8zmA", "annotations": segments}
    database = {
        "--0edUL8zmA": {**video, "duration": "120.5", "subset": "training"},
        "--1edUL8zmA": {**video, "subset": "validation", "annotations": [*segments[:5], segments[4]]},
        "--2edUL8zmA": {**video, "subset": "testing", "annotations": []},
    }
    (tmp_path / "hacs.json").write_text(json.dumps({"database": database}))
    table = check(read("hacs", tmp_path / "hacs.json"), source="x")
    assert counts(table) == {"train": (1, 200), "test": (1, 5)}
    assert table.videos["v_--1edUL8zmA"].duration == pytest.approx(92.166667)
    assert [d.cause.split(":")[0] for d in table.dropped] == ["duplicate"]


def test_stage_on_thumos14_writes_everything(files: Path, tmp_path: Path) -> None:
    settings = plugins.defaults("datasets", "thumos14") | {"duration_file": "thumos14_frame_counts.json"}
    spec = AnnotateSpec.model_validate(
        {
            "dataset": "thumos",
            "format": {"name": "thumos14", "settings": settings},
            "exclude": {"video_test_0000814": "three instances past the end"},
        }
    )
    table = read_table(annotate(files, tmp_path / "thumos.json", spec=spec))
    assert table.dataset == "thumos"
    assert len(table.split("test")) == 211
    assert set(table.excluded) == {"video_test_0000814", "video_test_0001292"}
    stamp = json.loads((tmp_path / "thumos.json").read_text())["stamp"]
    assert set(stamp["inputs"]) == {"annotations", "duration_file"}
    assert "tad.datasets.thumos14" in stamp["modules"]
    assert "tad.annotations.checks" in stamp["modules"]


def test_missing_and_folder_sources_are_named(tmp_path: Path) -> None:
    spec = AnnotateSpec.model_validate({"dataset": "own", "format": {"name": "activitynet"}})
    with pytest.raises(TadError, match=r"nowhere\.json: no such file"):
        annotate(tmp_path / "nowhere.json", tmp_path / "out.json", spec=spec)
    with pytest.raises(TadError, match="is a folder; name the annotation file"):
        annotate(tmp_path, tmp_path / "out.json", spec=spec)


def test_annotations_do_not_import_torch() -> None:
    modules = (
        "tad.stages.annotate, tad.datasets.thumos14, tad.datasets.csv, tad.datasets.hacs, tad.datasets.activitynet13"
    )
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
