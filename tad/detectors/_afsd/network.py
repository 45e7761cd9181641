"""AFSD's network: feature maps → level 0 → pyramid → both heads, with the masks of padded windows."""

# B videos, T positions of a level, C channels, K classes (0: background), P points of all levels, F frames

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tad.detectors._afsd.modules import (
    Coarse,
    CoarseHead,
    FeatureEmbedding,
    LevelPyramid,
    Refined,
    RefineHead,
    TapEmbedding,
    glorot,
    narrow,
)
from tad.detectors._afsd.points import FrameGrid
from tad.layers.gate.attention import Gated
from tad.layers.masked import Mask, padding_of

HEAD_INITS = {"narrow": narrow, "glorot": glorot}  # narrow: GAF, AFSD on ActivityNet and its port; glorot: on THUMOS14


@dataclass(frozen=True, slots=True)
class Masks:
    """Masks of the data in a batch of windows; None: no padding to mask.

    Attributes:
        levels, inner: masks of the pyramid, and of all other modules; published: only the pyramid masks padding.
        inner_frames: mask of the frame-level features.
        valid_BP: points that losses and decoding use.
    """

    levels: list[Mask]
    inner: list[Mask]
    inner_frames: Mask
    valid_BP: Tensor


@dataclass(frozen=True, slots=True)
class Outputs:
    """Outputs of both heads per level, level 0 of the pyramid (B, C, T) and the frame-level features (B, C, F)."""

    coarse: list[Coarse]
    refined: list[Refined]
    zero_BCT: Tensor
    frames_BCF: Tensor

    def joined(self) -> dict[str, Tensor]:
        """Return the fields of `Predicted` with videos as the first axis and all levels concatenated."""
        return {
            "distances_P2": torch.cat([level.distances_BT2 for level in self.coarse], dim=1),
            "logits_PK": torch.cat([level.logits_BTK for level in self.coarse], dim=1),
            "offsets_P2": torch.cat([level.offsets_BT2 for level in self.refined], dim=1),
            "refined_PK": torch.cat([level.logits_BTK for level in self.refined], dim=1),
            "quality_P": torch.cat([level.quality_BT for level in self.refined], dim=1),
        }


@dataclass(frozen=True, slots=True)
class Augmented:
    """Augmented windows: the feature maps that the network sees, the gates' results and the masks."""

    maps: list[Tensor]
    gated: list[Gated]
    masks: Masks


class SaliencyNetwork(nn.Module):
    """Network from the feature maps of whole windows to the outputs of both heads.

    Args:
        embed: computes the first `embed.levels` levels (B, C, T) from the maps and the masks of all levels.
        channels: C.
        outputs: K.
        strides: per level, the distance in frames that the coarse output 0 stands for.
        grid: frames and points of a window.
        masked: padding does not influence the outputs.
        head_init: initialisation of both heads with their towers and branches, one of `HEAD_INITS`.
    """

    def __init__(
        self,
        embed: FeatureEmbedding | TapEmbedding,
        *,
        channels: int,
        outputs: int,
        strides: list[float],
        grid: FrameGrid,
        masked: bool,
        head_init: str,
    ) -> None:
        super().__init__()
        self.grid, self.masked = grid, masked
        self.embed = embed
        self.pyramid = LevelPyramid(channels, coarser=len(strides) - embed.levels, upsample=grid.stretch, masked=masked)
        self.coarse = CoarseHead(channels, outputs=outputs, strides=strides, masked=masked)
        self.refine = RefineHead(channels, outputs=outputs, masked=masked)
        glorot(self.embed)
        glorot(self.pyramid)
        HEAD_INITS[head_init](self.coarse)
        HEAD_INITS[head_init](self.refine)

    def masks(self, lengths_B: Tensor, device: torch.device) -> Masks:
        """Return the masks of windows with `lengths_B` snippets."""
        count = self.grid.counts()[0]
        real_B1 = -(-lengths_B.to(device) * self.grid.upsample // self.grid.stretch)[:, None]
        mask_BT = torch.arange(count, device=device) < real_B1
        masks = [mask_BT[:, None, :: 2**level] for level in range(len(self.grid.ranges))]
        valid_BP = torch.cat(masks, dim=2)[:, 0]
        none: list[Mask] = [None] * len(masks)
        if padding_of(masks[0]) is None:
            return Masks(none, none, None, valid_BP)
        if not self.masked:
            return Masks([*masks], none, None, torch.ones_like(valid_BP))
        return Masks([*masks], [*masks], masks[0].repeat_interleave(self.grid.stretch, dim=2), valid_BP)

    def forward(self, maps: list[Tensor], masks: Masks) -> Outputs:
        """Compute the outputs of both heads."""
        levels = self.pyramid.levels(self.embed(maps, masks.levels), masks.levels)
        frames_BCF = self.pyramid.frame_features(levels[0], masks.inner_frames)
        coarse = [self.coarse(x, mask, level) for level, (x, mask) in enumerate(zip(levels, masks.inner, strict=True))]
        return Outputs(coarse, self.refine(coarse, frames_BCF, masks.inner), levels[0], frames_BCF)

    def class_logits(self, maps: list[Tensor], masks: Masks) -> Tensor:
        """Compute only the class logits of the coarse head, (B, P, K)."""
        levels = self.pyramid.levels(self.embed(maps, masks.levels), masks.levels)
        coarse = [self.coarse(x, mask, level) for level, (x, mask) in enumerate(zip(levels, masks.inner, strict=True))]
        return torch.cat([level.logits_BTK for level in coarse], dim=1)

    def border_maps(self, maps: list[Tensor], masks: Masks) -> list[Tensor]:
        """Return the frame-level features and both branches' border features on level 0."""
        zero_BCT, inner = self.embed(maps, masks.levels)[0], masks.inner[0]
        frames_BCF = self.pyramid.frame_features(zero_BCT, masks.inner_frames)
        loc_BCT = self.refine.loc_branch.border(self.coarse.loc_tower(zero_BCT, inner), inner)
        cls_BCT = self.refine.cls_branch.border(self.coarse.cls_tower(zero_BCT, inner), inner)
        return [frames_BCF, loc_BCT, cls_BCT]
