"""Training strategies: the loss of a training step. The base strategy uses the detector's own loss."""

# B videos, T snippets, C channels

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from tad.layers.contract import DetectorBase
from tad.layers.types import Part, Targets

Weights = Callable[[], dict[str, Tensor]]


class Strategy:
    """Base of all strategies: trains with the detector's own loss.

    The engine uses nothing else of a strategy than the methods defined here.
    """

    def loss(
        self, detector: DetectorBase, feats_BTC: Tensor, lengths_B: Tensor, targets: list[Targets], part: Part | None
    ) -> dict[str, Tensor]:
        """Compute the losses of a micro-batch; the `total`s of micro-batches and their gradients add up to the batch's.

        For a detector in evaluation mode (selection of the epoch) the result is the detector's own loss.
        """
        losses: dict[str, Tensor] = detector.loss(feats_BTC, lengths_B, targets, part)
        return losses

    def refined_positives(
        self, detector: DetectorBase, feats_BTC: Tensor, lengths_B: Tensor, targets: list[Targets], part: Part | None
    ) -> int:
        """Return `DetectorBase.refined_positives` of a micro-batch."""
        count: int = detector.refined_positives(feats_BTC, lengths_B, targets, part)
        return count

    def additional_losses(
        self, detector: DetectorBase, batch: Any, size: int, *, step: int, averages: Weights
    ) -> Iterator[dict[str, Tensor]]:
        """Compute losses of a training batch besides `loss`, one micro-batch at a time; they are added to it.

        Their names must be the same in every process. A `total` that requires no gradient is not back-propagated.

        Args:
            detector: detector in training.
            batch: this process's rows of the batch.
            size: micro-batch size in windows.
            step: training step.
            averages: returns the averaged weights.
        """
        yield from ()
