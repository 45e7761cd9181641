"""Base of TriDet and MSE, which differ in their temporal block: pyramid, class head, trident offset head."""

# B videos, T snippets, C channels, K classes, N chosen points

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from torch import Tensor, nn

from tad.detectors._faces import corrections_of
from tad.detectors._points.detector import Chosen, PointDetector
from tad.detectors._points.heads import (
    ClassHead,
    OffsetHead,
    gap_of,
    join,
    past_offsets,
    past_trident_offsets,
    plain_offsets,
    trident_offsets,
)
from tad.detectors._points.pyramid import Pyramid, neck_of
from tad.detectors._points.settings import TridentSettings
from tad.detectors._points.sgp import BlockSettings, GranularBlock
from tad.layers.masked import MaskedConv1d
from tad.layers.types import Outputs


class TridentDetector(PointDetector):
    """Detector with an encoder of SGP blocks, a class head and a trident head (TriDet, section 3).

    `block` constructs a temporal block from the arguments of `GranularBlock`. A subclass with other blocks sets it
    before it calls this constructor.
    """

    class_offsets = True
    block: Callable[..., nn.Module] = GranularBlock

    def __init__(self, settings: TridentSettings, *, feature_dim: int, num_classes: int, max_length: int) -> None:
        levels, repaired = settings.levels, corrections_of(settings)
        past = settings.delay > 0
        super().__init__(
            settings,
            feature_dim=feature_dim,
            num_classes=num_classes,
            max_length=max_length,
            multiple=max(2**level * width for level, width in enumerate(settings.level_kernels)),
            iou_weight_power=settings.iou_weight_power if settings.trident else 0.0,  # published: with trident only
            masked="masked" in repaired or past,
            detach_quality="detached" in repaired or past,
        )
        self.bins = settings.num_bins if settings.trident else 0
        self.class_offsets, self.rectified = settings.trident, not settings.trident and not past
        masked = self.masked
        make = partial(
            self.block,
            BlockSettings(
                channels=settings.embed_dim,
                mlp_dim=settings.mlp_dim,
                factor=settings.kernel_factor,
                init_std=settings.init_conv_std,
                droppath=settings.droppath,
                pooling=settings.pooling,
                living="living" in repaired,
                masked=masked,
                past_window=settings.mean_window if past else 0,
            ),
        )
        self.backbone = Pyramid(
            feature_dim,
            settings,
            stem=[make(kernel=1, halves=False) for _ in range(settings.stem_layers)],
            branch=[make(kernel=width, halves=True) for width in settings.level_kernels[1:]],
            max_length=max_length,
            masked=masked,
            conv=partial(MaskedConv1d, causal=past),
        )
        self.neck = neck_of(settings, masked=masked)
        self.gap = gap_of(max(settings.head_kernel, settings.boundary_kernel), causal=past)
        inputs, width, prior, kernel = settings.neck_dim, settings.head_dim, settings.class_prior, settings.head_kernel
        tower = {"layers": settings.head_layers, "masked": masked, "normed": settings.head_norm, "causal": past}
        scores = partial(ClassHead, inputs, width, classes=num_classes, prior=prior, **tower)
        self.cls_head = scores(kernel=kernel)
        if settings.trident:
            self.start_head = scores(kernel=settings.boundary_kernel)
            self.end_head = scores(kernel=settings.boundary_kernel)
        outputs = 2 * (self.bins + 1)
        if past and settings.trident:  # an end lies at most `delay` strides back, and a start farther
            outputs = self.bins + 1 + math.ceil(settings.delay) + 1
        living = settings.living and self.rectified
        bounded = past and not settings.trident
        self.reg_head = OffsetHead(
            inputs, width, outputs=outputs, kernel=kernel, levels=levels, living=living, bounded=bounded, **tower
        )

    def heads(self, features: list[Tensor], masks: list[Tensor]) -> Outputs:
        """Return class, centre and boundary outputs; the input of the boundary heads is detached."""
        joined = join(features, masks, gap=self.gap)
        if not self.class_offsets:
            return Outputs(masks=masks, logits=self.cls_head(joined), offsets=self.reg_head(joined))
        detached = replace(joined, x_BCT=joined.x_BCT.detach())
        return Outputs(
            masks=masks,
            logits=self.cls_head(joined),
            offsets=self.reg_head(joined),
            starts=self.start_head(detached),
            ends=self.end_head(detached),
        )

    def decode(self, outputs: Outputs, level: int, chosen: Chosen) -> Tensor:
        """Return the distances of the chosen points: expectations (`trident_offsets`), or those of a plain head."""
        if not self.class_offsets:
            offsets_B2T = outputs.offsets[level]
            return (
                past_offsets(offsets_B2T, chosen, delay=self.delay)
                if self.delay
                else plain_offsets(offsets_B2T, chosen)
            )
        if self.delay:
            return past_trident_offsets(
                outputs.starts[level], outputs.ends[level], outputs.offsets[level], chosen, bins=self.bins
            )
        return trident_offsets(
            outputs.starts[level],
            outputs.ends[level],
            outputs.offsets[level],
            outputs.masks[level],
            chosen,
            bins=self.bins,
            masked=self.masked,
        )
