"""Annotations compared with decoded videos: units, ends after the video, frame numbers; before anything is computed."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tad.annotations.missing import missing_videos
from tad.annotations.table import Flaw, Table, read_table
from tad.core.errors import TadError
from tad.core.files import read_json, write_json
from tad.core.formats import mark
from tad.metrics.coverage import flawed
from tad.settings.stages import AnnotateSpec, CheckSpec
from tad.stages.annotate import annotate
from tad.stages.check import check
from tad.stages.evaluate import evaluate_file

LENGTHS = {"a": (20.0, 25.0), "b": (60.0, 30.0), "c": (9.0, 25.0)}  # seconds and frames per second
SECONDS = [("a", 1.2, 3.0, "train"), ("a", 12.0, 15.0, "train"), ("b", 31.0, 59.2, "train"), ("c", 1.0, 8.8, "test")]


def manifests(tmp_path: Path, lengths: dict[str, tuple[float, float]] = LENGTHS, **changes: Any) -> list[Path]:
    """Two manifest shards; `changes` of the first video."""
    paths = []
    for number, names in enumerate((sorted(lengths)[::2], sorted(lengths)[1::2])):
        videos = {
            v: {"status": "ok", "duration": lengths[v][0], "rate": lengths[v][1], "vfr": False, "cause": ""}
            for v in names
        }
        if number == 0:
            videos[names[0]] |= changes
        stamp = {"stage": "probe", "identity": f"probe {number}", "spec": {"dataset": "own"}, **mark("manifest")}
        paths.append(write_json(tmp_path / f"{number}.json", {"stamp": stamp, "videos": videos}))
    return paths


def run(
    tmp_path: Path, text: str, shards: list[Path], *, fmt: str = "csv", on_invalid: str = "error", **settings_: Any
) -> Table:
    source = tmp_path / ("own.csv" if fmt == "csv" else "own.json")
    source.write_text(text)
    spec = {"dataset": "own", "format": {"name": fmt, "settings": settings_}, "on_invalid": on_invalid}
    table = annotate(source, tmp_path / "t.json", spec=AnnotateSpec.model_validate(spec))
    more = CheckSpec.model_validate({"dataset": "own", "on_invalid": on_invalid})
    return read_table(check(table, shards, tmp_path, tmp_path / "t.checked.json", spec=more))


def text_of(rows: list[tuple[Any, ...]], header: str = "video,start,end,split") -> str:
    return "\n".join([f"{header},label", *(",".join(map(str, [*row, "x"])) for row in rows)]) + "\n"


def scaled(factor: float) -> list[tuple[Any, ...]]:
    return [(v, round(s * factor), round(e * factor), split) for v, s, e, split in SECONDS]


def test_times_that_fit_pass_and_durations_are_the_decoded_ones(tmp_path: Path) -> None:
    table = run(tmp_path, text_of(SECONDS), manifests(tmp_path))
    assert {v: video.duration for v, video in table.videos.items()} == {"a": 20.0, "b": 60.0, "c": 9.0}
    assert [(v, i.start, i.end) for v, video in table.videos.items() for i in video.instances] == [
        x[:3] for x in SECONDS
    ]
    stamp = json.loads((tmp_path / "t.checked.json").read_text())["stamp"]
    assert stamp["stage"] == "check"
    assert set(stamp["inputs"]) == {"annotations", "manifests"}


@pytest.mark.parametrize(
    ("rows", "words", "setting"),
    [
        ([(v, round(s * LENGTHS[v][1]), round(e * LENGTHS[v][1]), p) for v, s, e, p in SECONDS],
         "frames at 25 to 30 per second", "unit: frames"),
        (scaled(1000), "milliseconds", "unit: milliseconds"),
    ],
)  # fmt: skip
def test_other_units_stop_with_line_unit_and_setting(
    rows: list[tuple[Any, ...]], words: str, setting: str, tmp_path: Path
) -> None:
    for on_invalid in ("error", "drop", "clip"):  # no policy may lose a whole file
        with pytest.raises(TadError) as error:
            run(tmp_path, text_of(rows), manifests(tmp_path), on_invalid=on_invalid)
        message = str(error.value)
        assert "\n" not in message
        assert message.startswith(f"{tmp_path / 'own.csv'}: video 'a', line 2: ")
        assert f"look like {words}; " in message
        assert setting in message
        assert "the video, which lasts 20.00 s" in message
    assert not (tmp_path / "t.checked.json").exists()


def test_the_setting_that_the_message_names_works(tmp_path: Path) -> None:
    rows = [(v, s * LENGTHS[v][1], e * LENGTHS[v][1], p) for v, s, e, p in SECONDS]
    for table in (
        run(tmp_path, text_of(rows), manifests(tmp_path), unit="frames"),
        run(tmp_path, text_of(scaled(1000)), manifests(tmp_path), unit="milliseconds"),
    ):
        found = [(v, i.start, i.end) for v, video in table.videos.items() for i in video.instances]
        assert found == [(v, pytest.approx(s), pytest.approx(e)) for v, s, e, _ in SECONDS]


def test_frame_columns_become_seconds_at_each_videos_rate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [(v, s * LENGTHS[v][1], e * LENGTHS[v][1], p) for v, s, e, p in SECONDS]
    text = text_of([*rows, ("gone", 250, 500, "train")], header="video,start_frame,end_frame,split")
    table = run(tmp_path, text, manifests(tmp_path))
    found = {v: [(i.start, i.end) for i in video.instances] for v, video in table.videos.items()}
    assert found["b"] == [(pytest.approx(31), pytest.approx(59.2))]
    assert found["gone"] == [(10, 20)]
    assert any("1 videos cannot be decoded; assuming 25 frames" in r.message for r in caplog.records)
    with pytest.raises(TadError, match=r"video 'a', line 2: the time of frame 30 is uncertain.* variable frame rate"):
        run(tmp_path, text, manifests(tmp_path, vfr=True))
    with pytest.raises(TadError, match="none of the 4 videos could be decoded; give the setting rate or seconds"):
        run(tmp_path, text, manifests(tmp_path, {"other": (9.0, 25.0)}))


def test_one_late_end_is_named_cut_or_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [*SECONDS, ("c", 7.0, 12.5, "test"), ("c", 9.5, 10.5, "test")]
    said = r"own\.csv: video 'c', line 6: 7-12\.5 s ends 3\.50 s after the video \(9 s\).*clip \(1 more problems"
    with pytest.raises(TadError, match=said):
        run(tmp_path, text_of(rows), manifests(tmp_path))
    cut = run(tmp_path, text_of(rows), manifests(tmp_path), on_invalid="clip")
    assert [(i.start, i.end) for i in cut.videos["c"].instances] == [(1.0, 8.8), (7.0, 9.0)]
    assert [(c.video, c.entry) for c in cut.clipped] == [("c", "line 6")]
    assert [(d.video, d.entry) for d in cut.dropped] == [("c", "line 7")]
    assert any(r.levelno == logging.WARNING and "line 6" in r.message for r in caplog.records)
    dropped = run(tmp_path, text_of(rows), manifests(tmp_path), on_invalid="drop")
    assert [d.entry for d in dropped.dropped] == ["line 6", "line 7"]


def test_a_damaged_video_says_nothing_about_its_annotations(tmp_path: Path) -> None:
    table = run(tmp_path, text_of([*SECONDS, ("a", 15, 30, "train")]), manifests(tmp_path, status="damaged"))
    assert table.videos["a"].duration is None
    assert len(table.videos["a"].instances) == 3


def test_a_file_shorter_than_stated_is_said_and_its_instances_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [(*row, LENGTHS[row[0]][0]) for row in SECONDS]
    text = text_of(rows, header="video,start,end,split,duration")
    table = run(tmp_path, text, manifests(tmp_path, duration=10.0))
    assert [(i.start, i.end) for i in table.videos["a"].instances] == [(1.2, 3.0), (12.0, 15.0)]
    assert table.videos["a"].duration == 20.0
    assert table.notes == ("1 instances end after 1 video files that are shorter than stated; they count as annotated",)
    assert any(
        "line 3: 12-15 s ends after the video file, which lasts 10.00 s instead of the stated 20.00 s" in r.message
        for r in caplog.records
    )


def test_videos_without_a_file_are_listed_with_a_file_of_a_similar_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "Gone.mp4").touch()
    rows = [*SECONDS, ("gone", 1, 2, "train"), ("lost", 1, 2, "test")]
    table = run(tmp_path, text_of(rows), manifests(tmp_path))
    near = "'Gone.mp4' exists, whose name differs in case; rename it"
    assert table.missing == {"gone": f"missing; {near}", "lost": "missing"}
    assert missing_videos(tmp_path / "t.checked.json", dataset="own") == table.missing
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert f"2 expected videos have no file in {tmp_path} (first: gone)" in said
    assert f"gone: no video has this name, but {near}" in said
    assert table.videos.keys() == {*LENGTHS, "gone", "lost"}  # their instances count as missed
    assert run(tmp_path, text_of(SECONDS), manifests(tmp_path)).missing == {}
    with pytest.raises(TadError, match="annotate"):
        missing_videos(tmp_path / "t.json", dataset="own")


def test_activitynets_layout_names_the_entry(tmp_path: Path) -> None:
    database = {
        v: {"subset": split, "annotations": [{"segment": [s * 25, e * 25], "label": "x"}]}
        for v, s, e, split in SECONDS[1:]
    }
    with pytest.raises(TadError, match=r"own\.json: video 'a', annotations\[0\]: 300-375 s ends 355\.00 s after"):
        run(tmp_path, json.dumps({"database": database}), manifests(tmp_path), fmt="activitynet")


def test_tables_of_another_dataset_are_refused(tmp_path: Path) -> None:
    run(tmp_path, text_of(SECONDS), manifests(tmp_path))
    with pytest.raises(TadError, match="dataset"):
        check(tmp_path / "t.json", manifests(tmp_path), tmp_path, tmp_path / "x.json", spec=CheckSpec(dataset="other"))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.floats(12, 1400), st.sampled_from([24.0, 25.0, 29.97, 30.0, 60.0])), min_size=2, max_size=6),
    st.sampled_from(["seconds", "frames", "milliseconds"]),
    st.data(),
)
def test_seconds_pass_and_other_units_never_do(
    tmp_path: Path, videos: list[tuple[float, float]], unit: str, data: st.DataObject
) -> None:
    lengths = {f"v{k}": video for k, video in enumerate(videos)}
    rows = []
    for video_id, (length, rate) in lengths.items():
        end = round(data.draw(st.floats(0.3 * length, length)), 2)
        factor = {"seconds": 1.0, "frames": rate, "milliseconds": 1000.0}[unit]
        rows.append((video_id, round(0.1 * end * factor, 3), round(end * factor, 3), "train"))
    if unit == "seconds":
        table = run(tmp_path, text_of(rows), manifests(tmp_path, lengths))
        assert [video.instances[0].end for video in table.videos.values()] == [row[2] for row in rows]
    else:
        with pytest.raises(TadError, match=f"look like {unit}"):
            run(tmp_path, text_of(rows), manifests(tmp_path, lengths))


def test_flawed_files_reach_the_score_by_split(tmp_path: Path) -> None:
    flaw = {"status": "flawed", "cause": "2 frames may be wrong", "flawed_share": 0.02, "usable": False}
    shards = manifests(tmp_path, **flaw)
    table = run(tmp_path, text_of(SECONDS), shards)
    assert table.flawed == {"a": Flaw(0.02, "2 frames may be wrong", used=False)}
    worst = {"video": "a", "share": 0.02, "cause": "2 frames may be wrong", "used": False}
    wanted = {
        "train": {"videos": 1, "used": 0, "excluded": 1, "worst": worst},
        "test": {"videos": 0, "used": 0, "excluded": 0, "worst": None},
    }
    assert flawed(table) == wanted
    result = {"results": {"c": [{"segment": [1.0, 8.8], "score": 0.9, "label": "x"}]}}
    detections = write_json(tmp_path / "d.json", result)
    score = evaluate_file(
        detections, tmp_path / "t.checked.json", tmp_path / "map.json", protocol_name="plain", tiou=(0.5,)
    )
    assert read_json(score)["flawed_videos"] == wanted
    unchecked = evaluate_file(
        detections, tmp_path / "t.json", tmp_path / "map.json", protocol_name="plain", tiou=(0.5,)
    )
    assert read_json(unchecked)["flawed_videos"] is None


@pytest.mark.parametrize(("factor", "said"), [
    (1000.0, "typically they are 1000 times as long"), (25.0, "typically they are 25 times as long"),
    (1.2, "3 of 3 videos are not those of their files"), (1.01, ""),
])  # fmt: skip
def test_stated_durations_that_are_not_those_of_the_files_are_said(tmp_path: Path, factor: float, said: str) -> None:
    lengths = {"v0": (20.0, 25.0), "v1": (30.0, 25.0), "v2": (40.0, 25.0)}
    database = {
        v: {
            "subset": "training" if v < "v2" else "testing", "duration": factor * length,
            "annotations": [{"segment": [1, 5], "label": "x"}],
        }
        for v, (length, _) in lengths.items()
    }  # fmt: skip
    table = run(tmp_path, json.dumps({"database": database}), manifests(tmp_path, lengths), fmt="activitynet")
    assert len(table.notes) == bool(said)
    assert said in " ".join(table.notes)
    assert table.videos["v0"].duration == factor * 20.0  # reported, not changed


@pytest.mark.parametrize(("rate", "said"), [(25, ""), (25.4, ""), (50, "1 of 3 videos are not those of their files")])
def test_stated_rates_that_are_not_those_of_the_files_are_said(tmp_path: Path, rate: float, said: str) -> None:
    """Frame numbers of copies at another rate become other seconds."""
    rows = [(v, round(r * s), round(r * e), split, rate if v == "a" else r)
            for v, s, e, split in SECONDS for r in (LENGTHS[v][1],)]  # fmt: skip
    text = text_of(rows, header="video,start_frame,end_frame,split,fps")
    notes = " ".join(note for note in run(tmp_path, text, manifests(tmp_path)).notes if "stated" in note)
    assert said in notes
    assert bool(notes) == bool(said)


@pytest.mark.parametrize("change", [lambda s: 100 * s, lambda s: s + 3600])
def test_a_unit_that_fits_by_chance_is_not_advised(tmp_path: Path, change: Any) -> None:
    """Hundredths of a second, and times of day: in milliseconds they would all lie in the first second."""
    lengths = {f"v{k}": (20.0 + k, 25.0) for k in range(4)}
    rows = [f"v{k},{change(1 + k)},{change(5 + 3 * k)},x,{'train' if k < 2 else 'test'}" for k in range(4)]
    with pytest.raises(TadError, match="convert them to seconds") as caught:
        run(tmp_path, "video,start,end,label,split\n" + "\n".join(rows), manifests(tmp_path, lengths))
    assert "unit:" not in str(caught.value)
