"""Encoder of the point-based detectors: embedding, blocks at full resolution, then one halving block per level."""

# B videos, T snippets of a level, C channels

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tad.core.errors import TadError
from tad.detectors._points.settings import PointSettings
from tad.layers.masked import ChannelNorm, Mask, MaskedConv1d, padding_of, position_code, position_table, zero_outside


class Block(Protocol):
    """Protocol of a temporal block: features and mask → features and mask, possibly of half the length."""

    def __call__(self, x_BCT: Tensor, mask_B1T: Mask) -> tuple[Tensor, Mask]: ...


class Pyramid(nn.Module):
    """Feature pyramid: a feature sequence → one feature map per level, level l at 1/2^l of the resolution.

    Args:
        feature_dim: input channels.
        settings: settings of the embedding, the projections of the streams, and the position code.
        stem: blocks at full resolution; their output is level 0.
        branch: halving blocks, one per further level.
        max_length: length of the position table in snippets.
        masked: zero the padding after every layer, so that it cannot leak into the data.
        conv: class of the embedding convolutions.

    Raises:
        TadError: the channels of the streams do not add up to `feature_dim`.
    """

    def __init__(
        self,
        feature_dim: int,
        settings: PointSettings,
        *,
        stem: Sequence[nn.Module],
        branch: Sequence[nn.Module],
        max_length: int,
        masked: bool,
        conv: Callable[..., nn.Module] = MaskedConv1d,
    ) -> None:
        super().__init__()
        self.masked, self.streams = masked, settings.stream_dims
        channels, layers, kernel, normed = (
            settings.embed_dim, settings.embed_layers, settings.embed_kernel, settings.embed_norm,
        )  # fmt: skip
        if self.streams:
            if sum(self.streams) != feature_dim:
                raise TadError(
                    f"settings.stream_dims: {list(self.streams)}: these add up to {sum(self.streams)}, but the features"
                    f" have {feature_dim} channels; give the width of each stream, in the order of the features"
                )
            pairs = zip(self.streams, settings.stream_embed_dims, strict=True)
            self.proj = nn.ModuleList(MaskedConv1d(inputs, outputs, kernel=1) for inputs, outputs in pairs)
        widths = [channels if self.streams else feature_dim, *[channels] * layers]
        self.embd = nn.ModuleList(conv(widths[i], widths[i + 1], kernel=kernel, bias=not normed) for i in range(layers))
        self.embd_norm = nn.ModuleList(ChannelNorm(channels) for _ in range(layers if normed else 0))
        self.stem = nn.ModuleList(stem)
        self.branch = nn.ModuleList(branch)
        for module in self.modules():
            if isinstance(module, nn.Conv1d) and module.bias is not None:
                nn.init.zeros_(module.bias)
        table = position_table(channels, max_length) if settings.has_position_code else None
        self.register_buffer("position", table, persistent=False)
        self.position: Tensor | None

    def forward(self, x_BCT: Tensor, mask_B1T: Tensor, spans: list[int]) -> tuple[list[Tensor], list[Tensor]]:
        """Return feature maps and masks per level.

        `spans`: per video, the length to which the position code is stretched if it exceeds the table.
        """
        padding = padding_of(mask_B1T)
        x_BCT = self._embed(self._project(x_BCT, padding), padding)
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

    def _project(self, x_BCT: Tensor, padding: Mask) -> Tensor:
        """Each stream of the features through a convolution of its own."""
        if not self.streams:
            return x_BCT
        parts = torch.split(x_BCT, list(self.streams), dim=1)
        projected = [conv(part, padding).transpose(1, 2) for conv, part in zip(self.proj, parts, strict=True)]
        return torch.cat(projected, dim=2).transpose(1, 2)

    def _embed(self, x_BCT: Tensor, padding: Mask) -> Tensor:
        if not len(self.embd_norm):  # a convolution's output is zero on the padding, and remains so
            for conv in self.embd:
                x_BCT = F.relu(conv(x_BCT, padding))
            return x_BCT
        for conv, norm in zip(self.embd, self.embd_norm, strict=True):
            x_BCT = norm(conv(x_BCT, padding), relu=True)
            x_BCT = zero_outside(x_BCT, padding) if self.masked else x_BCT
        return x_BCT


class LevelNorms(nn.Module):
    """Neck with a separate norm for every level, or without `normed` the identity."""

    def __init__(self, channels: int, *, levels: int, masked: bool, normed: bool = True) -> None:
        super().__init__()
        self.masked = masked
        self.fpn_norms = nn.ModuleList(ChannelNorm(channels) for _ in range(levels if normed else 0))

    def forward(self, features: list[Tensor], masks: list[Tensor]) -> list[Tensor]:
        """(B, C, T) per level → the same, normalised."""
        if len(self.fpn_norms):
            features = [norm(x_BCT) for norm, x_BCT in zip(self.fpn_norms, features, strict=True)]
        if self.masked and padding_of(masks[0]) is not None:
            features = [zero_outside(x_BCT, mask) for x_BCT, mask in zip(features, masks, strict=True)]
        return features


class TopDown(LevelNorms):
    """Neck with a top-down path: a one-dimensional feature pyramid network.

    A convolution of kernel 1 is applied to every level. From the last level on, each is upsampled to twice its length
    and added to the finer one. A depth-wise convolution of kernel 3 and a norm follow.

    Args:
        channels: of every level in.
        outputs: of every level out.
        levels: how many.
        masked: padding stays zero. Otherwise, as published, each norm's bias stands in it.
        normed: whether there are norms; without them the convolutions have a bias.
    """

    def __init__(self, channels: int, outputs: int, *, levels: int, masked: bool, normed: bool) -> None:
        super().__init__(outputs, levels=levels, masked=masked, normed=normed)
        self.lateral_convs = nn.ModuleList(
            MaskedConv1d(channels, outputs, kernel=1, bias=not normed) for _ in range(levels)
        )
        self.fpn_convs = nn.ModuleList(
            MaskedConv1d(outputs, outputs, kernel=3, groups=outputs, bias=not normed) for _ in range(levels)
        )

    def forward(self, features: list[Tensor], masks: list[Tensor]) -> list[Tensor]:
        """(B, channels, T) per level → (B, outputs, T) per level."""
        paddings: list[Mask] = list(masks) if padding_of(masks[0]) is not None else [None] * len(masks)
        levels = [conv(x, padding) for conv, x, padding in zip(self.lateral_convs, features, paddings, strict=True)]
        for level in range(len(levels) - 1, 0, -1):
            stretched_BTC = levels[level].transpose(1, 2).repeat_interleave(2, dim=1)
            summed_BCT = levels[level - 1] + stretched_BTC.transpose(1, 2)
            levels[level - 1] = zero_outside(summed_BCT, paddings[level - 1]) if self.masked else summed_BCT
        levels = [conv(x, padding) for conv, x, padding in zip(self.fpn_convs, levels, paddings, strict=True)]
        return super().forward(levels, masks)


def neck_of(settings: PointSettings, *, masked: bool) -> nn.Module:
    """Create the neck that the settings select."""
    levels, normed = settings.levels, settings.neck_norm
    if settings.neck == "fpn":
        return TopDown(settings.embed_dim, settings.neck_dim, levels=levels, masked=masked, normed=normed)
    return LevelNorms(settings.embed_dim, levels=levels, masked=masked, normed=normed)


def points_of(lengths: Sequence[int], ranges: Sequence[Sequence[float]], device: torch.device) -> Tensor:
    """Return the points of all levels, (P, 4): position, range [low, high] and stride, all in snippets.

    Level l has a point at every multiple of 2^l. A point regresses instances whose farther border lies within
    its range (ActionFormer, section 3.3).
    """
    parts = []
    for level, (length, (low, high)) in enumerate(zip(lengths, ranges, strict=True)):
        part = torch.empty(length, 4, device=device)
        part[:, 0] = torch.arange(length, device=device) * 2**level
        part[:, 1], part[:, 2], part[:, 3] = low, high, 2**level
        parts.append(part)
    return torch.cat(parts)
