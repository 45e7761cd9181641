"""Runs with adapters: from videos to candidates, resumed and in parts; features of the adapted encoder."""

import copy
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import video_tools as vt
from training_tools import REAL, train_spec

pytest.importorskip("transformers")

from tad.annotations.table import Instance, Table, Video, write_table
from tad.core.errors import TadError
from tad.features.store import FeatureReader
from tad.layers.types import Part, Targets
from tad.provenance.stamps import read_stamp, stamp
from tad.settings import plugins
from tad.settings.adapters import AdaptersSpec
from tad.settings.config import Config
from tad.settings.stages import DetectSpec, DetectStageSpec, EncodeSpec, IndexSpec, Plugin, ProbeSpec, TrainStageSpec
from tad.stages.detect import detect
from tad.stages.encode import central, encode
from tad.stages.index import index
from tad.stages.probe import probe
from tad.stages.train import train
from tad.training.adapted import build_adapted
from tad.training.data.inputs import open_features
from tad.training.io import tensors as checkpoint

SIDE = 18
VIT = {"crop": 16, "patch": 8, "dim": 12, "layers": 2, "heads": 2}
COUNTS = {"train_a": 90, "train_b": 75, "test_a": 130}  # native frames at 30 per second


def adapters(**changes: Any) -> AdaptersSpec:
    backbone = {"name": "vit_tiny", "settings": plugins.defaults("backbones", "vit_tiny") | VIT}
    own = {"encoder": "vit", "backbone": backbone, "clip": 16, "height": SIDE, "width": SIDE, "lr": 0.05, "jitter": 0.3}
    return AdaptersSpec.model_validate(own | changes)


def detector_of(name: str) -> Plugin:
    own = plugins.defaults("detectors", name)
    small = {"embed_dim": 16, "head_dim": 16, "mlp_dim": 16, "regression_ranges": [[0, 4], [4, 10000]]}
    return Plugin(name=name, settings=own | {k: v for k, v in (REAL | small).items() if k in own})


def spec_of(name: str = "actionformer", *, spec: AdaptersSpec | None = None, **changes: Any) -> TrainStageSpec:
    given = {"max_length": 32, "epochs": 2, "warmup_epochs": 1, "lr": 0.005} | changes
    updates = {"detector": detector_of(name), "frames": "rgb", "adapters": spec or adapters()}
    return train_spec(**given).model_copy(update=updates)


def weights_at(folder: Path, seed: int = 8) -> Path:
    torch.manual_seed(seed)
    backbone = plugins.build("backbones", "vit_tiny", adapters().backbone.settings)
    return checkpoint.write_tensors(folder / f"vit{seed}.safetensors", backbone.state_dict(), {})


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos, their annotations, manifest and index of frames, and weights of an encoder."""
    folder = tmp_path_factory.mktemp("adapted")
    for video_id, frames in COUNTS.items():
        vt.encode(folder / "videos" / f"{video_id}.mp4", frames)
    videos = {
        video_id: Video(
            video_id.partition("_")[0], frames / 30, (Instance(0.5, 1.4, "jump"), Instance(1.5, 2.2, "run"))
        )
        for video_id, frames in COUNTS.items()
    }
    write_table(Table("toy", ("jump", "run"), videos), folder / "toy.json", stamp("annotate", {"dataset": "toy"}, {}))
    manifest = probe(folder / "videos", folder / "m.json", spec=ProbeSpec(dataset="toy"))
    frames = {"rate": 15.0, "height": SIDE, "width": SIDE}
    spec = IndexSpec.model_validate({"dataset": "toy", "features": "f", "frames": frames})
    index([manifest], folder / "videos", folder / "f.h5", spec=spec)
    weights_at(folder)
    return folder


def trained(project: Path, folder: Path, spec: TrainStageSpec, **options: Any) -> Path:
    weights = project / "vit8.safetensors"
    given = {"threads": 1, "encoder": weights, "cache": folder / "kept"} | options
    return train(project / "f.h5", project / "toy.json", folder / "out" / "model.safetensors", spec=spec, **given)


def detected(project: Path, model: Path, out: Path, spec: TrainStageSpec, **options: Any) -> Path:
    asked = DetectStageSpec(
        run="r", dataset="toy", features="f", detector=spec.detector, frames="rgb", adapters=spec.adapters,
        detect=DetectSpec(topk=50, window_stride=16),
    )  # fmt: skip
    given = {"encoder": project / "vit8.safetensors"} | options
    return detect(project / "f.h5", model, project / "toy.json", out, spec=asked, **given)


def test_from_videos_to_candidates_and_features(project: Path, tmp_path: Path) -> None:
    spec = spec_of()
    model = trained(project, tmp_path, spec)
    tensors, _ = checkpoint.read_tensors(model)
    learnt = {name for name in tensors if name.startswith("encoder.")}
    assert learnt == {name for name in learnt if name.startswith("encoder.adapters.")}
    assert tensors["encoder.adapters.1.up.weight"].abs().max() > 0  # it has left its start
    frozen, _ = checkpoint.read_tensors(project / "vit8.safetensors")
    assert not any(torch.equal(a, b) for a in tensors.values() for b in frozen.values() if a.numel() > 200)
    assert read_stamp(model)["inputs"]["encoder"]
    with h5py.File(detected(project, model, tmp_path / "c.h5", spec)) as file:
        assert [v.decode() for v in file["video_ids"][:]] == ["test_a"]
        assert len(file["scores"]) > 5
        assert file["segments"][:].max() <= COUNTS["test_a"] / 2 + 32
    other = weights_at(tmp_path, seed=9)
    with pytest.raises(TadError, match=r"trained around encoder weights \w+, but .*vit9.safetensors is \w+; restore"):
        detected(project, model, tmp_path / "d.h5", spec, encoder=other)
    with pytest.raises(TadError, match=r"the weights of the adapters' encoder are not given; add --encoder"):
        trained(project, tmp_path / "again", spec, encoder=None)
    with pytest.raises(TadError, match=r"has no adapters, but weights of an encoder are given"):
        trained(project, tmp_path / "again", spec.model_copy(update={"adapters": None}))

    asked = EncodeSpec(
        dataset="toy", features="adapted", run="r", trained_on="toy", frame_set="f", detector=spec.detector,
        adapters=spec.adapters, window_stride=16, dtype="float32",
    )  # fmt: skip
    options: dict[str, Any] = {"spec": asked, "encoder": project / "vit8.safetensors", "device": "cpu"}
    made = encode(project / "f.h5", model, tmp_path / "a.h5", cache=tmp_path / "parts", **options)
    again = encode(project / "f.h5", model, tmp_path / "b.h5", cache=tmp_path / "parts2", **options)
    assert made.read_bytes() == again.read_bytes()
    with FeatureReader(made) as reader, open_features(project / "f.h5", "rgb") as frames:
        assert reader.video_ids == sorted(COUNTS)
        assert reader.dim == VIT["dim"]
        assert reader.grid("test_a") == frames.grid("test_a")
        behind = build_adapted(
            spec.detector, adapters(), project / "vit8.safetensors", lr=1, feature_dim=SIDE * SIDE * 3, num_classes=2,
            max_length=32,
        )  # fmt: skip
        behind.load_state_dict(tensors)
        first = torch.from_numpy(frames.read("test_a", 0, 32))[None]
        with torch.inference_mode():
            wanted = behind.eval().features(first, torch.tensor([32]))[0][0]
        assert np.array_equal(reader.read("test_a", 0, 20), wanted[:20].numpy())
        assert reader.stamp["inputs"]["adapters"]


def test_a_killed_training_resumes_to_the_bit(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of()
    whole, _ = checkpoint.read_tensors(trained(project, tmp_path / "whole", spec))
    from tad.training.loop.engine import Engine

    steps, step = [], Engine._train_step

    def stop(self: Engine, *given: Any) -> Any:
        if len(steps) == 2:
            raise KeyboardInterrupt
        steps.append(1)
        return step(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "_train_step", stop)
        with pytest.raises(KeyboardInterrupt):
            trained(project, tmp_path / "parts", spec, checkpoint_seconds=0.0)
    (state,) = (tmp_path / "parts" / "kept").glob("*.state.safetensors")
    names = checkpoint.read_tensors(state)[0]
    assert not any(".frozen" in name or ".trunk" in name or ".blocks." in name for name in names)
    again, _ = checkpoint.read_tensors(trained(project, tmp_path / "parts", spec))
    assert all(torch.equal(again[name], value) for name, value in whole.items())


@pytest.mark.wide
def test_two_processes_train_as_one(project: Path, tmp_path: Path) -> None:
    spec = spec_of(epochs=1, warmup_epochs=0)
    one, _ = checkpoint.read_tensors(trained(project, tmp_path / "one", spec))
    two, _ = checkpoint.read_tensors(trained(project, tmp_path / "two", spec, devices=2, threads=2))
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.wide
def test_half_precision_trains(project: Path, tmp_path: Path) -> None:
    spec = spec_of(epochs=1, warmup_epochs=0, precision="bfloat16")
    tensors, _ = checkpoint.read_tensors(trained(project, tmp_path, spec))
    assert all(bool(torch.isfinite(value).all()) for value in tensors.values())
    assert {value.dtype for name, value in tensors.items() if name.startswith("encoder")} == {torch.float32}


def frames_of(rows: int, length: int = 32, seed: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (rows, length, SIDE * SIDE * 3), generator=generator).float()


def wrapped(name: str, spec: AdaptersSpec, length: int = 32) -> Any:
    torch.manual_seed(0)
    detector = build_adapted(
        detector_of(name), spec, None, lr=0.01, feature_dim=SIDE * SIDE * 3, num_classes=2, max_length=length
    )
    for parameter in detector.encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return detector


def target(*rows: tuple[float, float, int]) -> Targets:
    return Targets(torch.tensor([row[:2] for row in rows]), torch.tensor([row[2] for row in rows]), 4.0)


@pytest.mark.parametrize("name", ["actionformer", "tridet", "mse"])
@pytest.mark.parametrize("side", [False, True])
def test_any_detector_and_parts_of_a_batch_add_up(name: str, side: bool) -> None:
    detector = wrapped(name, adapters(side=side, drop_path=0.3)).train()
    x_BTC, lengths_B = frames_of(3), torch.tensor([32, 20, 27])
    targets = [target((2, 9, 0)), target((1, 6, 1)), target((5, 20, 0), (12, 25, 1))]
    detector.normalise(detector.positives(lengths_B, targets))
    twin = copy.deepcopy(detector)
    torch.manual_seed(1)
    detector.loss(x_BTC, lengths_B, targets, Part(3, 0, 32))["total"].backward()
    for first in range(3):
        torch.manual_seed(1)
        rows = slice(first, first + 1)
        twin.loss(x_BTC[rows], lengths_B[rows], targets[rows], Part(3, first, 32))["total"].backward()
    whole = {key: p.grad for key, p in detector.named_parameters() if p.grad is not None}
    parts = {key: p.grad for key, p in twin.named_parameters() if p.grad is not None}
    assert whole.keys() == parts.keys()
    assert sum(key.startswith("encoder.adapters.") for key in whole) == 18
    size = torch.cat([grad.flatten() for grad in whole.values()]).norm()
    assert max(float((parts[key] - grad).norm() / size) for key, grad in whole.items()) < 2e-5


def test_groups_have_rates_of_their_own_and_hold_what_learns() -> None:
    detector = wrapped("actionformer", adapters(lr=0.02, weight_decay=0.3))
    *inner, own = detector.parameter_groups(0.1)
    assert (own["rate"], own["weight_decay"]) == (2.0, 0.3)
    assert {id(p) for p in own["params"]} == {id(p) for p in detector.encoder.adapters.parameters()}
    listed = [id(p) for group in [*inner, own] for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in detector.parameters())
    frozen = wrapped("actionformer", adapters(blocks="none"))
    assert not list(frozen.encoder.parameters())
    frozen.loss(frames_of(1), torch.tensor([32]), [target((2, 9, 0))])["total"].backward()


def test_short_windows_repeat_the_last_frame_and_are_masked() -> None:
    detector = wrapped("actionformer", adapters()).eval()
    x_BTC = frames_of(1)
    with torch.no_grad():
        repeated = x_BTC.clone()
        repeated[:, 20:] = x_BTC[:, 19:20]
        feats, lengths = detector.features(x_BTC[:, :20], torch.tensor([20]))
        whole, _ = detector.features(repeated, torch.tensor([32]))
    assert lengths.tolist() == [20]
    assert torch.equal(feats[:, :20], whole[:, :20])
    assert not feats[:, 20:].any()
    with pytest.raises(TadError, match=r"frames: 40: the encoder sees windows of 32"):
        detector.padded(40)


def test_positions_of_several_frames() -> None:
    detector = wrapped("actionformer", adapters(frames_per_position=2)).eval()
    assert (detector.max_length, detector.inner.max_length) == (32, 16)
    assert detector.positions(torch.tensor([1, 2, 31, 32])).tolist() == [1, 1, 16, 16]
    segments = torch.tensor([[0.0, 7.5], [3.25, 30.0]])
    assert torch.allclose(detector._to_frames(detector._to_positions(segments)), segments)
    assert detector._to_positions(torch.tensor(0.5)) == 0  # the middle of the first two frames
    with torch.no_grad():
        feats, _ = detector.features(frames_of(1), torch.tensor([32]))
        (found,) = detector.candidates(frames_of(1), torch.tensor([32]), score_threshold=0.0, topk=5, min_length=0.0)
    assert feats.shape == (1, 16, VIT["dim"])
    assert len(found.scores_N) > 0


@pytest.mark.parametrize(("length", "stride"), [(20, 16), (32, 16), (65, 16), (100, 24), (5, 16)])
def test_each_row_comes_from_its_most_central_window(length: int, stride: int) -> None:
    from tad.training.data.window_positions import window_starts

    starts = window_starts(length, 32, stride)
    pieces = central(starts, 32, length)
    assert [row for _, first, last in pieces for row in range(first, last)] == list(range(length))
    for start, first, last in pieces:
        for row in range(first, last):
            off = {s: abs(row + 0.5 - (s + 16)) for s in starts}
            assert off[start] == min(off.values())


ROWS: dict[str, Any] = {
    "datasets": {"demo": {"shards": 2}},
    "features": {
        "vit": {"backbone": "vit_tiny"},
        "frames": {"frames": {"rate": 6.25, "height": 32, "width": 32}},
        "adapted": {"run": "end"},
    },
    "runs": {
        "end": {
            "dataset": "demo", "features": "frames", "detector": "actionformer", "adapters": {"encoder": "vit"},
            "train": {"max_length": 320}, "detect": {"window_stride": 160},
        },
        "next": {"dataset": "demo", "features": "adapted", "detector": "mse"},
    },
}  # fmt: skip


def changed(path: str, value: Any) -> dict[str, Any]:
    rows = copy.deepcopy(ROWS)
    *keys, last = path.split(".")
    place = rows
    for key in keys:
        place = place.setdefault(key, {})
    place[last] = value
    return rows


def test_rows_of_adapters() -> None:
    config = Config(ROWS)
    assert config.made_by("encode") == {"adapted"}
    assert config.table_of("next") == "check"
    encoding = config.spec("encode", dataset="demo", features="adapted")
    assert (encoding.run, encoding.frame_set, encoding.window_stride) == ("end", "frames", 160)
    assert config.spec("train", run="end").adapters == encoding.adapters
    assert "adapters" not in config.spec("train", run="next").model_dump()
    assert config.resolve_features("adapted", "demo").sections["clip"]["rate"] == 6.25


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("runs.end.adapters.encoder", "vitt", r"runs.end.adapters.encoder: 'vitt' is no feature set with a backbone"),
        ("runs.end.adapters.blocks", [-1], r"adapters.blocks"),
        ("runs.end.adapters.side", "x", r"adapters.side"),
        ("runs.end.features", "vit", r"runs.end.features: vit: adapters read RGB frames"),
        ("runs.end.adapters.frames_per_position", 3, r"train.max_length: 320: must be a multiple of 16 .* and of 3"),
        ("runs.end.adapters.frames_per_position", 4, r"train.max_length: 80: must be a multiple of 32"),
        ("runs.end.detect.window_stride", 0, r"detect.window_stride: 0: .* set 160"),
        ("runs.end.train.compile", True, r"cannot be combined with detect.fuse or train.compile"),
        ("features.frames.frames.height", 24, r"frames of 24 x 32, but the encoder sees 32 x 32"),
        ("features.adapted.run", "next", r"features.adapted.run: next has no adapters"),
        ("features.adapted.run", "nobody", r"runs has no 'nobody'"),
        ("features.adapted.clip", {"rate": 1.0}, r"clip cannot be combined with `run`"),
        ("runs.next.detect", {"fuse": "end"}, r"detect.fuse: end: has adapters"),
    ],
)
def test_mistakes_in_rows_are_one_line(path: str, value: Any, said: str) -> None:
    with pytest.raises(TadError, match=said) as caught:
        Config(changed(path, value))
    assert len(str(caught.value)) <= 500
    assert "\n" not in str(caught.value)
