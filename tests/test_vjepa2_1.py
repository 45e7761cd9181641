"""V-JEPA 2.1's encoder against a slow definition of it: loops over tokens and pairs of channels, plain attention."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from backbone_tools import build
from torch import Tensor

from tad.backbones import vjepa2_1
from tad.backbones._weights import load_weights
from tad.core.errors import TadError

SMALL = {"size": "base", "short": 60, "crop": 48}
WIDTH, HEADS = 56, 4  # 14 channels a head: 4 for each axis, and 2 that are not rotated


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vjepa2_1.SIZES, "base", vjepa2_1.Size(WIDTH, 2, HEADS, 80))


def net_of() -> Any:
    torch.manual_seed(0)
    net = build("vjepa2_1", **SMALL)
    for name, value in net.state_dict().items():
        torch.nn.init.normal_(value, mean=float("norm" in name and name.endswith("weight")), std=0.3)
    return net


def turned(vector: list[float], place: tuple[float, float, float]) -> list[float]:
    """A head's query or key, rotated by time, row and column of its token."""
    each = 2 * (len(vector) // 3 // 2)
    out = list(vector)
    for axis in range(3):
        for pair in range(each // 2):
            angle = place[axis] / 10000 ** (pair / (each / 2))
            at = axis * each + 2 * pair
            a, b = vector[at], vector[at + 1]
            out[at], out[at + 1] = a * math.cos(angle) - b * math.sin(angle), b * math.cos(angle) + a * math.sin(angle)
    return out


def slow(net: Any, x_CTHW: Tensor) -> Tensor:
    """The mean of all tokens (C), by the definition."""
    frames, rows, columns = x_CTHW.shape[1] // 2, x_CTHW.shape[2] // 16, x_CTHW.shape[3] // 16
    kernel = net.net.patch_embed["proj"]
    tokens, places = [], []
    for t in range(frames):
        for r in range(rows):
            for c in range(columns):
                patch = x_CTHW[:, 2 * t : 2 * t + 2, 16 * r : 16 * r + 16, 16 * c : 16 * c + 16]
                embedded = (kernel.weight * patch).sum(dim=(1, 2, 3, 4)) + kernel.bias
                tokens.append(embedded + net.net.video_mod_embed[0, 0])
                places.append((float(t), r * 15 / (rows - 1), c * 15 / (columns - 1)))
    x_NC = torch.stack(tokens)
    for block in net.net.blocks:
        q, k, v = block.attn.qkv(block.norm1(x_NC)).view(-1, 3, HEADS, WIDTH // HEADS).unbind(1)
        heads = []
        for h in range(HEADS):
            qs, ks = (
                torch.tensor([turned(row, place) for row, place in zip(part[:, h].tolist(), places, strict=True)])
                for part in (q, k)
            )
            heads.append(torch.softmax(qs @ ks.T / math.sqrt(WIDTH // HEADS), dim=1) @ v[:, h])
        x_NC = x_NC + block.attn.proj(torch.cat(heads, dim=1))
        hidden = torch.nn.functional.gelu(block.mlp["fc1"](block.norm2(x_NC)))
        x_NC = x_NC + block.mlp["fc2"](hidden)
    return net.net.norms_block[-1](x_NC).mean(dim=0)


@torch.no_grad()
def test_the_encoder_is_its_definition() -> None:
    net = net_of()
    x_BCTHW = torch.rand(2, 3, 6, 48, 48)
    found = net.features(x_BCTHW)
    for row in range(2):
        wanted = slow(net, x_BCTHW[row])
        assert torch.allclose(found[row], wanted, atol=1e-4 * float(wanted.abs().max()))
    with pytest.raises(TadError, match="must be even"):
        net.features(x_BCTHW[:, :, :5])


@torch.no_grad()
def test_a_published_file_is_read(tmp_path: Path) -> None:
    """With the names, wrappers and further parts of the published files."""
    net = net_of()
    state = {f"module.backbone.{key.removeprefix('net.')}": value for key, value in net.state_dict().items()}
    state["module.backbone.img_mod_embed"] = torch.zeros(1, 1, WIDTH)
    state["module.backbone.patch_embed_img.proj.weight"] = torch.zeros(WIDTH, 3, 1, 16, 16)
    for key in ("ema_encoder", "target_encoder"):
        torch.save({key: state, "predictor": {"a": torch.zeros(1)}, "epoch": 3}, tmp_path / "w.pt")
        again = load_weights(tmp_path / "w.pt", build("vjepa2_1", **SMALL))
        assert all(torch.equal(value, again.state_dict()[name]) for name, value in net.state_dict().items())
    clip = torch.randint(0, 256, (1, 4, 60, 90, 3), dtype=torch.uint8)
    assert net(clip).shape == (1, WIDTH)


def test_sizes_are_the_published_ones() -> None:
    """64 channels a head in all, and 300 million parameters in the large one, as published."""
    published = [size for name, size in vjepa2_1.SIZES.items() if name != "base"]  # which the fixture makes small
    assert {size.width // size.heads for size in published} == {64}
    with torch.device("meta"):
        large = build("vjepa2_1", **(SMALL | {"size": "large"}))
    assert 300e6 < sum(p.numel() for p in large.parameters()) < 310e6
