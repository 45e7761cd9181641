"""torchvision's video classifiers as backbones: torchvision's own transforms and networks are the oracle (random
weights, nothing is fetched), and every published wrapper of their weights loads."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from backbone_tools import build
from torch import Tensor, nn

from tad.backbones._weights import load_weights
from tad.core import optional as vision
from tad.core.errors import TadError
from tad.settings.resolved import component_sections
from tad.weights.published import wanted

# name: torchvision's weights, its head, dim, frames to test with, parameters with the 400-way head
MODELS = {
    "r3d_18": ("R3D_18_Weights", "fc", 512, 8, 33_371_472),
    "r2plus1d_18": ("R2Plus1D_18_Weights", "fc", 512, 4, 31_505_325),
    "s3d": ("S3D_Weights", "classifier", 1024, 14, 8_320_048),
    "mvit_v2_s": ("MViT_V2_S_Weights", "head", 768, 16, 34_537_744),
    "swin3d_t": ("Swin3D_T_Weights", "head", 768, 4, 28_158_070),
}
SIZES = [(240, 320), (181, 259), (360, 202)]  # landscape, odd, portrait


@cache
def theirs(name: str) -> nn.Module:
    """torchvision's network with random weights, in which no parameter is zero or one."""
    torch.manual_seed(0)
    net: nn.Module = getattr(vision.torchvision().models.video, name)(weights=None).eval()
    for key, value in net.state_dict().items():
        if key.endswith(("bias", "running_mean")):
            nn.init.normal_(value, std=0.1)
        elif key.endswith("running_var"):
            nn.init.uniform_(value, 0.5, 1.5)
    return net


def metadata(name: str) -> Any:
    return getattr(vision.torchvision().models.video, MODELS[name][0]).KINETICS400_V1


def head_input(net: nn.Module, head: str, x_BCTHW: Tensor) -> Tensor:
    """What torchvision's network gives to its classifier."""
    seen: list[Tensor] = []
    handle = getattr(net, head).register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    with torch.inference_mode():
        net(x_BCTHW)
    handle.remove()
    return seen[0].flatten(2).mean(dim=2) if seen[0].ndim == 5 else seen[0]


@pytest.mark.parametrize("name", MODELS)
def test_frames_and_features_are_torchvisions(name: str, tmp_path: Path) -> None:
    _, head, dim, length, parameters = MODELS[name]
    oracle = theirs(name)
    assert sum(p.numel() for p in oracle.parameters()) == parameters
    torch.save(oracle.state_dict(), tmp_path / "weights.pth")
    net: Any = load_weights(tmp_path / "weights.pth", build(name))
    preset = metadata(name).transforms()
    torch.manual_seed(1)
    for k, (height, width) in enumerate(SIZES):
        clips = torch.randint(0, 256, (1, length, height, width, 3), dtype=torch.uint8)
        wanted = preset(clips.permute(0, 1, 4, 2, 3))
        ours = net.prepare(clips)
        assert float((ours - wanted).norm() / wanted.norm()) < 1e-6
        if k == 0:  # the network sees the same cut whatever the frame's size
            feats = head_input(oracle, head, wanted)
            with torch.inference_mode():
                out = net(clips)
            assert out.shape == (1, dim)
            assert float((out - feats).norm() / feats.norm()) < 1e-4


def test_s3ds_features_classify_as_its_own_pooling_does() -> None:
    oracle: Any = theirs("s3d")
    net: Any = build("s3d")
    net.load_state_dict(net.published_keys(oracle.state_dict()))
    x = torch.rand(1, 3, 24, 224, 224)
    with torch.inference_mode():
        logits = oracle.classifier(net.features(x)[..., None, None, None]).flatten(1)
        wanted = oracle(x)
    assert float((logits - wanted).norm() / wanted.norm()) < 1e-4


@pytest.mark.parametrize("name", MODELS)
def test_settings_are_those_of_the_published_weights(name: str) -> None:
    document, weights = component_sections("backbones", name), metadata(name)
    settings, preset = document["settings"], weights.transforms()
    assert list(settings["resize"]) == preset.resize_size
    assert [settings["crop"]] * 2 == preset.crop_size
    assert (list(settings["mean"]), list(settings["std"])) == (preset.mean, preset.std)
    (entry,) = wanted(name, settings)
    assert entry.url == weights.url
    assert entry.about_mb == pytest.approx(weights.meta["_file_size"] * 2**20 / 1e6, abs=0.1)
    assert entry.name == f"{name}-{entry.sha256_prefix}.pth"
    scores = weights.meta["_metrics"]["Kinetics-400"]
    assert f"top-1 {scores['acc@1']:.3f}, top-5 {scores['acc@5']:.3f}" in entry.accuracy
    facts = " ".join(weights.meta["_docs"].split())
    assert f"frame_rate={document['clip']['rate']:g}" in facts
    assert name == "s3d" or f"clip_len={document['clip']['length']}" in facts


@pytest.mark.parametrize("name", ["r3d_18", "r2plus1d_18", "s3d", "swin3d_t"])
def test_wrapped_weights_load(name: str, tmp_path: Path) -> None:
    state = theirs(name).state_dict()
    heads = {"fc1.weight": torch.zeros(20, 512), "fc2.weight": torch.zeros(2, 1024)}
    tsp = {f"features.{key}": value for key, value in state.items() if not key.startswith(MODELS[name][1])} | heads
    files = {
        "plain": state,
        "parallel": {"state_dict": {f"module.{key}": value for key, value in state.items()}},
        "pytorchvideo": {"model_state": state},
        "tsp": {"model": tsp, "epoch": 4},
    }
    for kind, content in files.items():
        torch.save(content, tmp_path / f"{kind}.pth")
        loaded = load_weights(tmp_path / f"{kind}.pth", build(name)).state_dict()
        assert all(torch.equal(value, state[key.removeprefix("net.")]) for key, value in loaded.items())


def test_weights_of_another_network_and_wrong_settings_are_refused(tmp_path: Path) -> None:
    torch.save(theirs("r3d_18").state_dict(), tmp_path / "r3d.pth")
    with pytest.raises(TadError, match=r"r3d\.pth: not weights of this backbone .*missing.*unknown"):
        load_weights(tmp_path / "r3d.pth", build("r2plus1d_18"))
    with pytest.raises(TadError, match=r"backbone r3d_18: resize: \[64\]: .*at least crop \(112\)"):
        build("r3d_18", resize=[64])
    with pytest.raises(TadError, match=r"mvit_v2_s: clip\.length 8: .*set 16"):
        build("mvit_v2_s")(torch.zeros(1, 8, 64, 64, 3, dtype=torch.uint8))
