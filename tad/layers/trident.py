"""The detector that TriDet and MSE are, but for the block: pyramid, class head, trident offset head."""

# B videos, T snippets, C channels, K classes, N chosen points

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from tad.layers.detector import Chosen, Outputs, PointDetector
from tad.layers.heads import ClassHead, OffsetHead, trident_offsets
from tad.layers.pyramid import LevelNorms, Pyramid
from tad.layers.sgp import GranularBlock


class TridentDetector(PointDetector):
    """Encoder of granularity blocks, class head and trident head (TriDet, section 3).

    Args are those of the detectors' YAML files; `blocks` are stem and branch.
    """

    class_offsets: ClassVar[bool] = True

    def __init__(
        self,
        *,
        stem: Sequence[GranularBlock],
        branch: Sequence[GranularBlock],
        feature_dim: int,
        num_classes: int,
        max_length: int,
        embed_dim: int,
        embed_layers: int,
        embed_kernel: int,
        use_position: bool,
        kernel: int,
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
        masked: bool,
    ) -> None:
        levels = len(regression_ranges)
        super().__init__(
            feature_dim=feature_dim,
            num_classes=num_classes,
            max_length=max_length,
            multiple=2 ** (levels - 1) * kernel,
            ranges=regression_ranges,
            radius=center_radius,
            label_smoothing=label_smoothing,
            loss_weight=loss_weight,
            init_loss_norm=init_loss_norm,
            input_noise=input_noise,
            iou_weight_power=iou_weight_power,
            buffer_factor=buffer_factor,
            masked=masked,
        )
        self.bins = num_bins
        self.backbone = Pyramid(
            feature_dim,
            embed_dim,
            kernel=embed_kernel,
            layers=embed_layers,
            stem=stem,
            branch=branch,
            max_length=max_length if use_position else 0,
            masked=masked,
        )
        self.neck = LevelNorms(embed_dim, levels=levels, masked=masked)
        for name, width in {"cls_head": head_kernel, "start_head": boundary_kernel, "end_head": boundary_kernel}.items():
            head = ClassHead(
                embed_dim,
                head_dim,
                classes=num_classes,
                kernel=width,
                layers=head_layers,
                prior=class_prior,
                masked=masked,
            )
            self.add_module(name, head)
        self.reg_head = OffsetHead(
            embed_dim,
            head_dim,
            outputs=2 * (num_bins + 1),
            kernel=head_kernel,
            layers=head_layers,
            levels=levels,
            masked=masked,
        )

    def heads(self, features: list[Tensor], masks: list[Tensor]) -> Outputs:
        """Class and centre outputs; the boundary heads learn without changing the encoder (their input is detached)."""
        detached = [x_BCT.detach() for x_BCT in features]
        return Outputs(
            masks=masks,
            logits=self.cls_head(features, masks),
            offsets=self.reg_head(features, masks),
            starts=self.start_head(detached, masks),
            ends=self.end_head(detached, masks),
        )

    def decode(self, outputs: Outputs, level: int, chosen: Chosen) -> Tensor:
        """Expected distances of the chosen points, see `trident_offsets`."""
        return trident_offsets(
            outputs.starts[level],
            outputs.ends[level],
            outputs.offsets[level],
            outputs.masks[level],
            chosen,
            bins=self.bins,
            masked=self.masked,
        )
