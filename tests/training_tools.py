"""A detector that trains in milliseconds, data for it, and a program whose trainings kill themselves.

`python tests/training_tools.py <folder> <JSON of settings> <JSON of [loss|fsync, n] pairs>` starts one process per
pair. It trains until SIGKILL at its n-th loss or file sync. The program prints the step of the state that each left.
"""

import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import tad.core.files
from tad.annotations.table import Instance, Table, Video, read_table, write_table
from tad.core.errors import TadError
from tad.core.grid import Grid
from tad.features.store import FeatureReader, ShardWriter
from tad.layers.contract import DetectorBase
from tad.layers.types import Candidates, Part, Targets
from tad.provenance.fingerprint import code
from tad.provenance.stamps import stamp
from tad.settings import plugins
from tad.settings.stages import DetectSpec, DetectStageSpec, Plugin, TrainSpec, TrainStageSpec
from tad.stages.train import build, train
from tad.training.data.in_memory import Features
from tad.training.data.roles import Roles
from tad.training.data.unlabelled import MixedBatch, MixedWindows
from tad.training.data.windows import Windows, read_items
from tad.training.io import tensors as checkpoint
from tad.training.loop.strategy import Strategy
from tad.training.methods.pseudo import SelfTaught

DIM, LABELS = 6, ("jump", "run")
RECIPE = {"backbone": {"name": "toy", "settings": {}}, "dataset": "toy"}


class Tiny(DetectorBase):
    """A detector with every kind of state: one convolution, batch statistics, dropout, noise and a loss normaliser."""

    calls = 0
    nan_at = -1
    worsens = False
    longest = 1000
    on_loss: Callable[[int], None] | None = None

    def __init__(self, *, feature_dim: int, num_classes: int, max_length: int, width: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(feature_dim, width, 3, padding=1), nn.BatchNorm1d(width), nn.ReLU())
        self.drop, self.heads = nn.Dropout(0.2), nn.Conv1d(width, num_classes + 2, 1)
        self.unused = nn.Parameter(torch.ones(3))
        self.num_classes, self.max_length, self.norm = num_classes, max_length, torch.tensor(10.0)

    def _maps(self, feats_BTC: Tensor) -> Tensor:
        return self.heads(self.drop(self.body(feats_BTC.transpose(1, 2)))).transpose(1, 2)

    def _truth(self, target: Targets) -> Tensor:
        truth_TK = torch.zeros(self.max_length, self.num_classes)
        for (start, end), label in zip(target.segments_N2.tolist(), target.labels_N.tolist(), strict=True):
            truth_TK[max(round(start), 0) : round(end), label] = 1
        return truth_TK

    def padded(self, length: int) -> int:
        if length > self.longest:
            raise TadError(f"features: {length} snippets: at most {self.longest}; raise settings.buffer_factor")
        return length

    def positives(self, lengths_B: Tensor, targets: list[Targets]) -> int:
        return int(sum(self._truth(target).sum() for target in targets))

    def normalise(self, positives: int) -> None:
        self.norm = 0.9 * self.norm + 0.1 * max(positives, 1)

    def loss(
        self, feats_BTC: Tensor, lengths_B: Tensor, targets: list[Targets], part: Part | None = None
    ) -> dict[str, Tensor]:
        if self.training:
            assert feats_BTC.shape[1] == self.max_length
            Tiny.calls += 1
            if Tiny.on_loss:
                Tiny.on_loss(Tiny.calls)
            feats_BTC = feats_BTC + 0.01 * torch.randn_like(feats_BTC)
        maps_BTK = self._maps(feats_BTC)
        truth_BTK = torch.stack([self._truth(target) for target in targets])
        mask_BT1 = (torch.arange(feats_BTC.shape[1]) < lengths_B[:, None])[..., None]
        bce = nn.functional.binary_cross_entropy_with_logits(maps_BTK[..., :-2], truth_BTK, reduction="none")
        cls = (bce * mask_BT1).sum() / self.norm
        reg = maps_BTK[..., -2:].square().mean() * len(targets) / (part.videos if part else len(targets))
        if Tiny.calls == Tiny.nan_at:
            cls = cls * float("nan")
        if Tiny.worsens and not self.training:
            cls = cls + 100.0 * Tiny.calls
        return {"cls": cls, "reg": reg, "total": cls + reg}

    def candidates(
        self, feats_BTC: Tensor, lengths_B: Tensor, *, score_threshold: float, topk: int, min_length: float
    ) -> list[Candidates]:
        assert not self.training
        found = []
        for maps_TK, length in zip(self._maps(feats_BTC), lengths_B.tolist(), strict=True):
            scores_TK = maps_TK[:length, :-2].sigmoid()
            time_N, label_N = (scores_TK > score_threshold).nonzero(as_tuple=True)
            segments_N2 = torch.stack([time_N - 1.0, time_N + 1.0], 1)
            found.append(Candidates(segments_N2[:topk], scores_TK[time_N, label_N][:topk], label_N[:topk]))
        return found

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        decay = [p for p in self.parameters() if p.ndim > 1]
        free = [p for p in self.parameters() if p.ndim <= 1]
        return [{"params": decay, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]

    def training_state(self) -> dict[str, Tensor]:
        return {"norm": self.norm}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        self.norm = state["norm"]


def use_tiny(kind: str, name: str, settings: dict[str, Any], **sizes: int) -> Any:
    """Build the tiny detector; replaces plugins.build."""
    assert (kind, name) == ("detectors", "tiny")
    return Tiny(**sizes, **settings)


def train_spec(*, seed: int = 3, exclude: dict[str, str] | None = None, **changes: Any) -> TrainStageSpec:
    """Return the settings of a training that takes a second."""
    settings: dict[str, Any] = {
        "epochs": 3, "warmup_epochs": 1, "batch_size": 2, "lr": 0.01, "eta_min": 1e-6, "weight_decay": 0.05,
        "clip_grad": 1.0, "ema_decay": 0.9, "max_length": 16, "resize": 0, "trunc_threshold": 0.5,
        "crop_ratio": (0.8, 1.0), "trunc_margin": 0.0, "class_agnostic": False, "selection": "last", "hold_out": 0.3,
        "precision": "float32", "compile": False,
    }  # fmt: skip
    detector = Plugin(name="tiny", settings={"width": 8})
    return TrainStageSpec(
        run="r", dataset="toy", features="f", detector=detector, train=TrainSpec.model_validate(settings | changes),
        seed=seed, exclude=exclude or {},
    )  # fmt: skip


REAL = {
    "embed_dim": 16, "mlp_dim": 16, "head_dim": 16, "regression_ranges": [[0, 4], [4, 10000]], "windows": [3, 3],
    "input_noise": 0.1, "droppath": 0.2, "dropout": 0.2,
}  # fmt: skip


def real_spec(name: str, face: str = "", **changes: Any) -> TrainStageSpec:
    """Return the settings of a one-second training of a real detector, narrow and with all its randomness."""
    settings = plugins.defaults("detectors", name)
    wanted = REAL | ({"face": face, "corrections": ["masked", "living", "detached"]} if face else {})
    settings |= {key: value for key, value in wanted.items() if key in settings}
    return train_spec(**changes).model_copy(update={"detector": Plugin(name=name, settings=settings)})


def detect_spec(*, exclude: dict[str, str] | None = None, resize: int = 0, **changes: Any) -> DetectStageSpec:
    """Return settings of detect that match `train_spec`."""
    settings = {"score_threshold": 0.1, "topk": 50, "min_length": 0.0, "batch_size": 1} | changes
    detector = Plugin(name="tiny", settings={"width": 8})
    return DetectStageSpec(
        run="r", dataset="toy", features="f", detector=detector, detect=DetectSpec.model_validate(settings),
        resize=resize, exclude=exclude or {},
    )  # fmt: skip


def videos_of(rng: np.random.Generator, *, train: int = 7, test: int = 3) -> dict[str, tuple[Video, np.ndarray]]:
    """Return videos whose features show the classes. The last train video has no instance."""
    made = {}
    for k in range(train + test):
        length = int(rng.integers(10, 30))
        feats_TC = rng.normal(size=(length, DIM)).astype(np.float16)
        instances = []
        for n in range(0 if k == train - 1 else 1 + k % 2):
            start = float(rng.uniform(0, length - 6))
            label = LABELS[(k + n) % 2]
            feats_TC[round(start) : round(start + 5), (k + n) % 2] += 3
            instances.append(Instance(start + 0.5, start + 5.5, label))  # the grid starts at 0.5 s
        split = "train" if k < train else "test"
        made[f"{split}_{k}"] = (Video(split, length + 0.5, tuple(instances)), feats_TC)
    return made


def write_inputs(
    folder: Path, videos: dict[str, tuple[Video, np.ndarray]], *, without: tuple[str, ...] = (), excluded: Any = None
) -> tuple[Path, Path]:
    """Write the feature index and the annotation table of some videos; those in `without` have no features."""
    folder.mkdir(parents=True, exist_ok=True)
    features, annotations = folder / "f.h5", folder / "toy.json"
    made = stamp("merge", {"dataset": "toy", "features": "f"}, {"n": str(sorted(videos))}, recipe=RECIPE)
    with ShardWriter(features, made) as writer:
        for video_id, (_, feats_TC) in sorted(videos.items()):
            if video_id not in without:
                writer.add(video_id, feats_TC, grid=Grid(0.5, 1.0, len(feats_TC), len(feats_TC) + 0.5), attrs={})
        writer.attribute("excluded", excluded or {})
    table = Table("toy", LABELS, {video_id: video for video_id, (video, _) in videos.items()})
    write_table(table, annotations, stamp("annotate", {"dataset": "toy"}, {}))
    return features, annotations


def windows_of(folder: Path, reader: FeatureReader, **changes: object) -> Windows:
    """Return the windows of the train split of a folder with inputs."""
    spec = train_spec(**changes).train
    items = read_items(reader, read_table(folder / "toy.json"), "train", spec=spec, exclude={})
    return Windows(items, Features(reader, resize_to=spec.resize), spec=spec, seed=5, dim=reader.dim)


def mixed_windows(reader: FeatureReader, roles: Roles, spec: TrainStageSpec) -> MixedWindows:
    """Return windows of videos with and without labels."""
    make = partial(Windows, features=Features(reader), seed=spec.seed, dim=reader.dim)
    assert spec.labels is not None
    others = partial(make, roles.unlabelled, everywhere=True)
    return MixedWindows(make(roles.train, spec=spec.train), others, spec=spec.train, labels=spec.labels)


def mixed(reader: FeatureReader, roles: Roles, spec: TrainStageSpec) -> tuple[MixedBatch, Any, SelfTaught]:
    """Return the first batch of such windows, an untrained detector, and its teacher."""
    torch.manual_seed(0)
    length = spec.train.max_length
    sizes = {"feature_dim": DIM, "num_classes": len(LABELS), "max_length": length}
    detector = build(spec.detector.name, spec.detector.settings, **sizes).train()
    assert spec.labels is not None
    taught = SelfTaught(detector, spec.labels, inner=Strategy(), train=spec.train, each=2, seed=spec.seed)
    return mixed_windows(reader, roles, spec).training_batch(0, 0), detector, taught


def run(folder: Path, spec: TrainStageSpec, *, seconds: float = 0.0) -> Path:
    """Train in a folder with inputs; by default, a state is saved after every step."""
    paths = folder / "f.h5", folder / "toy.json", folder / "out" / "model.safetensors"
    return train(*paths, spec=spec, cache=folder / "kept", threads=1, checkpoint_seconds=seconds)


def die() -> None:
    """Die as if by kill -9, without any cleanup."""
    os.kill(os.getpid(), signal.SIGKILL)


def train_and_die(folder: Path, settings: dict[str, Any], what: str, count: int) -> None:
    """Train in this process until it kills itself."""
    plugins.build = use_tiny
    if what == "loss":
        Tiny.on_loss = lambda calls: die() if calls == count else None
    else:
        sync, seen = tad.core.files._fsync, [0]

        def dying_sync(path: Path) -> None:
            seen[0] += 1
            if seen[0] == count:
                die()
            sync(path)

        tad.core.files._fsync = dying_sync
    run(folder, train_spec(**settings))


def main() -> None:
    """Run each training in a process of its own, forked after the imports, which take most of the time."""
    folder, settings, kills = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
    importlib.import_module("torch._dynamo")  # as a training does, which takes a second
    code("train", train_spec().model_dump(mode="json"))
    for what, count in kills:
        if (child := os.fork()) == 0:
            train_and_die(folder, settings, what, count)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, (what, count, status)
        states = list((folder / "kept").glob("*.state.safetensors"))
        step = json.loads(checkpoint.read_tensors(states[0])[1]["state"])["step"] if states else 0
        print(step, flush=True)


if __name__ == "__main__":
    main()
