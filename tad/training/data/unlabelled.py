"""Batches of labelled windows combined with unlabelled windows, which are weakly and strongly augmented."""

# B videos, T snippets, C channels

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tad.settings.labels import LabelsSpec
from tad.settings.stages import TrainSpec
from tad.training.data.in_memory import Features, SideBySide
from tad.training.data.windows import Batch, Windows, generator

AUGMENTATION = 40  # purpose of a random stream, beside those in tad.training.data.windows


@dataclass(frozen=True)
class MixedBatch(Batch):
    """A labelled batch with an unlabelled one, which teacher and student see with different augmentations.

    Attributes:
        weak: weakly augmented unlabelled windows, for the teacher.
        strong: the same windows, strongly augmented, for the student.
    """

    weak: Batch | None = None
    strong: Batch | None = None


class MixedWindows:
    """`Windows` whose batches also hold unlabelled windows; an epoch is one pass over the labelled windows.

    Step s takes batch s of the endless sequence of unlabelled epochs, so a batch depends on seed and step only.
    """

    def __init__(
        self, labelled: Windows, others: Callable[..., Windows], *, spec: TrainSpec, labels: LabelsSpec
    ) -> None:
        """`others(spec=…)` returns the unlabelled windows; it is called with `spec` and the unlabelled batch size."""
        self.labelled, self.spec = labelled, labels
        size = labels.batch_size or spec.batch_size
        self.others = others(spec=spec.model_copy(update={"batch_size": size}))

    def __len__(self) -> int:
        """Number of batches per epoch."""
        return len(self.labelled)

    @property
    def size(self) -> int:
        """Largest number of windows in a labelled or unlabelled batch."""
        return max(self.labelled.size, self.others.size)

    @property
    def features(self) -> Features | SideBySide:
        """Features of the labelled windows."""
        return self.labelled.features

    def training_batch(self, epoch: int, k: int, share: Callable[[int], range] = range) -> MixedBatch:
        """Return batch `k` of an epoch; see `Windows.training_batch`."""
        step = epoch * len(self) + k
        one = self.labelled.training_batch(epoch, k, share)
        other = self.others.training_batch(*divmod(step, len(self.others)), share)
        weak, strong = self._augmented(other, step)
        return MixedBatch(one.video_ids, one.lengths_B, one.targets, one.feats_BTC, one.first, weak, strong)

    def fixed_batches(self) -> Iterator[Batch]:
        """Iterate over the labelled windows in order; see `Windows.fixed_batches`."""
        return self.labelled.fixed_batches()

    def _augmented(self, batch: Batch, step: int) -> tuple[Batch, Batch]:
        """Add noise for the teacher and drop channels for the student, with a random stream per window."""
        weak_BTC, strong_BTC = batch.feats_BTC.clone(), batch.feats_BTC
        for row, x_TC in enumerate(batch.feats_BTC):
            index = batch.first + row  # lengths cover the whole batch, features only this process's rows
            rng, length = generator(self.labelled.seed, AUGMENTATION, step, index), int(batch.lengths_B[index])
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
