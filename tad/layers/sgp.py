"""TriDet's granularity block (SGP): depth-wise convolutions instead of attention; MSE builds on it."""

# B videos, T snippets, C channels

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tad.errors import TadError
from tad.layers.kernels import convolve
from tad.layers.masked import (
    ChannelNorm,
    Mask,
    Plain,
    Pointwise,
    ScaledDropPath,
    group_norm,
    halve,
    max_pool,
    time_mean,
    zero_outside,
)

GROUPS = 16
CORRECTIONS = ("masked", "living", "detached")
LIVE_STD = 0.1  # spread of the corrected block's live kernels where the published ones start at zero


def odd_kernel(kernel: int, factor: float) -> int:
    """Width of the second window: round((kernel + 1) · factor), plus 1 if even."""
    width = round((kernel + 1) * factor)
    return width if width % 2 == 1 else width + 1


class GranularBlock(nn.Module):
    """Max-pooling (when halving), an instant and a window branch of depth-wise convolutions, a group-normed MLP.

    Args:
        channels: multiple of 16.
        mlp_dim: hidden width of the MLP.
        kernel: width of the window branch.
        factor: width of its second kernel, see `odd_kernel`.
        init_std: of the five branch kernels. At 0 the published block starts on a saddle that it never leaves: both
            factors of both products are zero, and so is every gradient. With `living`, one factor of each product then
            starts at zero and its partner alive.
        droppath: stochastic depth; a halving block has it and a scale per channel, one at full resolution has neither.
        halves: whether the block halves the sequence.
        living: start with one factor of each product alive where `init_std` is 0.
        masked: padding changes nothing.
    """

    def __init__(
        self,
        channels: int,
        *,
        mlp_dim: int,
        kernel: int,
        factor: float,
        init_std: float,
        droppath: float,
        halves: bool,
        living: bool,
        masked: bool,
    ) -> None:
        super().__init__()
        if channels % GROUPS:
            raise TadError(f"settings.embed_dim: {channels}: must be a multiple of {GROUPS}, the groups of GroupNorm")
        self.halves, self.masked = halves, masked
        self.ln = ChannelNorm(channels)
        self.gn = nn.GroupNorm(GROUPS, channels)
        live = LIVE_STD if living and init_std == 0 else init_std

        def depthwise(width: int, std: float) -> nn.Conv1d:
            conv = nn.Conv1d(channels, channels, width, padding=width // 2, groups=channels)
            nn.init.normal_(conv.weight, 0.0, std)
            return conv

        self.psi = depthwise(kernel, init_std)
        self.fc = depthwise(1, init_std)
        self.convw = depthwise(kernel, live)
        self.convkw = depthwise(odd_kernel(kernel, factor), live)
        self.global_fc = depthwise(1, live)
        self.mlp = nn.Sequential(Pointwise(channels, mlp_dim), nn.GELU(), Pointwise(mlp_dim, channels))
        self.drop_path_out, self.drop_path_mlp = (
            ScaledDropPath(channels, probability=droppath) if halves else Plain() for _ in range(2)
        )

    def local(self, u_BCT: Tensor, mask_B1T: Mask, weight: Sequence[Tensor | float]) -> Tensor:
        """weight₀ · F ⊙ g + weight₁ · (W + K) ⊙ P + weight₂ · u: instant branch, window branch, normalised features.

        All is linear in the parameters of `fc`, `psi` and of the window's two kernels, so that factors and sums are
        taken of parameters: three passes over the features instead of eight.
        """
        fc, psi, near, far = self.fc, self.psi, self.convw, self.convkw
        assert fc.bias is not None
        assert psi.bias is not None
        assert near.bias is not None
        assert far.bias is not None
        gate_BC1 = F.relu(self.global_fc(time_mean(u_BCT, mask_B1T, masked=self.masked))) * weight[0]
        shift_BC1, scale_BC1 = fc.bias[:, None] * gate_BC1, fc.weight[:, 0] * gate_BC1 + weight[2]
        mixed_BCT = torch.addcmul(shift_BC1.to(u_BCT.dtype), u_BCT, scale_BC1.to(u_BCT.dtype))
        side = (far.kernel_size[0] - near.kernel_size[0]) // 2
        both = far.weight + F.pad(near.weight, (side, side))
        window_BCT = convolve(u_BCT, both, near.bias + far.bias, groups=far.groups)
        factor_BCT = convolve(u_BCT, psi.weight * weight[1], psi.bias * weight[1], groups=psi.groups)
        return torch.addcmul(mixed_BCT, window_BCT.to(u_BCT.dtype), factor_BCT.to(u_BCT.dtype))

    def normed(self, x_BCT: Tensor, mask_B1T: Mask) -> Tensor:
        """The block's channel norm; padding stays zero in the corrected face."""
        u_BCT: Tensor = self.ln(x_BCT)
        return zero_outside(u_BCT, mask_B1T) if self.masked else u_BCT

    def fuse(self, u_BCT: Tensor, mask_B1T: Mask) -> Tensor:
        """What is added to the residual, from normalised features."""
        return self.local(u_BCT, mask_B1T, (1.0, 1.0, 1.0))

    def forward(self, x_BCT: Tensor, mask_B1T: Mask) -> tuple[Tensor, Mask]:
        """(B, C, T) and its mask → the same, of half the length if the block halves."""
        if self.halves:
            x_BCT = max_pool(x_BCT, mask_B1T, masked=self.masked)
            mask_B1T = halve(mask_B1T)
        fused_BCT = self.fuse(self.normed(x_BCT, mask_B1T), mask_B1T)
        x_BCT = self.drop_path_out.add(zero_outside(x_BCT, mask_B1T), fused_BCT)
        x_BCT = zero_outside(x_BCT, mask_B1T) if self.masked else x_BCT
        normed_BCT = group_norm(x_BCT, mask_B1T, self.gn, masked=self.masked)
        widen, _, narrow = self.mlp
        assert isinstance(narrow, Pointwise)
        x_BCT = self.drop_path_mlp.add(x_BCT, narrow.after_gelu(widen(normed_BCT)))
        return (zero_outside(x_BCT, mask_B1T) if self.masked else x_BCT), mask_B1T
