"""Pseudo-labels: a loss on unlabelled videos, whose targets are a teacher's confident detections.

This is the mean teacher of semi-supervised learning (Tarvainen and Valpola, NeurIPS 2017) for any detector. A detector
with another kind of labels (SPOT's snippet classes and masks) creates its own pseudo-labels.
"""

# B videos, T snippets, C channels, N segments

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby

import torch
from torch import Tensor

from tad.layers.contract import DetectorBase
from tad.layers.types import Candidates, Part, Targets
from tad.settings.labels import LabelsSpec
from tad.settings.stages import TrainSpec
from tad.training.data.unlabelled import MixedBatch
from tad.training.data.windows import Batch, generator
from tad.training.loop.strategy import Strategy, Weights

PSEUDO = 41  # purpose of a random stream, beside those in tad.training.data.windows
MOST = 100  # candidates per level
SHORTEST = 0.5  # minimum length of an instance in snippets
SAME = 0.5  # overlap, as a share of the shorter one, above which two detections are of one instance


def as_instances(candidates: Candidates, length: int, confidence: float = 0.0) -> Targets | None:
    """Select the best of overlapping candidates, per class, as instances of a window of `length` snippets.

    Candidates with a score below `confidence` become doubtful segments. Returns None if no candidate is confident: the
    window is then skipped, because as pure background it would teach the detector to detect nothing.
    """
    segments_N2 = candidates.segments_N2.clamp(0, length)
    order_N = candidates.scores_N.argsort(descending=True, stable=True)
    order_N = order_N[(segments_N2[:, 1] - segments_N2[:, 0])[order_N] >= SHORTEST]
    segments_N2, labels_N = segments_N2[order_N], candidates.labels_N[order_N]
    scores_N = candidates.scores_N[order_N]
    start_N, end_N = segments_N2.unbind(1)
    overlap_NN = (torch.minimum(end_N[:, None], end_N) - torch.maximum(start_N[:, None], start_N)).clamp(min=0)
    length_N = end_N - start_N
    shorter_NN = torch.minimum(length_N[:, None], length_N)
    same_NN = ((overlap_NN > SAME * shorter_NN) & (labels_N[:, None] == labels_N)).tolist()
    selected: list[int] = []
    for k, same_N in enumerate(same_NN):
        if not any(same_N[other] for other in selected):
            selected.append(k)
    confident = [k for k in selected if scores_N[k] > confidence]
    if not confident:
        return None
    targets = Targets(segments_N2[confident], labels_N[confident])
    doubtful = selected[len(confident) :]
    if not doubtful:
        return targets
    return replace(targets, doubtful_M2=segments_N2[doubtful], doubtful_labels_M=labels_N[doubtful])


def pseudo_labels(
    teacher: DetectorBase, feats_BTC: Tensor, lengths_B: Tensor, spec: LabelsSpec
) -> list[Targets | None]:
    """Return the pseudo-labels of windows from a teacher in evaluation mode; None for windows to skip."""
    with torch.no_grad():
        own = teacher.pseudo_targets(feats_BTC, lengths_B, confidence=spec.confidence, mask=spec.mask)
        if own is not None:
            return own
        lowest = min(spec.doubt or 1.0, spec.confidence)
        candidates = teacher.candidates(feats_BTC, lengths_B, score_threshold=lowest, topk=MOST, min_length=SHORTEST)
    pairs = zip(candidates, lengths_B.tolist(), strict=True)
    return [as_instances(window, length, spec.confidence) for window, length in pairs]


class SelfTaught(Strategy):
    """Strategy that adds losses on unlabelled videos to those of another strategy.

    The unlabelled loss is the detector's own loss on pseudo-labels, with the normaliser of the labelled windows scaled
    to the number of unlabelled ones. Its weight ramps up: `weight` · exp(-5 (1 - step / ramp)²).
    """

    def __init__(
        self, detector: DetectorBase, spec: LabelsSpec, *, inner: Strategy, train: TrainSpec, each: int, seed: int
    ) -> None:
        """Copy `detector`, which must not be compiled yet, as the teacher.

        Args:
            detector: the student.
            spec: settings of the labels.
            inner: strategy for the labelled videos.
            train: training settings.
            each: steps per phase of an epoch.
            seed: seed of the random stream.
        """
        self.teacher = copy.deepcopy(detector).eval()
        self.spec, self.inner, self.seed, self.precision = spec, inner, seed, train.precision
        passes = len(detector.phases)
        self.rise = max(spec.ramp * (train.warmup_epochs + train.epochs) * passes * each, 1)

    def loss(
        self, detector: DetectorBase, feats_BTC: Tensor, lengths_B: Tensor, targets: list[Targets], part: Part | None
    ) -> dict[str, Tensor]:
        """Compute the losses of labelled videos with the inner strategy."""
        return self.inner.loss(detector, feats_BTC, lengths_B, targets, part)

    def refined_positives(
        self, detector: DetectorBase, feats_BTC: Tensor, lengths_B: Tensor, targets: list[Targets], part: Part | None
    ) -> int:
        """Return the `refined_positives` of labelled videos."""
        return self.inner.refined_positives(detector, feats_BTC, lengths_B, targets, part)

    def weight(self, step: int) -> float:
        """Return the weight of the unlabelled loss at a step."""
        progress = min(step / self.rise, 1.0)
        return self.spec.weight * math.exp(-5 * (1 - progress) ** 2)

    def additional_losses(
        self, detector: DetectorBase, batch: Batch, size: int, *, step: int, averages: Weights
    ) -> Iterator[dict[str, Tensor]]:
        """Compute the losses of unlabelled windows, up to `size` at once; the first result is 0 and has all names."""
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
            with self._arithmetic(device):  # one by one: rounding that depends on the batch size could change labels
                targets = [
                    pseudo_labels(self.teacher, seen[0][row : row + 1], seen[1][row : row + 1], self.spec)[0]
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
        """Return the weighted losses; the part that needs no labels (`unsupervised`) always has full weight."""
        free = losses.get("unsupervised", torch.zeros_like(losses["total"]))
        total = self.weight(step) * (losses["total"] - free) + free
        count = sum(len(target.labels_N) for target in targets)
        return {"total": total, "unlabelled": losses["total"].detach(), "pseudo": free.new_tensor(float(count))}

    def _arithmetic(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.precision == "bfloat16")


@contextmanager
def _normalised(detector: DetectorBase, ratio: float) -> Iterator[None]:
    """Scale the detector's normaliser by `ratio` within the context."""
    state = detector.training_state()
    detector.load_training_state({name: value * ratio for name, value in state.items()})
    try:
        yield
    finally:
        detector.load_training_state(state)


def _runs(targets: list[Targets | None]) -> Iterator[slice]:
    """Iterate over runs of consecutive rows that have targets."""
    for has_targets, group in groupby(range(len(targets)), key=lambda row: targets[row] is not None):
        rows = list(group)
        if has_targets:
            yield slice(rows[0], rows[-1] + 1)
