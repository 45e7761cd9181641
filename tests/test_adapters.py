"""Temporal adapters: equal to the published networks, a zero start, reach, checkpointing and the frozen weights."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapter_tools import Published, adapter_names, map_of, small_trunk, stirred, windows_of
from torch import Tensor

pytest.importorskip("transformers")

from tad.backbones import vjepa2
from tad.core.errors import TadError
from tad.layers.adapters.adapter import TemporalAdapter
from tad.layers.adapters.encoder import AdaptedEncoder, places_of
from tad.settings import plugins
from tad.training.data.window_positions import window_starts

NETWORKS = ["adatad_all", "adatad_last", "adatad_side"]
WHOLE = ["adatad_full_all", "adatad_full_last", "adatad_full_side"]


def apart(ours: Tensor, wanted: Tensor) -> float:
    """Difference relative to the largest value."""
    assert ours.shape == wanted.shape
    return float((ours.double() - wanted.double()).abs().max() / wanted.abs().max())


def norm_apart(ours: Tensor, wanted: Tensor) -> float:
    assert ours.shape == wanted.shape
    return float((ours.double() - wanted.double()).norm() / wanted.double().norm())


@pytest.mark.parametrize("case", NETWORKS)
def test_networks_equal_the_published_ones(shared: Path, case: str) -> None:
    golden = Published(shared, case)
    facts = golden.facts
    grid = facts["height"] // facts["patch"], facts["width"] // facts["patch"]
    frames = windows_of(golden["frames"], facts["windows"])
    for dtype, key, tolerance in ((torch.float32, "out", 2e-6), (torch.float64, "out64", 1e-12)):
        encoder = golden.encoder(dtype=dtype, checkpointing=False)
        out = map_of(encoder, frames.to(dtype), *grid)
        assert apart(out.detach(), golden[key]) < tolerance
    (out * golden["weighting"]).sum().backward()
    wanted = golden.group("grad/")
    ours = golden.our_gradients(encoder)
    assert ours.keys() == wanted.keys()
    assert max(apart(ours[name], wanted[name]) for name in wanted) < 1e-10


@pytest.mark.parametrize("case", WHOLE)
def test_new_adapters_change_nothing(shared: Path, case: str) -> None:
    golden = Published(shared, case)
    grid, trunk = golden.facts["patch_grid"], golden.encoder().trunk
    x = normalised(golden)
    out = map_of(AdaptedEncoder(trunk, places=[]).eval(), x, *grid).detach()
    assert norm_apart(out, golden["out/frozen_map"]) < 2e-6
    inside = AdaptedEncoder(trunk, places=[0, len(trunk.blocks) - 1]).eval()
    assert torch.equal(map_of(inside, x, *grid), out)
    beside = AdaptedEncoder(trunk, places=[len(trunk.blocks) - 1], side=True).eval()
    assert torch.equal(map_of(beside, x, *grid), out)
    whole = trunk.net(x.reshape(len(x), 3, -1, 16, *x.shape[3:]).permute(0, 2, 3, 1, 4, 5).flatten(0, 1))
    assert torch.equal(whole.last_hidden_state, AdaptedEncoder(trunk, places=[]).eval().tokens(x))


def test_start_as_published(shared: Path) -> None:
    golden = Published(shared, "adatad_all")
    torch.manual_seed(0)
    ours = dict(TemporalAdapter(48, 12).named_parameters())
    for name, wanted in adapter_names(golden.group("state_at_start/"), "blocks.0.adapter").items():
        assert ours[name].shape == wanted.shape
        spread = float(ours[name].detach().std(correction=0))
        assert spread == pytest.approx(float(wanted.std(correction=0)), rel=0.3), name


def normalised(golden: Published) -> Tensor:
    """The golden frames after mean and standard deviation, (B, 3, T, H, W)."""
    mean, std = (torch.tensor(golden.facts[key]).view(1, 3, 1, 1, 1) / 255 for key in ("mean", "std"))
    return (golden["in/frames"][:, 0].float() / 255 - mean) / std


@pytest.mark.parametrize("case", WHOLE)
def test_whole_way_from_frames_to_features(shared: Path, case: str) -> None:
    golden = Published(shared, case)
    facts = golden.facts
    encoder = golden.encoder(checkpointing=False)
    x = normalised(golden)
    out = map_of(encoder, x, *facts["patch_grid"]).detach()
    assert norm_apart(out, golden["out/map"]) < 2e-6
    features = encoder(x, facts["window_size"]) * golden["in/masks"][:, None]
    assert norm_apart(features.detach(), golden["out/features"]) < 2e-6
    (features * golden["in/probe_features"]).sum().backward()
    wanted, ours = golden.group("grad/features/"), golden.our_gradients(encoder)
    assert ours.keys() == wanted.keys()
    whole = torch.cat([tensor.flatten() for tensor in wanted.values()]).norm()
    for name, tensor in wanted.items():
        assert (ours[name] - tensor).norm() <= 1e-4 * tensor.norm() + 5e-6 * whole, name


def reach(encoder: AdaptedEncoder) -> list[int]:
    """The time steps that a change of the second of four clips reaches."""
    torch.manual_seed(3)
    x = torch.randn(1, 3, 64, 16, 16)
    other = x.clone()
    other[:, :, 16:32] += 0.5
    with torch.no_grad():
        moved = (encoder.steps(x) - encoder.steps(other)).abs().amax((0, 1)) > 0
    return torch.nonzero(moved).flatten().tolist()


def test_reach_of_adapters() -> None:
    trunk = small_trunk()
    assert reach(AdaptedEncoder(trunk, places=[]).eval()) == list(range(8, 16))
    assert reach(stirred(AdaptedEncoder(trunk, places=[2])).eval()) == list(range(7, 17))  # the last block's: one step
    assert reach(stirred(AdaptedEncoder(trunk, places=[1])).eval()) == list(range(24))  # attention spreads it in a clip
    assert reach(stirred(AdaptedEncoder(trunk, places=[0, 2], side=True)).eval()) == list(range(7, 17))


def gradients(encoder: AdaptedEncoder, x: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(5)
    encoder.zero_grad()
    encoder(x, 20).square().sum().backward()
    return {
        name: parameter.grad.clone() for name, parameter in encoder.named_parameters() if parameter.grad is not None
    }


@pytest.mark.parametrize("side", [False, True])
@pytest.mark.parametrize("places", [[0, 1, 2], [2]])
def test_checkpointing_does_not_change_gradients(side: bool, places: list[int]) -> None:
    trunk = small_trunk()
    x = torch.randn(2, 3, 32, 16, 16)
    plain = stirred(AdaptedEncoder(trunk, places=places, side=side, drop_path=0.5, checkpointing=False)).train()
    less = stirred(AdaptedEncoder(trunk, places=places, side=side, drop_path=0.5, checkpointing=True)).train()
    wanted, ours = gradients(plain, x), gradients(less, x)
    assert wanted.keys() == ours.keys()
    assert wanted
    for name, tensor in wanted.items():
        assert torch.equal(ours[name], tensor) if side else norm_apart(ours[name], tensor) < 1e-6, name


def test_frozen_weights_are_not_part_of_the_module() -> None:
    encoder = AdaptedEncoder(small_trunk(), places=[0, 2])
    assert all(name.startswith("adapters.") for name in encoder.state_dict())
    assert len(list(encoder.parameters())) == 18
    twin = copy.deepcopy(encoder)
    assert twin.trunk is encoder.trunk
    assert twin.adapters["0"].up.weight is not encoder.adapters["0"].up.weight
    encoder.double()
    assert next(encoder.trunk.parameters()).dtype == torch.float64
    assert not any(parameter.requires_grad for parameter in encoder.trunk.parameters())


def test_drop_path_depends_on_training_only() -> None:
    encoder = stirred(AdaptedEncoder(small_trunk(), places=[0, 1, 2], drop_path=0.9))
    x = torch.randn(1, 3, 32, 16, 16)
    with torch.no_grad():
        assert torch.equal(encoder.eval()(x, 16), encoder(x, 16))
        torch.manual_seed(0)
        first = encoder.train()(x, 16)
        assert not torch.equal(first, encoder(x, 16))
        torch.manual_seed(0)
        assert torch.equal(first, encoder(x, 16))


def test_adapters_in_v_jepa(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vjepa2.SIZES, "large", (24, 3, 2, 2.0))
    backbone: Any = plugins.build("backbones", "vjepa2", {"short": 36, "crop": 32}).eval()
    encoder = AdaptedEncoder(backbone.trunk(8), places=[1]).eval()
    x = torch.randn(1, 3, 32, 32, 32)
    clips = x.reshape(1, 3, 4, 8, 32, 32).transpose(1, 2)[0]
    with torch.no_grad():
        assert torch.equal(encoder.tokens(x), backbone.net(clips.transpose(1, 2)).last_hidden_state)
        assert encoder.steps(x).shape == (1, 24, 16)
        assert not torch.equal(stirred(encoder).tokens(x), encoder.trunk.finish(encoder.trunk.embed(clips)))
    stirred(encoder)(x, 16).sum().backward()
    assert encoder.adapters["1"].down.weight.grad is not None


def test_wrong_places_and_lengths_are_one_line() -> None:
    trunk = small_trunk()
    with pytest.raises(TadError, match=r"adapters.blocks: 7: the encoder has the blocks 0 to 2"):
        AdaptedEncoder(trunk, places=[7])
    with pytest.raises(TadError, match=r"adapters.side: needs blocks"):
        AdaptedEncoder(trunk, places=[], side=True)
    with pytest.raises(TadError, match=r"a window has 24 frames: must be a multiple"):
        AdaptedEncoder(trunk, places=[0]).steps(torch.zeros(1, 3, 24, 16, 16))
    assert places_of("last_half", 12) == list(range(6, 12))
    assert places_of("none", 12) == []
    assert places_of((3, 5), 12) == [3, 5]


def test_windows_of_the_published_loader(shared: Path) -> None:
    """Starts of test windows, which frames they read, and where the padding begins; published lists repeat the last."""
    examples = json.loads((shared / "golden" / "adatad_windows.json").read_text())["examples"]
    assert {example["use"] for example in examples} == {"test", "validation loss"}
    for example in (one for one in examples if one["use"] == "test"):
        stride, width = example["stride"], example["window"]
        positions = -(-example["annotated_frames"] // stride)
        starts = window_starts(positions, width, example["window_stride"])
        wanted = example["windows"]
        assert [start * stride for start in starts] == list(dict.fromkeys(one["window_start_frame"] for one in wanted))
        if example["frames_per_position"] > 1:
            continue
        decoded = -(-example["decoded_frames"] // stride)
        for start, window in zip(starts, wanted, strict=False):
            count = min(decoded - start, width)
            assert count == window["frames"]["count"] == window["valid_positions"]
            index = np.minimum(np.arange(width), count - 1) + start  # as AdaptedDetector.frames repeats the last one
            assert index[0] * stride == window["frames"]["first"]
            assert (index == index[-1]).sum() - 1 == window["frames"]["padding"]
            if window["frames"]["padding"]:
                assert index[-1] * stride == window["frames"]["padding_value"]
