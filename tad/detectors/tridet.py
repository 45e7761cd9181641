"""TriDet: a pyramid of depth-wise convolutions over snippet features, with borders as distributions over bins.

Shi, Zhong, Cao, Ma, Li, Tao: TriDet: Temporal Action Detection with Relative Boundary Modeling, CVPR 2023.
"""

from collections.abc import Sequence

from tad.layers.sgp import GranularBlock
from tad.layers.trident import TridentDetector


class Detector(TridentDetector):
    """TriDet as published (`face` parity) or with its defects repaired (corrected); settings: see tridet.yaml."""

    def __init__(
        self,
        *,
        feature_dim: int,
        num_classes: int,
        max_length: int,
        face: str,
        embed_dim: int,
        embed_layers: int,
        embed_kernel: int,
        use_position: bool,
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
    ) -> None:
        super().__init__(
            block=GranularBlock,
            feature_dim=feature_dim,
            num_classes=num_classes,
            max_length=max_length,
            face=face,
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
        )
