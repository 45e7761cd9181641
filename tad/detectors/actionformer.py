"""ActionFormer: a pyramid of local self-attention over snippet features, classified and regressed at every point.

Zhang, Wu, Li: ActionFormer: Localizing Moments of Actions with Transformers, ECCV 2022.
"""

# B videos, T snippets, C channels, N chosen points

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from tad.errors import TadError
from tad.layers.attention import ConvAttention
from tad.layers.chance import Dropout
from tad.layers.conv_block import CONVOLUTIONS, ConvBlock
from tad.layers.detector import Chosen, PointDetector
from tad.layers.excitation import ExcitedNorms
from tad.layers.hallucination import FlowHallucinator
from tad.layers.heads import ClassHead, OffsetHead, join
from tad.layers.kernels import at_least_float32
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
from tad.layers.pyramid import LevelNorms, Pyramid
from tad.layers.types import Outputs


class TransformerBlock(nn.Module):
    """Pre-norm transformer block; a halving one strides in the depth-wise convolutions before attention."""

    def __init__(
        self, channels: int, *, heads: int, window: int, mlp_dim: int, dropout: float, droppath: float, halves: bool
    ) -> None:
        super().__init__()
        self.halves = halves
        self.ln1 = ChannelNorm(channels)
        self.ln2 = ChannelNorm(channels)
        self.attn = ConvAttention(channels, heads=heads, window=window, stride=2 if halves else 1, dropout=dropout)
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
            x_BCT = max_pool(x_BCT, mask_B1T, masked=False)
            mask_B1T = halve(mask_B1T)
        x_BCT = self.drop_path_attn.add(zero_outside(x_BCT, mask_B1T), attended_BCT)
        x_BCT = self.drop_path_mlp.add(x_BCT, zero_outside(self._widened(x_BCT), mask_B1T))
        return x_BCT, mask_B1T

    def _widened(self, x_BCT: Tensor) -> Tensor:
        """`mlp` of `ln2`, in the form that keeps less for the gradient where nothing is dropped."""
        widen, _, drop, narrow, _ = self.mlp
        assert isinstance(widen, Pointwise)
        assert isinstance(narrow, Pointwise)
        if isinstance(drop, Dropout) and drop.active:
            y_BCT: Tensor = self.mlp(self.ln2(x_BCT))
            return y_BCT
        return narrow.after_gelu(widen.after_norm(x_BCT, self.ln2))


class Detector(PointDetector):
    """The published ActionFormer; settings are explained in actionformer.yaml."""

    class_offsets: ClassVar[bool] = False
    rectified: ClassVar[bool] = True  # offsets pass a ReLU, which can die

    def __init__(
        self,
        *,
        feature_dim: int,
        num_classes: int,
        max_length: int,
        embed_dim: int,
        embed_layers: int,
        embed_kernel: int,
        use_position: bool,
        num_heads: int,
        windows: Sequence[int],
        encoder: str,
        temporal_se: str,
        hallucinate: str,
        stem_layers: int,
        mlp_dim: int,
        dropout: float,
        droppath: float,
        head_dim: int,
        head_layers: int,
        head_kernel: int,
        class_prior: float,
        regression_ranges: Sequence[Sequence[float]],
        center_radius: float,
        label_smoothing: float,
        loss_weight: float,
        init_loss_norm: float,
        input_noise: float,
        buffer_factor: float,
        gate: str,
        gate_settings: Mapping[str, Any],
    ) -> None:
        levels = len(regression_ranges)
        if len(windows) != levels:
            raise TadError(
                f"settings.windows: {list(windows)}: needs one per level of settings.regression_ranges ({levels})"
            )
        if embed_dim % num_heads:
            raise TadError(f"settings.num_heads: {num_heads}: must divide settings.embed_dim ({embed_dim})")
        strides = [2**level for level in range(levels)]
        super().__init__(
            feature_dim=feature_dim,
            num_classes=num_classes,
            max_length=max_length,
            multiple=max(s * (w // 2 * 2) if w > 1 else s for s, w in zip(strides, windows, strict=True)),
            ranges=regression_ranges,
            radius=center_radius,
            label_smoothing=label_smoothing,
            loss_weight=loss_weight,
            init_loss_norm=init_loss_norm,
            input_noise=input_noise,
            iou_weight_power=0.0,
            buffer_factor=buffer_factor,
            gate=gate,
            gate_settings=gate_settings,
            masked=False,
        )

        sizes: dict[str, Any] = {"heads": num_heads, "mlp_dim": mlp_dim, "dropout": dropout, "droppath": droppath}
        conv = CONVOLUTIONS.get(encoder)

        def block(window: int, *, halves: bool) -> nn.Module:
            if conv:
                return ConvBlock(embed_dim, conv=conv, halves=halves)
            return TransformerBlock(embed_dim, window=window, halves=halves, **sizes)

        self.hallucinates = hallucinate != "none"
        if self.hallucinates:
            self.hallucinator = FlowHallucinator(feature_dim, masked=hallucinate == "masked")
        self.backbone = Pyramid(
            2 * feature_dim if self.hallucinates else feature_dim,
            embed_dim,
            kernel=embed_kernel,
            layers=embed_layers,
            stem=[block(windows[0], halves=False) for _ in range(stem_layers)],
            branch=[block(window, halves=True) for window in windows[1:]],
            max_length=max_length if use_position else 0,
            masked=False,
            conv=conv or MaskedConv1d,
        )
        self.neck = LevelNorms(embed_dim, levels=levels, masked=False)
        if temporal_se != "none":
            lengths = [max_length // stride for stride in strides]
            self.neck = ExcitedNorms(embed_dim, lengths=lengths, masked=temporal_se == "masked")
        self.gap = head_kernel // 2
        towers: dict[str, Any] = {"kernel": head_kernel, "layers": head_layers, "masked": False}
        self.cls_head = ClassHead(embed_dim, head_dim, classes=num_classes, prior=class_prior, **towers)
        self.reg_head = OffsetHead(embed_dim, head_dim, outputs=2, levels=levels, **towers)

    def complete(self, x_BCT: Tensor, mask_B1T: Tensor) -> Tensor:
        """Features of RGB, with flow made up of them where the settings ask for it."""
        return self.hallucinator(x_BCT, padding_of(mask_B1T)) if self.hallucinates else x_BCT

    def heads(self, features: list[Tensor], masks: list[Tensor]) -> Outputs:
        """Class logits and distances."""
        joined = join(features, masks, gap=self.gap)
        return Outputs(masks=masks, logits=self.cls_head(joined), offsets=self.reg_head(joined))

    def decode(self, outputs: Outputs, level: int, chosen: Chosen) -> Tensor:
        """The distances as they are; classes share them."""
        video_N, point_N, _ = chosen
        return at_least_float32(outputs.offsets[level][video_N, :, point_N])
