"""Flow hallucination: predict flow features from RGB features, so that inference needs no optical flow."""

# B videos, T snippets, C channels of one stream

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tad.layers.masked import Mask, MaskedConv1d


class FlowHallucinator(nn.Module):
    """Two convolutions without activation between them and a final ReLU, for non-negative features.

    Args:
        channels: C.
        masked: padding stays zero. Otherwise, as published, it becomes non-zero through the biases.
    """

    def __init__(self, channels: int, *, masked: bool) -> None:
        super().__init__()
        self.masked = masked
        self.extractor = nn.ModuleList(MaskedConv1d(channels, channels, kernel=3) for _ in range(2))

    def forward(self, rgb_BCT: Tensor, mask_B1T: Mask) -> Tensor:
        """RGB features (B, C, T) → RGB and predicted flow features (B, 2 C, T)."""
        flow_BCT = rgb_BCT
        for conv in self.extractor:
            flow_BCT = conv(flow_BCT, mask_B1T if self.masked else None)
        return torch.cat([rgb_BCT, F.relu(flow_BCT).to(rgb_BCT.dtype)], dim=1)
