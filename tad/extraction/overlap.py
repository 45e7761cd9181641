"""Clips that overlap strongly, a run of them at a time, where a backbone can compute what they share once and exactly.

Such a backbone has `overlapping(frames_NHWC, length=, stride=)`. It is asked only on a CPU under torch as it is (other
engines take whole networks), and only as long as its rows are those of the clips by themselves, bit for bit: so no
feature depends on this, and no setting speaks of it.
"""

# G clips of a run, N frames, H rows, W columns, C channels

import logging
from typing import Any

import torch
from torch import Tensor

from tad.specs import ExtractSpec, NetworkSpec

log = logging.getLogger(__name__)
RUN = 9  # clips at once: more gain a few per cent and take memory in proportion
PAYS = 8  # clips that hold a frame, from which on sharing was faster (benchmarks/bench_sharing.py)


class Runs:
    """`RUN` neighbouring clips → their rows. The first run of each size of frames is computed in both ways."""

    def __init__(self, backbone: Any, spec: ExtractSpec) -> None:
        self._backbone, self._length, self._stride = backbone, spec.clip.length, spec.clip.stride
        self._exact: dict[tuple[int, ...], bool] = {}

    def __call__(self, clips: list[list[Tensor]]) -> Tensor | None:
        """Rows (G, C) of `RUN` clips in a row; None where only the clips by themselves give them."""
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
            log.info("overlapping clips are computed one by one: this machine's kernels would round them otherwise")
        return alone_GC


def runs(backbone: Any, spec: ExtractSpec, device: torch.device) -> Runs | None:
    """How to compute runs of clips together; None where that cannot be or would not be faster."""
    able = hasattr(backbone, "overlapping") and device.type == "cpu" and spec.network == NetworkSpec()
    return Runs(backbone, spec) if able and spec.clip.length >= PAYS * spec.clip.stride else None
