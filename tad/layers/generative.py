"""Generative attention: a gate over channels and time, judged by how well a conditional VAE explains features by it.

GAF (Generative Feature Model for temporal action detection, after DGAM: Shi et al., CVPR 2020): the attention that
explains class, borders and features best. It is trained with the detector; the VAE in a pass of its own.
"""

# B videos, T positions, C channels; features are (B, C, T), or (B, C, T, H, W) with H = W cells

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tad.layers.chance import PerVideo
from tad.layers.group_norms import group_norm_relu
from tad.layers.masked import Mask, zero_outside

GROUPS = 32
TINY = 1e-8


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(GROUPS, channels), channels)


class GenerativeAttention(nn.Module):
    """Features → attention in [0, 1] per channel and position, (B, C, T), 0 outside the mask.

    Args:
        channels: C.
        length: T, which a linear layer mixes; 0: any, mixed by a depth-wise convolution.
        cells: H and W, with a `length`: the published form, where time is stretched to C before it is mixed; 0: none.
        hidden: width in between.
        masked: statistics are of what the mask shows.
    """

    def __init__(self, channels: int, *, length: int, cells: int = 0, hidden: int = 512, masked: bool = False) -> None:
        super().__init__()
        self.channels, self.length, self.cells, self.masked = channels, length, cells, masked
        kernel = (1, cells, cells)
        self.reduce = nn.Conv3d(channels, hidden, kernel) if cells else nn.Conv1d(channels, hidden, 1)
        self.widen = nn.Conv1d(hidden, channels, 3, padding=1)
        self.reduce_norm, self.widen_norm = _norm(hidden), _norm(channels)
        self.mix: nn.Module
        if length:
            self.mix = nn.Linear(channels if cells else length, length)
        else:
            self.mix = nn.Conv1d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor, mask_B1T: Mask) -> Tensor:
        """(B, C, T)."""
        reduced_BCT = self.reduce(x).flatten(2) if self.cells else self.reduce(x)
        reduced_BCT = self._unit(reduced_BCT, mask_B1T, self.reduce_norm)
        inner = mask_B1T
        if self.cells:
            steps = self.channels // x.shape[2]
            reduced_BCT = reduced_BCT.repeat_interleave(steps, dim=2)
            inner = None if mask_B1T is None else mask_B1T.repeat_interleave(steps, dim=2)
        reduced_BCT = self._unit(self.widen(reduced_BCT), inner, self.widen_norm)
        attention_BCT: Tensor = torch.sigmoid(self.mix(reduced_BCT))
        return zero_outside(attention_BCT, mask_B1T)

    def _unit(self, x_BCT: Tensor, mask_B1T: Mask, norm: nn.GroupNorm) -> Tensor:
        return group_norm_relu(x_BCT, mask_B1T, norm, masked=self.masked)


def _mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class FeatureCVAE(PerVideo):
    """Conditional VAE of the features of each position given its attention; the latent's prior is N(attention, 1)."""

    def __init__(self, channels: int, *, cells: int = 0) -> None:
        super().__init__()
        self.channels, self.cells = channels, cells
        if cells:
            kernel = (1, cells, cells)
            self.squeeze, self.squeeze_norm = nn.Conv3d(channels, channels, kernel), _norm(channels)
            self.spread, self.spread_norm = nn.ConvTranspose3d(channels, channels, kernel), _norm(channels)
        self.encoder = _mlp(2 * channels, channels, channels, 2 * channels)
        self.decoder = _mlp(2 * channels, channels, channels, channels)

    def encode(self, x: Tensor, attention_BCT: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latent, (B, C, T) each."""
        if self.cells:
            x = F.relu(self.squeeze_norm(self.squeeze(x))).flatten(2)
        both_BTC = self.encoder(torch.cat([x, attention_BCT], dim=1).transpose(1, 2))
        mean_BCT, log_BCT = both_BTC.transpose(1, 2).chunk(2, dim=1)
        return mean_BCT, log_BCT

    def decode(self, latent_BCT: Tensor, attention_BCT: Tensor) -> Tensor:
        """Features."""
        x_BCT: Tensor = self.decoder(torch.cat([latent_BCT, attention_BCT], dim=1).transpose(1, 2)).transpose(1, 2)
        if self.cells:
            return F.relu(self.spread_norm(self.spread(x_BCT[..., None, None])))
        return x_BCT

    def generate(self, attention_BCT: Tensor) -> Tensor:
        """Features of a latent from the prior."""
        return self.decode(attention_BCT + self.normal(attention_BCT, *attention_BCT.shape[1:]), attention_BCT)

    def explain(self, x: Tensor, attention_BCT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction of the features through a latent of them, and the latent's mean and log-variance."""
        mean_BCT, log_BCT = self.encode(x, attention_BCT)
        noise_BCT = self.normal(attention_BCT, *attention_BCT.shape[1:])
        return self.decode(mean_BCT + noise_BCT * torch.exp(0.5 * log_BCT), attention_BCT), mean_BCT, log_BCT


def video_means(values: Tensor, mask_B1T: Mask) -> Tensor:
    """Mean over the channels, the positions that count and the cells of each video, (B,)."""
    values_BCT = values.flatten(3).mean(dim=3) if values.ndim > 3 else values
    if mask_B1T is None:
        return values_BCT.mean(dim=(1, 2))
    return zero_outside(values_BCT, mask_B1T).sum(dim=(1, 2)) / (mask_B1T.sum(dim=(1, 2)) * values.shape[1])


@dataclass(frozen=True, slots=True)
class Gated:
    """Features weighted by an attention and by its complement, both of the scale of the features (or of their sums)."""

    attention_BCT: Tensor
    foreground: Tensor
    background: Tensor


class Gate(nn.Module):
    """Attention and VAE of one feature map.

    Args:
        attention, vae: of the map.
        normalised: weights are divided by their mean over a video; published: by their sum over all that is given,
            which makes features so small that the ε of the next norm outweighs them.
        kl_weight: of the divergence from the prior.
    """

    def __init__(self, attention: GenerativeAttention, vae: FeatureCVAE, *, normalised: bool, kl_weight: float) -> None:
        super().__init__()
        self.attention, self.vae = attention, vae
        self.normalised, self.kl_weight = normalised, kl_weight

    def attend(self, x: Tensor, mask_B1T: Mask) -> Gated:
        """Foreground and background of features."""
        attention_BCT = self.attention(x, mask_B1T)
        weights = []
        for weight_BCT in (attention_BCT, zero_outside(1 - attention_BCT, mask_B1T)):
            scale = video_means(weight_BCT, mask_B1T)[:, None, None] if self.normalised else weight_BCT.sum()
            weights.append(weight_BCT / scale.clamp(min=TINY))
        space = (1,) * (x.ndim - 3)
        foreground, background = (x * weight.reshape(*weight.shape, *space) for weight in weights)
        return Gated(attention_BCT, foreground, background)

    def vae_loss(self, x: Tensor, mask_B1T: Mask) -> Tensor:
        """What the VAE learns from, (B,): squared error and divergence; no gradient goes to the attention."""
        return self.explained(x, mask_B1T)[0]

    def explained(self, x: Tensor, mask_B1T: Mask) -> tuple[Tensor, Tensor, Tensor]:
        """`vae_loss`, the attention, and the reconstruction."""
        with torch.no_grad():
            attention_BCT = self.attention(x, mask_B1T)
        again, mean_BCT, log_BCT = self.vae.explain(x, attention_BCT)
        divergence_BCT = -0.5 * (1 + log_BCT - (mean_BCT - attention_BCT).square() - log_BCT.exp())
        error_B = video_means((x - again).square(), mask_B1T)
        return error_B + self.kl_weight * video_means(divergence_BCT, mask_B1T), attention_BCT, again

    def reconstruction_loss(self, attention_BCT: Tensor, target: Tensor, mask_B1T: Mask) -> Tensor:
        """Squared error (B,) of features generated from the attention alone; it teaches the attention."""
        return video_means((self.vae.generate(attention_BCT) - target).square(), mask_B1T)
