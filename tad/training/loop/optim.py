"""Optimisers, learning-rate schedule, gradient clipping and averaged weights (EMA)."""

import logging
import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tad.layers.contract import DetectorBase

log = logging.getLogger(__name__)


def learning_rate(
    step: int,
    *,
    base: float,
    eta_min: float,
    warmup: int,
    total: int,
    milestones: Sequence[int] = (),
    decay: float = 0.1,
) -> float:
    """Return the learning rate of a step (counted from 0): linear warm-up from 0 to `base`, then cosine decay.

    This is the per-iteration schedule of ActionFormer, TriDet and MSE: base·i/(W−1) for i < W, so the first step has
    rate 0; then η + ½(base − η)(1 + cos(π (i−W)/(M−W))), which is `base` at i = W.

    Args:
        step: iteration i, 0 ≤ i < total.
        base: highest learning rate.
        eta_min: η, final learning rate of the cosine.
        warmup: W, warm-up iterations; 0: none.
        total: M, all iterations including the warm-up.
        milestones: replace the cosine by steps: at each of these iterations the rate is multiplied by `decay`.
        decay: factor per milestone.
    """
    if step < warmup:
        return base * step / max(warmup - 1, 1)
    if milestones:
        return base * decay ** sum(step >= milestone for milestone in milestones)
    return eta_min + 0.5 * (base - eta_min) * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))


def adamw(
    detector: DetectorBase, *, lr: float, weight_decay: float, method: Literal["adamw", "adam"] = "adamw"
) -> torch.optim.Adam:
    """Return AdamW (or Adam) over a detector's parameter groups; every trainable parameter is in exactly one group."""
    return adam_over(detector.parameter_groups(weight_decay), detector.parameters(), lr=lr, method=method)


def adam_over(
    groups: list[dict[str, Any]], parameters: Iterable[Tensor], *, lr: float, method: Literal["adamw", "adam"]
) -> torch.optim.Adam:
    """Return AdamW (β 0.9, 0.999; ε 1e-8) over groups that contain each trainable parameter exactly once.

    With `method="adam"` weight decay is added to the gradient (L2 regularisation).
    """
    seen = [id(p) for group in groups for p in group["params"]]
    wanted = {id(p) for p in parameters if p.requires_grad}
    assert len(seen) == len(set(seen)), "a parameter is in two groups"
    assert wanted <= set(seen), "a trainable parameter is in no group"
    make = torch.optim.AdamW if method == "adamw" else torch.optim.Adam
    return make(groups, lr=lr, betas=(0.9, 0.999), eps=1e-8)


def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Clip all gradients to a global L2 norm of `max_norm` (0: no clipping); return the norm before clipping."""
    return nn.utils.clip_grad_norm_(parameters, max_norm if max_norm > 0 else math.inf)


def warn_of_initial_weights(decay: float, steps: int) -> None:
    """Warn if the averages of a training of so many steps still hold more than 5 % of the initial weights."""
    if (share := decay**steps) > 0.05:
        log.warning(
            "initial weights will still make up %.0f %% of the averaged weights after %d steps with"
            " train.ema_decay %g; train longer or lower it", 100 * share, steps, decay,
        )  # fmt: skip


class Ema:
    """Exponential moving average of a module's state dict, starting from its initial values.

    ema ← decay·ema + (1 − decay)·value, without warm-up, as in the published detectors; integers are copied.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in module.state_dict().items()}
        self._floats = [name for name, value in self.values.items() if value.is_floating_point()]
        self._others = [name for name in self.values if name not in set(self._floats)]

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Update the averages with the module's current values (one multi-tensor operation)."""
        now = module.state_dict()
        if self._floats:
            ours, theirs = [self.values[n] for n in self._floats], [now[n].detach() for n in self._floats]
            torch._foreach_lerp_(ours, theirs, 1 - self.decay)
        for name in self._others:
            self.values[name].copy_(now[name])

    @torch.no_grad()
    def load(self, values: dict[str, Tensor]) -> None:
        """Load saved averages with the same names."""
        for name, value in self.values.items():
            value.copy_(values[name])
