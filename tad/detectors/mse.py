"""MSE: TriDet whose block adds global attention over its convolutions' output, mixed by six learnt weights.

An, Zhao P., Wang, Zhao C., Yang: Multi-granularity semantic enhancement for temporal action detection, Neurocomputing
626 (2025) 129543.
"""

# B videos, T snippets, C channels

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tad.errors import TadError
from tad.layers.attention import ConvAttention
from tad.layers.masked import Mask, ScaledDropPath
from tad.layers.sgp import GranularBlock
from tad.layers.trident import TridentDetector


class EnhancedBlock(GranularBlock):
    """Granularity block followed by global attention on its output, through the same channel norm."""

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        mlp_dim: int,
        kernel: int,
        factor: float,
        init_std: float,
        droppath: float,
        halves: bool,
        living: bool,
        masked: bool,
    ) -> None:
        super().__init__(
            channels,
            mlp_dim=mlp_dim,
            kernel=kernel,
            factor=factor,
            init_std=init_std,
            droppath=droppath,
            halves=halves,
            living=living,
            masked=masked,
        )
        self.dynamic_weight = nn.Parameter(torch.ones(6))
        self.attn = ConvAttention(channels, heads=heads)
        if halves:
            # never applied: published checkpoints contain it, so that this one must too
            self.drop_path_attn = ScaledDropPath(channels, probability=droppath)

    def fuse(self, u_BCT: Tensor, mask_B1T: Mask) -> Tensor:
        """Convolutions, attention on top of them, and their weighted sum with the input."""
        weight = self.dynamic_weight.to(u_BCT.dtype).unbind()
        local_BCT = self.local(u_BCT, mask_B1T, weight[:3])
        global_BCT = self.attn(self.normed(local_BCT, mask_B1T), mask_B1T)
        fused_BCT = torch.addcmul(weight[5] * global_BCT, u_BCT, weight[4])
        return torch.addcmul(fused_BCT, local_BCT, weight[3])


class Detector(TridentDetector):
    """MSE as published (`face` parity) or with its defects repaired (corrected); settings are explained in mse.yaml."""

    decayed: ClassVar[tuple[str, ...]] = ("dynamic_weight",)

    def __init__(
        self,
        *,
        feature_dim: int,
        num_classes: int,
        max_length: int,
        face: str,
        corrections: Sequence[str],
        embed_dim: int,
        embed_layers: int,
        embed_kernel: int,
        use_position: bool,
        num_heads: int,
        stem_layers: int,
        kernel: int,
        kernel_factor: float,
        init_conv_std: float,
        mlp_dim: int,
        droppath: float,
        head_dim: int,
        head_layers: int,
        head_kernel: int,
        boundary_kernel: int,
        num_bins: int,
        class_prior: float,
        regression_ranges: Sequence[Sequence[float]],
        center_radius: float,
        label_smoothing: float,
        loss_weight: float,
        init_loss_norm: float,
        iou_weight_power: float,
        input_noise: float,
        buffer_factor: float,
        gate: str,
        gate_settings: Mapping[str, Any],
    ) -> None:
        if embed_dim % num_heads:
            raise TadError(f"settings.num_heads: {num_heads}: must divide settings.embed_dim ({embed_dim})")
        self.block = partial(EnhancedBlock, heads=num_heads)
        super().__init__(
            feature_dim=feature_dim,
            num_classes=num_classes,
            max_length=max_length,
            face=face,
            corrections=corrections,
            embed_dim=embed_dim,
            embed_layers=embed_layers,
            embed_kernel=embed_kernel,
            use_position=use_position,
            stem_layers=stem_layers,
            kernel=kernel,
            kernel_factor=kernel_factor,
            init_conv_std=init_conv_std,
            mlp_dim=mlp_dim,
            droppath=droppath,
            head_dim=head_dim,
            head_layers=head_layers,
            head_kernel=head_kernel,
            boundary_kernel=boundary_kernel,
            num_bins=num_bins,
            class_prior=class_prior,
            regression_ranges=regression_ranges,
            center_radius=center_radius,
            label_smoothing=label_smoothing,
            loss_weight=loss_weight,
            init_loss_norm=init_loss_norm,
            iou_weight_power=iou_weight_power,
            input_noise=input_noise,
            buffer_factor=buffer_factor,
            gate=gate,
            gate_settings=gate_settings,
        )
