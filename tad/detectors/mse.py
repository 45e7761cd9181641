"""MSE: TriDet with global attention on the output of each block's convolutions, combined by six learnt weights.

An, Zhao P., Wang, Zhao C., Yang: Multi-granularity semantic enhancement for temporal action detection, Neurocomputing
626 (2025) 129543.
"""

# B videos, T snippets, C channels

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from tad.detectors._points.sgp import BlockSettings, GranularBlock
from tad.detectors._points.trident import TridentDetector
from tad.detectors.mse_settings import Settings
from tad.layers.attention import ConvAttention
from tad.layers.masked import Mask, ScaledDropPath


class EnhancedBlock(GranularBlock):
    """SGP block followed by global attention on its output; both share the channel norm."""

    def __init__(self, settings: BlockSettings, *, kernel: int, halves: bool, heads: int, dropout: float = 0.0) -> None:
        """Create the block; `dropout` applies to the attention's output."""
        super().__init__(settings, kernel=kernel, halves=halves)
        self.dynamic_weight = nn.Parameter(torch.ones(6))
        self.attn = ConvAttention(settings.channels, heads=heads, dropout=dropout)
        if halves:
            # never applied, but published checkpoints contain it
            self.drop_path_attn = ScaledDropPath(settings.channels, probability=settings.droppath)

    def fuse(self, u_BCT: Tensor, mask_B1T: Mask) -> Tensor:
        """Compute the weighted sum of the input, the convolutions, and the attention on their output."""
        weight = self.dynamic_weight.to(u_BCT.dtype).unbind()
        local_BCT = self.local(u_BCT, mask_B1T, weight[:3])
        global_BCT = self.attn(self.normed(local_BCT, mask_B1T), mask_B1T)
        fused_BCT = torch.addcmul(weight[5] * global_BCT, u_BCT, weight[4])
        return torch.addcmul(fused_BCT, local_BCT, weight[3])


class Detector(TridentDetector):
    """MSE as published (`face` parity) or with its defects corrected. For the settings see mse_settings.py."""

    decayed: ClassVar[tuple[str, ...]] = ("dynamic_weight",)

    def __init__(self, settings: Settings, *, feature_dim: int, num_classes: int, max_length: int) -> None:
        self.block = partial(EnhancedBlock, heads=settings.num_heads, dropout=settings.dropout)
        super().__init__(settings, feature_dim=feature_dim, num_classes=num_classes, max_length=max_length)
