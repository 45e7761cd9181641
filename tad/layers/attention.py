"""Self-attention of ActionFormer and MSE: depth-wise convolutions before the projections, global or in a window."""

# B videos, H heads, D channels of a head, T snippets, C = H·D channels, N query blocks, J keys of a block; W: window

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tad.layers.chance import Dropout
from tad.layers.masked import ChannelNorm, Mask, MaskedConv1d, Pointwise, halve, zero_outside
from tad.layers.recomputed import norm_linear

FAR = -1.0e4  # finite, so that a padded query whose keys are all padding does not become NaN; exp(FAR) is 0 in float32
QUERIES = 64  # queries of a block of local attention


def additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the additive attention mask: 0 where a key is visible, FAR elsewhere."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, FAR)


def global_attention(q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, mask_B1T: Mask) -> Tensor:
    """Let every query attend to every real key; (B, H, T, D)."""
    bias_B11T = None if mask_B1T is None else additive(mask_B1T[:, :, None], q_BHTD.dtype)
    return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, attn_mask=bias_B11T)


def _blocks(x: Tensor, axis: int, width: int, count: int) -> Tensor:
    """Cut an axis into `count` overlapping blocks of `width` positions, `QUERIES` apart: (…, count, width, …)."""
    if not torch.compiler.is_exporting():
        cut = x.unfold(axis, width, QUERIES)
        return cut if axis == x.dim() - 1 else cut.movedim(-1, axis + 1)
    # in a graph `unfold` of an axis of any length has no counterpart
    first_N1 = torch.arange(count, device=x.device)[:, None] * QUERIES
    at_NJ = first_N1 + torch.arange(width, device=x.device)
    cut = x.index_select(axis, at_NJ.flatten())
    return cut.reshape(*x.shape[:axis], count, width, *x.shape[axis + 1 :])


def local_attention(
    q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, mask_B1T: Mask, *, reach: int, bias_HW: Tensor | None = None,
    causal: bool = False,
) -> Tensor:  # fmt: skip
    """Let query t attend to the real keys in [t - reach, t + reach]; (B, H, T, D).

    Queries are processed in blocks with the keys around them, so the memory is T · (block + 2·reach), not T².

    Args:
        q_BHTD: queries.
        k_BHTD: keys.
        v_BHTD: values.
        mask_B1T: where there is data.
        reach: keys that a query sees on each side of it.
        bias_HW: added to the logits of each head, by the key's place in the window of W = 2·reach + 1 keys.
        causal: whether the window ends with the query: [t - 2·reach, t].
    """
    batch, heads, length, dim = q_BHTD.shape
    before, after = (2 * reach, 0) if causal else (reach, reach)
    blocks = (length + QUERIES - 1) // QUERIES  # of positive numbers: ONNX divides towards 0
    spare = blocks * QUERIES - length
    width = QUERIES + 2 * reach

    def around(x_BHTD: Tensor) -> Tensor:
        return _blocks(F.pad(x_BHTD, (0, 0, before, after + spare)), 2, width, blocks)

    q_BHTD = F.pad(q_BHTD, (0, 0, 0, spare))
    q_BHNQD = q_BHTD.reshape(batch, heads, blocks, QUERIES, dim)
    real_BT = torch.ones_like(q_BHTD[:, 0, :length, 0], dtype=torch.bool) if mask_B1T is None else mask_B1T[:, 0]
    real_BNJ = _blocks(F.pad(real_BT, (before, after + spare)), 1, width, blocks)
    offset_QJ = torch.arange(width, device=q_BHTD.device) - torch.arange(QUERIES, device=q_BHTD.device)[:, None]
    band_QJ = (offset_QJ >= 0) & (offset_QJ <= 2 * reach)
    allowed_B1NQJ = real_BNJ[:, None, :, None] & band_QJ
    logits_BHNQJ = (q_BHNQD * dim**-0.5) @ around(k_BHTD).transpose(3, 4) + additive(allowed_B1NQJ, q_BHTD.dtype)
    if bias_HW is not None:
        logits_BHNQJ = logits_BHNQJ + bias_HW[:, None, offset_QJ.clamp(0, 2 * reach)].to(logits_BHNQJ.dtype)
    y_BHTD = (torch.softmax(logits_BHNQJ, dim=4) @ around(v_BHTD)).flatten(2, 3)
    return y_BHTD[:, :, :length]


class ConvAttention(nn.Module):
    """Masked multi-head attention over a sequence, at its own resolution or at half of it.

    Args:
        channels: width in and out.
        heads: divides `channels`.
        window: odd number of keys that a query sees, centred on it; -1: all.
        stride: 1, or 2 to halve the sequence (in the depth-wise convolutions).
        dropout: of the output projection.
        relative: add a learned code of the key's place in the window to the logits; global attention has none.
        causal: whether the window ends with the query, and convolutions cover the last positions.
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        window: int = -1,
        stride: int = 1,
        dropout: float = 0.0,
        relative: bool = False,
        causal: bool = False,
    ) -> None:
        super().__init__()
        assert channels % heads == 0, (channels, heads)
        assert window > 0 or not causal, window
        self.heads, self.window, self.stride, self.causal = heads, window, stride, causal

        def depthwise() -> MaskedConv1d:
            return MaskedConv1d(channels, channels, kernel=3, stride=stride, groups=channels, bias=False, causal=causal)

        self.query_conv, self.query_norm = depthwise(), ChannelNorm(channels)
        self.key_conv, self.key_norm = depthwise(), ChannelNorm(channels)
        self.value_conv, self.value_norm = depthwise(), ChannelNorm(channels)
        self.key, self.query, self.value, self.proj = (Pointwise(channels, channels) for _ in range(4))
        self.dropout = Dropout(dropout)
        self.rel_pe: Tensor | None = None
        if relative and window > 1:
            self.rel_pe = nn.Parameter(torch.zeros(1, 1, heads, window))
            nn.init.trunc_normal_(self.rel_pe, std=(2.0 / channels) ** 0.5)

    def _split(self, x_BCT: Tensor) -> Tensor:
        x_BTC = x_BCT.transpose(1, 2)
        batch, length, channels = x_BTC.shape
        return x_BTC.view(batch, length, self.heads, channels // self.heads).transpose(1, 2)

    def _keys(self, x_BCT: Tensor) -> Tensor:
        """Apply the norm and the projection of the keys without their biases.

        The biases shift all logits of a query equally, and softmax is invariant to this shift. Their gradient is set to
        its exact value, zero, because Adam would turn rounding noise into a random walk.
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
            bias_HW = None if self.rel_pe is None else self.rel_pe[0, 0]
            y_BHTD = local_attention(
                q_BHTD, k_BHTD, v_BHTD, mask_B1T, reach=self.window // 2, bias_HW=bias_HW, causal=self.causal
            )
        else:
            y_BHTD = global_attention(q_BHTD, k_BHTD, v_BHTD, mask_B1T)
        y_BCT = y_BHTD.transpose(1, 2).flatten(2).transpose(1, 2)
        return zero_outside(self.dropout(self.proj(y_BCT)), mask_B1T)
