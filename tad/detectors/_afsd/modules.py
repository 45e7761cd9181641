"""Modules of AFSD's network: pyramid, frame-level features, coarse head, refinement by boundary pooling.

Lin et al.: Learning Salient Boundary Feature for Anchor-free Temporal Action Localization, CVPR 2021, section 3.
"""

# B videos, T positions of a level, P of all levels, F frames of a window, C channels, K classes (0: background)

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tad.detectors._afsd.boundaries import boundary_max_pool, boundary_regions, frame_regions
from tad.layers.group_norms import group_norm_relu
from tad.layers.kernels import convolve
from tad.layers.masked import Mask, MaskedConv1d, Scale, zero_outside

GROUPS = 32


class ConvUnit(nn.Module):
    """Convolution, GroupNorm and ReLU; zero outside the mask.

    Args:
        inputs: input channels.
        outputs: output channels, a multiple of 32.
        kernel: width, odd.
        stride: 1 or 2; with 2, output i reads inputs 2i to 2i + 2 of an even number (TensorFlow's SAME padding).
        masked: compute the norm's statistics inside the mask only.
    """

    def __init__(self, inputs: int, outputs: int, *, kernel: int = 1, stride: int = 1, masked: bool) -> None:
        super().__init__()
        self.stride, self.masked = stride, masked
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride)
        self.norm = nn.GroupNorm(GROUPS, outputs)

    def forward(self, x_BCT: Tensor, mask_B1T: Mask) -> Tensor:
        """(B, inputs, T) and the mask of the outputs → (B, outputs, T / stride)."""
        if self.stride == 1:
            y_BCT = convolve(x_BCT, self.conv.weight, self.conv.bias)
        else:
            y_BCT = self.conv(F.pad(x_BCT, (0, self.conv.kernel_size[0] - self.stride)))
        return group_norm_relu(y_BCT, mask_B1T, self.norm, masked=self.masked)


class UnitStack(nn.ModuleList):
    """Sequence of `ConvUnit`s that share a mask."""

    def forward(self, x_BCT: Tensor, mask_B1T: Mask) -> Tensor:
        """(B, C, T) → (B, outputs, T)."""
        for unit in self:
            x_BCT = unit(x_BCT, mask_B1T)
        return x_BCT


class FeatureEmbedding(nn.Module):
    """Embedding of a feature sequence (B, C, T) into level 0 of the pyramid."""

    levels = 1  # number of levels that it computes

    def __init__(self, inputs: int, channels: int, *, masked: bool) -> None:
        super().__init__()
        self.unit = ConvUnit(inputs, channels, masked=masked)

    def forward(self, maps: list[Tensor], masks: Sequence[Mask]) -> list[Tensor]:
        """Embed the only map; return level 0 as a list of one."""
        (x_BCT,) = maps
        return [self.unit(x_BCT, masks[0])]


class TapUnit(nn.Module):
    """Reduce a map of frames (B, C, T, H, W) to (B, outputs, T): a kernel over all cells, GroupNorm and ReLU.

    The result is zero outside the mask. `masked`: compute the norm's statistics inside the mask only.
    """

    def __init__(self, inputs: int, outputs: int, *, cells: int, masked: bool) -> None:
        super().__init__()
        self.masked = masked
        self.conv = nn.Conv3d(inputs, outputs, (1, cells, cells))
        self.norm = nn.GroupNorm(GROUPS, outputs)

    def forward(self, x_BCTHW: Tensor, mask_B1T: Mask) -> Tensor:
        return group_norm_relu(self.conv(x_BCTHW).flatten(2), mask_B1T, self.norm, masked=self.masked)


class TapEmbedding(nn.Module):
    """Embedding of maps of frames, each half as long as the one before, into as many levels, added top-down.

    Args:
        inputs: channels of the maps.
        channels: channels of the levels.
        cells: height and width of the maps.
        masked: compute the norms' statistics inside the mask only.
    """

    def __init__(self, inputs: Sequence[int], channels: int, *, cells: Sequence[int], masked: bool) -> None:
        super().__init__()
        pairs = zip(inputs, cells, strict=True)
        self.units = nn.ModuleList(TapUnit(width, channels, cells=count, masked=masked) for width, count in pairs)
        self.levels = len(self.units)

    def forward(self, maps: list[Tensor], masks: Sequence[Mask]) -> list[Tensor]:
        """Return the levels, zero outside their masks."""
        levels: list[Tensor] = []
        for unit, x_BCTHW, mask_B1T in reversed(list(zip(self.units, maps, masks, strict=False))):
            x_BCT = unit(x_BCTHW, mask_B1T)
            if levels:
                x_BCT = x_BCT + levels[0].repeat_interleave(2, dim=2)
            levels.insert(0, zero_outside(x_BCT, mask_B1T))
        return levels


class LevelPyramid(nn.Module):
    """Pyramid: computes `coarser` further levels, each half as long, and the frame-level features."""

    def __init__(self, channels: int, *, coarser: int, upsample: int, masked: bool) -> None:
        super().__init__()
        self.upsample = upsample
        self.down = nn.ModuleList(
            ConvUnit(channels, channels, kernel=3, stride=2, masked=masked) for _ in range(coarser)
        )
        self.frames = UnitStack(ConvUnit(channels, channels, kernel=kernel, masked=masked) for kernel in (3, 3, 1))

    def levels(self, first: list[Tensor], masks: Sequence[Mask]) -> list[Tensor]:
        """Return the feature maps of all levels; the first ones are unchanged."""
        maps = [*first]
        for unit, mask_B1T in zip(self.down, masks[len(first) :], strict=True):
            maps.append(unit(maps[-1], mask_B1T))
        return maps

    def frame_features(self, x_BCT: Tensor, mask_B1F: Mask) -> Tensor:
        """Compute (B, C, F) from level 0; the first half of the channels responds to starts, the second to ends."""
        stretched_BCF = x_BCT.repeat_interleave(self.upsample, dim=2)
        features_BCF: Tensor = self.frames(stretched_BCF, mask_B1F)
        return features_BCF


@dataclass(frozen=True, slots=True)
class Coarse:
    """Outputs of the coarse head for a level.

    Attributes:
        loc_BCT, cls_BCT: features of its two towers.
        distances_BT2: distances to both borders, in frames.
        logits_BTK: class logits.
    """

    loc_BCT: Tensor
    cls_BCT: Tensor
    distances_BT2: Tensor
    logits_BTK: Tensor


class CoarseHead(nn.Module):
    """Coarse head: two towers shared by the levels; distances are exponentials with a learnt scale per level."""

    def __init__(self, channels: int, *, outputs: int, strides: Sequence[float], masked: bool) -> None:
        super().__init__()
        self.strides, self.masked = strides, masked
        self.loc_tower = UnitStack(ConvUnit(channels, channels, kernel=3, masked=masked) for _ in range(2))
        self.cls_tower = UnitStack(ConvUnit(channels, channels, kernel=3, masked=masked) for _ in range(2))
        self.loc = MaskedConv1d(channels, 2, kernel=3)
        self.cls = MaskedConv1d(channels, outputs, kernel=3)
        self.scale = nn.ModuleList(Scale() for _ in strides)

    def forward(self, x_BCT: Tensor, mask_B1T: Mask, level: int) -> Coarse:
        """Compute the outputs for one level."""
        loc_BCT, cls_BCT = self.loc_tower(x_BCT, mask_B1T), self.cls_tower(x_BCT, mask_B1T)
        raw_B2T = self.scale[level](self.loc(loc_BCT, None))
        distances_B2T = torch.exp(raw_B2T) * self.strides[level]
        return Coarse(loc_BCT, cls_BCT, distances_B2T.transpose(1, 2), self.cls(cls_BCT, None).transpose(1, 2))


class ProposalBranch(nn.Module):
    """Proposal branch: joins a tower's features at a point with features pooled around the point's borders.

    Pooling covers the border features of the level and the frame-level features.
    """

    def __init__(self, channels: int, *, masked: bool) -> None:
        super().__init__()
        self.point = ConvUnit(channels, channels, masked=masked)
        self.border = ConvUnit(channels, 2 * channels, masked=masked)
        self.frame = ConvUnit(channels, channels, masked=masked)
        self.join = ConvUnit(4 * channels, channels, masked=masked)

    def forward(self, x_BCT: Tensor, fine_BCT: Tensor, regions_BT4: Tensor, mask_B1T: Mask) -> tuple[Tensor, Tensor]:
        """Return proposal features (B, C, T) and border features (B, 2C, T).

        `fine_BCT`: pooled frame-level features; `regions_BT4`: the regions to pool on the level.
        """
        border_BCT = self.border(x_BCT, mask_B1T)
        near_BCT = boundary_max_pool(border_BCT, regions_BT4)
        fine_BCT = self.frame(fine_BCT, mask_B1T)
        joined_BCT = torch.cat([fine_BCT, near_BCT, self.point(x_BCT, mask_B1T)], dim=1)
        return self.join(joined_BCT, mask_B1T), border_BCT


@dataclass(frozen=True, slots=True)
class Refined:
    """Outputs of the refining head for a level.

    Attributes:
        offsets_BT2: offsets of both borders, in units of half the coarse segment, outwards positive.
        logits_BTK: class logits.
        quality_BT: logit of the predicted tIoU of the refined segment.
        loc_BCT, cls_BCT: border features of both branches, (B, 2C, T).
    """

    offsets_BT2: Tensor
    logits_BTK: Tensor
    quality_BT: Tensor
    loc_BCT: Tensor
    cls_BCT: Tensor


class RefineHead(nn.Module):
    """Refining head: two proposal branches shared by the levels predict offsets, classes and quality."""

    def __init__(self, channels: int, *, outputs: int, masked: bool) -> None:
        super().__init__()
        self.loc_branch = ProposalBranch(channels, masked=masked)
        self.cls_branch = ProposalBranch(channels, masked=masked)
        self.loc = MaskedConv1d(channels, 2, kernel=1)
        self.cls = MaskedConv1d(channels, outputs, kernel=1)
        self.quality = MaskedConv1d(channels, 1, kernel=3)

    def forward(self, coarse: Sequence[Coarse], frames_BCF: Tensor, masks: Sequence[Mask]) -> list[Refined]:
        """Compute the outputs for all levels; no gradient flows through the regions' positions."""
        regions = [saliency_regions(level.distances_BT2.detach(), frames=frames_BCF.shape[2]) for level in coarse]
        near, fine = zip(*regions, strict=True)
        # one table of maxima serves both branches and all levels
        fine_BCP = boundary_max_pool(frames_BCF, torch.cat(fine, dim=1))
        pooled = torch.split(fine_BCP, [regions_BT4.shape[1] for regions_BT4 in fine], dim=2)
        return [self._level(*of_level) for of_level in zip(coarse, pooled, near, masks, strict=True)]

    def _level(self, coarse: Coarse, fine_BCT: Tensor, near_BT4: Tensor, mask_B1T: Mask) -> Refined:
        loc_BCT, loc_border_BCT = self.loc_branch(coarse.loc_BCT, fine_BCT, near_BT4, mask_B1T)
        cls_BCT, cls_border_BCT = self.cls_branch(coarse.cls_BCT, fine_BCT, near_BT4, mask_B1T)
        return Refined(
            offsets_BT2=self.loc(loc_BCT, None).transpose(1, 2),
            logits_BTK=self.cls(cls_BCT, None).transpose(1, 2),
            quality_BT=self.quality(loc_BCT, None)[:, 0],
            loc_BCT=loc_border_BCT,
            cls_BCT=cls_border_BCT,
        )


def saliency_regions(distances_BT2: Tensor, *, frames: int) -> tuple[Tensor, Tensor]:
    """Return the regions (B, T, 4) around the borders of a level's segments, in its positions and in frames."""
    length = distances_BT2.shape[1]
    index_T = torch.arange(length, device=distances_BT2.device)
    left_BT, right_BT = (distances_BT2 * (length / frames)).unbind(2)
    near_BT4 = boundary_regions(index_T - left_BT, index_T + right_BT, left_BT + right_BT)
    centre_T = (index_T + 0.5) * (frames / length)
    return near_BT4, frame_regions(centre_T - distances_BT2[:, :, 0], centre_T + distances_BT2[:, :, 1])


def glorot(module: nn.Module) -> None:
    """Initialise convolutions with Glorot-uniform weights and zero bias."""
    _initialise(module, nn.init.xavier_uniform_)


def narrow(module: nn.Module) -> None:
    """Initialise convolutions with weights from N(0, 0.01²) and zero bias."""
    _initialise(module, lambda weight: nn.init.normal_(weight, std=0.01))


def _initialise(module: nn.Module, fill: Callable[[Tensor], Tensor]) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv3d):
            fill(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
