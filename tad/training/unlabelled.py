"""Windows of videos with labels, and in the same step windows of videos without, weakly and strongly changed."""

# B videos, T snippets, C channels

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tad.labels import LabelsSpec
from tad.specs import TrainSpec
from tad.training.data import Batch, Windows, generator
from tad.training.features import Features, SideBySide

CHANGE = 40  # a purpose of random numbers beside those in tad.training.data


@dataclass(frozen=True)
class MixedBatch(Batch):
    """A batch with labels, and one without that a teacher and its learner see differently.

    Attributes:
        weak: what the teacher sees; no targets.
        strong: the same windows as the learner sees them.
    """

    weak: Batch | None = None
    strong: Batch | None = None


class MixedWindows:
    """`Windows` whose batches bring others along; an epoch is a pass over those with labels.

    Step s has batch s of the endless sequence of the others' epochs, so a batch is a function of seed and step alone.
    """

    def __init__(
        self, labelled: Windows, others: Callable[..., Windows], *, spec: TrainSpec, labels: LabelsSpec
    ) -> None:
        """`others(spec=…)`: the windows without labels, by a recipe that is `spec` but for its batches."""
        self.labelled, self.spec = labelled, labels
        size = labels.batch_size or spec.batch_size
        self.others = others(spec=spec.model_copy(update={"batch_size": size}))

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self.labelled)

    @property
    def size(self) -> int:
        """Windows that a process may have to compute together."""
        return max(self.labelled.size, self.others.size)

    @property
    def features(self) -> Features | SideBySide:
        """Where features are from."""
        return self.labelled.features

    def training_batch(self, epoch: int, k: int, share: Callable[[int], range] = range) -> MixedBatch:
        """As `Windows.training_batch`."""
        step = epoch * len(self) + k
        one = self.labelled.training_batch(epoch, k, share)
        other = self.others.training_batch(*divmod(step, len(self.others)), share)
        weak, strong = self._changed(other, step)
        return MixedBatch(one.video_ids, one.lengths_B, one.targets, one.feats_BTC, one.first, weak, strong)

    def fixed_batches(self) -> Iterator[Batch]:
        """Of the videos with labels."""
        return self.labelled.fixed_batches()

    def _changed(self, batch: Batch, step: int) -> tuple[Batch, Batch]:
        """Noise on what the teacher sees, and channels that its learner does not see; a window's by its own numbers."""
        weak_BTC, strong_BTC = batch.feats_BTC.clone(), batch.feats_BTC
        for row, x_TC in enumerate(batch.feats_BTC):
            place = batch.first + row  # lengths are of the whole batch, features of this process's share
            rng, length = generator(self.labelled.seed, CHANGE, step, place), int(batch.lengths_B[place])
            seen_C = rng.random(x_TC.shape[1]) >= self.spec.strong
            if self.spec.weak and length > 1:
                noise_TC = rng.standard_normal((length, x_TC.shape[1]), dtype=np.float32)
                weak_BTC[row, :length] += self.spec.weak * _deviation(x_TC[:length]) * _like(noise_TC, x_TC)
            strong_BTC[row] *= _like(seen_C.astype(np.float32) / max(seen_C.mean(), 1e-6), x_TC)
        return replace(batch, feats_BTC=weak_BTC), replace(batch, feats_BTC=strong_BTC)


def _deviation(x_TC: Tensor) -> Tensor:
    return x_TC.std(dim=0)


def _like(values: np.ndarray, x_TC: Tensor) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).to(x_TC)
