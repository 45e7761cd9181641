"""Flow on frames: what it is between, kept once and read by windows, a detector of two channels, fusion with RGB."""

import importlib
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from test_afsd_frames import COUNTS, CROP, FRAMES, HEIGHT, TOY, WIDTH, index_spec, project, toy
from test_detectors import DETECT, settings
from test_flow import texture
from training_tools import train_spec

from tad.backbones import _flow as flow
from tad.core.errors import TadError
from tad.detectors._afsd.losses import Predicted
from tad.detectors._afsd.points import decode
from tad.layers.fusion import fused
from tad.layers.i3d.inception import Inception
from tad.settings import plugins
from tad.settings.config import Config
from tad.settings.stages import DetectSpec, DetectStageSpec, FrameSpec, FusedSpec, Plugin
from tad.stages.detect import detect
from tad.stages.index import index
from tad.stages.train import train
from tad.training.data import frame_flow
from tad.training.data.frames import FrameReader
from tad.training.data.in_memory import Features
from tad.training.data.inputs import open_features

__all__ = ["project"]
pytestmark = pytest.mark.skipif(importlib.util.find_spec("cv2") is None, reason="the extra `flow` is not installed")
MOVING = {**FRAMES, "modality": "flow", "flow_method": "dis"}
DIM = HEIGHT * WIDTH * 2


@pytest.fixture(scope="module")
def moving(project: Path) -> Path:
    """The project with an index of flow beside that of frames."""
    index([project / "m.json"], project / "videos", project / "flow.h5", spec=flow_spec(), threads=2)
    return project


def flow_spec(**changes: Any) -> Any:
    return index_spec(features="flow", frames=MOVING | changes)


# -- what is kept ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["tvl1", "dis"])
def test_each_row_is_the_motion_to_the_next_frame_and_the_last_one_is_repeated(method: str) -> None:
    first = texture(48, 64)
    frames = [first, torch.roll(first, (0, 3), (0, 1)), torch.roll(first, (2, 3), (0, 1))]
    spec = FrameSpec(rate=10, height=48, width=64, modality="flow", flow_method=method)
    rows = list(frame_flow.flow_rows([f.flatten().numpy() for f in frames], spec))
    assert [row.shape for row in rows] == [(48 * 64 * 2,)] * 3
    assert np.array_equal(rows[1], rows[2])
    for row, (right, down) in zip(rows, ((3, 0), (0, 2)), strict=False):
        inner = row.reshape(48, 64, 2)[12:-12, 12:-12].reshape(-1, 2)
        expected = [round((x + 20) * 255 / 40) for x in (right, down)]
        assert np.abs(np.median(inner, axis=0) - expected).max() <= 2
    computed = flow.quantise(flow.method(method)(frames[0], frames[1]), bound=20.0)
    assert np.array_equal(rows[0], computed.flatten().numpy())
    (alone,) = frame_flow.flow_rows([first.flatten().numpy()], spec)
    assert (alone == flow.STILL).all()


def test_flow_is_of_the_frames_of_the_stored_size_and_read_by_windows(moving: Path) -> None:
    with open_features(moving / "f.h5", "rgb") as rgb, open_features(moving / "flow.h5", "flow") as reader:
        assert isinstance(reader, FrameReader)
        assert (reader.dim, rgb.dim) == (DIM, HEIGHT * WIDTH * 3)
        for video_id in COUNTS:
            assert reader.grid(video_id) == rgb.grid(video_id)
            rows, frames = reader.stored(video_id), torch.from_numpy(rgb.stored(video_id)).view(-1, HEIGHT, WIDTH, 3)
            assert rows.shape == (reader.grid(video_id).length, DIM)
            for k in (0, 7, len(frames) - 2):
                field = flow.quantise(flow.method("dis")(frames[k], frames[k + 1]), bound=20.0)
                assert np.array_equal(rows[k], field.flatten().numpy())
            assert np.array_equal(rows[-1], rows[-2])
            assert np.array_equal(reader.read(video_id, 3, 9), rows[3:9])
        kept, streamed = (Features(reader, memory=memory) for memory in (1 << 30, 0))
        outs = [torch.empty(9, DIM) for _ in range(2)]
        for features, out_TC in zip((kept, streamed), outs, strict=True):
            features.read_into(out_TC, "train_b", 7)
        assert torch.equal(*outs)


def test_flow_is_computed_once_and_again_where_it_is_missing(
    moving: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, computed = tmp_path / "flow.h5", []
    shutil.copytree(moving / "flow.flow", tmp_path / "flow.flow")
    before = {path.name: path.read_bytes() for path in (tmp_path / "flow.flow").glob("*.npy")}
    assert len(before) == len(COUNTS)
    write_flow = frame_flow.write_flow
    monkeypatch.setattr(
        frame_flow, "write_flow", lambda path, *a, **k: (computed.append(path.name), write_flow(path, *a, **k))
    )
    gone = min(before)
    (tmp_path / "flow.flow" / gone).unlink()  # as after an interruption
    (tmp_path / "flow.flow" / "ffff.npy").write_bytes(b"of an earlier setting")
    index([moving / "m.json"], moving / "videos", out, spec=flow_spec())
    assert computed == [gone]
    assert {path.name: path.read_bytes() for path in (tmp_path / "flow.flow").glob("*.npy")} == before
    assert out.read_bytes() == (moving / "flow.h5").read_bytes()
    with open_features(out, "flow") as reader:
        path = frame_flow.flow_path(out, str(reader.attrs("train_a")["checksum"]))
        path.unlink()
        assert reader.stored("train_a").shape == (30, DIM)
        assert path.read_bytes() == before[path.name]
        path.write_bytes(before[path.name][:-100])
        with pytest.raises(TadError, match=r"\.npy: not a readable flow array .*remove it"):
            reader.stored("train_a")
    index([moving / "m.json"], moving / "videos", out, spec=flow_spec(flow_bound=8.0))
    assert not {path.name for path in (tmp_path / "flow.flow").glob("*.npy")} & set(before)


def test_a_video_that_is_gone_is_named_and_the_others_are_kept(moving: Path, tmp_path: Path) -> None:
    for path in (moving / "videos").iterdir():
        if path.name != "train_b.mp4":
            shutil.copy(path, tmp_path)
    with pytest.raises(TadError, match=r"train_b\.mp4: missing, or changed since"):
        index([moving / "m.json"], tmp_path, tmp_path / "flow.h5", spec=flow_spec())
    assert not (tmp_path / "flow.h5").exists()


# -- the detector ------------------------------------------------------------------------------------------------------


def moved(**changes: Any) -> Any:
    """A detector on flow."""
    torch.manual_seed(5)
    own = settings("afsd_frames", **TOY | changes)
    return plugins.build("detectors", "afsd_frames", own, feature_dim=DIM, num_classes=2, max_length=16)


def test_two_channels_with_the_weights_of_flow() -> None:
    detector, other = moved(), Inception(channels=2, num_classes=5)
    assert detector.trunk.Conv3d_1a_7x7.conv3d.weight.shape[1] == 2
    detector.start_from(other.state_dict())
    assert torch.equal(detector.trunk.Conv3d_1a_7x7.conv3d.weight, other.Conv3d_1a_7x7.conv3d.weight)
    with pytest.raises(TadError, match=r"use weights for flow"):
        detector.start_from(Inception(channels=3, num_classes=5).state_dict())
    with pytest.raises(TadError, match=r"1920 values a row: frames of 40 x 40 have 4800, their flow 3200"):
        moved(height=WIDTH)


def test_motion_in_a_mirror() -> None:
    x_BTC = torch.randint(0, 256, (1, 16, DIM)).float()
    whole = torch.tensor([[0.0, 0.0, 0.0]])  # mirrored, from the upper left corner
    x_BTHWC = x_BTC.view(1, 16, HEIGHT, WIDTH, 2)[:, :, :CROP, :CROP].flip(3) / 127.5 - 1
    published = moved(face="parity").window(x_BTC, torch.tensor([16]), whole)
    corrected = moved().window(x_BTC, torch.tensor([16]), whole)
    assert torch.equal(published, x_BTHWC)
    assert torch.equal(corrected[..., 0], -x_BTHWC[..., 0])
    assert torch.equal(corrected[..., 1], x_BTHWC[..., 1])


def test_a_gated_network_of_rgb_is_fused_with_one_of_flow_without_a_gate() -> None:
    rgb, motion = toy(gate="generative", gate_settings={"hidden": 32}).eval(), moved().eval()
    generator, lengths_B = torch.Generator().manual_seed(4), torch.tensor([16])
    raws = [
        detector.raw(torch.randint(0, 256, (1, 16, dim), generator=generator).float(), lengths_B)
        for detector, dim in ((rgb, HEIGHT * WIDTH * 3), (motion, DIM))
    ]
    (found,) = rgb.decode_candidates(fused(raws, rgb), 1, **DETECT)
    both = {name: (raws[0][0].outputs[name][0] + raws[1][0].outputs[name][0]) / 2 for name in raws[0][0].outputs}
    expected = decode(Predicted(**both), rgb.grid, None, **DETECT)
    assert len(found.scores_N) > 2
    torch.testing.assert_close(found.segments_N2, expected.segments_N2)
    torch.testing.assert_close(found.scores_N, expected.scores_N)


def test_from_videos_to_candidates_of_both_streams(moving: Path, tmp_path: Path) -> None:
    changes = {
        "max_length": 16,
        "window_stride": 12,
        "epochs": 1,
        "warmup_epochs": 0,
        "batch_size": 4,
        "ema_decay": 0.0,
    }
    own = {
        "f": {"gate": "generative", "gate_settings": {"hidden": 32}, "taps": ["Mixed_5c"]},
        "flow": {"taps": ["Mixed_5c"]},
    }
    detectors = {
        name: Plugin(name="afsd_frames", settings=settings("afsd_frames", **TOY | more)) for name, more in own.items()
    }
    models, seen = {}, {"f": "rgb", "flow": "flow"}
    for name, plugin in detectors.items():
        spec = train_spec(**changes).model_copy(update={"detector": plugin, "features": name, "frames": seen[name]})
        where = {"spec": spec, "cache": tmp_path / "kept", "threads": 1}
        models[name] = train(moving / f"{name}.h5", moving / "toy.json", tmp_path / name / "m.safetensors", **where)
    asked = DetectStageSpec(
        run="r", dataset="toy", features="f", detector=detectors["f"], frames="rgb",
        detect=DetectSpec(score_threshold=0.001, topk=50, min_length=0.0, window_stride=8, fuse="other"),
        fused=FusedSpec(run="other", features="flow", detector=detectors["flow"], frames="flow"),
    )  # fmt: skip
    other = models["flow"], moving / "flow.h5"
    found = detect(moving / "f.h5", models["f"], moving / "toy.json", tmp_path / "c.h5", spec=asked, fused=other)
    with h5py.File(found) as file:
        assert [v.decode() for v in file["video_ids"][:]] == ["test_a"]
        assert len(file["scores"]) > 5


# -- configuration -----------------------------------------------------------------------------------------------------


def test_rows_of_two_streams() -> None:
    config = Config.read(Path(__file__).parents[1] / "config.yaml")
    assert config.backbone("frames10_flow", "thumos14_210").settings["streams"] == "flow"
    assert config.backbone("frames10", "thumos14_210").settings["streams"] == "rgb"
    frames = config.spec("index", dataset="thumos14_210", features="frames10_flow").frames
    assert (frames.flow_method, frames.flow_bound, frames.dim) == ("tvl1", 20, 112 * 112 * 2)
    for run, gate, borders in [
        ("thumos-afsd-frames-both", "none", "offsets"),
        ("anet-afsd-frames-both", "none", "geometric"),
        ("thumos-gaf-frames-both", "generative", "offsets"),
    ]:
        spec = config.spec("detect", run=run)
        assert spec.detect.fuse_borders == borders
        assert spec.detector.settings["gate"] == gate
        assert (spec.fused.features, spec.fused.detector.settings["gate"]) == (spec.features + "_flow", "none")
    spec = config.spec("suppress", run="anet-afsd-frames-both").nms
    assert (spec.sigma, spec.min_score) == (0.85, 1e-18)


def test_flow_settings_go_with_flow() -> None:
    row = {"frames": {**FRAMES, "flow_method": "dis"}}
    tree: dict[str, Any] = {
        "datasets": {"demo": {"shards": 2}},
        "features": {"frames": row},
        "runs": {"one": {"dataset": "demo", "features": "frames", "detector": "afsd_frames"}},
    }
    with pytest.raises(TadError, match="flow_method and flow_bound need modality flow"):
        Config(tree)
