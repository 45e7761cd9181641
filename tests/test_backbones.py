"""Clip encoders: published structure, golden outputs, weight loading, preprocessing, and the plug-in contract."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backbone_tools import build, difference, golden_input, names_of, rule
from safetensors.torch import save_file
from torch import nn

from tad.backbones import _frames, tsp
from tad.backbones._weights import fit_weights, load_weights, weights_identity
from tad.core import optional as vision
from tad.core.errors import TadError
from tad.layers.i3d.inception import Inception, same_padding
from tad.settings import plugins
from tad.settings.resolved import component_sections
from tad.settings.stages import Plugin
from tad.weights.published import missing_weights, published

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def golden(shared: Path) -> Any:
    return np.load(shared / "golden" / "backbones.npz")


@pytest.mark.parametrize(("stream", "channels", "seed", "lengths"), [("rgb", 3, 7, (16, 21)), ("flow", 2, 8, (16,))])
def test_i3d_equals_the_published_network(
    golden: Any, stream: str, channels: int, seed: int, lengths: tuple[int, ...]
) -> None:
    net = Inception(channels=channels, num_classes=400).eval()
    net.load_state_dict(rule(names_of(net), seed), strict=False)
    for length in lengths:
        with torch.inference_mode():
            feats = net.features(golden_input((channels, length, 224, 224), 100 * seed + length))
            logits = net.classify(feats)
        assert difference(feats[0], golden[f"i3d_{stream}/T{length}/features"]) < TOLERANCE
        assert difference(logits[0], golden[f"i3d_{stream}/T{length}/logits"]) < TOLERANCE


def test_r2plus1d_34_equals_the_published_network(golden: Any) -> None:
    net = build("tsp")
    net.load_state_dict(rule(names_of(net), 9), strict=False)
    for length in (16, 8):
        with torch.inference_mode():
            feats = net.features(golden_input((3, length, 112, 112), 900 + length))
        assert difference(feats[0], golden[f"r2plus1d_34/T{length}/features"]) < TOLERANCE


@pytest.mark.parametrize(
    ("depth", "seed", "entries"),
    [(50, 10, 662), pytest.param(101, 11, 1274, marks=[pytest.mark.slow, pytest.mark.wide])],
)
def test_slowfast_equals_the_published_network(golden: Any, depth: int, seed: int, entries: int) -> None:
    net = build("slowfast", depth=depth)
    assert len(net.state_dict()) == entries
    net.load_state_dict(rule(names_of(net), seed), strict=False)
    with torch.inference_mode():
        feats = net.features(golden_input((3, 32, 256, 256), 100 * seed + 32))
        logits = net.classify(feats)
    assert difference(feats[0], golden[f"slowfast_r{depth}/sliding7_mean"]) < TOLERANCE
    assert difference(logits[0], golden[f"slowfast_r{depth}/logits"]) < TOLERANCE


def test_i3d_r50_equals_the_published_network(golden: Any) -> None:
    net = build("i3d_r50", pool="global")
    net.load_state_dict(rule(names_of(net), 12), strict=False)
    x = golden_input((3, 8, 256, 256), 1208)
    with torch.inference_mode():
        feats = net.features(x)
        net.pool = "sliding7_mean"
        logits = net.classify(net.features(x))
    # the plain mean of the last stage, whatever its key says
    assert difference(feats[0], golden["i3d_r50/sliding7_mean"]) < TOLERANCE
    assert difference(logits[0], golden["i3d_r50/logits"]) < TOLERANCE


def test_i3d_has_the_published_parameters() -> None:
    for channels, expected in ((3, 12_697_264), (2, 12_675_312)):
        net = Inception(channels=channels, num_classes=400)
        assert sum(p.numel() for p in net.parameters()) == expected
        assert len(names_of(net)) == 287
        assert len(net.state_dict()) == 344


def test_r2plus1d_34_has_the_published_widths_and_parameters() -> None:
    net = build("tsp")
    assert sum(p.numel() for p in net.parameters()) + 512 * 400 + 400 == 63_697_175
    assert len(net.state_dict()) + 2 == 416
    firsts = [getattr(net, f"layer{k}")[0] for k in (2, 3, 4)]
    assert [block.conv1[0][0].out_channels for block in firsts] == [230, 460, 921]
    assert [block.conv2[0][0].out_channels for block in firsts] == [288, 576, 1152]
    assert {m.eps for m in net.modules() if isinstance(m, nn.BatchNorm3d)} == {1e-3}


def test_r2plus1d_18_is_torchvisions() -> None:
    net = build("tsp", depth=18)
    models = vision.torchvision().models.video
    theirs = models.r2plus1d_18(weights=None).eval()
    fit_weights(theirs.state_dict(), net, source="torchvision")
    theirs.fc = nn.Identity()
    x = golden_input((3, 4, 32, 32), 1)
    with torch.inference_mode():
        torch.testing.assert_close(net.features(x), theirs(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 2), (3, 1), (2, 2), (1, 1)])
def test_same_padding_is_tensorflows(kernel: int, stride: int) -> None:
    for size in range(1, 65):
        front, back = same_padding(size, kernel, stride)
        cells = -(-size // stride)  # TensorFlow: as many outputs as strides, whatever padding that takes
        total = max((cells - 1) * stride + kernel - size, 0)
        assert (front, back) == (total // 2, total - total // 2)


def other_dialect(name: str) -> str:
    """Our names of I3D → those of the other published conversion, written down independently."""
    parts = name.split(".")
    if parts[0] == "logits":
        return name.replace("logits", "conv3d_0c_1x1")
    parts[0] = parts[0].lower()
    table = {"b0": "branch_0", "b1a": "branch_1.0", "b1b": "branch_1.1", "b2a": "branch_2.0", "b2b": "branch_2.1"}
    return ".".join({"bn": "batch3d", "b3b": "branch_3.1", **table}.get(part, part) for part in parts)


def test_i3d_reads_both_dialects_and_old_files_without_counters(tmp_path: Path) -> None:
    net = build("i3d", streams="rgb")
    state = rule(names_of(net.rgb), 7)
    torch.save(state, tmp_path / "rgb_imagenet.pt", _use_new_zipfile_serialization=False)
    torch.save({other_dialect(k): v for k, v in state.items()}, tmp_path / "model_rgb.pth")
    for name in ("rgb_imagenet.pt", "model_rgb.pth"):
        loaded = load_weights(tmp_path / name, build("i3d", streams="rgb")).state_dict()
        assert all(torch.equal(loaded[f"rgb.{key}"], value) for key, value in state.items())


def test_both_streams_load_from_a_folder(tmp_path: Path) -> None:
    net = build("i3d", streams="both")
    torch.save(rule(names_of(net.rgb), 7), tmp_path / "rgb_imagenet.pt")
    torch.save(rule(names_of(net.flow), 8), tmp_path / "flow_imagenet.pt")
    loaded = load_weights(tmp_path, net).state_dict()
    assert len(weights_identity(tmp_path)) == 16
    assert weights_identity(tmp_path) != weights_identity(tmp_path / "rgb_imagenet.pt")
    torch.testing.assert_close(loaded["flow.logits.conv3d.bias"], rule(names_of(net.flow), 8)["logits.conv3d.bias"])


def test_tsp_checkpoints_load_without_their_heads(tmp_path: Path) -> None:
    net = build("tsp", depth=18)
    model = {f"features.{key}": value for key, value in net.state_dict().items()}
    heads = {"fc1.weight": torch.zeros(20, 512), "fc2.weight": torch.zeros(2, 1024)}
    torch.save({"model": model | heads, "epoch": 4, "args": Namespace(lr=0.1)}, tmp_path / "tsp.pth")
    loaded = load_weights(tmp_path / "tsp.pth", build("tsp", depth=18)).state_dict()
    assert set(loaded) == set(net.state_dict())
    assert all(torch.equal(value, loaded[key]) for key, value in net.state_dict().items())


def pyslowfast_name(name: str) -> str:
    """PyTorchVideo's name of a SlowFast parameter → PySlowFast's, written down independently."""
    parts = name.split(".")
    stage, tail = f"s{int(parts[1]) + 1}", parts[-1]
    if parts[1] == "6":
        return f"head.projection.{tail}"
    if parts[2] == "multipathway_fusion":
        return f"{stage}_fuse.{'bn' if parts[3] == 'norm' else 'conv_f2s'}.{tail}"
    pathway = f"{stage}.pathway{parts[3]}"
    if parts[1] == "0":
        return f"{pathway}_stem.{'bn' if parts[4] == 'norm' else 'conv'}.{tail}"
    block = f"{pathway}_res{parts[5]}"
    if parts[6] == "branch2":
        kind, letter = parts[7].split("_")
        return f"{block}.branch2.{letter}{'_bn' if kind == 'norm' else ''}.{tail}"
    return f"{block}.{'branch1_bn' if parts[6] == 'branch1_norm' else 'branch1'}.{tail}"


def test_slowfast_reads_both_dialects_and_drops_classifiers_that_it_is_not_asked_for(tmp_path: Path) -> None:
    net = build("slowfast")
    state = dict(net.state_dict())
    theirs = {pyslowfast_name(key): value for key, value in state.items()}
    assert {"s1.pathway1_stem.bn.bias", "s4_fuse.conv_f2s.weight", "s5.pathway0_res2.branch2.c_bn.bias"} <= set(theirs)
    torch.save({"model_state": theirs, "epoch": 3}, tmp_path / "pyslowfast.pyth")
    torch.save({"model_state": state}, tmp_path / "pytorchvideo.pyth")
    epic = {key: value for key, value in theirs.items() if not key.startswith("head.")}
    epic |= {f"head.projection_{what}.weight": torch.zeros(n, 2304) for what, n in (("verb", 97), ("noun", 300))}
    torch.save({"model_state": epic}, tmp_path / "epic.pyth")
    for name, classes in (("pyslowfast", 400), ("pytorchvideo", 400), ("epic", 0), ("pytorchvideo", 0)):
        loaded = load_weights(tmp_path / f"{name}.pyth", build("slowfast", classes=classes)).state_dict()
        assert len(loaded) == len(state) - (0 if classes else 2)
        assert all(torch.equal(value, state[key]) for key, value in loaded.items())
    with pytest.raises(TadError, match=r"2 missing: blocks\.6\.proj.*2 unknown: head\.projection_verb"):
        load_weights(tmp_path / "epic.pyth", net)


class Payload:
    """What a malicious file would hold: something that is called when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (Path, ("harm",))


def test_weights_that_do_not_fit_are_named_and_code_is_never_run(tmp_path: Path) -> None:
    net = build("r2plus1d_small")
    state = {key: value.contiguous() for key, value in net.state_dict().items()}
    save_file(state, tmp_path / "whole.safetensors")
    load_weights(tmp_path / "whole.safetensors", build("r2plus1d_small"))
    state["extra"] = torch.zeros(1)
    del state["stem.0.weight"]
    state["stem.1.bias"] = torch.zeros(3)
    torch.save({"state_dict": state}, tmp_path / "wrong.pth")
    named = r"1 missing: stem\.0\.weight; 1 unknown: extra; 1 of another shape: stem\.1\.bias"
    with pytest.raises(TadError, match=named):
        load_weights(tmp_path / "wrong.pth", net)
    torch.save({"model": Payload()}, tmp_path / "harm.pth")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:999])
    (tmp_path / "text.pt").write_text("<html>not found</html>")
    (tmp_path / "empty").mkdir()
    for name in ("empty", "harm.pth", "cut.safetensors", "text.pt", "absent.pth"):
        with pytest.raises(TadError, match=name):
            load_weights(tmp_path / name, net)


@pytest.mark.parametrize("name", plugins.names("backbones"))
def test_a_backbone_has_clips_and_weights(name: str) -> None:
    assert component_sections("backbones", name)["clip"]["length"] >= 1
    plugin = Plugin(name=name, settings=plugins.defaults("backbones", name))
    (sentence,) = missing_weights(Path("nowhere"), "absent.pt", plugin)
    assert sentence.startswith(f"put the weights of {name} at absent.pt (")


def test_weights_of_papers_are_published() -> None:
    ours = ["r2plus1d_small"]  # trained by the workflow
    papers = {"i3d", "i3d_r50", "mvit_v2_s", "r2plus1d_18", "r3d_18", "s3d", "slowfast", "swin3d_t", "tsp", "videomae"}
    assert all(published(name) for name in papers | {"vjepa2"})
    assert not any(published(name) for name in ours)


def test_names_are_the_public_modules() -> None:
    files = {file.stem for file in plugins.PACKAGE.joinpath("backbones").glob("[a-z]*.py")}
    assert plugins.own_names("backbones") == sorted(name for name in files if not name.endswith("_settings"))


@pytest.mark.parametrize(("name", "length"), [("r2plus1d_small", 16), ("tsp", 4)])
def test_frames_shrunk_beforehand_give_the_same_features(name: str, length: int) -> None:
    torch.manual_seed(0)
    net = build(name, **({"depth": 18} if name == "tsp" else {}))
    clips = torch.randint(0, 256, (2, length, 60, 100, 3), dtype=torch.uint8)
    with torch.inference_mode():
        whole = net(clips)
        shrunk = net.shrink(clips.flatten(0, 1))
        torch.testing.assert_close(net(shrunk.reshape(2, length, *shrunk.shape[1:])), whole)
    assert whole.shape == (2, net.dim)
    assert whole.dtype == torch.float32
    torch.testing.assert_close(net(clips[1:])[0], whole[1], rtol=1e-4, atol=1e-5)


def test_i3d_views_and_rows() -> None:
    net = build("i3d", streams="rgb", short=224, view="center_crop")
    clip = torch.randint(0, 256, (1, 9, 224, 224, 3), dtype=torch.uint8)
    with torch.inference_mode():
        assert net(clip).shape == (1, 1024)
    x = torch.arange(340.0).expand(1, 3, 1, 256, 340)
    net.view = "ten_crop"
    views = net._views(x)
    assert len(views) == 10
    assert [int(v[0, 0, 0, 0, 0]) for v in views] == [0, 116, 0, 116, 58, 223, 339, 223, 339, 281]


@pytest.mark.parametrize(("old", "new"), [((256, 340), (224, 224)), ((60, 40), (60, 90)), ((33, 70), (64, 31))])
def test_lanczos_is_that_of_pillow(old: tuple[int, int], new: tuple[int, int]) -> None:
    image = pytest.importorskip("PIL.Image", reason="pillow is not installed")
    frames = torch.randint(0, 256, (2, *old, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = _frames.resize_lanczos(frames, new)
    for frame, small in zip(frames, found, strict=True):
        wanted = np.asarray(image.fromarray(frame.numpy()).resize(new[::-1], image.Resampling.LANCZOS)).astype(int)
        assert np.abs(small.numpy() - wanted).max() <= 1
        assert (small.numpy() == wanted).mean() > 0.999
    assert torch.equal(_frames.resize_lanczos(frames[..., :2], new), found[..., :2])  # flow has two channels


def test_center_crop_rounds_as_published() -> None:
    cut = _frames.center_crop(torch.arange(171.0).expand(128, 171), (112, 112))
    assert int(cut[0, 0]) == 30  # Python's round(29.5)
    rows = _frames.center_crop(torch.arange(15.0)[:, None].expand(15, 12), (12, 12))
    assert int(rows[0, 0]) == 2  # of 1.5
    assert _frames.short_side(180, 320, 256) == (256, 455)
    assert _frames.short_side(320, 180, 256) == (455, 256)


def test_slowfast_takes_the_published_slow_frames() -> None:
    x = torch.arange(32.0).view(1, 1, 32, 1, 1)
    slow, fast = plugins.load("backbones", "slowfast").pathways(None, x)
    assert slow.flatten().tolist() == [0, 4, 8, 13, 17, 22, 26, 31]
    assert fast is x


def test_settings_that_cannot_be_are_refused() -> None:
    wrong = [("i3d", {"streams": "audio"}), ("tsp", {"depth": 50}), ("slowfast", {"pool": "max"})]
    for name, changes in [*wrong, ("r2plus1d_small", {"subtract": "all"})]:
        with pytest.raises(TadError, match=name):
            build(name, **changes)


def test_middle_width_keeps_the_number_of_weights() -> None:
    assert [tsp.middle_width(a, b) for a, b in ((64, 64), (64, 128), (128, 128))] == [144, 230, 288]
