"""Shared computation of strongly overlapping clips, for backbones that can do this exactly.

Such a backbone has `overlapping(frames_NHWC, length=, stride=)`. It is only used on a CPU with torch's default settings
(other engines replace whole networks), and only while its rows are bit-equal to those of separate clips. So no feature
depends on it, and there is no setting for it.
"""

# G clips of a run, N frames, H rows, W columns, C channels

import logging

import torch
from torch import Tensor

from tad.backbones._contract import BackboneBase
from tad.settings.stages import ExtractSpec, NetworkSpec

log = logging.getLogger(__name__)
RUN = 9  # clips per call; more clips are only a few per cent faster and need proportionally more memory
PAYS = 8  # minimum number of clips per frame for which sharing is faster (benchmarks/bench_sharing.py)


class Runs:
    """Computes the rows of `RUN` neighbouring clips; the first run of each frame size is computed both ways."""

    def __init__(self, backbone: BackboneBase, spec: ExtractSpec) -> None:
        self._backbone, self._length, self._stride = backbone, spec.clip.length, spec.clip.stride
        self._exact: dict[tuple[int, ...], bool] = {}

    def __call__(self, clips: list[list[Tensor]]) -> Tensor | None:
        """Return the rows (G, C) of `RUN` consecutive clips; None if the clips must be computed separately."""
        frames_NHWC = torch.stack(clips[0] + [frame for clip in clips[1:] for frame in clip[-self._stride :]])
        size = tuple(frames_NHWC.shape)
        if not self._exact.get(size, True):
            return None
        rows_GC: Tensor = self._backbone.overlapping(frames_NHWC, length=self._length, stride=self._stride)
        if size in self._exact:
            return rows_GC
        alone_GC = torch.cat([self._backbone(torch.stack(clip)[None]) for clip in clips])
        self._exact[size] = torch.equal(rows_GC, alone_GC)
        if not self._exact[size]:
            log.info("overlapping clips are computed one by one: shared computation rounds differently on this machine")
        return alone_GC


def runs(backbone: BackboneBase, spec: ExtractSpec, device: torch.device) -> Runs | None:
    """Return the shared computation of overlapping clips; None if it is not possible or not faster."""
    able = backbone.shares and device.type == "cpu" and spec.network == NetworkSpec()
    return Runs(backbone, spec) if able and spec.clip.length >= PAYS * spec.clip.stride else None
