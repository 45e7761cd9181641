"""EPIC-KITCHENS-100: official CSV files and both JSON layouts make one table; its rows run on published features."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from config_tools import copy_config

from tad.annotations.checks import check
from tad.annotations.table import Table, read_table
from tad.core.errors import TadError
from tad.datasets.epic import CLASSES, clock
from tad.features.store import FeatureReader
from tad.settings import plugins
from tad.settings.config import Config
from tad.stages.annotate import annotate
from tad.stages.convert import convert
from tad.workflow.missing import missing

ROOT = Path(__file__).parents[1]
HEADER = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,"
    "narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes"
)
# video, start, stop, verb id, noun id; the words of a narration are not the names of its classes
TRAIN = [
    ("P01_01", "00:00:00.14", "00:00:03.37", 3, 3),
    ("P01_01", "00:00:04.00", "00:01:09.50", 0, 299),
    ("P01_01", "00:00:04.00", "00:01:09.50", 0, 7),
    ("P22_107", "01:02:03.50", "01:02:05.00", 96, 0),
]
VALIDATION = [("P01_11", "00:00:00.00", "00:00:01.89", 0, 2), ("P01_11", "00:00:01.56", "00:00:02.45", 1, 2)]
DURATIONS = {"P01_01": 90.0, "P22_107": 3800.25, "P01_11": 40.0, "P01_101": 33.3}


def write_rows(path: Path, rows: list[tuple[str, str, str, int, int]]) -> None:
    lines = [
        f"{video}_{k},{video[:3]},{video},00:00:01.089,{start},{stop},8,202,open the door,open-up,{verb},"
        f'"door, glass",{noun},"[\'door\', \'glass\']","[{noun}, 5]"'
        for k, (video, start, stop, verb, noun) in enumerate(rows)
    ]
    path.write_text("\n".join([HEADER, *lines]) + "\n")


def write_official(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    write_rows(folder / "EPIC_100_train.csv", TRAIN)
    write_rows(folder / "EPIC_100_validation.csv", VALIDATION)
    info = [f"{video},{duration},59.9400599400599,1920x1080" for video, duration in DURATIONS.items()]
    (folder / "EPIC_100_video_info.csv").write_text("\n".join(["video_id,duration,fps,resolution", *info]) + "\n")
    write_classes(folder)
    return folder


def write_classes(folder: Path) -> None:
    for target, count in CLASSES.items():
        rows = [f"{k},{target}-{k},\"['{target}-{k}', 'x']\",kind" for k in range(count)]
        (folder / f"EPIC_100_{target}_classes.csv").write_text("\n".join(["id,key,instances,category", *rows]) + "\n")


def write_json_layout(path: Path, target: str, layout: str) -> Path:
    """ActionFormer's layout has label ids and its own subset names, OpenTAD's has the ids in the labels."""
    database: dict[str, Any] = {}
    names = ("training", "validation", "test") if layout == "actionformer" else ("train", "val", "test")
    for rows, subset in ((TRAIN, names[0]), (VALIDATION, names[1])):
        for video, start, stop, verb, noun in rows:
            number = verb if target == "verb" else noun
            entry = database.setdefault(
                video, {"subset": subset, "duration": DURATIONS[video], "fps": 30, "annotations": []}
            )
            label = {"label": f"word {number}", "label_id": number}
            if layout == "opentad":
                label = {"label": f"id_{number:03d}", "label_name": "word"}
            entry["annotations"].append({"segment": [clock(start, ""), clock(stop, "")], **label})
    database["P01_101"] = {"subset": names[2], "duration": 33.3}
    path.write_text(json.dumps({"version": "epic", "database": database}))
    return path


def read(source: Path, **settings: Any) -> Table:
    table: Table = plugins.read_annotations("epic", source, settings)
    return check(table, source=str(source))


@pytest.mark.parametrize("target", ["verb", "noun"])
def test_official_files(tmp_path: Path, target: str) -> None:
    table = read(write_official(tmp_path), target=target)
    assert table.labels == tuple(f"{target}-{k}" for k in range(CLASSES[target]))
    assert set(table.split("train")) == {"P01_01", "P22_107"}
    assert set(table.split("test")) == {"P01_11"}
    assert not table.split("val")
    assert {video_id: video.duration for video_id, video in table.videos.items()} == {
        key: value for key, value in DURATIONS.items() if key != "P01_101"
    }
    found = [(i.start, i.end, i.label) for i in table.videos["P01_01"].instances]
    second = [("verb-0", "verb-0"), ("noun-299", "noun-7")][target == "noun"]
    assert found == [(0.14, 3.37, f"{target}-3"), (4.0, 69.5, second[0]), (4.0, 69.5, second[1])]
    (late,) = table.videos["P22_107"].instances
    assert (late.start, late.end) == (3723.5, 3725.0)


@pytest.mark.parametrize("target", ["verb", "noun"])
@pytest.mark.parametrize("layout", ["actionformer", "opentad"])
def test_json_layouts_make_the_same_table(tmp_path: Path, layout: str, target: str) -> None:
    official = read(write_official(tmp_path / "csv"), target=target)
    name = {"actionformer": f"epic_kitchens_100_{target}.json", "opentad": f"epic_kitchens_{target}.json"}[layout]
    folder = tmp_path / "json"
    folder.mkdir()
    write_classes(folder)
    path = write_json_layout(folder / name, target, layout)
    for source in (path, folder):
        table = read(source, target=target)
        assert table.labels == official.labels
        assert table.videos.keys() == official.videos.keys()
        for video_id, video in official.videos.items():
            other = table.videos[video_id]
            assert (other.split, other.duration, other.instances) == (video.split, video.duration, video.instances)


def test_json_without_class_file_has_its_own_names_at_their_ids(tmp_path: Path) -> None:
    table = read(write_json_layout(tmp_path / "epic_kitchens_100_noun.json", "noun", "actionformer"), target="noun")
    assert len(table.labels) == 300
    assert [table.labels[k] for k in (0, 1, 299)] == ["word 0", "noun 1", "word 299"]


def break_line(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("EPIC_100_train.csv", "00:00:03.37", "3.37", "line 2: time '3.37' is not HH:MM:SS.ss"),
        ("EPIC_100_train.csv", "00:00:03.37", "00:00:61.00", "is not HH:MM:SS.ss"),
        (
            "EPIC_100_train.csv",
            "open-up,3",
            "open-up,97",
            "class id 97, but there are 97 verbs; is it the noun file?",
        ),
        ("EPIC_100_train.csv", "open-up,3", "open-up,open", "class 'open' is not a class id"),
        ("EPIC_100_train.csv", "verb_class", "verbclass", "no column 'verb_class'"),
        ("EPIC_100_validation.csv", "P01,P01_11", "P01,P01_01", "'P01_01' is a training video too"),
        ("EPIC_100_train.csv", "00:00:03.37", "00:00:00.10", "ends before it starts"),
        ("EPIC_100_train.csv", "00:01:09.50", "00:03:09.50", ""),  # beyond the end: the published protocol counts it
        ("EPIC_100_verb_classes.csv", "\n7,", "\n8,", "class id 8, expected 7"),
        ("EPIC_100_verb_classes.csv", "verb-7,", "verb-6,", "class name 'verb-6' is empty or listed twice"),
        ("EPIC_100_video_info.csv", "90.0", "1:30", "time '1:30' is not in seconds"),
    ],
)
def test_a_defect_is_one_line_with_its_place(tmp_path: Path, file: str, old: str, new: str, said: str) -> None:
    break_line(write_official(tmp_path) / file, old, new)
    if not said:
        assert sum(len(v.instances) for v in read(tmp_path).videos.values()) == 6
        return
    with pytest.raises(TadError) as caught:
        read(tmp_path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there_or_not_meant(tmp_path: Path) -> None:
    official = write_official(tmp_path / "csv")
    with pytest.raises(TadError, match="name the folder"):
        read(official / "EPIC_100_train.csv")
    with pytest.raises(TadError, match="target: Input should be 'verb' or 'noun'"):
        read(official, target="verbs")
    (official / "EPIC_100_noun_classes.csv").unlink()
    with pytest.raises(TadError, match=r"EPIC_100_noun_classes\.csv: no such file"):
        read(official, target="noun")
    (official / "EPIC_100_validation.csv").unlink()
    with pytest.raises(TadError, match=r"EPIC_100_validation\.csv: no such file"):
        read(official)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(TadError, match=r"neither EPIC_100_train\.csv nor epic_kitchens_100_verb\.json"):
        read(empty)
    path = write_json_layout(tmp_path / "a.json", "noun", "actionformer")
    with pytest.raises(TadError, match="label 'word 299': class id 299, but there are 97 verbs"):
        read(path, target="verb")
    break_line(path, '"label_id": 299', '"label_ids": 299')
    with pytest.raises(TadError, match="label 'word 299' has no label_id"):
        read(path, target="noun")


def project(folder: Path) -> Config:
    """config.yaml of the repository, with annotations and features where its EPIC rows say."""
    copy_config(folder)
    (folder / "data/epic").mkdir(parents=True)
    write_official(folder / "data/epic/annotations")
    features = folder / "data/epic/features"
    features.mkdir()
    rng = np.random.default_rng(0)
    for video_id, duration in DURATIONS.items():
        rows = int(duration * 30 / 16)
        np.savez(features / f"{video_id}.npz", feats=rng.random((rows, 2304), np.float32).astype(np.float16))
    return Config.read(folder / "config.yaml")


@pytest.mark.parametrize("target", ["verb", "noun"])
def test_the_shipped_rows_take_published_features(tmp_path: Path, target: str) -> None:
    config = project(tmp_path)
    row = config.run(f"epic-{target}")
    assert missing(config, row.dataset, row.features) == []
    made = tmp_path / f"{row.dataset}.json"
    annotate(
        tmp_path / config.dataset(row.dataset).annotations, made, spec=config.spec("annotate", dataset=row.dataset)
    )
    assert len(read_table(made).labels) == CLASSES[target]
    spec = config.spec("convert", dataset=row.dataset, features=row.features)
    index = convert(tmp_path / config.file.features[row.features].source, made, tmp_path / "f.h5", spec=spec)
    with FeatureReader(index) as reader:
        assert sorted(reader.video_ids) == ["P01_01", "P01_11", "P22_107"]
        assert reader.dim == 2304
        grid = reader.grid("P22_107")
        assert grid.length == 7125
        # a snippet lies at the middle of its 32 frames, and the next 16 frames later
        assert [grid.to_seconds(g) for g in (0, 1)] == pytest.approx([16 / 30, 32 / 30])


def test_what_is_missing_is_said_with_its_place(tmp_path: Path) -> None:
    config = Config.read(copy_config(tmp_path))
    for run in ("epic-verb", "epic-noun", "epic-verb-tridet", "epic-noun-tridet"):
        row = config.run(run)
        needs = missing(config, row.dataset, row.features)
        assert len(needs) == 2  # neither videos nor weights
        assert "data/epic/annotations (https://github.com/epic-kitchens/epic-kitchens-100-annotations" in needs[0]
        assert "data/epic/features (<video>.npz in epic_kitchens.tar.gz of https://" in needs[1]


def test_settings_follow_the_target_whatever_the_row_is_called() -> None:
    clip = {"length": 32, "stride": 16, "policy": "resample", "rate": 30.0}
    values = {
        "datasets": {"kitchen": {"format": "epic", "annotations": "a", "settings": {"target": "noun"}}},
        "features": {"f": {"source": "f", "dim": 4, "clip": clip}},
        "runs": {"one": {"dataset": "kitchen", "features": "f", "detector": "actionformer"}},
    }  # fmt: skip
    config = Config(values)
    assert config.resolve_run("one").sections["settings"]["label_smoothing"] == 0.1
    assert (
        config.resolve_run("one").origin["settings.label_smoothing"] == "tad/detectors/actionformer.yaml for epic_noun"
    )
    values["datasets"]["kitchen"]["settings"] = {}  # type: ignore[index]
    assert Config(values).resolve_run("one").sections["settings"]["label_smoothing"] == 0.0
    assert Config(values).resolve_run("one").sections["settings"]["windows"] == [9] * 6
    assert Config(values).resolve_run("one").sections["eval"]["protocol"] == "epic"
