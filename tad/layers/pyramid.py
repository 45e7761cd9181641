"""Encoder of the detectors: embedding, blocks at full resolution, then one halving block per further level."""

# B videos, T snippets of a level, C channels

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from tad.layers.masked import ChannelNorm, Mask, MaskedConv1d, padding_of, position_code, position_table, zero_outside


class Block(Protocol):
    """A temporal block: features and mask in, features and mask (maybe of half the length) out."""

    def __call__(self, x_BCT: Tensor, mask_B1T: Mask) -> tuple[Tensor, Mask]: ...


class Pyramid(nn.Module):
    """Feature sequence → one feature map per level, level l at 1/2^l of the resolution.

    Args:
        feature_dim: channels in.
        channels: channels of every level.
        kernel: width of the embedding convolutions.
        layers: number of embedding convolutions.
        stem: blocks at full resolution; their output is level 0.
        branch: blocks that halve; one level each.
        max_length: snippets of the position table; 0: no position code.
        masked: zero the padding after every step, so that it cannot leak through the next kernel.
        conv: makes the embedding convolutions.
    """

    def __init__(
        self,
        feature_dim: int,
        channels: int,
        *,
        kernel: int,
        layers: int,
        stem: Sequence[nn.Module],
        branch: Sequence[nn.Module],
        max_length: int,
        masked: bool,
        conv: Callable[..., nn.Module] = MaskedConv1d,
    ) -> None:
        super().__init__()
        self.masked = masked
        widths = [feature_dim, *[channels] * layers]
        self.embd = nn.ModuleList(conv(widths[i], widths[i + 1], kernel=kernel, bias=False) for i in range(layers))
        self.embd_norm = nn.ModuleList(ChannelNorm(channels) for _ in range(layers))
        self.stem = nn.ModuleList(stem)
        self.branch = nn.ModuleList(branch)
        for module in self.modules():
            if isinstance(module, nn.Conv1d) and module.bias is not None:
                nn.init.zeros_(module.bias)
        table = position_table(channels, max_length) if max_length else None
        self.register_buffer("position", table, persistent=False)
        self.position: Tensor | None

    def forward(self, x_BCT: Tensor, mask_B1T: Tensor, spans: list[int]) -> tuple[list[Tensor], list[Tensor]]:
        """Feature maps and masks of the levels.

        `spans`: snippets of each video over which a position code longer than the table is stretched.
        """
        padding = padding_of(mask_B1T)
        for conv, norm in zip(self.embd, self.embd_norm, strict=True):
            x_BCT = norm(conv(x_BCT, padding), relu=True)
            x_BCT = zero_outside(x_BCT, padding) if self.masked else x_BCT
        if self.position is not None:
            code = position_code(self.position, spans, x_BCT.shape[2])
            x_BCT = x_BCT + zero_outside(code, padding)
        for block in self.stem:
            x_BCT, padding = block(x_BCT, padding)
        features, masks = [x_BCT], [mask_B1T]
        for block in self.branch:
            x_BCT, padding = block(x_BCT, padding)
            features.append(x_BCT)
            masks.append(masks[-1][:, :, ::2])
        return features, masks


class LevelNorms(nn.Module):
    """The neck: a norm of its own for every level."""

    def __init__(self, channels: int, *, levels: int, masked: bool) -> None:
        super().__init__()
        self.masked = masked
        self.fpn_norms = nn.ModuleList(ChannelNorm(channels) for _ in range(levels))

    def forward(self, features: list[Tensor], masks: list[Tensor]) -> list[Tensor]:
        """(B, C, T) per level → the same, normalised."""
        features = [norm(x_BCT) for norm, x_BCT in zip(self.fpn_norms, features, strict=True)]
        if self.masked and padding_of(masks[0]) is not None:
            features = [zero_outside(x_BCT, mask) for x_BCT, mask in zip(features, masks, strict=True)]
        return features


def points_of(lengths: Sequence[int], ranges: Sequence[Sequence[float]], device: torch.device) -> Tensor:
    """The points of all levels, (P, 4): position and range [low, high] in snippets, stride of the level.

    Level l has a point at every multiple of 2^l; a point regresses instances whose farther border lies within
    its range (ActionFormer, section 3.3).
    """
    parts = []
    for level, (length, (low, high)) in enumerate(zip(lengths, ranges, strict=True)):
        part = torch.empty(length, 4, device=device)
        part[:, 0] = torch.arange(length, device=device) * 2**level
        part[:, 1], part[:, 2], part[:, 3] = low, high, 2**level
        parts.append(part)
    return torch.cat(parts)
