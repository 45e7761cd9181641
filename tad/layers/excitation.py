"""Temporal squeeze and excitation: a gate per snippet from the mean over the channels of all snippets."""

# B videos, T snippets, C channels, L snippets that the gate's layers are made for

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tad.layers.masked import zero_outside
from tad.layers.pyramid import LevelNorms

RATIO = 8  # of the gate's length to its hidden width


class TemporalExcitation(nn.Module):
    """Sequences times their gates.

    Args:
        length: L.
        masked: a video's own snippets are spread over L, so that padding changes nothing. Otherwise, as published,
            padding is part of the L snippets, and a longer sequence is thinned to them.
    """

    def __init__(self, length: int, *, masked: bool) -> None:
        super().__init__()
        self.length, self.masked = length, masked
        hidden = max(length // RATIO, 1)
        layers = nn.Linear(length, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, length, bias=False), nn.Sigmoid()
        self.fc = nn.Sequential(*layers)

    def forward(self, x_BCT: Tensor, mask_B1T: Tensor) -> Tensor:
        """(B, C, T) → (B, C, T); T ≥ L unless `masked`."""
        mean_BT = x_BCT.mean(dim=1)
        total = mean_BT.shape[1]
        if self.masked:
            own_B1 = mask_B1T.sum(dim=2).clamp(min=1)
            spread_BL = mean_BT.gather(1, _spread(self.length, own_B1))
            gate_BT = self.fc(spread_BL).gather(1, _back(total, own_B1, self.length))
            return zero_outside(x_BCT * gate_BT[:, None], mask_B1T)
        assert total >= self.length, (total, self.length)
        if total > self.length:
            mean_BT = F.interpolate(mean_BT[:, None], self.length)[:, 0]
        gate_B1T: Tensor = self.fc(mean_BT)[:, None]
        return x_BCT * (F.interpolate(gate_B1T, total) if total > self.length else gate_B1T)


def _spread(length: int, own_B1: Tensor) -> Tensor:
    """Which of its own snippets stands at each of `length` places, (B, length); in integers, so without rounding."""
    place_L = torch.arange(length, device=own_B1.device)
    return place_L * own_B1 // length


def _back(total: int, own_B1: Tensor, length: int) -> Tensor:
    """Which of `length` places each of `total` snippets, of which the first are a video's own, is gated by."""
    snippet_T = torch.arange(total, device=own_B1.device)
    return (snippet_T * length // own_B1).clamp(max=length - 1)


class ExcitedNorms(LevelNorms):
    """The neck: a gate, then a norm, for every level.

    Args:
        channels: of every level.
        lengths: snippets per level that the gates are made for: those of a training window.
        masked: of the gates, see `TemporalExcitation`; the norms are `LevelNorms` as they are.
    """

    def __init__(self, channels: int, *, lengths: Sequence[int], masked: bool) -> None:
        super().__init__(channels, levels=len(lengths), masked=False)
        self.seblocks = nn.ModuleList(TemporalExcitation(length, masked=masked) for length in lengths)

    def forward(self, features: list[Tensor], masks: list[Tensor]) -> list[Tensor]:
        """(B, C, T) per level → the same, gated and normalised."""
        gated = [gate(x_BCT, mask) for gate, x_BCT, mask in zip(self.seblocks, features, masks, strict=True)]
        return super().forward(gated, masks)
