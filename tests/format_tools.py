"""Small files of every format that `tad` writes, written by the stages themselves."""

import importlib.util
import sys
from collections.abc import Callable
from contextlib import nullcontext
from contextlib import suppress as ignoring
from email.message import Message
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import test_pretrain as squares
import test_sweep
import torch
import training_tools as tools
import video_tools as vt
from training_tools import detect_spec, train_spec, videos_of, write_inputs

import tad.stages.pretrain
from tad.backbones._contract import BackboneBase
from tad.commands.stream_choice import write_choice
from tad.commands.sweep import Training
from tad.core import files, notices
from tad.core.errors import TadError
from tad.core.files import HashCache, read_json, write_json
from tad.features.export import export_features
from tad.provenance.wanted import write_wanted
from tad.settings import plugins
from tad.settings.config import Config
from tad.settings.stages import (
    ClassifyStageSpec,
    ClipSpec,
    EvaluateStageSpec,
    ExtractSpec,
    FrameSpec,
    IndexSpec,
    JoinSpec,
    MergeSpec,
    Plugin,
    ProbeSpec,
    SummariseStageSpec,
    SuppressStageSpec,
)  # fmt: skip
from tad.stages.classify import classify
from tad.stages.detect import detect
from tad.stages.evaluate import evaluate
from tad.stages.extract import extract
from tad.stages.index import index
from tad.stages.join import join
from tad.stages.merge import merge
from tad.stages.pretrain import pretrain
from tad.stages.probe import probe
from tad.stages.summarise import summarise
from tad.stages.suppress import suppress
from tad.weights import store
from tad.weights.download import Patience, _Again, _Attempt

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow_scripts"))
import render_demo

NMS = {
    "method": "gaussian", "sigma": 0.5, "tiou": 0.1, "min_score": 0.001, "per_class": True, "topk": 50, "voting": 0.0,
    "voting_weight": "score",
}  # fmt: skip
EVAL = {"protocol": "plain", "tiou": (0.3, 0.5), "on_missing": "count"}
PROBE = ProbeSpec(dataset="toy")
CLIP = ClipSpec(length=8, stride=4, policy="native", rate=0)
EXTRACT = ExtractSpec(dataset="toy", backbone=Plugin(name="pixels"), clip=CLIP, dtype="float32")
MERGE = MergeSpec(dataset="toy", features="clips", on_damaged="exclude")
FRAMES = FrameSpec(rate=10, height=16, width=16)
INDEX = IndexSpec(dataset="toy", features="frames", frames=FRAMES)
CAN_FLOW = importlib.util.find_spec("cv2") is not None


class Pixels(BackboneBase):
    """Encode a clip as the mean colours of its frames."""

    dim = 3

    def forward(self, clips_BTHWC: torch.Tensor) -> torch.Tensor:
        return clips_BTHWC.float().mean((1, 2, 3))


def flow_frames() -> FrameSpec:
    return FRAMES.model_copy(update={"modality": "flow", "flow_method": "dis"})


def write_videos(folder: Path) -> None:
    vt.encode(folder / "videos" / "a.mp4", 24)
    manifest = probe(folder / "videos", folder / "00-of-01.json", spec=PROBE, cache=folder / "kept" / "manifest.json")
    shard = extract(
        manifest, folder / "videos", None, folder / "shard.h5", spec=EXTRACT, cache=folder / "rows", workers=1,
        backbone=Pixels,
    )  # fmt: skip
    merge([shard], [manifest], folder / "clips.h5", spec=MERGE)
    export_features(folder / "clips.h5", folder / "npy", file_format="npy")
    export_features(folder / "clips.h5", folder / "hdf5", file_format="h5")
    join(
        [folder / "clips.h5"] * 2, folder / "two.h5", spec=JoinSpec(dataset="toy", features="two", parts=("clips",) * 2)
    )
    index([manifest], folder / "videos", folder / "frames.h5", spec=INDEX)
    if CAN_FLOW:
        moving = INDEX.model_copy(update={"features": "flow", "frames": flow_frames()})
        index([manifest], folder / "videos", folder / "flow.h5", spec=moving)


def write_run(folder: Path) -> None:
    write_inputs(folder, videos_of(np.random.default_rng(0)))
    tools.run(folder, train_spec(epochs=1), seconds=1000)
    unfinished(folder)
    model, table = folder / "out" / "model.safetensors", folder / "toy.json"
    candidates = detect(folder / "f.h5", model, table, folder / "candidates.h5", spec=detect_spec(), threads=1)
    suppress(candidates, folder / "detections.json", spec=SuppressStageSpec.model_validate({"run": "r", "nms": NMS}))
    for run, out in (("r", "map.json"), ("r/seed-0", "seed-0.json"), ("r/seed-1", "seed-1.json")):
        settings = {"run": run, "dataset": "toy", "eval": EVAL}
        document = read_json(folder / "detections.json")
        document["stamp"]["spec"]["run"] = run
        detections = write_json(folder / f"of-{out}", document)
        score = evaluate(
            detections, table, folder / out, spec=EvaluateStageSpec.model_validate(settings),
            diagnosis=folder / "diagnosis.json",
        )  # fmt: skip
        write_json(score, {**read_json(score), "seed": int(run[-1]) if "/" in run else 0})
    summarise_them(folder, folder / "mean.json")
    settings = {"run": "r", "dataset": "toy", "features": "f", "seed": 3, "classify": {"epochs": 1}}
    classify(folder / "f.h5", table, folder / "videos.json", spec=ClassifyStageSpec.model_validate(settings))


def summarise_them(folder: Path, out: Path) -> Path:
    names = [folder / f"seed-{k}.json" for k in (0, 1)], [folder / f"of-seed-{k}.json" for k in (0, 1)]
    spec = SummariseStageSpec.model_validate({"run": "r", "dataset": "toy", "seeds": (0, 1), "eval": EVAL})
    return summarise(*names, folder / "toy.json", out, spec=spec)


def unfinished(folder: Path) -> None:
    """Write the state of a training that stops at its third step."""
    tools.Tiny.calls, tools.Tiny.nan_at = 0, 3
    try:
        with pytest.raises(TadError, match="not finite"):
            tools.run(folder, train_spec(epochs=2))
    finally:
        tools.Tiny.nan_at = -1


def write_encoder(folder: Path) -> None:
    """Write a pretrained encoder with its receipt, and the state of a pretraining killed after its first epoch."""
    dataset: dict[str, Any] = squares.write_dataset(folder / "squares")
    pretrain_squares(dataset, folder, epochs=1)
    with pytest.MonkeyPatch.context() as patch:
        progress = tad.stages.pretrain._Progress
        patch.setattr(progress, "write", then_killed(progress.write))
        with pytest.raises(KeyboardInterrupt):
            pretrain_squares(dataset, folder, epochs=2)


def pretrain_squares(dataset: dict[str, Any], folder: Path, *, epochs: int) -> Path:
    spec = squares.make_spec(epochs=epochs, clips_per_segment=1)
    out, kept = folder / f"backbone-{epochs}.safetensors", folder / f"encoder-{epochs}"
    return pretrain(**dataset, out=out, spec=spec, cache=kept, device="cpu")


def then_killed(write: Callable[..., None]) -> Callable[..., None]:
    def writing(*arguments: Any) -> None:
        write(*arguments)
        raise KeyboardInterrupt

    return writing


class Answer:
    """The response of a server that then sends no data."""

    url = "https://example.org/w.pt"

    def __init__(self) -> None:
        self.headers = Message()
        self.headers["ETag"], self.headers["Content-Type"] = '"1"', "application/octet-stream"

    status = 200

    def read1(self, size: int = -1) -> bytes:
        return b""


def attempt(folder: Path, file: Any) -> _Attempt:
    return _Attempt(Answer.url, file, size=7, checkable=True, patience=Patience(), progress=lambda *_: None)


def write_rest(folder: Path) -> None:
    weights = folder / "weights"
    weights.mkdir()
    (weights / "w.pt").write_bytes(b"weights")
    store.write_pin(weights / "w.pt", store.sums_of(weights / "w.pt"), Answer.url)
    with open(folder / "w.pt.partial", "w+b") as file, ignoring(_Again):
        attempt(folder, file)._receive(Answer())
    notices.store(weights / "w.pt", ["no checksum is published"], [])
    write_wanted(folder / "wanted.json", {"out.h5": "{}"}, {})
    cache = HashCache(folder / "hashes.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "TICK_NS", -1)
        cache.key(weights / "w.pt")
    cache.save()
    facts = ("demo_00", {"subset": "training"}, {"content_key": "0", "frames": 1, "trait": "plain"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(render_demo.multiprocessing, "get_context", lambda _: Pool(facts))
        render_demo.render_all(folder / "results" / "data" / "demo", videos=1, seed=0, jobs=1)


class Pool:
    """A process pool that renders nothing and returns at once."""

    def __init__(self, facts: Any) -> None:
        self.facts = facts

    def Pool(self, *_: Any) -> Any:
        return nullcontext(self)

    def apply_async(self, *_: Any) -> Any:
        return SimpleNamespace(get=lambda: self.facts)


def write_sweep(folder: Path) -> None:
    test_sweep.write_project(folder / "project", **test_sweep.HELD_OUT)
    sweep_scores(folder)


def sweep_scores(folder: Path) -> None:
    config = Config.read(folder / "project" / "config.yaml")
    Training(config, "r", on="held-out", device="cpu").scores([NMS])


def write_all(folder: Path) -> Path:
    write_rest(folder)
    write_choice(folder / "stream.json", {"score": 0.3, "model": "0" * 16})
    write_videos(folder)
    write_encoder(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plugins, "build", tools.use_tiny)
        write_run(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plugins, "load", test_sweep.tiny_loader)
        write_sweep(folder)
    return folder
