"""An encoder-decoder of SGP blocks over positions in time, with mixers in place of skip connections.

Xarles, Escalera, Moeslund, Clapés: T-DEED: Temporal-Discriminability Enhancer Encoder-Decoder for Precise Event
Spotting in Sports Videos, CVPR Workshops 2024. The blocks are TriDet's (`tad.detectors._points.sgp`).
"""

# B videos, T positions, C channels; masks are bool (B, 1, T), true where there is data

import torch
from torch import Tensor, nn

from tad.detectors._moments.settings import MomentSettings
from tad.detectors._points.sgp import GROUPS, BlockSettings, GranularBlock, odd_kernel
from tad.layers.masked import (
    ChannelNorm,
    Mask,
    Pointwise,
    group_norm,
    halve,
    max_pool,
    padding_of,
    position_code,
    time_mean,
    zero_outside,
)

STD = 0.1  # initial standard deviation of the kernels of branches


def upsample(coarse_BCT: Tensor, mask_B1T: Mask, length: int) -> Tensor:
    """Interpolate a halved sequence linearly to `length` positions: position 2i is coarse position i.

    A position after the last coarse one of its video repeats it.
    """
    following_BCT = torch.cat([coarse_BCT[:, :, 1:], coarse_BCT[:, :, -1:]], dim=2)
    if mask_B1T is not None:
        real_B1T = torch.cat([mask_B1T[:, :, 1:], torch.zeros_like(mask_B1T[:, :, -1:])], dim=2)
        following_BCT = torch.where(real_B1T, following_BCT, coarse_BCT)
    between_BCT = (coarse_BCT + following_BCT) / 2
    return torch.stack([coarse_BCT, between_BCT], dim=3).flatten(2)[:, :, :length]


class Branches(nn.Module):
    """The instant and the window branch of one input of a mixer; the window branch is weighted by the other input."""

    def __init__(self, channels: int, *, kernel: int, factor: float) -> None:
        super().__init__()

        def depthwise(width: int) -> nn.Conv1d:
            conv = nn.Conv1d(channels, channels, width, padding=width // 2, groups=channels)
            nn.init.normal_(conv.weight, 0.0, STD)
            return conv

        self.instant, self.gate, self.other = depthwise(1), depthwise(1), depthwise(kernel)
        self.near, self.far = depthwise(kernel), depthwise(odd_kernel(kernel, factor))

    def forward(self, x_BCT: Tensor, other_BCT: Tensor, mask_B1T: Mask) -> list[Tensor]:
        """Return both branches (B, C, T)."""
        gate_BC1 = torch.relu(self.gate(time_mean(x_BCT, mask_B1T, masked=True)))
        window_BCT = (self.near(x_BCT) + self.far(x_BCT)) * self.other(other_BCT)
        return [self.instant(x_BCT) * gate_BC1, window_BCT]


class Mixer(nn.Module):
    """Join a fine sequence with an upsampled coarse one: six branches, a convolution of kernel 1 and an MLP."""

    def __init__(self, settings: MomentSettings) -> None:
        super().__init__()
        channels = settings.embed_dim
        self.norms = nn.ModuleList([ChannelNorm(channels) for _ in range(2)])
        self.branches = nn.ModuleList(
            [Branches(channels, kernel=settings.kernel, factor=settings.factor) for _ in range(2)]
        )
        self.join = Pointwise(6 * channels, channels)
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.mlp = nn.Sequential(
            Pointwise(channels, settings.mlp_dim), nn.GELU(), Pointwise(settings.mlp_dim, channels)
        )

    def forward(self, fine_BCT: Tensor, coarse_BCT: Tensor, mask_B1T: Mask) -> Tensor:
        """(B, C, T) twice → (B, C, T)."""
        u_BCT, v_BCT = (
            zero_outside(norm(x), mask_B1T) for norm, x in zip(self.norms, (fine_BCT, coarse_BCT), strict=True)
        )
        of_fine, of_coarse = self.branches
        parts = [u_BCT, v_BCT, *of_fine(u_BCT, v_BCT, mask_B1T), *of_coarse(v_BCT, u_BCT, mask_B1T)]
        x_BCT = zero_outside(self.join(torch.cat(parts, dim=1)), mask_B1T)
        x_BCT = x_BCT + self.mlp(group_norm(x_BCT, mask_B1T, self.norm, masked=True))
        return zero_outside(x_BCT, mask_B1T)


class TemporalNetwork(nn.Module):
    """Vectors of positions (B, C, T) → class logits (B, K + 1, T), background first, and displacements (B, T)."""

    def __init__(self, settings: MomentSettings, *, num_classes: int, max_length: int) -> None:
        super().__init__()
        channels = settings.embed_dim
        code_1CT = torch.randn(1, channels, max_length) / max_length**0.5
        self.code = nn.Parameter(code_1CT) if settings.position_code else None

        def block() -> GranularBlock:
            shared = BlockSettings(
                channels=channels, mlp_dim=settings.mlp_dim, factor=settings.factor, init_std=STD, living=True
            )
            return GranularBlock(shared, kernel=settings.kernel, halves=False)

        self.down = nn.ModuleList([block() for _ in range(settings.levels)])
        self.bottom = block()
        self.up = nn.ModuleList([Mixer(settings) for _ in range(settings.levels)])
        self.classes, self.displacement = Pointwise(channels, num_classes + 1), Pointwise(channels, 1)

    def forward(self, x_BCT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        length = x_BCT.shape[2]
        real_B1T = (torch.arange(length, device=x_BCT.device) < lengths_B.to(x_BCT.device)[:, None])[:, None]
        mask_B1T = padding_of(real_B1T)
        if self.code is not None:
            spans = [lengths_B[0]] if torch.compiler.is_exporting() else lengths_B.tolist()
            x_BCT = x_BCT + position_code(self.code, spans, length)
        x_BCT = zero_outside(x_BCT, mask_B1T)
        skips: list[tuple[Tensor, Mask]] = []
        for down in self.down:
            x_BCT, mask_B1T = down(x_BCT, mask_B1T)
            skips.append((x_BCT, mask_B1T))
            x_BCT, mask_B1T = max_pool(x_BCT, mask_B1T, masked=True), halve(mask_B1T)
        x_BCT, mask_B1T = self.bottom(x_BCT, mask_B1T)
        for up in self.up:
            fine_BCT, fine_mask = skips.pop()
            x_BCT = up(fine_BCT, upsample(x_BCT, mask_B1T, fine_BCT.shape[2]), fine_mask)
            mask_B1T = fine_mask
        return self.classes(x_BCT), self.displacement(x_BCT)[:, 0]
