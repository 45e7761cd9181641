"""Encoder of DiGIT: gated convolutions with several dilations, followed by a feature pyramid."""

# B videos, T snippets, C channels, H hidden channels, S positions of all levels

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tad.detectors._digit.time import halved, resample
from tad.layers.chance import Dropout


class GatedConvolution(nn.Module):
    """Convolutions of several dilations, each of its own share of the channels, times a gate of each snippet.

    Args:
        channels: C.
        hidden: H, a multiple of `dilations`.
        kernel: odd width.
        dilations: number of convolutions, with dilation 1, 2, …
        depthwise: whether each channel is convolved by itself.
    """

    def __init__(self, channels: int, *, hidden: int, kernel: int, dilations: int, depthwise: bool) -> None:
        super().__init__()
        share = hidden // dilations
        self.inputs = nn.Linear(channels, 2 * hidden)
        self.output = nn.Linear(hidden, channels)
        self.convs = nn.ModuleList(
            nn.Conv1d(share, share, kernel, padding=d * (kernel // 2), dilation=d, groups=share if depthwise else 1)
            for d in range(1, dilations + 1)
        )

    def forward(self, x_BTC: Tensor, real_BT1: Tensor) -> Tensor:
        """(B, T, C) → (B, T, C); the padding influences nothing."""
        moved_BTH, gate_BTH = self.inputs(x_BTC).chunk(2, dim=2)
        parts = (moved_BTH * real_BT1).transpose(1, 2).chunk(len(self.convs), dim=1)
        convolved_BHT = torch.cat([conv(part) for conv, part in zip(self.convs, parts, strict=True)], dim=1)
        y_BTC: Tensor = self.output(convolved_BHT.transpose(1, 2) * real_BT1 * F.silu(gate_BTH))
        return y_BTC


class EncoderLayer(nn.Module):
    """A gated convolution with a residual connection, then a norm."""

    def __init__(
        self, channels: int, *, hidden: int, kernel: int, dilations: int, depthwise: bool, dropout: float
    ) -> None:
        super().__init__()
        self.convolution = GatedConvolution(
            channels, hidden=hidden, kernel=kernel, dilations=dilations, depthwise=depthwise
        )
        self.dropout = Dropout(dropout)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x_BTC: Tensor, real_BT1: Tensor) -> Tensor:
        """(B, T, C) → (B, T, C)."""
        y_BTC: Tensor = self.norm(x_BTC + self.dropout(self.convolution(x_BTC, real_BT1)))
        return y_BTC


class Embedding(nn.Module):
    """A convolution of the features and a norm; (B, T, C of the features) → (B, T, C), zero on the padding."""

    def __init__(self, inputs: int, channels: int, *, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, channels, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x_BTC: Tensor, real_BT1: Tensor) -> Tensor:
        """Embed features that are zero on the padding."""
        y_BTC: Tensor = self.norm(self.conv(x_BTC.transpose(1, 2)).transpose(1, 2))
        return y_BTC * real_BT1


def pyramid(x_BTC: Tensor, lengths_B: Tensor, levels: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return the sequences of all levels, each half as long as the one before, and their lengths."""
    sequences, lengths = [x_BTC], [lengths_B]
    for _ in range(1, levels):
        lengths.append(halved(lengths[-1]))
        sequences.append(resample(sequences[-1], lengths[-2], lengths[-1]))
    return sequences, lengths
