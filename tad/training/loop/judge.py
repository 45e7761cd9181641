"""Selection of the epoch: the last one, or the one with the lowest loss on validation videos.

The criterion is the loss and not mAP. With mAP, training would depend on the settings of suppression and evaluation, so
a changed `nms.sigma` would require a new training. A tenth of a train split also has too few instances per class for
mAP (THUMOS14: about 15), so neighbouring epochs would differ by chance. The loss uses every point of every video.
"""

import copy
import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tad.core.errors import TadError
from tad.layers.contract import DetectorBase
from tad.training.data.windows import HELD_OUT, Batch, Windows

log = logging.getLogger(__name__)
RULES = {
    "last": "last epoch",
    "held-out": "lowest loss on held-out train videos",
    "test": "lowest loss on the test split (peeked)",
}


Losses = Callable[..., dict[str, Tensor]]


class Judge:
    """Tracks the best epoch so far, by the validation loss of its averaged weights.

    The first half of the epochs is skipped, because earlier averages still contain much of the initial weights. The
    normaliser is reset and the random stream is the same for each epoch, so their losses are comparable.

    Attributes:
        epoch: best epoch so far, counted from 1; 0 at first.
        loss: its loss; infinite at first.
        weights: its averaged weights; empty at first.
    """

    def __init__(self, detector: DetectorBase, windows: Windows, *, epochs: int) -> None:
        """Copy `detector`, which must be untrained; `windows` are those of the validation videos."""
        self.windows, self.epochs = windows, epochs
        self.detector = copy.deepcopy(detector).eval()
        self.fresh = {name: value.clone() for name, value in self.detector.training_state().items()}
        self.epoch, self.loss = 0, math.inf
        self.weights: dict[str, Tensor] = {}

    @torch.no_grad()
    def evaluate(self, epoch: int, weights: dict[str, Tensor], losses: Callable[[Any, Batch, int, int], float]) -> None:
        """Evaluate the averaged `weights` after `epoch` (counted from 0) and store them if they are the best so far.

        Args:
            epoch: epoch that has just ended.
            weights: averaged weights.
            losses: returns the summed loss of a detector on a batch, with the random stream (purpose, number).

        Raises:
            TadError: the loss is not finite.
        """
        if epoch < self.epochs // 2:
            return
        self.detector.load_state_dict(weights)
        self.detector.load_training_state({name: value.clone() for name, value in self.fresh.items()})
        batch_losses = [
            (losses(self.detector, batch, HELD_OUT, k), len(batch.video_ids))
            for k, batch in enumerate(self.windows.fixed_batches())
        ]
        loss = sum(value * count for value, count in batch_losses) / sum(count for _, count in batch_losses)
        if not math.isfinite(loss):
            raise TadError(f"epoch {epoch + 1}: loss {loss} on the validation videos; lower train.lr")
        log.info("epoch %d: loss %.4f on %d validation videos", epoch + 1, loss, len(self.windows.items))
        if loss < self.loss:
            self.loss, self.epoch = loss, epoch + 1
            self.weights = {name: value.detach().cpu().clone() for name, value in weights.items()}
