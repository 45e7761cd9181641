"""The detector that TriDet and MSE are, but for the block: pyramid, class head, trident offset head."""

# B videos, T snippets, C channels, K classes, N chosen points

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from torch import Tensor

from tad.layers.detector import Chosen, PointDetector
from tad.layers.faces import corrections_of
from tad.layers.heads import ClassHead, OffsetHead, join, trident_offsets
from tad.layers.pyramid import LevelNorms, Pyramid
from tad.layers.sgp import CORRECTIONS, GranularBlock
from tad.layers.types import Outputs


class TridentDetector(PointDetector):
    """Encoder of granularity blocks, class head and trident head (TriDet, section 3).

    The arguments are those of the detectors' YAML files. `block` makes a temporal block from its width and the keyword
    arguments of `GranularBlock`; a detector with blocks of its own sets it before it calls this constructor.
    """

    class_offsets: ClassVar[bool] = True
    block: Callable[..., GranularBlock] = GranularBlock

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
        levels = len(regression_ranges)
        repaired = corrections_of(face, corrections, known=CORRECTIONS)
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
            gate=gate,
            gate_settings=gate_settings,
            masked="masked" in repaired,
            detach_quality="detached" in repaired,
        )
        self.bins = num_bins
        masked = self.masked
        sizes = {"mlp_dim": mlp_dim, "factor": kernel_factor, "init_std": init_conv_std}
        make = partial(self.block, embed_dim, **sizes, living="living" in repaired, masked=masked)
        self.backbone = Pyramid(
            feature_dim,
            embed_dim,
            kernel=embed_kernel,
            layers=embed_layers,
            stem=[make(kernel=1, droppath=0.0, halves=False) for _ in range(stem_layers)],
            branch=[make(kernel=kernel, droppath=droppath, halves=True) for _ in range(1, levels)],
            max_length=max_length if use_position else 0,
            masked=masked,
        )
        self.neck = LevelNorms(embed_dim, levels=levels, masked=masked)
        self.gap = max(head_kernel, boundary_kernel) // 2
        tower = partial(ClassHead, embed_dim, head_dim, classes=num_classes, layers=head_layers, masked=masked)
        self.cls_head = tower(kernel=head_kernel, prior=class_prior)
        self.start_head = tower(kernel=boundary_kernel, prior=class_prior)
        self.end_head = tower(kernel=boundary_kernel, prior=class_prior)
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
        joined = join(features, masks, gap=self.gap)
        detached = replace(joined, x_BCT=joined.x_BCT.detach())
        return Outputs(
            masks=masks,
            logits=self.cls_head(joined),
            offsets=self.reg_head(joined),
            starts=self.start_head(detached),
            ends=self.end_head(detached),
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
