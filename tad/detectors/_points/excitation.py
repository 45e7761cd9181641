"""Temporal squeeze-and-excitation: a gate per snippet, computed from the channel means of all snippets."""

# B videos, T snippets, C channels, L input length of the gate's layers

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tad.detectors._points.pyramid import LevelNorms
from tad.layers.masked import zero_outside

RATIO = 8  # gate length / hidden width


class TemporalExcitation(nn.Module):
    """Multiply a sequence by gates between 0 and 1, one per snippet.

    Args:
        length: L.
        masked: the snippets of each video, without padding, are resampled to L, so that padding does not matter.
            Otherwise, as published, padding is part of the L snippets, and a longer sequence is subsampled to L.
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
    """Return which of a video's `own` snippets each of `length` positions shows, (B, length); exact in integers."""
    position_L = torch.arange(length, device=own_B1.device)
    return position_L * own_B1 // length


def _back(total: int, own_B1: Tensor, length: int) -> Tensor:
    """Return which of `length` positions gates each of the `total` snippets of a padded video, (B, total)."""
    snippet_T = torch.arange(total, device=own_B1.device)
    return (snippet_T * length // own_B1).clamp(max=length - 1)


class ExcitedNorms(LevelNorms):
    """Neck with a temporal gate followed by a norm for every level.

    Args:
        channels: channels of every level.
        lengths: per level, the length L of the gate: the snippets of a training window at that level.
        masked: passed to the gates, see `TemporalExcitation`; it does not change the norms.
        normed: whether there are norms.
    """

    def __init__(self, channels: int, *, lengths: Sequence[int], masked: bool, normed: bool = True) -> None:
        super().__init__(channels, levels=len(lengths), masked=False, normed=normed)
        self.seblocks = nn.ModuleList(TemporalExcitation(length, masked=masked) for length in lengths)

    def forward(self, features: list[Tensor], masks: list[Tensor]) -> list[Tensor]:
        """(B, C, T) per level → the same, gated and normalised."""
        gated = [gate(x_BCT, mask) for gate, x_BCT, mask in zip(self.seblocks, features, masks, strict=True)]
        return super().forward(gated, masks)
