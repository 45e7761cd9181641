"""SPOT's network: for every snippet of a fixed-length sequence, a class and the mask of its instance.

Nag, Zhu, Song, Xiang: Semi-Supervised Temporal Action Detection with Proposal-Free Masking, ECCV 2022 (SPOT).
"""

# B videos, T snippets, C channels, K classes (the background is class K), H heads, D channels of a head

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tad.detectors._spot.settings import MaskSettings
from tad.layers.chance import Dropout
from tad.layers.kernels import at_least_float32
from tad.layers.masked import ChannelNorm, Mask, position_table

MASK_WIDTH = 256  # hidden channels of the mask stream


class SnippetEmbedding(nn.Module):
    """Self-attention layer with residual connection and norm; no position code, no feed-forward layer.

    Args:
        channels: C, also the width of every head.
        heads: H.
        attention_dropout: dropout of the attention weights.
        dropout: dropout of the attention's output.
    """

    def __init__(self, channels: int, *, heads: int, attention_dropout: float, dropout: float) -> None:
        super().__init__()
        self.heads, self.channels = heads, channels
        self.query, self.key, self.value = (nn.Linear(channels, heads * channels, bias=False) for _ in range(3))
        for layer in (self.query, self.key, self.value):
            nn.init.normal_(layer.weight, std=math.sqrt(1 / channels))
        self.out = nn.Linear(heads * channels, channels)
        nn.init.xavier_normal_(self.out.weight)
        self.norm = ChannelNorm(channels)
        self.drop_weights, self.drop = Dropout(attention_dropout), Dropout(dropout)

    def _split(self, x_BTC: Tensor) -> Tensor:
        batch, length, _ = x_BTC.shape
        return x_BTC.view(batch, length, self.heads, self.channels).transpose(1, 2)

    def forward(self, x_BCT: Tensor, mask_B1T: Mask) -> Tensor:
        """(B, C, T) → (B, C, T); snippets outside the mask are not attended to."""
        x_BTC = x_BCT.transpose(1, 2)
        query, key, value = (self._split(layer(x_BTC)) for layer in (self.query, self.key, self.value))
        score_BHTT = query @ key.transpose(2, 3) / math.sqrt(self.channels)
        if mask_B1T is not None:
            score_BHTT = score_BHTT.masked_fill(~mask_B1T[:, None], -1e4)
        weight_BHTT = self.drop_weights(at_least_float32(score_BHTT).softmax(dim=3)).to(value.dtype)
        y_BTC = self.out((weight_BHTT @ value).transpose(1, 2).flatten(2))
        embedded_BCT: Tensor = self.norm((x_BTC + self.drop(y_BTC)).transpose(1, 2))
        return embedded_BCT


class GlobalMaskHead(nn.Module):
    """Mask head: row i of the output holds logits of which snippets belong to the instance of snippet i."""

    def __init__(self, channels: int, length: int) -> None:
        super().__init__()
        self.hidden = nn.Conv1d(channels, MASK_WIDTH, 3, padding=1)
        self.rows = nn.Conv1d(MASK_WIDTH, length, 1, bias=False)

    def forward(self, x_BCT: Tensor) -> Tensor:
        """(B, C, T) → (B, T, T)."""
        logits_BTT: Tensor = self.rows(F.relu(self.hidden(x_BCT)))
        return logits_BTT.transpose(1, 2)


class OrderHead(nn.Module):
    """Binary classifier of whether the halves of a sequence are swapped: logits of swapped and not swapped."""

    def __init__(self, channels: int, length: int) -> None:
        super().__init__()
        self.hidden, self.drop, self.out = nn.Conv1d(channels, 1, 3, padding=1), Dropout(0.5), nn.Linear(length, 2)

    def forward(self, x_BCT: Tensor) -> Tensor:
        """(B, C, T) → (B, 2)."""
        logits_B2: Tensor = self.out(self.drop(F.relu(self.hidden(x_BCT))[:, 0]))
        return logits_B2


@dataclass(frozen=True, slots=True)
class MaskOutputs:
    """Outputs of both streams for a batch.

    Attributes:
        x_BCT: projected features, the input of the embedding.
        embedded_BCT: snippet embeddings.
        logits_BKT: class logits, background last (K + 1 in all).
        masks_BTT: mask probabilities; row i is the instance of snippet i.
    """

    x_BCT: Tensor
    embedded_BCT: Tensor
    logits_BKT: Tensor
    masks_BTT: Tensor


class MaskNetwork(nn.Module):
    """Network of a snippet embedding, a class stream and a mask stream.

    Args:
        settings: the detector's settings.
        feature_dim: width of the features; a linear layer projects them if it differs from `settings.width`.
        num_classes: K.
        length: T.
    """

    def __init__(self, settings: MaskSettings, *, feature_dim: int, num_classes: int, length: int) -> None:
        super().__init__()
        channels = settings.width or feature_dim
        code_1CT = position_table(channels, length) * math.sqrt(channels) if settings.use_position else None
        self.register_buffer("code_1CT", code_1CT, persistent=False)
        self.code_1CT: Tensor | None
        self.project = nn.Conv1d(feature_dim, channels, 1) if channels != feature_dim else nn.Identity()
        self.embedding = SnippetEmbedding(
            channels,
            heads=settings.heads,
            attention_dropout=settings.attention_dropout,
            dropout=settings.dropout,
        )
        self.classifier = nn.Conv1d(channels, num_classes + 1, 1)
        self.mask_head = GlobalMaskHead(channels, length)
        self.order_head = OrderHead(channels, length)

    def embed(self, x_BCT: Tensor, mask_B1T: Mask) -> tuple[Tensor, Tensor]:
        """Return the projected features and their embeddings."""
        projected_BCT: Tensor = self.project(x_BCT)
        placed_BCT = projected_BCT if self.code_1CT is None else projected_BCT + self.code_1CT
        return projected_BCT, self.embedding(placed_BCT, mask_B1T)

    def masks(self, embedded_BCT: Tensor, mask_B1T: Mask) -> Tensor:
        """Return mask probabilities (B, T, T), zero where the row or the column is outside the mask."""
        masks_BTT = at_least_float32(self.mask_head(embedded_BCT)).sigmoid()
        if mask_B1T is None:
            return masks_BTT
        return masks_BTT * (mask_B1T & mask_B1T.transpose(1, 2))

    def forward(self, x_BCT: Tensor, mask_B1T: Mask) -> MaskOutputs:
        """Compute both streams."""
        projected_BCT, embedded_BCT = self.embed(x_BCT, mask_B1T)
        logits_BKT = at_least_float32(self.classifier(embedded_BCT))
        return MaskOutputs(projected_BCT, embedded_BCT, logits_BKT, self.masks(embedded_BCT, mask_B1T))


def swap_halves(x_BCT: Tensor, swapped_B: Tensor, lengths_B: Tensor) -> Tensor:
    """Swap the halves of the sequences selected by `swapped_B`; padding stays at the end."""
    position_T, length_B1 = torch.arange(x_BCT.shape[2], device=x_BCT.device), lengths_B[:, None]
    moved_BT = torch.where(swapped_B[:, None], (position_T + length_B1 // 2) % length_B1, position_T)
    source_BT = torch.where(position_T < length_B1, moved_BT, position_T)
    return x_BCT.gather(2, source_BT[:, None].expand_as(x_BCT))
