"""What a training step minimises: a detector's own loss, unless a strategy of training adds to it."""

# B videos, T snippets, C channels

from typing import Any

from torch import Tensor

from tad.layers.types import Part, Targets


class Strategy:
    """The plain one. Others derive from it; engine and gradients know of a strategy's loss and nothing else."""

    def loss(
        self, detector: Any, feats_BTC: Tensor, lengths_B: Tensor, targets: list[Targets], part: Part | None
    ) -> dict[str, Tensor]:
        """Losses of a part of a batch; the parts' `total`s and their gradients add up to the batch's.

        A detector in evaluation mode is being judged: its losses are then its own, whatever the strategy.
        """
        losses: dict[str, Tensor] = detector.loss(feats_BTC, lengths_B, targets, part)
        return losses
