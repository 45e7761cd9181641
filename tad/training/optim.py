"""A detector's parameters → AdamW, its learning rate at every step, clipped gradients and averaged weights (EMA)."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn


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
    """The learning rate of step `step` (from 0): linear from 0 to `base`, then a cosine towards `eta_min`.

    The schedule of ActionFormer, TriDet and MSE, stepped per iteration: base·i/(W−1) for i < W, so that the very first
    step has rate 0, `base` at W, then η + ½(base − η)(1 + cos(π (i−W)/(M−W))).

    Args:
        step: iteration, 0 ≤ step < total.
        warmup: W, warm-up iterations; 0: none.
        total: M, all iterations including the warm-up.
        milestones: with any there is no cosine: from each of these steps on, `decay` times the rate before.
    """
    if step < warmup:
        return base * step / max(warmup - 1, 1)
    if milestones:
        return base * decay ** sum(step >= milestone for milestone in milestones)
    return eta_min + 0.5 * (base - eta_min) * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))


def adamw(
    detector: Any, *, lr: float, weight_decay: float, method: Literal["adamw", "adam"] = "adamw"
) -> torch.optim.Adam:
    """`adam_over` a detector's groups, every trainable parameter in exactly one of them."""
    return adam_over(detector.parameter_groups(weight_decay), detector.parameters(), lr=lr, method=method)


def adam_over(
    groups: list[dict[str, Any]], parameters: Iterable[Tensor], *, lr: float, method: Literal["adamw", "adam"]
) -> torch.optim.Adam:
    """AdamW (β 0.9, 0.999; ε 1e-8) over groups that hold each trainable one of the parameters once.

    With `method` adam weight decay is part of the gradient.
    """
    seen = [id(p) for group in groups for p in group["params"]]
    wanted = {id(p) for p in parameters if p.requires_grad}
    assert len(seen) == len(set(seen)), "a parameter is in two groups"
    assert wanted <= set(seen), "a trainable parameter is in no group"
    make = torch.optim.AdamW if method == "adamw" else torch.optim.Adam
    return make(groups, lr=lr, betas=(0.9, 0.999), eps=1e-8)


def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients to a global L2 norm of at most `max_norm` (0: leave them); returns the norm before."""
    return nn.utils.clip_grad_norm_(parameters, max_norm if max_norm > 0 else math.inf)


class Ema:
    """Exponential moving average of every value of a module's state dict, from its initial values on.

    ema ← decay·ema + (1 − decay)·value, without warm-up, as the published detectors do; integers are copied.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in module.state_dict().items()}
        self._floats = [name for name, value in self.values.items() if value.is_floating_point()]
        self._others = [name for name in self.values if name not in set(self._floats)]

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take in the module's present values (one multi-tensor operation)."""
        now = module.state_dict()
        if self._floats:
            ours, theirs = [self.values[n] for n in self._floats], [now[n].detach() for n in self._floats]
            torch._foreach_lerp_(ours, theirs, 1 - self.decay)
        for name in self._others:
            self.values[name].copy_(now[name])

    @torch.no_grad()
    def load(self, values: dict[str, Tensor]) -> None:
        """Continue from saved averages with the same names."""
        for name, value in self.values.items():
            value.copy_(values[name])
