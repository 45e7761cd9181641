"""RGB features → what their optical flow would have given, so that no flow is needed where a detector is used."""

# B videos, T snippets, C channels of one stream

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tad.layers.masked import Mask, MaskedConv1d


class FlowHallucinator(nn.Module):
    """Two convolutions with nothing between them and a ReLU at the end, for features that are nowhere negative.

    Args:
        channels: C.
        masked: padding stays zero. Otherwise, as published, it gets what the biases make of it.
    """

    def __init__(self, channels: int, *, masked: bool) -> None:
        super().__init__()
        self.masked = masked
        self.extractor = nn.ModuleList(MaskedConv1d(channels, channels, kernel=3) for _ in range(2))

    def forward(self, rgb_BCT: Tensor, mask_B1T: Mask) -> Tensor:
        """(B, C, T) of RGB → (B, 2 C, T): the same, then flow."""
        flow_BCT = rgb_BCT
        for conv in self.extractor:
            flow_BCT = conv(flow_BCT, mask_B1T if self.masked else None)
        return torch.cat([rgb_BCT, F.relu(flow_BCT).to(rgb_BCT.dtype)], dim=1)
