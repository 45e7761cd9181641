"""What the detectors of moments share: targets, losses, mixup and decoding.

Xarles et al.: T-DEED, CVPR Workshops 2024; Hong et al.: Spotting Temporally Precise, Fine-Grained Events in Video, ECCV
2022 (E2E-Spot). The facts are in docs/methods/moments.md, with what is ours.
"""

# B videos, T positions, C channels, K classes, N moments

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tad.detectors._moments.network import TemporalNetwork
from tad.detectors._moments.settings import MomentSettings
from tad.layers.chance import of_part
from tad.layers.contract import DetectorBase
from tad.layers.types import Candidates, Part, Raw, Targets

DRAWS = 8  # of pairs of uniform numbers for a share of Beta(a, a); for a = 0.2 each is used with probability 0.95


def labels_of_positions(target: Targets, length: int, reach: float, *, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the class of each position (T,), 0 for background, and its displacement from the moment (T,).

    A position has the class of the nearest moment if that is at most `reach` away; of two as near the first.
    """
    time_T = torch.arange(length, dtype=torch.float32, device=device)
    if not len(target.labels_N):
        return torch.zeros(length, dtype=torch.long, device=device), torch.zeros_like(time_T)
    apart_TN = time_T[:, None] - target.segments_N2[:, 0].to(device)
    near_T = apart_TN.abs().argmin(dim=1)
    displacement_T = apart_TN.gather(1, near_T[:, None])[:, 0]
    inside_T = displacement_T.abs() <= reach + 1e-4
    classes_T = torch.where(inside_T, target.labels_N.to(device)[near_T] + 1, 0)
    return classes_T, torch.where(inside_T, displacement_T, 0.0)


class MomentDetector(DetectorBase):
    """A detector of moments; a subclass turns features into vectors of positions (`embed`)."""

    exclusive = True
    graphable = True

    def __init__(self, settings: MomentSettings, *, feature_dim: int, num_classes: int, max_length: int) -> None:
        super().__init__()
        self.settings = settings
        self.feature_dim, self.num_classes, self.max_length = feature_dim, num_classes, max_length
        self.network = TemporalNetwork(settings, num_classes=num_classes, max_length=max_length)

    @abstractmethod
    def embed(self, feats_BTC: Tensor, lengths_B: Tensor, mixed: tuple[Tensor, Tensor] | None) -> Tensor:
        """Return vectors of positions (B, embed_dim, T); with `mixed`, of windows mixed by `mixture`."""

    def padded(self, length: int) -> int:
        """Any length is fine."""
        return length

    def mixture(self, feats_BTC: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor] | None:
        """Draw, for each window, the share that it keeps (B,) and the source positions of what is mixed in (B, T).

        A window is mixed with itself, shifted by a random number of positions: videos of a batch do not influence one
        another. Published: with another clip.
        """
        alpha = self.settings.mixup
        if not (self.training and alpha > 0):
            return None
        pairs_BD2 = self.uniform(feats_BTC, DRAWS, 2) ** (1 / alpha)  # Johnk's algorithm for the beta distribution
        shift_B = self.uniform(feats_BTC, 1)[:, 0]
        sums_BD = pairs_BD2.sum(dim=2)
        first_B1 = ((sums_BD <= 1) & (sums_BD > 0)).int().argmax(dim=1, keepdim=True)
        share_B = (pairs_BD2[:, :, 0].gather(1, first_B1) / sums_BD.gather(1, first_B1).clamp(min=1e-12))[:, 0]
        time_T = torch.arange(feats_BTC.shape[1], device=feats_BTC.device)
        lengths_B1 = lengths_B.to(feats_BTC.device)[:, None]
        shifted_BT = (time_T + (shift_B[:, None] * lengths_B1).long()) % lengths_B1
        return share_B.clamp(0, 1), torch.where(time_T < lengths_B1, shifted_BT, time_T)

    def loss(
        self,
        feats_BTC: Tensor,
        lengths_B: Tensor,
        targets: list[Targets],
        part: Part | None = None,
        seen: list[Any] | None = None,
    ) -> dict[str, Tensor]:
        """Cross-entropy of all positions and squared errors of displacements near moments; means over videos."""
        of_part(self, part, given=len(targets), device=feats_BTC.device)
        self.expect_width(feats_BTC)
        mixed = self.mixture(feats_BTC, lengths_B)
        logits_BKT, displacement_BT = self.network(self.embed(feats_BTC, lengths_B, mixed), lengths_B)
        cls, reg = logits_BKT.new_zeros(()), logits_BKT.new_zeros(())
        for row, target in enumerate(targets):
            length = int(lengths_B[row])
            outputs = logits_BKT[row, :, :length].float(), displacement_BT[row, :length].float()
            truth = labels_of_positions(target, length, self.settings.reach, device=feats_BTC.device)
            versions: list[tuple[Tensor | float, tuple[Tensor, Tensor]]] = [(1.0, truth)]
            if mixed is not None:
                share, source_T = mixed[0][row], mixed[1][row, :length]
                versions = [(share, truth), (1 - share, (truth[0][source_T], truth[1][source_T]))]
            for weight, (classes_T, away_T) in versions:
                parts = self._losses(*outputs, classes_T, away_T)
                cls, reg = cls + weight * parts[0], reg + weight * parts[1]
        videos = part.videos if part else len(targets)
        total = (cls + self.settings.displacement_weight * reg) / videos
        return {"cls": cls / videos, "reg": reg / videos, "total": total}

    def _losses(
        self, logits_KT: Tensor, displacement_T: Tensor, classes_T: Tensor, away_T: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the weighted mean cross-entropy, and the mean squared error at positions near a moment."""
        weights_K = logits_KT.new_full((len(logits_KT),), self.settings.class_weight)
        weights_K[0] = 1.0
        cls = F.cross_entropy(logits_KT.T, classes_T, weight=weights_K)
        near_T = (classes_T > 0).to(displacement_T.dtype)
        errors_T = (displacement_T - away_T).square() * near_T
        return cls, errors_T.sum() / near_T.sum().clamp(min=1)

    def raw(self, feats_BTC: Tensor, lengths_B: Tensor) -> list[Raw]:
        """Class logits (B, K + 1, T) and displacements (B, T) of all videos together."""
        of_part(self, None, given=len(lengths_B), device=feats_BTC.device)
        self.expect_width(feats_BTC)
        outputs = self.network(self.embed(feats_BTC, lengths_B, None), lengths_B)
        return [Raw(list(range(len(lengths_B))), lengths_B, list(outputs))]

    @property
    def graph_lengths(self) -> tuple[int, int]:
        """Return 2 ** levels as least length and as multiple: the network halves a sequence `levels` times."""
        return (2**self.settings.levels, 2**self.settings.levels)

    def dense(self, feats_BTC: Tensor, lengths_B: Tensor) -> dict[str, Tensor]:
        """Compute the outputs of one padded sequence for all positions; see `DetectorBase.dense`.

        The logits have one class more, the background as class 0. A segment begins and ends at its moment.
        """
        return self.decoded(*self.outputs(feats_BTC, lengths_B), lengths_B)

    def outputs(self, feats_BTC: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return class logits (B, K + 1, T) and displacements (B, T)."""
        found: tuple[Tensor, Tensor] = self.network(self.embed(feats_BTC, lengths_B, None), lengths_B)
        return found

    def decoded(self, logits_BKT: Tensor, displacement_BT: Tensor, lengths_B: Tensor) -> dict[str, Tensor]:
        """Return the outputs of `dense` from those of the network."""
        time_T = torch.arange(displacement_BT.shape[1], device=displacement_BT.device)
        real_BT = time_T < lengths_B[:, None]
        moment_BT = time_T - displacement_BT
        return {
            "logits": logits_BKT.transpose(1, 2),
            "scores": (logits_BKT.softmax(dim=1)[:, 1:] * real_BT[:, None]).transpose(1, 2),
            "segments": torch.stack([moment_BT, moment_BT], dim=2)[:, :, None],
            "level": torch.zeros_like(time_T),
        }

    def decode_candidates(
        self, raw: list[Raw], videos: int, *, score_threshold: float, topk: int, min_length: float
    ) -> list[Candidates]:
        """The best pairs of position and class; the time is the position less its displacement."""
        (group,) = raw
        candidates = []
        for logits_KT, displacement_T, length in zip(*group.outputs, group.lengths_B.tolist(), strict=True):
            scores_KT = logits_KT[:, :length].float().softmax(dim=0)[1:]
            scores_N, index_N = scores_KT.flatten().sort(descending=True, stable=True)
            keep_N = scores_N > score_threshold
            scores_N, index_N = scores_N[keep_N][:topk], index_N[keep_N][:topk]
            label_N, position_N = index_N // length, index_N % length
            time_N = position_N.float() - displacement_T[position_N].float()
            candidates.append(Candidates(time_N[:, None].repeat(1, 2), scores_N, label_N))
        return candidates
