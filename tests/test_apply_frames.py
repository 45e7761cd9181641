"""Runs on frames, with and without adapters: applied to videos, and released with their encoder and graph."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import video_tools as vt
import yaml

pytest.importorskip("transformers")

from tad.commands.cli import main
from tad.core.files import read_json
from tad.settings import plugins
from tad.settings.config import Config
from tad.stages.annotate import annotate
from tad.stages.detect import detect
from tad.stages.index import index
from tad.stages.probe import probe
from tad.stages.train import train
from tad.training.data.inputs import open_features
from tad.training.io import tensors as checkpoint

pytestmark = pytest.mark.slow
COUNTS = {"a": 90, "b": 75, "c": 130}  # frames at 30 per second
TINY = {"name": "mse", "embed_dim": 16, "head_dim": 16, "mlp_dim": 16, "regression_ranges": [[0, 4], [4, 10000]]}
FRAMED = {
    "name": "afsd_frames", "height": 24, "width": 40, "crop": 16, "embed_dim": 64, "strides": [1.0, 2.0],
    "regression_ranges": [[0, 100000], [0, 100000]],
}  # fmt: skip
TRAIN = {"epochs": 1, "warmup_epochs": 0, "batch_size": 2}
CONFIG: dict[str, Any] = {
    "device": "cpu",
    "datasets": {"toy": {"format": "csv", "videos": "videos", "annotations": "toy.csv"}},
    "features": {
        "pictures": {"frames": {"rate": 10.0, "height": 24, "width": 40}},
        "vit": {
            "backbone": {"name": "vit_tiny", "crop": 16, "patch": 8, "dim": 12, "layers": 2, "heads": 2},
            "weights": "vit.safetensors",
        },
    },
    "runs": {
        "adapted": {
            "dataset": "toy", "features": "pictures", "detector": TINY,
            "adapters": {"encoder": "vit", "frames_per_position": 2},
            "train": {**TRAIN, "max_length": 32}, "detect": {"window_stride": 16, "min_length": 0.1},
        },
        "framed": {
            "dataset": "toy", "features": "pictures", "detector": FRAMED,
            "train": {**TRAIN, "max_length": 16}, "detect": {"window_stride": 12},
        },
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where both runs have learnt a little, stage by stage as the workflow does."""
    folder = tmp_path_factory.mktemp("frames") / "home"
    for video_id, frames in COUNTS.items():
        vt.encode(folder / "videos" / f"{video_id}.mp4", frames)
    rows = [
        f"{v},{k}.2,{k + 1}.1,{'jump' if k else 'run'},{'test' if v == 'c' else 'train'}" for v in "abc" for k in (0, 1)
    ]
    (folder / "toy.csv").write_text("\n".join(["video,start,end,label,split", *rows]))
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    config: Any = Config.read(folder / "config.yaml")
    results, names = folder / "results", {"dataset": "toy"}
    torch.manual_seed(8)
    backbone = config.backbone("vit", "toy")
    network = plugins.build("backbones", backbone.name, backbone.settings)
    weights = checkpoint.write_tensors(folder / "vit.safetensors", network.state_dict(), {})
    table = annotate(folder / "toy.csv", results / "annotations/toy.json", spec=config.spec("annotate", **names))
    manifest = probe(folder / "videos", results / "videos/toy/00-of-01.json", spec=config.spec("probe", **names))
    spec = config.spec("index", **names, features="pictures")
    pictures = index([manifest], folder / "videos", results / "features/toy/pictures.h5", spec=spec)
    for run in CONFIG["runs"]:
        train(
            pictures, table, results / run / "model.safetensors", spec=config.spec("train", run=run),
            cache=folder / "kept" / run, device="cpu", threads=1, encoder=weights if run == "adapted" else None,
        )  # fmt: skip
    return folder


def applied(run: str, videos: Path, out: Path, *options: str) -> dict[str, Any]:
    assert main(["apply", run, str(videos), "--out", str(out), "--device", "cpu", *options]) == 0
    results: dict[str, Any] = read_json(out)["results"]
    return results


def candidates(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with h5py.File(path) as file:
        return file["segments"][:], file["scores"][:]


@pytest.mark.parametrize("run", CONFIG["runs"])
def test_a_run_on_frames_is_applied_and_released(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, run: str
) -> None:
    pytest.importorskip("onnxscript")
    options = ["--config", str(project / "config.yaml")]
    wanted = applied(run, project / "videos/c.mp4", tmp_path / "wanted.json", *options)
    assert len(wanted["c"]) > 3
    config: Any = Config.read(project / "config.yaml")
    results = project / "results"
    encoder = project / "vit.safetensors" if run == "adapted" else None
    found = detect(
        results / "features/toy/pictures.h5", results / run / "model.safetensors", results / "annotations/toy.json",
        tmp_path / "c.h5", spec=config.spec("detect", run=run), encoder=encoder,
    )  # fmt: skip
    for ours, stage in zip(candidates(results / run / "apply/candidates.h5"), candidates(found), strict=True):
        np.testing.assert_array_equal(ours, stage)

    release = tmp_path / "elsewhere" / run
    assert main(["export", run, "--out", str(release), *options]) == 0
    assert "next, here or on another machine: tad apply" in capsys.readouterr().out
    assert (release / "weights/vit/vit.safetensors").is_file() == (run == "adapted")
    vt.encode(tmp_path / "v/short.mp4", 30)
    monkeypatch.chdir(release.parent)
    away = project.rename(project.with_name("away"))
    try:
        assert applied(run, away / "videos/c.mp4", tmp_path / "found.json") == wanted
        applied(run, tmp_path / "v", tmp_path / "short.json")
    finally:
        away.rename(project)
    work = release.parent / "results" / run / "apply"
    best_by_graph(release, work / "features.h5", work / "candidates.h5")


def best_by_graph(release: Path, index_file: Path, candidates_file: Path) -> None:
    """Compare the best segment of one window in the released graph with the candidates of `tad apply`."""
    import onnxruntime

    session = onnxruntime.InferenceSession(release / "detector.onnx", providers=["CPUExecutionProvider"])
    facts = json.loads(session.get_modelmeta().custom_metadata_map["tad"])
    frames = facts["frames"]
    assert (facts["windowed"], frames["rate"], frames["modality"]) == (True, 10.0, "rgb")
    assert frames["height"] * frames["width"] * 3 == facts["feature_dim"]
    with open_features(index_file, "rgb") as reader:
        rows_TC = reader.read("short")
    window = np.zeros((1, facts["max_length"], facts["feature_dim"]), np.float32)
    window[0, : len(rows_TC)] = rows_TC
    inputs = {"features": window, "lengths": np.array([len(rows_TC)])}
    scores, segments = session.run(["scores", "segments"], inputs)
    scores, segments = scores[0], np.broadcast_to(segments[0], (*scores[0].shape, 2))
    long = segments[..., 1] - segments[..., 0] > facts["detect"]["min_length"]
    order = np.argsort(-np.where(long, scores, 0), axis=None)[:5]
    segments_N2, scores_N = candidates(candidates_file)
    best = np.argsort(-scores_N, kind="stable")[:5]
    np.testing.assert_allclose(scores.flatten()[order], scores_N[best], atol=1e-4)
    np.testing.assert_allclose(segments.reshape(-1, 2)[order[0]], segments_N2[best[0]], atol=1e-2)


def test_two_networks_are_not_applied(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = yaml.safe_load((project / "config.yaml").read_text())
    rows["runs"]["both"] = {**rows["runs"]["framed"], "detect": {"window_stride": 12, "fuse": "framed"}}
    (project / "both.yaml").write_text(yaml.safe_dump(rows))
    model = project / "results/both/model.safetensors"
    model.parent.mkdir()
    model.write_bytes((project / "results/framed/model.safetensors").read_bytes())
    arguments = ["apply", "both", str(project / "videos/c.mp4"), "--out", str(tmp_path / "no.json")]
    assert main([*arguments, "--config", str(project / "both.yaml")]) == 1
    assert (
        "runs.both: averages its outputs with those of 'framed'; apply a run without `fuse`" in capsys.readouterr().err
    )
