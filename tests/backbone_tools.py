"""Helpers for tests of clip encoders: build them from their YAML, set golden weights, compare."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tad.settings import plugins

# Settings for small frames, for tests of the temporal behaviour only; DIS is the fast flow method
SMALL: dict[str, dict[str, Any]] = {
    "i3d": {"short": 36, "columns": 0, "crop": 32, "flow_method": "dis"},
    "i3d_r50": {"short": 36, "crop": 32, "pool": "global"},
    "mvit_v2_s": {},  # its position embeddings allow no other size
    "r2plus1d_18": {"resize": [36, 48], "crop": 32},
    "r2plus1d_small": {},
    "r3d_18": {"resize": [36, 48], "crop": 32},
    "s3d": {"resize": [36, 36], "crop": 32},
    "slowfast": {"short": 36, "crop": 32, "pool": "global"},
    "swin3d_t": {"resize": [36], "crop": 32},
    "tsp": {"frame_size": [36, 48], "crop": 32},
    "videomae": {"size": "small", "short": 36, "crop": 32},
    "vjepa2_1": {"size": "base", "short": 36, "crop": 32},
    "vit_tiny": {},
    "vjepa2": {"size": "large", "short": 36, "crop": 32},
}


def build(name: str, **changes: Any) -> Any:
    return plugins.build("backbones", name, plugins.defaults("backbones", name) | changes).eval()


def rule(shapes: Iterable[tuple[str, torch.Size]], seed: int) -> dict[str, Tensor]:
    """Return the weights of the golden files, a function of the sorted names."""
    state = {}
    for k, (name, shape) in enumerate(sorted(shapes)):
        u = 2 * np.random.default_rng([seed, k]).random(int(np.prod(shape))) - 1
        if name.endswith("running_var"):
            u = 1 + 0.5 * u
        elif name.endswith(("running_mean", "bias")):
            u = 0.1 * u
        elif len(shape) == 1:
            u = 1 + 0.2 * u
        else:
            u = u * np.sqrt(6 / np.prod(shape[1:]))
        state[name] = torch.from_numpy(u.astype(np.float32).reshape(shape))
    return state


def names_of(module: nn.Module) -> list[tuple[str, torch.Size]]:
    return [(k, v.shape) for k, v in module.state_dict().items() if not k.endswith("num_batches_tracked")]


def golden_input(shape: tuple[int, ...], seed: int) -> Tensor:
    u = 2 * np.random.default_rng([seed, 999]).random(int(np.prod(shape))) - 1
    return torch.from_numpy(u.astype(np.float32).reshape(1, *shape))


def difference(out: Tensor, golden: np.ndarray) -> float:
    assert tuple(out.shape) == golden.shape
    return float(np.linalg.norm(out.numpy() - golden) / np.linalg.norm(golden))
