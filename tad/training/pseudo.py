"""Videos without labels as a term of the loss: what a teacher detects in them is what its learner has to detect.

The mean teacher of semi-supervised learning (Tarvainen and Valpola, NeurIPS 2017) for any detector: detections that
score enough become instances. A detector with labels of another kind (SPOT's snippets and masks) makes them itself.
"""

# B videos, T snippets, C channels, N segments

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from tad.labels import LabelsSpec
from tad.layers.types import MAIN, Candidates, Part, Targets
from tad.specs import TrainSpec
from tad.training.data import Batch, generator
from tad.training.strategy import Strategy, Weights
from tad.training.unlabelled import MixedBatch

PSEUDO = 41  # a purpose of random numbers beside those in tad.training.data
MOST = 100  # candidates of a level that are looked at
SHORTEST = 0.5  # snippets of an instance
SAME = 0.5  # of the shorter of two detections of one instance lies in the other


def as_instances(found: Candidates, length: int, confidence: float = 0.0) -> Targets | None:
    """The best of candidates that overlap, by class, as instances of a window of `length` snippets; None: there is
    none, and the window teaches nothing (as background alone it would teach to find nothing).

    Those that score less than `confidence` are in doubt.
    """
    segments_N2 = found.segments_N2.clamp(0, length)
    order_N = found.scores_N.argsort(descending=True, stable=True)
    order_N = order_N[(segments_N2[:, 1] - segments_N2[:, 0])[order_N] >= SHORTEST]
    segments_N2, labels_N, scores_N = segments_N2[order_N], found.labels_N[order_N], found.scores_N[order_N]
    start_N, end_N = segments_N2.unbind(1)
    overlap_NN = (torch.minimum(end_N[:, None], end_N) - torch.maximum(start_N[:, None], start_N)).clamp(min=0)
    length_N = end_N - start_N
    shorter_NN = torch.minimum(length_N[:, None], length_N)
    same_NN = ((overlap_NN > SAME * shorter_NN) & (labels_N[:, None] == labels_N)).tolist()
    kept: list[int] = []
    for k, same_N in enumerate(same_NN):
        if not any(same_N[other] for other in kept):
            kept.append(k)
    sure = [k for k in kept if scores_N[k] > confidence]
    if not sure:
        return None
    targets = Targets(segments_N2[sure], labels_N[sure])
    doubtful = kept[len(sure) :]
    if not doubtful:
        return targets
    return replace(targets, doubtful_M2=segments_N2[doubtful], doubtful_labels_M=labels_N[doubtful])


def labels_of(teacher: Any, feats_BTC: Tensor, lengths_B: Tensor, spec: LabelsSpec) -> list[Targets | None]:
    """What a detector in evaluation mode says of windows, as targets; None for those that teach nothing."""
    own = getattr(teacher, "pseudo_targets", None)
    with torch.no_grad():
        if own is not None:
            targets: list[Targets | None] = own(feats_BTC, lengths_B, confidence=spec.confidence, mask=spec.mask)
            return targets
        lowest = min(spec.doubt or 1.0, spec.confidence)
        found = teacher.candidates(feats_BTC, lengths_B, score_threshold=lowest, topk=MOST, min_length=SHORTEST)
    return [as_instances(one, length, spec.confidence) for one, length in zip(found, lengths_B.tolist(), strict=True)]


class SelfTaught(Strategy):
    """Adds to another strategy's losses those on videos without labels.

    Their loss is the detector's own on the teacher's labels, as if the batch had as many videos as are labelled: its
    normaliser is theirs. It counts more and more: `weight` · exp(-5 (1 - step / ramp)²).
    """

    def __init__(
        self, detector: Any, spec: LabelsSpec, *, inner: Strategy, train: TrainSpec, each: int, seed: int
    ) -> None:
        """Copies `detector`, which must not be compiled yet.

        Args:
            inner: the strategy for the videos with labels.
            train: the recipe.
            each: steps of a pass.
            seed: of the random stream.
        """
        self.teacher = copy.deepcopy(detector).eval()
        self.spec, self.inner, self.seed, self.precision = spec, inner, seed, train.precision
        passes = len(getattr(detector, "phases", (MAIN,)))
        self.rise = max(spec.ramp * (train.warmup_epochs + train.epochs) * passes * each, 1)

    def loss(
        self, detector: Any, feats_BTC: Tensor, lengths_B: Tensor, targets: list[Targets], part: Part | None
    ) -> dict[str, Tensor]:
        """Of videos with labels."""
        return self.inner.loss(detector, feats_BTC, lengths_B, targets, part)

    def refined(
        self, detector: Any, feats_BTC: Tensor, lengths_B: Tensor, targets: list[Targets], part: Part | None
    ) -> int:
        """Of videos with labels."""
        return self.inner.refined(detector, feats_BTC, lengths_B, targets, part)

    def weight(self, step: int) -> float:
        """Of the videos without labels at a step."""
        risen = min(step / self.rise, 1.0)
        return self.spec.weight * math.exp(-5 * (1 - risen) ** 2)

    def further(
        self, detector: Any, batch: Batch, size: int, *, step: int, averages: Weights
    ) -> Iterator[dict[str, Tensor]]:
        """Losses of the windows without labels, up to `size` at once; the first of them is 0 and names them all."""
        assert isinstance(batch, MixedBatch)
        assert batch.weak is not None
        assert batch.strong is not None
        device = next(detector.parameters()).device
        zero = torch.zeros((), device=device)
        yield {"total": zero, "unlabelled": zero, "pseudo": zero}
        self.teacher.to(device)
        self.teacher.load_state_dict(averages() if self.spec.teacher == "ema" else detector.state_dict())
        seed = int(generator(self.seed, PSEUDO, step).integers(2**63))
        for seen, learnt in zip(batch.weak.parts(size, device), batch.strong.parts(size, device), strict=True):
            with self._arithmetic(device):  # one by one: a rounding that hangs on their number could make other labels
                targets = [
                    labels_of(self.teacher, seen[0][row : row + 1], seen[1][row : row + 1], self.spec)[0]
                    for row in range(len(seen[0]))
                ]
            for rows in _runs(targets):
                some = [target for target in targets[rows] if target is not None]
                torch.manual_seed(seed)
                part = replace(learnt[3], first=learnt[3].first + rows.start)
                ratio = part.videos / len(batch.video_ids)
                with self._arithmetic(device), _normalised(detector, ratio):
                    losses = detector.loss(learnt[0][rows], learnt[1][rows], some, part)
                yield self._weighted(losses, some, step)

    def _weighted(self, losses: dict[str, Tensor], targets: list[Targets], step: int) -> dict[str, Tensor]:
        """What is added; the part of a loss that needs no labels has its full weight."""
        free = losses.get("unsupervised", torch.zeros_like(losses["total"]))
        total = self.weight(step) * (losses["total"] - free) + free
        count = sum(len(target.labels_N) for target in targets)
        return {"total": total, "unlabelled": losses["total"].detach(), "pseudo": free.new_tensor(float(count))}

    def _arithmetic(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.precision == "bfloat16")


@contextmanager
def _normalised(detector: Any, ratio: float) -> Iterator[None]:
    """With a normaliser of the labelled windows' for `ratio` times as many windows."""
    state = detector.training_state()
    detector.load_training_state({name: value * ratio for name, value in state.items()})
    try:
        yield
    finally:
        detector.load_training_state(state)


def _runs(targets: list[Targets | None]) -> Iterator[slice]:
    """Neighbouring rows with targets."""
    for there, group in groupby(range(len(targets)), key=lambda row: targets[row] is not None):
        rows = list(group)
        if there:
            yield slice(rows[0], rows[-1] + 1)
