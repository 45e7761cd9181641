"""Which epoch's averaged weights are kept: the last one's, or those with the lowest loss on judged videos.

Judged by loss and not by mAP: mAP would bring the settings of suppression and evaluation into training, so that a
changed `nms.sigma` trained anew; and a tenth of a train split has too few instances of a class for it (THUMOS14: about
15), so that neighbouring epochs differ by chance. The loss is made of every point of every judged video.
"""

import copy
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tad.annotations import Table
from tad.cache import FeatureReader
from tad.errors import TadError
from tad.specs import TrainStageSpec
from tad.training.data import HELD_OUT, Batch, Item, Windows, generator, read_items
from tad.training.label_split import split_labels

log = logging.getLogger(__name__)
RULES = {
    "last": "last epoch",
    "held-out": "lowest loss on held-out train videos",
    "test": "lowest loss on the test split (peeked)",
}
Losses = Callable[..., dict[str, Tensor]]


@dataclass(frozen=True)
class Roles:
    """The videos to train on, those whose loss selects the epoch, and those without labels; and which labels these are
    (`LabelSplit.facts`; empty: all)."""

    train: list[Item]
    judged: list[Item] = field(default_factory=list)
    unlabelled: list[Item] = field(default_factory=list)
    labels: dict[str, Any] = field(default_factory=dict)

    @property
    def videos(self) -> dict[str, list[Item]]:
        """By role."""
        others = {"unlabelled": self.unlabelled} if self.unlabelled else {}
        return {"train": self.train, "judged": self.judged, **others}


def roles_of(reader: FeatureReader, table: Table, spec: TrainStageSpec) -> Roles:
    """Who does what; nobody is judged with selection `last`, and those held out have labels.

    Raises:
        TadError: see `read_items` and `split_labels`; a share of held-out videos that leaves none to judge by or to
            train on.
    """
    everybody = read_items(reader, table, "train", spec=spec.train, exclude=spec.exclude)
    split = split_labels(everybody, table, spec.labels, excluded=[*reader.excluded, *table.excluded, *spec.exclude])
    train, judged = _held_out(split.labelled, reader, table, spec)
    others = [] if spec.labels is None or spec.labels.others == "unused" else split.unlabelled
    return Roles(train, judged, others, split.facts)


def _held_out(
    items: list[Item], reader: FeatureReader, table: Table, spec: TrainStageSpec
) -> tuple[list[Item], list[Item]]:
    train = spec.train
    if train.selection == "last":
        return items, []
    if train.selection == "test":
        log.warning("train.selection test: the epoch is chosen on the test split; map.json says so")
        return items, read_items(reader, table, "test", spec=train, exclude=spec.exclude)
    count = max(round(train.hold_out * len(items)), 1)
    if train.hold_out == 0 or count >= len(items):
        raise TadError(
            f"train.hold_out: {train.hold_out}: selection held-out keeps {count} of {len(items)} train videos aside;"
            " choose a share between 0 and 1 that leaves videos to train on, or selection last"
        )
    aside = set(generator(spec.seed, HELD_OUT).permutation(len(items))[:count].tolist())
    return [v for k, v in enumerate(items) if k not in aside], [items[k] for k in sorted(aside)]


class Judge:
    """The best epoch so far, by the loss of its averaged weights.

    Only from half of the epochs on: earlier averages still hold much of the initial weights. The normaliser starts
    afresh and the random stream is always the same, so that epochs are compared on equal terms.

    Attributes:
        epoch, loss, weights: of the best epoch so far, counted from 1; 0, infinite and empty before there is one.
    """

    def __init__(self, detector: Any, windows: Windows, *, epochs: int) -> None:
        """Copies `detector`, which must be untrained."""
        self.windows, self.epochs = windows, epochs
        self.detector = copy.deepcopy(detector).eval()
        self.fresh = {name: value.clone() for name, value in self.detector.training_state().items()}
        self.epoch, self.loss = 0, math.inf
        self.weights: dict[str, Tensor] = {}

    @torch.no_grad()
    def look(self, epoch: int, weights: dict[str, Tensor], losses: Callable[[Any, Batch, int, int], float]) -> None:
        """Keep the averaged `weights` after `epoch` (from 0) if they are the best so far.

        Args:
            losses: the summed loss of a detector on a batch, with the random stream of (purpose, number).

        Raises:
            TadError: loss not finite.
        """
        if epoch < self.epochs // 2:
            return
        self.detector.load_state_dict(weights)
        self.detector.load_training_state({name: value.clone() for name, value in self.fresh.items()})
        found = [
            (losses(self.detector, batch, HELD_OUT, k), len(batch.video_ids))
            for k, batch in enumerate(self.windows.fixed_batches())
        ]
        loss = sum(value * count for value, count in found) / sum(count for _, count in found)
        if not math.isfinite(loss):
            raise TadError(f"epoch {epoch + 1}: loss {loss} on the judged videos; lower train.lr")
        log.info("epoch %d: loss %.4f on %d judged videos", epoch + 1, loss, len(self.windows.items))
        if loss < self.loss:
            self.loss, self.epoch = loss, epoch + 1
            self.weights = {name: value.detach().cpu().clone() for name, value in weights.items()}
