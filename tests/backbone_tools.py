"""Helpers for tests of clip encoders: built from their YAML, filled by the golden files' rule, compared."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tad import plugins


def build(name: str, **changes: Any) -> Any:
    return plugins.load("backbones", name)(**(plugins.document("backbones", name)["settings"] | changes)).eval()


def rule(shapes: Iterable[tuple[str, torch.Size]], seed: int) -> dict[str, Tensor]:
    """The golden files' weights: a function of the sorted names."""
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
