"""MultiTHUMOS, Charades, Ego4D, FineAction, UnAV-100 and HACS in the layouts of their public files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from table_tools import read_as as read

from tad.annotations.checks import check
from tad.core.errors import TadError
from tad.metrics import protocol
from tad.settings import plugins
from tad.settings.stages import AnnotateSpec
from tad.stages.annotate import annotate

INDEXED = {"multithumos": (65, 1, "testing"), "charades": (157, 0, "testing")}


def write(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


def index_of(first: int, last: int) -> dict[str, Any]:
    return {
        "v_a": {"subset": "training", "duration": 30.5, "actions": [[first, 1.5, 4], [last, 2, 3.25], [first, 9, 9]]},
        "v_b": {"subset": "training", "duration": 12, "actions": [[last, 0, 5]]},
        "v_c": {"subset": "testing", "duration": 20.0, "actions": [[first, 10.25, 24.0], [last, 25.0, 26.0]]},
        "v_d": {"subset": "testing", "duration": 20.0, "actions": []},
    }


# -- MultiTHUMOS and Charades ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", INDEXED)
def test_the_index_layout_is_read(name: str, tmp_path: Path) -> None:
    count, first, _ = INDEXED[name]
    last = first + count - 1
    table = check(read(name, write(tmp_path / "index.json", index_of(first, last))), source="index.json")
    assert len(table.labels) == count
    assert {split: len(table.split(split)) for split in ("train", "test")} == {"train": 2, "test": 2}
    found = [(i.start, i.end, i.label) for i in table.videos["v_a"].instances]
    assert found == [(1.5, 4.0, f"class {first}"), (2.0, 3.25, f"class {last}")]
    assert [d.cause.split(":")[0] for d in table.dropped][:1] == ["degenerate"]
    late = [(i.start, i.end) for i in table.videos["v_c"].instances]
    if name == "charades":  # 13 % of its actions end after their video: cut there
        assert late == [(10.25, 20.0)]
        assert [c.entry for c in table.clipped] == ["actions[0]"]
        assert [d.entry for d in table.dropped] == ["actions[2]", "actions[1]"]
    else:
        assert late == [(10.25, 24.0), (25.0, 26.0)]


@pytest.mark.parametrize(("name", "lines"), [("multithumos", "{number} {name}"), ("charades", "c{number:03d} {name}")])
def test_classes_get_their_official_names(name: str, lines: str, tmp_path: Path) -> None:
    count, first, _ = INDEXED[name]
    text = "\n".join(lines.format(number=first + k, name=f"Doing thing {k}") for k in range(count))
    (tmp_path / "classes.txt").write_text(text)
    source = write(tmp_path / "index.json", index_of(first, first + count - 1))
    table = read(name, source, class_file="classes.txt")
    assert table.labels[0] == table.videos["v_a"].instances[0].label == "Doing thing 0"
    assert table.videos["v_b"].instances[0].label == f"Doing thing {count - 1}"
    (tmp_path / "classes.txt").write_text(text.partition("\n")[2])
    with pytest.raises(TadError, match=r"classes\.txt: class .*, expected"):
        read(name, source, class_file="classes.txt")
    (tmp_path / "classes.txt").write_text(text.rpartition("\n")[0])
    with pytest.raises(TadError, match=rf"{count - 1} classes, expected {count}"):
        read(name, source, class_file="classes.txt")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"subset": "training", "duration": 9}, "a list of actions"),
        (
            {"subset": "training", "duration": 9, "actions": [[1, 2]]},
            r"actions\[0\]: \[1, 2\] is not \[class, start, end\]",
        ),
        ({"subset": "training", "duration": 9, "actions": [[66, 1, 2]]}, r"actions\[0\]: class 66; .* from 1 to 65"),
        ({"subset": "training", "duration": 9, "actions": [["1", 1, 2]]}, "class '1'; classes are numbers"),
        ({"subset": "training", "duration": 9, "actions": [[1, "x", 2]]}, "time 'x' is not a number"),
        ({"subset": "dev", "duration": 9, "actions": []}, "unknown subset 'dev'"),
        ({"duration": 9, "actions": []}, "no subset"),
    ],
)
def test_a_defect_of_an_index_is_one_line(entry: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(TadError, match=said) as error:
        read("multithumos", write(tmp_path / "index.json", {"v": entry}))
    assert str(error.value).startswith(f"{tmp_path / 'index.json'}: video 'v'")


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 156), st.floats(0, 20), st.floats(0.1, 9)), max_size=12))
def test_every_action_of_an_index_is_an_instance(tmp_path: Path, drawn: list[tuple[int, float, float]]) -> None:
    actions = [[number, start, start + length] for number, start, length in drawn]
    source = write(tmp_path / "index.json", {"v": {"subset": "testing", "duration": 40, "actions": actions}})
    (video,) = read("charades", source).videos.values()
    assert [[int(i.label.removeprefix("class ")), i.start, i.end] for i in video.instances] == actions


def database(labels: list[str], subsets: list[str], **more: Any) -> dict[str, Any]:
    """ActivityNet's layout: one video a subset, the first with every label."""
    return {
        f"v{k}": {
            "subset": subset, "duration": 300.0, **more,
            "annotations": [
                {"segment": [n, n + 0.5], "label": x, "label_id": len(labels) - 1 - n} for n, x in enumerate(labels)
            ],
        }
        for k, subset in enumerate(subsets)
    }  # fmt: skip


@pytest.mark.parametrize("name", INDEXED)
def test_opentads_files_of_both_are_read_too(name: str, tmp_path: Path) -> None:
    labels = [f"thing {k:03}" for k in range(INDEXED[name][0])]
    subsets = ["training", "validation" if name == "multithumos" else "testing"]
    table = read(name, write(tmp_path / "a.json", {"database": database(labels, subsets)}))
    assert [video.split for video in table.videos.values()] == ["train", "test"]
    assert sorted(table.labels) == labels
    (tmp_path / "names.txt").write_text("\n".join(reversed(labels)))
    table = read(name, tmp_path / "a.json", class_file="names.txt")
    assert table.labels == tuple(reversed(labels))


# -- FineAction, UnAV-100, HACS ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count", "subsets", "splits"),
    [
        ("fineaction", 106, ["training", "validation", "testing"], ["train", "test"]),
        ("unav100", 100, ["train", "validation", "test"], ["train", "val", "test"]),
    ],
)
def test_labels_are_in_the_order_of_their_ids(
    name: str, count: int, subsets: list[str], splits: list[str], tmp_path: Path
) -> None:
    labels = [f"thing {k:03}" for k in range(count)]
    source = write(tmp_path / "a.json", {"database": database(labels, subsets, fps=25, filename="x.mp4")})
    table = check(read(name, source), source="a.json")
    assert [video.split for video in table.videos.values()] == splits
    assert table.labels == tuple(reversed(labels))
    with pytest.raises(TadError, match=rf"{count} labels, expected {count - 1}"):
        read(name, source, classes=count - 1)
    value = {"database": database(labels, subsets)}
    value["database"]["v1"]["annotations"][0]["label_id"] = 7
    with pytest.raises(TadError, match=r"video 'v1', annotations\[0\]: label 'thing 000' has id 7 here"):
        read(name, write(tmp_path / "b.json", value))
    value["database"]["v0"]["annotations"][0]["label_id"] = 7
    with pytest.raises(TadError, match="two labels have the same label_id"):
        read(name, write(tmp_path / "c.json", {"database": {"v0": value["database"]["v0"]}}))
    del value["database"]["v0"]["annotations"][0]["label_id"]
    assert read(name, write(tmp_path / "d.json", value)).labels == tuple(labels)


def test_hacs_as_its_repository_shows_it(tmp_path: Path) -> None:
    """Keys in this order, durations as text, addresses, no annotations in the testing set, ids that begin with `-`."""
    labels = [f"Label_{k:03}" for k in range(200)]
    segments = [{"label": label, "segment": [5.4 + k / 10, 11.6 + k / 10]} for k, label in enumerate(labels)]
    value = {"database": {
        "--0edUL8zmA": {"annotations": segments, "subset": "training", "duration": "92.166667",
                        "url": "https://www.youtube.com/watch?v=--0edUL8zmA"},
        "v_0edUL8zmA": {"annotations": segments[:2], "subset": "validation", "duration": "60.0", "url": ""},
        "--2edUL8zmA": {"annotations": [], "subset": "testing", "duration": "10.5", "url": ""},
    }}  # fmt: skip
    folder = tmp_path / "HACS_v1.1.1"
    folder.mkdir()
    source = write(folder / "HACS_segments_v1.1.1.json", value)
    for place in (source, folder):
        table = check(read("hacs", place), source="hacs")
        assert list(table.videos) == ["v_--0edUL8zmA", "v_v_0edUL8zmA"]
        assert table.videos["v_--0edUL8zmA"].duration == pytest.approx(92.166667)
        assert len(table.labels) == 200
    with pytest.raises(TadError, match=r"no HACS_segments_v1\.1\.1\.json in it"):
        read("hacs", tmp_path)


# -- Ego4D -------------------------------------------------------------------------------------------------------------


def moment(label: str, start: float, end: float, *, primary: bool = True) -> dict[str, Any]:
    return {
        "label": label, "primary": primary, "start_time": 0.0, "end_time": 1.0,
        "video_start_time": start, "video_end_time": end,
        "video_start_frame": int(30 * start), "video_end_frame": int(30 * end),
    }  # fmt: skip


def clip(uid: str, start: float, end: float, *labels: list[dict[str, Any]], rate: float = 30.0) -> dict[str, Any]:
    return {
        "clip_uid": uid, "video_start_sec": start, "video_end_sec": end, "video_start_frame": round(start * rate),
        "video_end_frame": round(end * rate),
        "annotations": [{"annotator_uid": "x", "labels": list(own)} for own in labels],
    }  # fmt: skip


def moments(tmp_path: Path) -> Path:
    labels = [f"do_thing_{k:03}" for k in range(110)]
    every = [moment(label, 100 + k, 101.5 + k) for k, label in enumerate(labels)]
    train = [
        {"video_uid": "V1", "split": "train", "clips": [
            clip("c1", 100.0, 580.0, every,
                 [moment(labels[0], 100.0, 101.5), moment("other", 105, 106, primary=False)]),
            clip("c2", 580.0, 1060.0, [moment("other", 600, 601, primary=False)]),
        ]},
        {"video_uid": "V2", "split": "train", "clips": [clip("c3", -0.02, 480.0, [moment(labels[1], 0.5, 3.0)])]},
    ]  # fmt: skip
    val = [{"video_uid": "V3", "split": "val", "clips": [
        clip("c4", 0.0, 480.0, [moment(labels[2], 0.5, 3.0)]),
        clip("c5", 0.0, 480.0, [moment(labels[2], 1, 2)], rate=3.0),
    ]}]  # fmt: skip
    write(tmp_path / "moments_train.json", {"version": "v1", "date": "220429", "description": "", "videos": train})
    write(tmp_path / "moments_val.json", {"version": "v1", "date": "220429", "videos": val})
    return tmp_path


def test_ego4ds_moments_are_read_clip_by_clip(tmp_path: Path) -> None:
    for source in (moments(tmp_path), tmp_path / "moments_val.json"):
        table = check(read("ego4d", source), source="ego4d")
        assert {v: video.split for v, video in table.videos.items()} == {"c1": "train", "c3": "train", "c4": "test"}
        assert len(table.labels) == 110
        first = table.videos["c1"]
        assert (first.duration, first.rate) == (480.0, 30.0)
        assert [(i.start, i.end) for i in first.instances[:2]] == [(0.0, 1.5), (1.0, 2.5)]  # of the clip, not the video
        assert [d.cause.split(":")[0] for d in table.dropped] == ["duplicate"]  # two annotators
        assert table.videos["c3"].instances[0].start == 0.5
        assert sorted(table.excluded) == ["c2", "c5"]
        assert "no moment of a primary class" in table.excluded["c2"]
        assert "do not fit together" in table.excluded["c5"]


def test_ego4ds_defects_are_named(tmp_path: Path) -> None:
    folder = moments(tmp_path)
    value = json.loads((folder / "moments_val.json").read_text())
    del value["videos"][0]["clips"][0]["annotations"][0]["labels"][0]["video_end_time"]
    write(folder / "moments_val.json", value)
    said = r"moments_val\.json: video 'V3', clip 'c4', annotations\[0\]\.labels\[0\]: no 'video_end_time' among label"
    with pytest.raises(TadError, match=said):
        read("ego4d", folder)
    (folder / "moments_val.json").unlink()
    with pytest.raises(TadError, match=r"moments_val\.json: no such file"):
        read("ego4d", folder)


def test_ego4d_as_opentad_converts_it(tmp_path: Path) -> None:
    labels = [f"thing {k:03}" for k in range(110)]
    value = database(labels, ["train", "val"]) | {"t": {"duration": 480.0, "frame": 14400, "subset": "test"}}
    table = read("ego4d", write(tmp_path / "ego4d_v2_220429.json", {"version": "v2", "database": value}))
    assert [video.split for video in table.videos.values()] == ["train", "test"]


# -- all ---------------------------------------------------------------------------------------------------------------

PUBLISHED = {
    "multithumos": ("multithumos", [0.1, 0.9, 9]), "charades": ("charades", [0.1, 0.9, 9]),
    "ego4d": ("ego4d-mq", [0.1, 0.5, 5]), "fineaction": ("fineaction", [0.5, 0.95, 10]),
    "unav100": ("unav100", [0.1, 0.9, 9]), "hacs": ("hacs", [0.5, 0.95, 10]),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_has_its_protocol_with_the_published_thresholds(name: str) -> None:
    rules, (low, high, count) = plugins.document("datasets", name)["eval"], PUBLISHED[name][1]
    assert rules["protocol"] == PUBLISHED[name][0]
    assert rules["tiou"] == pytest.approx(np.linspace(low, high, int(count)).tolist())
    assert list(protocol(rules["protocol"]).tiou) == rules["tiou"]


def test_the_stage_reads_a_new_format(tmp_path: Path) -> None:
    source = write(tmp_path / "charades.json", index_of(0, 156))
    spec = AnnotateSpec.model_validate({"dataset": "charades", "format": {"name": "charades", "settings": {}}})
    value = json.loads(annotate(source, tmp_path / "t.json", spec=spec).read_text())
    assert value["clipped"] == [{"video": "v_c", "entry": "actions[0]",
                                 "cause": "beyond: 10.25-24 s ends 4.00 s after the video (20 s)"}]  # fmt: skip
    assert value["known"] == {"degenerate": "drop", "duplicate": "drop", "beyond": "clip"}
