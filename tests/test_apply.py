"""A detector trained on the demo's videos, applied to a real one: from mp4 to detections, by one command."""

import logging
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import video_tools as vt
import yaml

import tad
from tad.commands.apply import Trained, trained
from tad.commands.cli import main
from tad.core.files import read_json
from tad.features.store import FeatureReader
from tad.settings.config import Config
from tad.stages.annotate import annotate
from tad.stages.extract import extract
from tad.stages.join import join
from tad.stages.merge import merge
from tad.stages.pretrain import pretrain
from tad.stages.probe import probe
from tad.stages.train import train

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parents[1] / "workflow_scripts" / "render_demo.py"
TINY = {"name": "mse", "embed_dim": 16, "head_dim": 16, "mlp_dim": 16}
TRAIN = {"epochs": 2, "warmup_epochs": 1, "max_length": 288}
CONFIG = {
    "device": "cpu",
    "datasets": {"demo": {"shards": 1}},
    "features": {
        "demo_clips": {
            "backbone": {"name": "r2plus1d_small", "widths": [4, 8, 8, 16], "time_strides": [2, 2, 2]},
            "pretrain": {"epochs": 1, "clips_per_segment": 1},
        },
        "again": {
            "backbone": {"name": "r2plus1d_small", "widths": [4, 8, 8, 16], "time_strides": [2, 2, 2]},
            "weights": "results/features/demo/demo_clips/backbone.safetensors", "dtype": "float32",
        },
        "two": {"join": ["demo_clips", "again"]},
        "published": {"source": "x", "dim": 4, "clip": {"length": 16, "stride": 4, "policy": "resample", "rate": 12.5}},
        "half": {"join": ["demo_clips", "published"]},
    },
    "runs": {
        "demo": {"dataset": "demo", "features": "demo_clips", "detector": TINY, "train": TRAIN},
        "both": {"dataset": "demo", "features": "two", "detector": TINY, "train": TRAIN},
        "half": {"dataset": "demo", "features": "half", "detector": TINY, "train": TRAIN},
        "labelled": {
            "dataset": "demo", "features": "demo_clips", "detector": "mse", "external": {"source": "own"},
        },
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where a detector has learnt a little from three rendered videos, stage by stage as the workflow does."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    data, results = folder / "results/data/demo", folder / "results"
    command = [sys.executable, str(SCRIPT), "--out", str(data), "--videos", "3", "--seed", "0", "--jobs", "1"]
    subprocess.run(command, check=True, capture_output=True)
    config, dataset = Config.read(folder / "config.yaml"), {"dataset": "demo"}
    names, features = {**dataset, "features": "demo_clips"}, results / "features/demo"
    table = annotate(
        data / "annotations.json", results / "annotations/demo.json", spec=config.spec("annotate", dataset="demo")
    )
    manifest = probe(data / "videos", results / "videos/demo/00-of-01.json", spec=config.spec("probe", dataset="demo"))
    weights = pretrain(
        table, [manifest], data / "videos", features / "demo_clips/backbone.safetensors",
        spec=config.spec("pretrain", **names), cache=folder / "p", device="cpu",
    )  # fmt: skip
    indices = []
    for name in ("demo_clips", "again"):
        spec = config.spec("extract", **dataset, features=name)
        where = {"cache": folder / "x" / name, "device": "cpu", "workers": 1}
        shard = extract(manifest, data / "videos", weights, features / name / "00-of-01.h5", spec=spec, **where)
        spec = config.spec("merge", **dataset, features=name)
        indices.append(merge([shard], [manifest], features / f"{name}.h5", spec=spec))
    both = join(indices, features / "two.h5", spec=config.spec("join", **dataset, features="two"))
    for run, index in (("demo", indices[0]), ("both", both)):
        spec, out = config.spec("train", run=run), results / run / "model.safetensors"
        train(index, table, out, spec=spec, cache=folder / "t" / run, device="cpu")
    return folder


def applied(demo: Path, videos: Path, out: str, run: str = "demo") -> int:
    return main(["apply", run, str(videos), "--out", out, "--config", str(demo / "config.yaml"), "--device", "cpu"])


def test_a_real_video_goes_from_mp4_to_detections(demo: Path, shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A clip of ActivityNet: 18 seconds, 19.62 frames per second, sound. The labels mean nothing, the way is real."""
    source = shared / "data" / "videos" / "video_features" / "v_GGSY1Qvo990.mp4"
    assert applied(demo, source, str(demo / "found.json")) == 0
    rows = read_json(demo / "found.json")["results"]["v_GGSY1Qvo990"]
    assert capsys.readouterr().out.startswith(f"v_GGSY1Qvo990: {len(rows)} detections, first ")
    labels = set(read_json(demo / "results/annotations/demo.json")["labels"])
    entry = read_json(demo / "results/demo/apply/00-of-01.json")["videos"]["v_GGSY1Qvo990"]
    assert entry["frames"] == 355
    assert len(rows) > 10
    assert {row["label"] for row in rows} <= labels
    assert all(0 <= row["segment"][0] < row["segment"][1] <= entry["duration"] for row in rows)
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)


def test_a_released_run_is_applied_elsewhere(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same detections from a copied folder, and from its ONNX file by the code in docs/export.md."""
    pytest.importorskip("onnxscript")
    vt.encode(tmp_path / "v/one.mp4", 200)
    assert applied(demo, tmp_path / "v", str(tmp_path / "wanted.json")) == 0
    with FeatureReader(demo / "results/demo/apply/features.h5") as features:
        feats_TC, grid = features.read("one"), features.grid("one")
    release = tmp_path / "out" / "demo-run"
    assert main(["export", "demo", "--out", str(release), "--config", str(demo / "config.yaml")]) == 0
    assert "next, here or on another machine: tad apply" in capsys.readouterr().out
    texts = [path.read_text() for path in release.rglob("*") if path.suffix in (".json", ".yaml", ".md")]
    assert len(texts) == 3
    assert str(demo) not in "".join(texts)
    away = demo.with_name("away")
    demo.rename(away)
    try:
        copied = tmp_path / "elsewhere" / "demo-run"
        copied.parent.mkdir()
        release.rename(copied)
        monkeypatch.chdir(copied.parent)
        command = ["apply", "demo-run", str(tmp_path / "v"), "--device", "cpu", "--out"]
        assert main([*command, "found.json"]) == 0
        assert read_json(Path("found.json"))["results"] == read_json(tmp_path / "wanted.json")["results"]
        assert Path("results/demo/apply/features.h5").is_file()
        rows = tad.load("demo-run", device="cpu").detect(tmp_path / "v")
        assert len(rows) == len(read_json(Path("found.json"))["results"]["one"])
        assert not Path("demo-run/results/demo/apply").exists()  # a release may be read-only
    finally:
        away.rename(demo)
    code = re.findall(r"```python\n(.*?)```", (SCRIPT.parents[1] / "docs/export.md").read_text(), re.DOTALL)
    names = {"features": feats_TC, "start": grid.start, "step": grid.step, "duration": grid.duration}
    exec(code[0].replace('np.load("features.npy")', "features").replace("kitchen-run/", "demo-run/"), names)
    wanted = read_json(tmp_path / "wanted.json")["results"]["one"]
    assert [row["label"] for row in names["rows"][:50]] == [row["label"] for row in wanted[:50]]
    for key in ("score", "segment"):
        found = np.array([row[key] for row in names["rows"]])
        np.testing.assert_allclose(found, np.array([row[key] for row in wanted]), atol=1e-4)
    model = copied / "results/demo/model.safetensors"
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)
    capsys.readouterr()
    assert main([*command, "found.json"]) == 1
    assert (
        "model.safetensors: does not match its checksum in release.json; copy the folder again"
        in capsys.readouterr().err
    )


def test_a_folder_of_videos_with_a_damaged_one(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, frames in (("one", 90), ("two", 40)):
        vt.encode(tmp_path / f"v/{name}.mp4", frames)
    vt.text(tmp_path / "v/page.mp4")
    assert applied(demo, tmp_path / "v", str(demo / "found.json")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines] == ["one", "two", "page"]
    assert lines[2].startswith("page: excluded: text, not a video")
    assert set(read_json(demo / "found.json")["results"]) == {"one", "two"}


def test_a_run_on_joined_features_makes_each_of_them(demo: Path, tmp_path: Path) -> None:
    vt.encode(tmp_path / "v/one.mp4", 90)
    assert applied(demo, tmp_path / "v", str(demo / "found.json"), "both") == 0
    assert set(read_json(demo / "found.json")["results"]) == {"one"}
    work = demo / "results/both/apply"
    with FeatureReader(work / "features.h5") as joined, FeatureReader(work / "again/features.h5") as again:
        assert joined.dim == 2 * again.dim
        np.testing.assert_array_equal(joined.stored("one")[:, again.dim :], again.stored("one"))


def test_what_cannot_be_applied_is_said(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (demo / "results/half").mkdir(exist_ok=True)
    (demo / "results/half/model.safetensors").touch()  # what it reads is looked at first
    wrong = {
        "nowhere.mp4: no such video or folder of videos": (Path("nowhere.mp4"), "demo"),
        "no video can be read (page: text, not a video": (vt.text(tmp_path / "page.mp4"), "demo"),
        "is not that of a video": (vt.text(tmp_path / "page.html"), "demo"),
        "apply a run without `external`": (tmp_path, "labelled"),
        "did you mean 'demo'": (tmp_path, "dmo"),
        "features.published: imported features": (tmp_path, "half"),
    }
    for message, (videos, run) in wrong.items():
        assert applied(demo, videos, str(tmp_path / "no.json"), run) == 1
        assert message in capsys.readouterr().err
        assert not (tmp_path / "no.json").exists()


def test_a_detector_of_other_settings_is_noticed_before_a_video_is_opened(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = yaml.safe_load((demo / "config.yaml").read_text())
    config["runs"]["demo"]["detector"]["head_dim"] = 24
    (demo / "other.yaml").write_text(yaml.safe_dump(config))
    arguments = ["demo", str(tmp_path / "no such"), "--out", str(tmp_path / "no.json"), "--config", "other.yaml"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(demo)
        assert main(["apply", *arguments]) == 1
    said = "made with detector.settings.head_dim=16, expected detector.settings.head_dim=24; remove it and run train"
    assert said in capsys.readouterr().err


def detected(run: Trained, folder: Path, work: Path, *, growing: bool = False) -> tuple[bytes, bytes, bytes]:
    """Manifest, features and detections of the videos in a folder."""
    applied = replace(run, work=work)
    applied.detect([folder], work / "detections.json", growing=growing)
    return tuple((work / name).read_bytes() for name in ("00-of-01.json", "00-of-01.h5", "detections.json"))


def test_one_pass_gives_the_bytes_of_two(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Probing while features are extracted changes nothing: not for damaged videos, nor for those of a varying rate."""
    caplog.set_level(logging.INFO)
    folder = tmp_path / "videos"
    source = next((demo / "results/data/demo/videos").glob("*.mp4"))
    vt.encode(folder / "sound.mp4", 60, rate=25)
    vt.encode(folder / "varying.mkv", 60, rate=25, times_ms=vt.varying(60))
    shutil.copy(source, folder / "demo.mp4")
    shutil.copy(vt.truncate(vt.moov_first(source, tmp_path / "front.mp4"), tmp_path / "cut.mp4"), folder)
    shutil.copy(vt.text(tmp_path / "text.mp4"), folder)
    monkeypatch.chdir(demo)
    run = trained("demo", Path("config.yaml"), "cpu")
    once = detected(run, folder, tmp_path / "once")
    said = [record.getMessage() for record in caplog.records]
    assert "1 videos decoded, 4 cached" in said  # the text file, in which nothing is decoded
    monkeypatch.setattr(Trained, "_decode_once", lambda *_: None)
    assert detected(run, folder, tmp_path / "twice") == once


def test_a_file_that_grows_is_decoded_once_a_look(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of the part that was seen are taken, and the result is that of a fresh call."""
    monkeypatch.chdir(demo)
    run, folder = trained("demo", Path("config.yaml"), "cpu"), tmp_path / "videos"
    vt.encode(tmp_path / "whole.ts", 200, rate=25)
    whole = (tmp_path / "whole.ts").read_bytes()
    folder.mkdir()
    for share in (0.6, 1.0):
        (folder / "live.ts").write_bytes(whole[: int(share * len(whole)) // 188 * 188])
        grown = detected(run, folder, tmp_path / "grown", growing=True)
    monkeypatch.setattr(Trained, "_decode_once", lambda *_: None)
    fresh = detected(run, folder, tmp_path / "fresh")
    assert (grown[0], grown[2]) == (fresh[0], fresh[2])
    assert rows_of(tmp_path / "grown") == rows_of(tmp_path / "fresh")


def rows_of(work: Path) -> bytes:
    with FeatureReader(work / "00-of-01.h5") as reader:
        return reader.stored("live").tobytes()
