"""The passes of an epoch: which parameters learn in each, by which optimiser, at which rate.

A detector without `phases` has one pass, in which all of it learns; see `tad.layers.types.Phase` for the others.
"""

from typing import Any

import torch
from torch import Tensor

from tad.layers.types import MAIN, Phase
from tad.specs import TrainSpec
from tad.training import checkpoint
from tad.training.optim import adam_over, adamw, learning_rate


class Phases:
    """Optimisers and learning rates of a detector's passes; round r is pass r mod n of epoch r div n."""

    def __init__(self, detector: Any, spec: TrainSpec, *, iterations: int) -> None:
        """`iterations`: batches of a pass."""
        self.detector, self.spec, self.iterations = detector, spec, iterations
        self.all: tuple[Phase, ...] = getattr(detector, "phases", (MAIN,))
        self.epochs = spec.warmup_epochs + spec.epochs
        self.optimizers = {phase.name: self._optimizer(phase) for phase in self.all}
        self._entered = -1

    @property
    def total(self) -> int:
        """Steps of the whole training."""
        return self.epochs * len(self.all) * self.iterations

    def _optimizer(self, phase: Phase) -> torch.optim.Optimizer:
        spec = self.spec
        if len(self.all) == 1:
            return adamw(self.detector, lr=spec.lr, weight_decay=spec.weight_decay, method=spec.optimizer)
        groups: list[dict[str, Any]] = self.detector.parameter_groups(spec.weight_decay, phase.name)
        if phase.lr:
            return torch.optim.Adam(groups, lr=phase.lr, betas=phase.betas)
        mine = [parameter for group in groups for parameter in group["params"]]
        return adam_over(groups, mine, lr=spec.lr, method=spec.optimizer)

    def of(self, step: int) -> tuple[int, Phase]:
        """Epoch and phase of a step, both counted from 0."""
        epoch, number = divmod(step // self.iterations, len(self.all))
        return epoch, self.all[number]

    def enter(self, step: int) -> torch.optim.Optimizer:
        """The optimiser of a step, its learning rate set, the detector told and the other parameters standing still."""
        epoch, phase = self.of(step)
        optimizer = self.optimizers[phase.name]
        if len(self.all) > 1 and self._entered != step // self.iterations:
            self._entered = step // self.iterations
            for parameter in self.detector.parameters():
                parameter.requires_grad_(False)
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.requires_grad_(True)
            self.detector.enter(phase.name, epoch, self.epochs)
        rate = self._rate(epoch * self.iterations + step % self.iterations) if phase.lr == 0 else phase.lr
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("rate", 1.0)
        return optimizer

    def _rate(self, step: int) -> float:
        """The recipe's learning rate at a step that counts one pass of each epoch."""
        spec, each = self.spec, self.iterations
        return learning_rate(
            step, base=spec.lr, eta_min=spec.eta_min, warmup=spec.warmup_epochs * each, total=self.epochs * each,
            milestones=[epoch * each for epoch in spec.milestones], decay=spec.decay,
        )  # fmt: skip

    def tensors(self) -> dict[str, Tensor]:
        """State of all optimisers."""
        parts = (
            checkpoint.prefixed(_key(name), checkpoint.optimizer_tensors(optimizer))
            for name, optimizer in self.optimizers.items()
        )
        return {name: value for part in parts for name, value in part.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restores `tensors`."""
        for name, optimizer in self.optimizers.items():
            checkpoint.load_optimizer(optimizer, checkpoint.under(_key(name), tensors))


def _key(phase: str) -> str:
    return "optimizer" if phase == MAIN.name else f"optimizer-{phase}"
