"""AFSD's network behind the features: pyramid, frame-level features, coarse head, boundary-pooled refinement.

Lin et al.: Learning Salient Boundary Feature for Anchor-free Temporal Action Localization, CVPR 2021, section 3.
"""

# B videos, T positions of a level, P of all, F frames of a window, C channels, K classes with background as class 0

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tad.layers.boundaries import boundary_max_pool, boundary_regions, frame_regions
from tad.layers.group_norms import group_norm_relu
from tad.layers.kernels import convolve
from tad.layers.masked import Mask, MaskedConv1d, Scale, zero_outside

GROUPS = 32


class ConvUnit(nn.Module):
    """Convolution, GroupNorm, ReLU; zero outside the mask that it is given.

    Args:
        inputs: channels in.
        outputs: channels out, a multiple of 32.
        kernel: odd width.
        stride: 1; or 2, which reads positions 2i to 2i + 2 of an even number (TensorFlow's SAME padding).
        masked: the norm's statistics are of what the mask shows, not of all positions.
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
    """Several of them, one after another."""

    def forward(self, x_BCT: Tensor, mask_B1T: Mask) -> Tensor:
        """The same length."""
        for unit in self:
            x_BCT = unit(x_BCT, mask_B1T)
        return x_BCT


class FeatureEmbedding(nn.Module):
    """A sequence of features (B, C, T) → level 0."""

    levels = 1  # that it makes

    def __init__(self, inputs: int, channels: int, *, masked: bool) -> None:
        super().__init__()
        self.unit = ConvUnit(inputs, channels, masked=masked)

    def forward(self, maps: list[Tensor], masks: Sequence[Mask]) -> list[Tensor]:
        """Level 0: the only map, embedded."""
        (x_BCT,) = maps
        return [self.unit(x_BCT, masks[0])]


class TapUnit(nn.Module):
    """A map of frames (B, C, T, H, W) → (B, outputs, T): one kernel over all its cells, GroupNorm, ReLU; zero outside
    the mask, and with `masked` the norm's statistics are of what it shows."""

    def __init__(self, inputs: int, outputs: int, *, cells: int, masked: bool) -> None:
        super().__init__()
        self.masked = masked
        self.conv = nn.Conv3d(inputs, outputs, (1, cells, cells))
        self.norm = nn.GroupNorm(GROUPS, outputs)

    def forward(self, x_BCTHW: Tensor, mask_B1T: Mask) -> Tensor:
        return group_norm_relu(self.conv(x_BCTHW).flatten(2), mask_B1T, self.norm, masked=self.masked)


class TapEmbedding(nn.Module):
    """Maps of frames, each of half the length of the one before → as many first levels, coarse ones added to finer.

    Args:
        inputs: channels of the maps.
        channels: of the levels.
        cells: of the maps, on a side.
        masked: padding changes no norm.
    """

    def __init__(self, inputs: Sequence[int], channels: int, *, cells: Sequence[int], masked: bool) -> None:
        super().__init__()
        pairs = zip(inputs, cells, strict=True)
        self.units = nn.ModuleList(TapUnit(width, channels, cells=count, masked=masked) for width, count in pairs)
        self.levels = len(self.units)

    def forward(self, maps: list[Tensor], masks: Sequence[Mask]) -> list[Tensor]:
        """The levels, zero outside their masks."""
        levels: list[Tensor] = []
        for unit, x_BCTHW, mask_B1T in reversed(list(zip(self.units, maps, masks, strict=False))):
            x_BCT = unit(x_BCTHW, mask_B1T)
            if levels:
                x_BCT = x_BCT + levels[0].repeat_interleave(2, dim=2)
            levels.insert(0, zero_outside(x_BCT, mask_B1T))
        return levels


class LevelPyramid(nn.Module):
    """The first levels → `coarser` further ones, each half as long, and the features of single frames."""

    def __init__(self, channels: int, *, coarser: int, upsample: int, masked: bool) -> None:
        super().__init__()
        self.upsample = upsample
        self.down = nn.ModuleList(
            ConvUnit(channels, channels, kernel=3, stride=2, masked=masked) for _ in range(coarser)
        )
        self.frames = UnitStack(ConvUnit(channels, channels, kernel=kernel, masked=masked) for kernel in (3, 3, 1))

    def levels(self, first: list[Tensor], masks: Sequence[Mask]) -> list[Tensor]:
        """Feature maps of all levels, the first ones as they are."""
        maps = [*first]
        for unit, mask_B1T in zip(self.down, masks[len(first) :], strict=True):
            maps.append(unit(maps[-1], mask_B1T))
        return maps

    def frame_features(self, x_BCT: Tensor, mask_B1F: Mask) -> Tensor:
        """(B, C, F) of level 0; the first half of the channels answers to starts, the second to ends."""
        stretched_BCF = x_BCT.repeat_interleave(self.upsample, dim=2)
        features_BCF: Tensor = self.frames(stretched_BCF, mask_B1F)
        return features_BCF


@dataclass(frozen=True, slots=True)
class Coarse:
    """What the coarse head says of a level.

    Attributes:
        loc_BCT, cls_BCT: features of its two towers.
        distances_BT2: to both borders, in frames.
        logits_BTK: of the classes.
    """

    loc_BCT: Tensor
    cls_BCT: Tensor
    distances_BT2: Tensor
    logits_BTK: Tensor


class CoarseHead(nn.Module):
    """Two towers shared by the levels; distances by an exponential with a factor per level."""

    def __init__(self, channels: int, *, outputs: int, strides: Sequence[float], masked: bool) -> None:
        super().__init__()
        self.strides, self.masked = strides, masked
        self.loc_tower = UnitStack(ConvUnit(channels, channels, kernel=3, masked=masked) for _ in range(2))
        self.cls_tower = UnitStack(ConvUnit(channels, channels, kernel=3, masked=masked) for _ in range(2))
        self.loc = MaskedConv1d(channels, 2, kernel=3)
        self.cls = MaskedConv1d(channels, outputs, kernel=3)
        self.scale = nn.ModuleList(Scale() for _ in strides)

    def forward(self, x_BCT: Tensor, mask_B1T: Mask, level: int) -> Coarse:
        """One level."""
        loc_BCT, cls_BCT = self.loc_tower(x_BCT, mask_B1T), self.cls_tower(x_BCT, mask_B1T)
        raw_B2T = self.scale[level](self.loc(loc_BCT, None))
        distances_B2T = torch.exp(raw_B2T) * self.strides[level]
        return Coarse(loc_BCT, cls_BCT, distances_B2T.transpose(1, 2), self.cls(cls_BCT, None).transpose(1, 2))


class ProposalBranch(nn.Module):
    """A tower's features at a point, with what is strongest around the point's borders on the level and in frames."""

    def __init__(self, channels: int, *, masked: bool) -> None:
        super().__init__()
        self.point = ConvUnit(channels, channels, masked=masked)
        self.border = ConvUnit(channels, 2 * channels, masked=masked)
        self.frame = ConvUnit(channels, channels, masked=masked)
        self.join = ConvUnit(4 * channels, channels, masked=masked)

    def forward(self, x_BCT: Tensor, fine_BCT: Tensor, regions_BT4: Tensor, mask_B1T: Mask) -> tuple[Tensor, Tensor]:
        """Proposal features (B, C, T) and border features (B, 2C, T).

        `fine_BCT`: what is strongest in frames; `regions_BT4`: where to look on the level.
        """
        border_BCT = self.border(x_BCT, mask_B1T)
        near_BCT = boundary_max_pool(border_BCT, regions_BT4)
        fine_BCT = self.frame(fine_BCT, mask_B1T)
        joined_BCT = torch.cat([fine_BCT, near_BCT, self.point(x_BCT, mask_B1T)], dim=1)
        return self.join(joined_BCT, mask_B1T), border_BCT


@dataclass(frozen=True, slots=True)
class Refined:
    """What refinement says of a level.

    Attributes:
        offsets_BT2: of both borders, in halves of the coarse segment, outwards positive.
        logits_BTK: of the classes.
        quality_BT: logit of the tIoU that the refined segment has.
        loc_BCT, cls_BCT: border features of both branches, (B, 2C, T).
    """

    offsets_BT2: Tensor
    logits_BTK: Tensor
    quality_BT: Tensor
    loc_BCT: Tensor
    cls_BCT: Tensor


class RefineHead(nn.Module):
    """Two proposal branches shared by the levels → offsets, classes and quality."""

    def __init__(self, channels: int, *, outputs: int, masked: bool) -> None:
        super().__init__()
        self.loc_branch = ProposalBranch(channels, masked=masked)
        self.cls_branch = ProposalBranch(channels, masked=masked)
        self.loc = MaskedConv1d(channels, 2, kernel=1)
        self.cls = MaskedConv1d(channels, outputs, kernel=1)
        self.quality = MaskedConv1d(channels, 1, kernel=3)

    def forward(self, coarse: Sequence[Coarse], frames_BCF: Tensor, masks: Sequence[Mask]) -> list[Refined]:
        """All levels; no gradient goes through where the regions lie."""
        found = [saliency_regions(said.distances_BT2.detach(), frames=frames_BCF.shape[2]) for said in coarse]
        near, fine = zip(*found, strict=True)
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
    """Regions (B, T, 4) around the borders of a level's coarse segments, in its positions and in frames."""
    length = distances_BT2.shape[1]
    index_T = torch.arange(length, device=distances_BT2.device)
    left_BT, right_BT = (distances_BT2 * (length / frames)).unbind(2)
    near_BT4 = boundary_regions(index_T - left_BT, index_T + right_BT, left_BT + right_BT)
    centre_T = (index_T + 0.5) * (frames / length)
    return near_BT4, frame_regions(centre_T - distances_BT2[:, :, 0], centre_T + distances_BT2[:, :, 1])


def glorot(module: nn.Module) -> None:
    """Glorot-uniform convolutions without bias, neutral norms."""
    _initialise(module, nn.init.xavier_uniform_)


def narrow(module: nn.Module) -> None:
    """Convolutions from N(0, 0.01²) without bias, neutral norms."""
    _initialise(module, lambda weight: nn.init.normal_(weight, std=0.01))


def _initialise(module: nn.Module, fill: Callable[[Tensor], Tensor]) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv3d):
            fill(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
