"""Decoder of DiGIT: queries attend to one another and to places in and around their segments, and refine these."""

# B videos, Q queries, C channels, L layers; a segment is its centre and the logarithm of its length, in seconds

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tad.detectors._digit.attention import DeformableAttention, Memory, QueryAttention
from tad.detectors._digit.time import sine_code
from tad.layers.chance import Dropout
from tad.layers.kernels import at_least_float32


class Perceptron(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        y: Tensor = self.layers[-1](x)
        return y


class DecoderLayer(nn.Module):
    """Attention among queries, central and adjacent attention, and a perceptron; a norm after each residual sum."""

    def __init__(self, channels: int, *, hidden: int, heads: int, points: int, levels: int, dropout: float) -> None:
        super().__init__()
        sizes: dict[str, Any] = {"heads": heads, "points": points, "levels": levels}
        self.among = QueryAttention(channels, heads=heads)
        self.central = DeformableAttention(channels, adjacent=False, **sizes)
        self.adjacent = DeformableAttention(channels, adjacent=True, **sizes)
        self.widen, self.narrow = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(4))
        self.dropouts = nn.ModuleList(Dropout(dropout) for _ in range(5))

    def forward(self, x_BQC: Tensor, code_BQC: Tensor, segments_BQ2: Tensor, memory: Memory, real_BQ: Tensor) -> Tensor:
        """Update the queries' features.

        Args:
            x_BQC: the features.
            code_BQC: code of the queries' segments.
            segments_BQ2: the segments, as centre and length in fractions of the video.
            memory: what is attended to.
            real_BQ: which queries exist.
        """
        drop, norm = self.dropouts, self.norms
        x_BQC = norm[0](x_BQC + drop[0](self.among(x_BQC, code_BQC, real_BQ)))
        x_BQC = norm[1](x_BQC + drop[1](self.central(x_BQC + code_BQC, segments_BQ2, memory)))
        x_BQC = norm[2](x_BQC + drop[2](self.adjacent(x_BQC + code_BQC, segments_BQ2, memory)))
        y_BQC: Tensor = norm[3](x_BQC + drop[3](self.narrow(drop[4](F.relu(self.widen(x_BQC))))))
        return y_BQC


class Decoder(nn.Module):
    """Layers that refine the segments of queries one after the other; class and border heads serve all layers."""

    def __init__(self, channels: int, *, layers: int, classes: int, border_layers: int, **sizes: Any) -> None:
        super().__init__()
        self.channels = channels
        self.layers = nn.ModuleList(DecoderLayer(channels, **sizes) for _ in range(layers))
        self.code = Perceptron(2 * channels, channels, channels)
        self.classes = nn.Linear(channels, classes)
        self.borders = Perceptron(*[channels] * border_layers, 2)
        for value in self.borders.layers[-1].parameters():
            nn.init.zeros_(value)  # segments are those of the selected points at first

    def forward(
        self, x_BQC: Tensor, segments_BQ2: Tensor, seconds_B: Tensor, memory: Memory, real_BQ: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return class logits (L, B, Q, K) and segments (L, B, Q, 2) of all layers.

        A layer's segments have gradients of this layer only.

        Args:
            x_BQC: features of the queries.
            segments_BQ2: their first segments.
            seconds_B: length of each video.
            memory: what is attended to.
            real_BQ: which queries exist.
        """
        logits, refined = [], []
        for layer in self.layers:
            segments_BQ2 = segments_BQ2.detach()
            length_BQ1 = segments_BQ2[:, :, 1:].exp()
            plain_BQ2 = torch.cat([segments_BQ2[:, :, :1], length_BQ1], dim=2)
            code_BQC = self.code(sine_code(2 * math.pi * plain_BQ2, self.channels).flatten(2))
            x_BQC = layer(x_BQC, code_BQC, plain_BQ2 / seconds_B[:, None, None], memory, real_BQ)
            change_BQ2 = at_least_float32(self.borders(x_BQC))
            scale_BQ2 = torch.cat([length_BQ1, torch.ones_like(length_BQ1)], dim=2)
            segments_BQ2 = segments_BQ2 + change_BQ2 * scale_BQ2
            logits.append(self.classes(x_BQC))
            refined.append(segments_BQ2)
        return torch.stack(logits), torch.stack(refined)
