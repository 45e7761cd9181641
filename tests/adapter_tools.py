"""Helpers for tests of adapters: encoders with the weights of the golden arrays, or with random weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tad.backbones._videomae import STEPS, VideoMaeTrunk, build_network, resized_code
from tad.backbones.videomae import transformers_names
from tad.layers.adapters.encoder import AdaptedEncoder

PARTS = {"down_proj": "down", "dwconv": "depthwise", "conv": "pointwise", "up_proj": "up", "gamma": "gamma"}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def adapter_names(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The published names of one adapter → ours."""
    names = {}
    for key, tensor in state.items():
        if key.startswith(f"{prefix}."):
            part, dot, rest = key.removeprefix(f"{prefix}.").partition(".")
            names[PARTS[part] + dot + rest] = tensor
    return names


class Published:
    """A golden file of an AdaTAD network."""

    def __init__(self, shared: Path, case: str) -> None:
        self.facts: dict[str, Any] = json.loads((shared / "golden" / f"{case}.json").read_text())
        with np.load(shared / "golden" / f"{case}.npz") as archive:
            self.arrays = {key: torch.from_numpy(archive[key]) for key in archive.files}

    def __getitem__(self, key: str) -> Tensor:
        return self.arrays[key]

    def group(self, prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in self.arrays.items() if k.startswith(prefix)}

    @property
    def side(self) -> bool:
        return any(".adapters." in key or key.startswith("state/ladders") for key in self.arrays)

    def encoder(self, *, dtype: torch.dtype = torch.float32, state: str = "state/", **options: Any) -> AdaptedEncoder:
        """Our encoder with the published weights."""
        facts, weights = self.facts, self.group("state/") | self.group(state)
        width, patch = facts.get("embed", facts.get("embed_dims")), facts.get("patch", facts.get("patch_size"))
        heads = facts.get("heads", facts.get("num_heads"))
        image, side = (facts["height"], facts["width"]), facts["img_size"] // patch
        net: Any = build_network(
            width=width, layers=facts["depth"], heads=heads, hidden=len(weights["blocks.0.mlp.layers.0.0.bias"]),
            image=image, patch=patch, side=side, use_mean_pooling=True, layer_norm_eps=1e-6,
        )  # fmt: skip
        assert torch.equal(
            build_network(
                width=width, layers=1, heads=heads, hidden=4, image=(side * patch,) * 2, patch=patch, side=side
            ).embeddings.position_embeddings,  # type: ignore[union-attr]
            weights["pos_embed"].float(),
        )
        code_1ND = weights["pos_embed"].to(dtype)
        net.embeddings.position_embeddings = resized_code(
            code_1ND, (side, side), (image[0] // patch, image[1] // patch)
        )
        assert code_1ND.shape[1] == STEPS * side * side
        frozen = {k: v for k, v in weights.items() if ".adapter" not in k and not k.startswith(("fc_norm", "ladders"))}
        frozen.pop("pos_embed")
        net.load_state_dict({k: v.to(dtype) for k, v in transformers_names(frozen).items()}, strict=True)
        places = facts["adapter_index"]
        trunk = VideoMaeTrunk(net.to(dtype), mean=MEAN, std=STD)
        encoder = AdaptedEncoder(trunk, places=places, side=self.side, **options).to(dtype)
        for number, place in enumerate(sorted(places)):
            prefix = f"ladders.adapters.{number}" if self.side else f"blocks.{place}.adapter"
            encoder.adapters[str(place)].load_state_dict(adapter_names(weights, prefix))
        return encoder.eval()

    def our_gradients(self, encoder: AdaptedEncoder) -> dict[str, Tensor]:
        """Gradients of the adapters under the published names."""
        back = {ours: theirs for theirs, ours in PARTS.items()}
        grads = {}
        for number, (place, adapter) in enumerate(sorted(encoder.adapters.items(), key=lambda item: int(item[0]))):
            prefix = f"ladders.adapters.{number}" if self.side else f"blocks.{place}.adapter"
            for name, parameter in adapter.named_parameters():
                part, dot, rest = name.partition(".")
                assert parameter.grad is not None
                grads[f"{prefix}.{back[part]}{dot}{rest}"] = parameter.grad
        return grads


def map_of(encoder: AdaptedEncoder, x_BCTHW: Tensor, rows: int, columns: int) -> Tensor:
    """The network's output as published: (clips, D, 8, rows, columns)."""
    x_MND = encoder.tokens(x_BCTHW)
    return x_MND.reshape(len(x_MND), STEPS, rows, columns, -1).permute(0, 4, 1, 2, 3)


def windows_of(clips_MCFHW: Tensor, windows: int) -> Tensor:
    """Clips of `windows` windows after one another → (B, C, T, H, W)."""
    clips, channels, frames, *size = clips_MCFHW.shape
    x = clips_MCFHW.reshape(windows, clips // windows, channels, frames, *size).transpose(1, 2)
    return x.reshape(windows, channels, -1, *size)


def small_trunk(seed: int = 0, *, width: int = 24, layers: int = 3, image: int = 16, patch: int = 8) -> VideoMaeTrunk:
    torch.manual_seed(seed)
    net = build_network(
        width=width, layers=layers, heads=3, hidden=2 * width, image=(image, image), patch=patch, side=image // patch,
        use_mean_pooling=True,
    )  # fmt: skip
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    return VideoMaeTrunk(net, mean=MEAN, std=STD)


def stirred(encoder: AdaptedEncoder, seed: int = 1) -> AdaptedEncoder:
    """The encoder with adapters that have left their start."""
    torch.manual_seed(seed)
    for parameter in encoder.adapters.parameters():
        nn.init.normal_(parameter, std=0.3)
    return encoder
