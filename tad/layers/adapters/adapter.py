"""The temporal-informative adapter of AdaTAD.

Liu et al.: End-to-End Temporal Action Detection with 1B Parameters Across 1000 Frames, CVPR 2024 (arXiv 2311.17241).
"""

# W windows, M clips of all windows, N tokens of a clip (time steps · patches), C channels, P patches, H hidden channels

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TemporalAdapter(nn.Module):
    """Bottleneck with a convolution over the time steps of a whole window, across the borders of its clips.

    The last layer starts at zero, so a network with new adapters equals the network without them.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, hidden)
        self.depthwise = nn.Conv1d(hidden, hidden, 3, padding=1, groups=hidden)
        self.pointwise = nn.Conv1d(hidden, hidden, 1)
        self.up = nn.Linear(hidden, width)
        self.gamma = nn.Parameter(torch.ones(1))
        nn.init.trunc_normal_(self.down.weight, std=0.02)
        nn.init.normal_(self.depthwise.weight, std=math.sqrt(2 / 3))
        nn.init.normal_(self.pointwise.weight, std=math.sqrt(2 / hidden))
        nn.init.zeros_(self.up.weight)
        for layer in (self.down, self.depthwise, self.pointwise, self.up):
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, x_MNC: Tensor, windows: int, steps: int) -> Tensor:
        """Return what is added to the tokens (M, N, C) of clips with `steps` time steps, in `windows` equal windows."""
        y_MNH = F.gelu(self.down(x_MNC))
        clips, tokens, hidden = y_MNH.shape
        patches, length = tokens // steps, clips // windows * steps
        y_WPHT = y_MNH.view(windows, length, patches, hidden).permute(0, 2, 3, 1)
        z_HT = self.pointwise(self.depthwise(y_WPHT.reshape(-1, hidden, length)))
        z_WTPH = z_HT.view(windows, patches, hidden, length).permute(0, 3, 1, 2)
        added: Tensor = self.up(y_MNH + z_WTPH.reshape(clips, tokens, hidden)) * self.gamma
        return added
