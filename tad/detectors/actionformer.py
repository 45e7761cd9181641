"""ActionFormer: a pyramid of local self-attention over snippet features; every point is classified and regressed.

Zhang, Wu, Li: ActionFormer: Localizing Moments of Actions with Transformers, ECCV 2022.
"""

# B videos, T snippets, C channels, N chosen points

from functools import partial
from typing import Any

from torch import Tensor, nn

from tad.detectors._points.conv_block import CONVOLUTIONS, ConvBlock
from tad.detectors._points.detector import Chosen, PointDetector
from tad.detectors._points.excitation import ExcitedNorms
from tad.detectors._points.hallucination import FlowHallucinator
from tad.detectors._points.heads import ClassHead, OffsetHead, gap_of, join, past_offsets, plain_offsets
from tad.detectors._points.pyramid import Pyramid, neck_of
from tad.detectors.actionformer_settings import Settings
from tad.layers.attention import ConvAttention
from tad.layers.causal import past_pair_mean
from tad.layers.chance import Dropout
from tad.layers.masked import (
    ChannelNorm,
    Mask,
    MaskedConv1d,
    Pointwise,
    ScaledDropPath,
    halve,
    max_pool,
    padding_of,
    zero_outside,
)
from tad.layers.types import Outputs


class TransformerBlock(nn.Module):
    """Pre-norm transformer block; a halving block has strided depth-wise convolutions before the attention."""

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        window: int,
        mlp_dim: int,
        dropout: float,
        droppath: float,
        halves: bool,
        relative: bool = False,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.halves, self.causal = halves, causal
        self.ln1 = ChannelNorm(channels)
        self.ln2 = ChannelNorm(channels)
        attention: dict[str, Any] = {"window": window, "dropout": dropout, "relative": relative, "causal": causal}
        self.attn = ConvAttention(channels, heads=heads, stride=2 if halves else 1, **attention)
        self.mlp = nn.Sequential(
            Pointwise(channels, mlp_dim),
            nn.GELU(),
            Dropout(dropout),
            Pointwise(mlp_dim, channels),
            Dropout(dropout),
        )
        self.drop_path_attn = ScaledDropPath(channels, probability=droppath)
        self.drop_path_mlp = ScaledDropPath(channels, probability=droppath)

    def forward(self, x_BCT: Tensor, mask_B1T: Mask) -> tuple[Tensor, Mask]:
        """(B, C, T) and its mask → the same, of half the length if the block halves."""
        attended_BCT = self.attn(self.ln1(x_BCT), mask_B1T)
        if self.halves:
            x_BCT = past_pair_mean(x_BCT) if self.causal else max_pool(x_BCT, mask_B1T, masked=False)
            mask_B1T = halve(mask_B1T)
        x_BCT = self.drop_path_attn.add(zero_outside(x_BCT, mask_B1T), attended_BCT)
        x_BCT = self.drop_path_mlp.add(x_BCT, zero_outside(self._widened(x_BCT), mask_B1T))
        return x_BCT, mask_B1T

    def _widened(self, x_BCT: Tensor) -> Tensor:
        """Apply `ln2` and `mlp`; without active dropout, by a fused form that stores less for the backward pass."""
        widen, _, drop, narrow, _ = self.mlp
        assert isinstance(widen, Pointwise)
        assert isinstance(narrow, Pointwise)
        if isinstance(drop, Dropout) and drop.active:
            y_BCT: Tensor = self.mlp(self.ln2(x_BCT))
            return y_BCT
        return narrow.after_gelu(widen.after_norm(x_BCT, self.ln2))


class Detector(PointDetector):
    """The published ActionFormer. For the settings see actionformer_settings.py."""

    class_offsets = False
    rectified = True  # offsets end in a ReLU, which can die

    def __init__(self, settings: Settings, *, feature_dim: int, num_classes: int, max_length: int) -> None:
        levels, windows, embed_dim = settings.levels, settings.windows, settings.embed_dim
        strides = [2**level for level in range(levels)]
        super().__init__(
            settings,
            feature_dim=feature_dim,
            num_classes=num_classes,
            max_length=max_length,
            multiple=max(s * (w // 2 * 2) if w > 1 else s for s, w in zip(strides, windows, strict=True)),
            masked=settings.causal,
        )

        sizes: dict[str, Any] = {
            "heads": settings.num_heads,
            "mlp_dim": settings.mlp_dim,
            "dropout": settings.dropout,
            "droppath": settings.droppath,
            "relative": settings.use_relative_position,
            "causal": settings.causal,
        }
        conv = CONVOLUTIONS.get(settings.encoder)

        def block(window: int, *, halves: bool) -> nn.Module:
            if conv:
                return ConvBlock(embed_dim, conv=conv, halves=halves)
            return TransformerBlock(embed_dim, window=window, halves=halves, **sizes)

        self.rectified = not settings.causal  # there the end's output is a sigmoid, and the start lies before it
        self.hallucinates = settings.hallucinate != "none"
        if self.hallucinates:
            self.hallucinator = FlowHallucinator(feature_dim, masked=settings.hallucinate == "masked")
        self.backbone = Pyramid(
            2 * feature_dim if self.hallucinates else feature_dim,
            settings,
            stem=[block(windows[0], halves=False) for _ in range(settings.stem_layers)],
            branch=[block(window, halves=True) for window in windows[1:]],
            max_length=max_length,
            masked=self.masked,
            conv=conv or partial(MaskedConv1d, causal=settings.causal),
        )
        self.neck = neck_of(settings, masked=self.masked)
        if settings.temporal_se != "none":
            lengths, normed = [max_length // stride for stride in strides], settings.neck_norm
            self.neck = ExcitedNorms(embed_dim, lengths=lengths, masked=settings.temporal_se == "masked", normed=normed)
        self.gap = gap_of(settings.head_kernel, causal=settings.causal)
        towers: dict[str, Any] = {"kernel": settings.head_kernel, "layers": settings.head_layers}
        towers |= {"masked": self.masked, "normed": settings.head_norm, "causal": settings.causal}
        prior, inputs, width = settings.class_prior, settings.neck_dim, settings.head_dim
        self.cls_head = ClassHead(inputs, width, classes=num_classes, prior=prior, **towers)
        kept = {"living": settings.living, "bounded": settings.causal}
        self.reg_head = OffsetHead(inputs, width, outputs=2, levels=levels, **kept, **towers)

    def complete(self, x_BCT: Tensor, mask_B1T: Tensor) -> Tensor:
        """Append flow features predicted from RGB, if the settings ask for it."""
        return self.hallucinator(x_BCT, padding_of(mask_B1T)) if self.hallucinates else x_BCT

    def heads(self, features: list[Tensor], masks: list[Tensor]) -> Outputs:
        """Return class logits and distances."""
        joined = join(features, masks, gap=self.gap)
        return Outputs(masks=masks, logits=self.cls_head(joined), offsets=self.reg_head(joined))

    def decode(self, outputs: Outputs, level: int, chosen: Chosen) -> Tensor:
        """Return the distances, which all classes share."""
        offsets_B2T = outputs.offsets[level]
        return past_offsets(offsets_B2T, chosen, delay=self.delay) if self.delay else plain_offsets(offsets_B2T, chosen)
