"""AFSD on frames: sizes, cropping and padding, frozen norms, frames read from videos, and the whole way at toy size."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import checksum_tools
import h5py
import numpy as np
import pytest
import torch
import video_tools as vt
from test_detectors import settings, targets
from torch import nn
from training_tools import train_spec

from tad.annotations.table import Instance, Table, Video, write_table
from tad.core.errors import TadError
from tad.detectors._afsd.modules import TapUnit
from tad.features.store import FeatureReader, key_of
from tad.layers.i3d.inception import Inception
from tad.provenance.stamps import stamp
from tad.settings import plugins
from tad.settings.config import Config
from tad.settings.stages import DetectSpec, DetectStageSpec, FrameSpec, IndexSpec, Plugin, ProbeSpec
from tad.stages.detect import detect
from tad.stages.index import index
from tad.stages.probe import probe
from tad.stages.train import train
from tad.training.data.frame_source import shrunk
from tad.training.data.frames import FrameReader
from tad.training.data.in_memory import Features
from tad.training.data.inputs import open_features
from tad.training.io import tensors as checkpoint
from tad.training.io.initial_weights import initial_backbone, load_initial_weights
from tad.training.loop.phases import Phases
from tad.weights.published import weights_identity
from tad.workflow.missing import missing

HEIGHT, WIDTH, CROP = 24, 40, 16
FRAMES = {"rate": 10.0, "height": HEIGHT, "width": WIDTH}
TOY = {"height": HEIGHT, "width": WIDTH, "crop": CROP, "embed_dim": 64, "strides": [1.0, 2.0],
       "regression_ranges": [[0, 100000], [0, 100000]]}  # fmt: skip
DIM = HEIGHT * WIDTH * 3
COUNTS = {"train_a": 90, "train_b": 75, "test_a": 100}  # native frames at 30 per second


def toy(face: str = "corrected", **changes: Any) -> Any:
    torch.manual_seed(0)
    own = settings("afsd_frames", face=face, **TOY | changes)
    return plugins.build("detectors", "afsd_frames", own, feature_dim=DIM, num_classes=2, max_length=16)


def clips(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    x_BTC = torch.randint(0, 256, (len(lengths), 16, DIM), generator=generator).float()
    return x_BTC, torch.tensor(lengths)


# -- the network -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "classes", "length", "count", "points", "taps"),
    [("thumos14", 20, 256, 44_746_069, 126, [(64, 6), (32, 3)]), ("activitynet13", 1, 768, 30_158_127, 189, [(96, 3)])],
)
def test_published_sizes(
    dataset: str, classes: int, length: int, count: int, points: int, taps: list[tuple[int, int]]
) -> None:
    own = settings("afsd_frames", dataset)
    with torch.device("meta"):
        detector = plugins.build(
            "detectors", "afsd_frames", own, feature_dim=112 * 112 * 3, num_classes=classes, max_length=length
        )
        gated = plugins.build(
            "detectors",
            "afsd_frames",
            own | {"gate": "generative"},
            feature_dim=112 * 112 * 3,
            num_classes=classes,
            max_length=length,
        )
        maps = detector.trunk.taps(torch.empty(1, 3, length, 96, 96), detector.taps)
        masks = detector.network.masks(torch.tensor([length]), torch.device("meta"))
    assert [(x.shape[2], x.shape[3]) for x in maps] == taps
    assert len(masks.inner) == 6
    assert sum(p.numel() for p in detector.parameters()) == count
    assert sum(p.numel() for p in detector.trunk.parameters()) == 12_287_264  # I3D without its classifier
    assert sum(detector.grid.counts()) == points
    assert detector.grid.frames == length
    assert own["gate_settings"]["background_weight"] == {"thumos14": 35.0, "activitynet13": 700.0}[dataset]
    assert own["head_init"] == {"thumos14": "glorot", "activitynet13": "narrow"}[dataset]
    if dataset == "thumos14":  # about 68 M with the attention, 84 M in the VAEs
        attention = sum(p.numel() for gate in gated.gates for p in gate.attention.parameters())
        assert (attention, count + attention) == (22_999_584, 67_745_653)


def test_heads_begin_as_published() -> None:
    for head_init in ("narrow", "glorot"):
        network = toy(head_init=head_init).network
        weight = network.refine.loc_branch.join.conv.weight
        glorot = (2 / (weight.shape[0] + weight.shape[1])) ** 0.5
        assert weight.std().item() == pytest.approx({"narrow": 0.01, "glorot": glorot}[head_init], rel=0.1)
        before = network.pyramid.frames[0].conv.weight  # the pyramid's begin likewise in both
        assert before.std().item() == pytest.approx((2 / (3 * sum(before.shape[:2]))) ** 0.5, rel=0.1)
    with pytest.raises(TadError, match=r"detector\.head_init: Input should be 'narrow' or 'glorot' \(got 'wide'\)"):
        toy(head_init="wide")


@pytest.mark.parametrize("i3d", ["full", "top_heavy"])
def test_signals_reach_the_taps_of_a_network_without_weights(i3d: str) -> None:
    for face, least, most in (("corrected", 0.1, 10.0), ("parity", 0.0, 1e-3)):
        detector = toy(face, i3d=i3d).eval()
        with torch.no_grad():
            x_BTC, lengths_B = clips(16)
            maps = detector.maps_of(detector.window(x_BTC, lengths_B))
        assert all(least < float(x.std()) < most for x in maps)


def test_padding_changes_no_level_behind_the_taps() -> None:
    unit = TapUnit(4, 64, cells=2, masked=True)
    x_BCTHW, mask_B1T = torch.randn(1, 4, 8, 2, 2), torch.arange(8)[None, None] < 5
    other = torch.where(mask_B1T[..., None, None], x_BCTHW, 9.0)
    alone_BCT = unit(x_BCTHW[:, :, :5], None)
    torch.testing.assert_close(unit(other, mask_B1T)[:, :, :5], alone_BCT, rtol=1e-4, atol=1e-5)
    assert not unit(other, mask_B1T)[:, :, 5:].any()


def test_training_moves_all_but_the_norms_of_i3d() -> None:
    detector = toy(gate="generative", gate_settings={"hidden": 32}).train()
    x_BTC, lengths_B = clips(16, 12)
    wanted = [targets((2, 9, 0)), targets((1, 6, 1))]
    groups = detector.parameter_groups(1e-3, "main")
    detector.enter("vae", 0, 1)
    assert detector.loss(x_BTC, lengths_B, wanted)["vae"] > 0
    detector.enter("main", 0, 1)
    losses = detector.loss(x_BTC, lengths_B, wanted)
    losses["total"].backward()
    assert bool(torch.isfinite(losses["total"]))
    norms = [m for m in detector.trunk.modules() if isinstance(m, nn.BatchNorm3d)]
    assert len(norms) == 57
    assert not any(m.training or m.weight.requires_grad for m in norms)
    assert not {id(m.weight) for m in norms} & {id(p) for g in groups for p in g["params"]}
    assert detector.trunk.Conv3d_1a_7x7.conv3d.weight.grad.any()
    assert all(gate.attention.reduce.weight.grad.any() for gate in detector.gates)


def test_i3d_learns_at_its_own_rate() -> None:
    detector = toy(i3d_rate=0.1).train()
    spec = train_spec(epochs=2, warmup_epochs=0, lr=1e-3, eta_min=1e-3, optimizer="adam").train
    phases = Phases(detector, spec, iterations=1)
    groups = phases.enter(1).param_groups
    assert [group["lr"] for group in groups] == pytest.approx([1e-3, 1e-4])
    trunk = {id(p) for p in detector.trunk.parameters()}
    assert [{id(p) in trunk for p in group["params"]} for group in groups] == [{False}, {True}]
    assert settings("afsd_frames", "activitynet13")["i3d_rate"] == 0.1
    with pytest.raises(TadError, match=r"detector\.i3d_rate: Input should be greater than 0 \(got 0\)"):
        toy(i3d_rate=0)


def test_windows_are_cropped_scaled_and_padded_alike() -> None:
    x_BTC, lengths_B = clips(16, 12)
    x_BTHWC = x_BTC.reshape(2, 16, HEIGHT, WIDTH, 3)
    corrected, parity = toy(), toy("parity")
    middle = corrected.eval().window(x_BTC, lengths_B)
    assert middle.shape == (2, 16, CROP, CROP, 3)
    assert torch.equal(middle[0], x_BTHWC[0, :, 4:20, 12:28] / 127.5 - 1)
    assert not middle[1, 12:].any()
    assert torch.equal(parity.eval().window(x_BTC, lengths_B), middle)
    torch.manual_seed(3)
    assert not corrected.window(x_BTC, lengths_B, corrected.train().view(x_BTC))[1, 12:].any()
    torch.manual_seed(3)
    published = parity.window(x_BTC, lengths_B, parity.train().view(x_BTC))
    assert bool((published[1, 12:] == -1).all())
    marked = torch.arange(WIDTH).float().expand(1, 16, HEIGHT, WIDTH)[..., None].repeat(1, 1, 1, 1, 3)
    seen = set()
    for seed in range(30):
        torch.manual_seed(seed)
        row = (
            corrected.window(marked.flatten(2), torch.tensor([16]), corrected.view(marked))[0, 0, 0, :, 0] + 1
        ) * 127.5
        seen.add((round(float(row.min())), bool(row[0] > row[-1])))
        assert sorted(row.round().tolist()) == list(range(round(float(row.min())), round(float(row.min())) + CROP))
    assert len({first for first, _ in seen}) > 10
    assert {mirrored for _, mirrored in seen} == {True, False}


@pytest.mark.parametrize("gate", ["none", "generative"])
def test_windows_shorter_than_any_region_and_all_background(gate: str) -> None:
    detector = toy(gate=gate, gate_settings={"hidden": 32}, taps=["Mixed_5c"]).train()
    x_BTC, lengths_B = clips(1, 16)
    background = replace(targets(), shortest=float("inf"))
    losses = detector.loss(x_BTC, lengths_B, [targets((0, 1, 0)), background])
    losses["total"].backward()
    assert bool(torch.isfinite(losses["total"]))
    assert losses["consistency"] == 0
    for found in detector.eval().candidates(x_BTC, lengths_B, score_threshold=0.0, topk=9, min_length=-1.0):
        assert len(found.scores_N) > 0
        assert bool(torch.isfinite(found.segments_N2).all())


def test_pretrained_weights_are_taken_whole_or_not_at_all() -> None:
    detector, other = toy(), Inception(channels=3, num_classes=5)
    detector.start_from(other.state_dict())
    assert torch.equal(detector.trunk.Mixed_5c.b0.conv3d.weight, other.Mixed_5c.b0.conv3d.weight)
    with pytest.raises(TadError, match=r"'Conv3d_1a_7x7\.conv3d\.weight' is missing or not \(64, 3, 7, 7, 7\)"):
        detector.start_from(Inception(channels=2, num_classes=5).state_dict())


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"height": 20}, r"2880 values a row: frames of 20 x 40"),
     ({"crop": 30}, r"detector\.crop: 30: must lie within 24 x 40"),
     ({"taps": ["Mixed_4f"]}, r"detector\.taps: \['Mixed_4f'\]: write")],
)  # fmt: skip
def test_bad_settings_are_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(TadError, match=said):
        toy(**changes)
    with pytest.raises(TadError, match=r"max_length: 20: must be a multiple of 8"):
        plugins.build(
            "detectors", "afsd_frames", settings("afsd_frames", **TOY), feature_dim=DIM, num_classes=2, max_length=20
        )


# -- frames from videos ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos, their annotations, manifest and index."""
    folder = tmp_path_factory.mktemp("frames")
    for video_id, frames in COUNTS.items():
        vt.encode(folder / "videos" / f"{video_id}.mp4", frames)
    (folder / "videos" / "train_c.mp4").write_bytes(b"no video")
    videos = {
        video_id: Video(
            video_id.partition("_")[0], frames / 30, (Instance(0.5, 1.4, "jump"), Instance(1.5, 2.2, "run"))
        )
        for video_id, frames in {**COUNTS, "train_c": 30}.items()
    }
    write_table(Table("toy", ("jump", "run"), videos), folder / "toy.json", stamp("annotate", {"dataset": "toy"}, {}))
    spec = ProbeSpec(dataset="toy")
    manifest = probe(folder / "videos", folder / "m.json", spec=spec)
    index([manifest], folder / "videos", folder / "f.h5", spec=index_spec())
    return folder


def index_spec(**changes: Any) -> IndexSpec:
    return IndexSpec.model_validate({"dataset": "toy", "features": "f", "frames": FRAMES} | changes)


def test_the_index_reads_the_frames_of_the_videos(project: Path) -> None:
    with open_features(project / "f.h5", "rgb") as reader:
        assert isinstance(reader, FrameReader)
        assert reader.video_ids == sorted(COUNTS)
        assert set(reader.excluded) == {"train_c"}
        assert reader.dim == DIM
        for video_id, frames in COUNTS.items():
            grid = reader.grid(video_id)
            assert (grid.start, grid.step) == (0.05, 0.1)
            rows = reader.stored(video_id)
            picked = [vt.picture(k, width=64, height=48) for k in range(0, frames, 3)]
            expected = np.stack(list(shrunk(picked, FrameSpec.model_validate(FRAMES))))
            assert rows.shape == expected.shape == (grid.length, DIM)
            assert np.abs(rows.astype(int) - expected).mean() < 6  # what encoding costs
            for first, count in ((0, 5), (11, 16), (grid.length - 4, 4)):
                assert np.array_equal(reader.read(video_id, first, first + count), rows[first : first + count])
        kept, streamed = (Features(reader, memory=memory) for memory in (1 << 30, 0))
        outs = [torch.empty(9, DIM) for _ in range(2)]
        for features, out_TC in zip((kept, streamed), outs, strict=True):
            features.read_into(out_TC, "train_b", 7)
        assert torch.equal(*outs)


def test_long_videos_are_read_at_a_lower_rate(project: Path, tmp_path: Path) -> None:
    spec = index_spec(frames={**FRAMES, "rate": 60.0, "most": 80})
    made = index([project / "m.json"], project / "videos", tmp_path / "g.h5", spec=spec)
    with open_features(made, "rgb") as reader:
        assert [reader.grid(video_id).length for video_id in sorted(COUNTS)] == [80, 80, 75]
        assert reader.grid("train_b").step == pytest.approx(1 / 30)
        assert len(reader.stored("train_a")) == 80


def test_another_file_in_its_place_is_refused(project: Path, tmp_path: Path) -> None:
    for path in project.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "f.h5").chmod(0o644)
    with checksum_tools.edit_h5(tmp_path / "f.h5") as file:
        file[key_of("train_a")].attrs["bytes"] = 5
    refused = pytest.raises(TadError, match=r"train_a\.mp4: missing, or changed since")
    with open_features(tmp_path / "f.h5", "rgb") as reader, refused:
        reader.stored("train_a")
    with pytest.raises(TadError, match=r"1 videos are excluded, first 'train_c'"):
        index([project / "m.json"], project / "videos", tmp_path / "g.h5", spec=index_spec(on_damaged="error"))


def test_from_videos_to_candidates_without_features(project: Path, tmp_path: Path) -> None:
    plugin = Plugin(name="afsd_frames", settings=settings("afsd_frames", **TOY))
    changes = {
        "max_length": 16,
        "window_stride": 12,
        "epochs": 1,
        "warmup_epochs": 0,
        "batch_size": 4,
        "ema_decay": 0.0,
    }
    spec = train_spec(**changes).model_copy(update={"detector": plugin, "frames": "rgb", "start": "i3d"})
    start, out = tmp_path / "rgb_imagenet.safetensors", tmp_path / "out" / "model.safetensors"
    torch.manual_seed(8)
    pretrained = Inception(channels=3, num_classes=4).state_dict()
    checkpoint.write_tensors(start, pretrained, {})
    paths = project / "f.h5", project / "toy.json"
    train(*paths, out, spec=spec, cache=tmp_path / "kept", threads=1, start=start)
    tensors, _ = checkpoint.read_tensors(out)
    name = "Conv3d_1a_7x7.bn.running_mean"
    assert torch.equal(tensors[f"trunk.{name}"], pretrained[name])
    moved = (tensors["trunk.Conv3d_1a_7x7.conv3d.weight"] - pretrained["Conv3d_1a_7x7.conv3d.weight"]).abs().max()
    assert 0 < float(moved) < 0.2
    asked = DetectStageSpec(
        run="r", dataset="toy", features="f", detector=plugin, frames="rgb",
        detect=DetectSpec(score_threshold=0.001, topk=50, min_length=0.0, window_stride=8),
    )  # fmt: skip
    found = detect(paths[0], out, paths[1], tmp_path / "c.h5", spec=asked)
    with h5py.File(found) as file:
        assert [v.decode() for v in file["video_ids"][:]] == ["test_a"]
        assert len(file["scores"]) > 5
        assert file["segments"][:].max() <= COUNTS["test_a"] / 3 + 0.5


def test_weights_of_the_other_stream_do_not_count_and_published_names_are_verified(tmp_path: Path) -> None:
    plugin = Plugin(name="afsd_frames", settings=settings("afsd_frames", **TOY))
    size = plugin.settings["height"] * plugin.settings["width"]
    folder = tmp_path / "i3d"
    folder.mkdir()
    (folder / "flow_imagenet.pt").write_bytes(b"not what was published")
    own = folder / "own.safetensors"
    checkpoint.write_tensors(own, Inception(channels=3, num_classes=4).state_dict(), {})
    rgb, flow = initial_backbone(plugin, 3 * size), initial_backbone(plugin, 2 * size)
    assert weights_identity(folder, rgb) == weights_identity(own) != weights_identity(folder, flow)
    given: list[str] = []
    taker = SimpleNamespace(start_from=lambda weights: given.extend(weights))
    load_initial_weights(taker, folder, rgb)
    assert "Conv3d_1a_7x7.conv3d.weight" in given
    with pytest.raises(TadError, match=r"flow_imagenet\.pt: .*fetch it again"):
        load_initial_weights(taker, folder, flow)
    with pytest.raises(TadError, match="has no backbone to initialise; remove `weights` from its feature set"):
        initial_backbone(Plugin(name="actionformer", settings={}), 2048)
    with pytest.raises(TadError, match=r"are not \d+ x \d+ pixels"):
        initial_backbone(plugin, 3 * size + 1)


def test_an_index_of_frames_is_no_file_of_features(project: Path) -> None:
    with pytest.raises(TadError, match=r"f\.h5: an index of frames"), FeatureReader(project / "f.h5"):
        pass


def test_frames_as_a_feature_set_of_the_configuration() -> None:
    tree: dict[str, Any] = {
        "datasets": {"demo": {"shards": 2}},
        "features": {"frames": {"frames": FRAMES, "weights": "data/weights/i3d"}},
        "runs": {"one": {"dataset": "demo", "features": "frames",
                         "detector": {"name": "afsd_frames", "height": HEIGHT, "width": WIDTH, "crop": CROP}}},
    }  # fmt: skip
    config = Config(tree)
    assert config.made_by("index") == {"frames"}
    assert not config.made_by("extract")
    assert config.spec("index", dataset="demo", features="frames").frames.rate == 10
    assert any("data/weights/i3d" in need for need in missing(config, "demo", "frames"))
    tree["features"]["frames"]["clip"] = {"stride": 2}
    with pytest.raises(TadError, match="clip needs `source`"):
        Config(tree)
