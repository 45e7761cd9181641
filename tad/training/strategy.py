"""What a training step minimises: a detector's own loss, unless a strategy of training adds to it."""

# B videos, T snippets, C channels

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from tad.layers.types import Part, Targets

Weights = Callable[[], dict[str, Tensor]]


class Strategy:
    """The plain one. Others derive from it; engine and gradients know what is here and nothing else."""

    def loss(
        self, detector: Any, feats_BTC: Tensor, lengths_B: Tensor, targets: list[Targets], part: Part | None
    ) -> dict[str, Tensor]:
        """Losses of a part of a batch; the parts' `total`s and their gradients add up to the batch's.

        A detector in evaluation mode is being judged: its losses are then its own, whatever the strategy.
        """
        losses: dict[str, Tensor] = detector.loss(feats_BTC, lengths_B, targets, part)
        return losses

    def refined(
        self, detector: Any, feats_BTC: Tensor, lengths_B: Tensor, targets: list[Targets], part: Part | None
    ) -> int:
        """What a detector that `counts_ahead` counts in a part of a batch before its losses are computed."""
        count: int = detector.refined(feats_BTC, lengths_B, targets, part)
        return count

    def further(
        self, detector: Any, batch: Any, size: int, *, step: int, averages: Weights
    ) -> Iterator[dict[str, Tensor]]:
        """Losses of a training batch beyond those of `loss`, part by part, to be added up with them.

        Their names are the same in every process. A `total` without a gradient has none to add.

        Args:
            detector: which learns.
            batch: this process's share of it.
            size: windows to compute together.
            step: of the training.
            averages: the averaged weights of now.
        """
        yield from ()
