"""The phases of an epoch: trained parameters, optimiser and learning rate of each.

A detector without `phases` has one phase that trains all parameters; see `tad.layers.types.Phase` for others.
"""

from typing import Any

import torch
from torch import Tensor

from tad.layers.contract import DetectorBase
from tad.layers.types import MAIN, Phase
from tad.settings.stages import TrainSpec
from tad.training.io import tensors as checkpoint
from tad.training.loop.optim import adam_over, adamw, learning_rate


class Phases:
    """Optimisers and learning rates of a detector's phases.

    Each epoch runs its n phases one after the other, each over all batches.
    """

    def __init__(self, detector: DetectorBase, spec: TrainSpec, *, iterations: int) -> None:
        """`iterations`: batches per phase of an epoch."""
        self.detector, self.spec, self.iterations = detector, spec, iterations
        self.all = detector.phases
        self.scheduled = spec.warmup_epochs + spec.epochs
        self.epochs = min(spec.stop_epoch or self.scheduled, self.scheduled)
        self.optimizers = {phase.name: self._optimizer(phase) for phase in self.all}
        self._entered = -1

    @property
    def total(self) -> int:
        """Number of steps of the whole training."""
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
        """Return the epoch (counted from 0) and the phase of a step."""
        epoch, number = divmod(step // self.iterations, len(self.all))
        return epoch, self.all[number]

    def enter(self, step: int) -> torch.optim.Optimizer:
        """Return the optimiser of a step with its learning rate set.

        At the first step of a phase, notify the detector and freeze all parameters outside the phase.
        """
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
        """Return the scheduled learning rate at a step counted within one phase over all epochs."""
        spec, each = self.spec, self.iterations
        return learning_rate(
            step, base=spec.lr, eta_min=spec.eta_min, warmup=spec.warmup_epochs * each, total=self.scheduled * each,
            milestones=[epoch * each for epoch in spec.milestones], decay=spec.decay,
        )  # fmt: skip

    def tensors(self) -> dict[str, Tensor]:
        """Return the state of all optimisers."""
        parts = (
            checkpoint.with_prefix(_key(name), checkpoint.optimizer_tensors(optimizer))
            for name, optimizer in self.optimizers.items()
        )
        return {name: value for part in parts for name, value in part.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Load a state returned by `tensors`."""
        for name, optimizer in self.optimizers.items():
            checkpoint.load_optimizer(optimizer, checkpoint.without_prefix(_key(name), tensors))


def _key(phase: str) -> str:
    return "optimizer" if phase == MAIN.name else f"optimizer-{phase}"
