"""Self-attention of ActionFormer and MSE: depth-wise convolutions before the projections, global or in a window."""

# B videos, H heads, D channels of a head, T snippets, C = H·D channels, N query blocks, J keys of a block

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tad.layers.chance import Dropout
from tad.layers.masked import ChannelNorm, Mask, MaskedConv1d, Pointwise, halve, zero_outside
from tad.layers.recomputed import norm_linear

FAR = -1.0e4  # finite, so that a padded query whose keys are all padding stays a number; exp(FAR) is 0 in float32
QUERIES = 64  # queries of a block of local attention


def additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a key may be seen, FAR elsewhere."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, FAR)


def global_attention(q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, mask_B1T: Mask) -> Tensor:
    """Every query sees every real key; (B, H, T, D)."""
    bias_B11T = None if mask_B1T is None else additive(mask_B1T[:, :, None], q_BHTD.dtype)
    return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, attn_mask=bias_B11T)


def local_attention(q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, mask_B1T: Mask, *, reach: int) -> Tensor:
    """Query t sees the real keys in [t - reach, t + reach]; (B, H, T, D).

    Blocks of queries against the keys around them: the memory is T · (block + 2·reach), not T².
    """
    batch, heads, length, dim = q_BHTD.shape
    blocks = -(-length // QUERIES)
    spare = blocks * QUERIES - length
    width = QUERIES + 2 * reach

    def around(x_BHTD: Tensor) -> Tensor:
        padded = F.pad(x_BHTD, (0, 0, reach, reach + spare))
        x_BHNDJ = padded.unfold(2, width, QUERIES)
        return x_BHNDJ.permute(0, 2, 1, 4, 3).reshape(batch * blocks, heads, width, dim)

    q_BHTD = F.pad(q_BHTD, (0, 0, 0, spare))
    q_ZHQD = q_BHTD.view(batch, heads, blocks, QUERIES, dim).transpose(1, 2).reshape(-1, heads, QUERIES, dim)
    real_BT = torch.ones_like(q_BHTD[:, 0, :length, 0], dtype=torch.bool) if mask_B1T is None else mask_B1T[:, 0]
    real_BNJ = F.pad(real_BT, (reach, reach + spare)).unfold(1, width, QUERIES)
    offset_QJ = torch.arange(width, device=q_BHTD.device) - torch.arange(QUERIES, device=q_BHTD.device)[:, None]
    band_QJ = (offset_QJ >= 0) & (offset_QJ <= 2 * reach)
    allowed_ZQJ = (real_BNJ[:, :, None] & band_QJ).reshape(batch * blocks, 1, QUERIES, width)
    logits_ZHQJ = (q_ZHQD * dim**-0.5) @ around(k_BHTD).transpose(2, 3) + additive(allowed_ZQJ, q_BHTD.dtype)
    y_ZHQD = torch.softmax(logits_ZHQJ, dim=3) @ around(v_BHTD)
    y_BHTD = y_ZHQD.view(batch, blocks, heads, QUERIES, dim).transpose(1, 2).reshape(batch, heads, -1, dim)
    return y_BHTD[:, :, :length]


class ConvAttention(nn.Module):
    """Masked multi-head attention over a sequence, at its own resolution or at half of it.

    Args:
        channels: width in and out.
        heads: divides `channels`.
        window: odd number of keys that a query sees, centred on it; -1: all.
        stride: 1, or 2 to halve the sequence (in the depth-wise convolutions).
        dropout: of the output projection.
    """

    def __init__(self, channels: int, *, heads: int, window: int = -1, stride: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        assert channels % heads == 0, (channels, heads)
        self.heads, self.window, self.stride = heads, window, stride

        def depthwise() -> MaskedConv1d:
            return MaskedConv1d(channels, channels, kernel=3, stride=stride, groups=channels, bias=False)

        self.query_conv, self.query_norm = depthwise(), ChannelNorm(channels)
        self.key_conv, self.key_norm = depthwise(), ChannelNorm(channels)
        self.value_conv, self.value_norm = depthwise(), ChannelNorm(channels)
        self.key, self.query, self.value, self.proj = (Pointwise(channels, channels) for _ in range(4))
        self.dropout = Dropout(dropout)

    def _split(self, x_BCT: Tensor) -> Tensor:
        x_BTC = x_BCT.transpose(1, 2)
        batch, length, channels = x_BTC.shape
        return x_BTC.view(batch, length, self.heads, channels // self.heads).transpose(1, 2)

    def _keys(self, x_BCT: Tensor) -> Tensor:
        """Norm and projection of the keys without their biases.

        The biases shift all keys, and so all logits of a query, alike: softmax does not see them. Their exact gradient,
        zero, is passed on instead of rounding noise, which Adam would turn into a random walk.
        """
        norm, key = self.key_norm, self.key
        assert key.bias is not None
        scale_C, shift_C = norm.weight.flatten(), 0 * norm.bias.flatten()
        return norm_linear(x_BCT.transpose(1, 2), scale_C, shift_C, key.weight[:, :, 0], 0 * key.bias).transpose(1, 2)

    def forward(self, x_BCT: Tensor, mask_B1T: Mask) -> Tensor:
        """(B, C, T) → (B, C, T / stride), zero outside the mask."""
        q_BHTD = self._split(self.query.after_norm(self.query_conv(x_BCT, mask_B1T), self.query_norm))
        k_BHTD = self._split(self._keys(self.key_conv(x_BCT, mask_B1T)))
        v_BHTD = self._split(self.value.after_norm(self.value_conv(x_BCT, mask_B1T), self.value_norm))
        mask_B1T = mask_B1T if self.stride == 1 else halve(mask_B1T)
        if self.window > 1:
            y_BHTD = local_attention(q_BHTD, k_BHTD, v_BHTD, mask_B1T, reach=self.window // 2)
        else:
            y_BHTD = global_attention(q_BHTD, k_BHTD, v_BHTD, mask_B1T)
        y_BCT = y_BHTD.transpose(1, 2).flatten(2).transpose(1, 2)
        return zero_outside(self.dropout(self.proj(y_BCT)), mask_B1T)
