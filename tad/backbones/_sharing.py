"""Overlapping clips of R(2+1)D in one go: what they have in common of the stem and the first stage is computed once.

A clip is padded with zeros in time, so each temporal convolution spoils one more position at either end of it: only
what lies between is the same in neighbouring clips. That middle is computed once for a run of clips, the ends for each
clip, and everything after the first stage for each clip as ever. Libraries choose the kernel of a spatial convolution,
and with it the order of its sums, by the number of positions; so these are computed for as many positions at a time as
a clip has, whichever they are, and then every number comes out as it does in a clip by itself. Whoever uses this looks
whether it does (`tad.extraction.overlap`).
Shapes: G clips of a run, L frames of a clip, C channels, T positions, H rows, W columns.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Run:
    """Maps of a run of clips after some layers, in one tensor: a layer in space need not know which is whose.

    x_1CTHW: first the positions from `spoilt` on that all clips see alike, then the `spoilt` positions of each clip's
        own left end, then those of the right ends.
    starts: first frame of each clip, counted from the run's.
    """

    x_1CTHW: Tensor
    starts: tuple[int, ...]
    length: int
    spoilt: int = 0

    @property
    def _ends(self) -> int:
        """Where the shared positions end."""
        return int(self.x_1CTHW.shape[2]) - 2 * len(self.starts) * self.spoilt

    def long(self) -> Tensor:
        """The shared positions."""
        return self.x_1CTHW[:, :, : self._ends]

    def between(self, clip: int, first: int, last: int) -> Tensor:
        """Shared positions [first, last), counted from a clip's start."""
        begin = self.starts[clip] - self.spoilt
        return self.x_1CTHW[:, :, begin + first : begin + last]

    def left(self, clip: int, more: int = 0) -> Tensor:
        """A clip's first `spoilt` positions, and `more` of the shared ones after them."""
        begin = self._ends + clip * self.spoilt
        own = self.x_1CTHW[:, :, begin : begin + self.spoilt]
        return torch.cat([own, self.between(clip, self.spoilt, self.spoilt + more)], dim=2)

    def right(self, clip: int, more: int = 0) -> Tensor:
        """A clip's last `spoilt` positions, and `more` of the shared ones before them."""
        begin = self._ends + (len(self.starts) + clip) * self.spoilt
        own, end = self.x_1CTHW[:, :, begin : begin + self.spoilt], self.length - self.spoilt
        return torch.cat([self.between(clip, end - more, end), own], dim=2)

    def _parts(self, long_1CTHW: Tensor, ends: Iterable[Tensor], more: int) -> "Run":
        return Run(torch.cat([long_1CTHW, *ends], dim=2), self.starts, self.length, self.spoilt + more)

    def each(self, layers: list[nn.Module]) -> "Run":
        """Layers that see one position at a time; as many positions at once as a clip has, for the reason above."""
        count, found = int(self.x_1CTHW.shape[2]), []
        for begin in range(0, count, self.length):
            first = min(begin, count - self.length)
            chunk = self.x_1CTHW[:, :, first : first + self.length]
            for layer in layers:
                chunk = layer(chunk)
            found.append(chunk[:, :, begin - first :])
        return Run(torch.cat(found, dim=2), self.starts, self.length, self.spoilt)

    def temporal(self, conv: nn.Conv3d) -> "Run":
        """A convolution over three positions with zeros beyond the clip."""
        nothing = torch.zeros_like(self.x_1CTHW[:, :, :1])
        clips = range(len(self.starts))
        ends = chain(
            ([nothing, self.left(clip, 2)] for clip in clips), ([self.right(clip, 2), nothing] for clip in clips)
        )
        # one by one: together they would need several times the memory
        convolved = [F.conv3d(self.long(), conv.weight, conv.bias)]
        convolved += [F.conv3d(torch.cat(end, dim=2), conv.weight, conv.bias) for end in ends]
        return self._parts(convolved[0], convolved[1:], 1)

    def widened(self, more: int) -> "Run":
        """The same maps with `more` positions at either end counted as the clips' own."""
        clips = range(len(self.starts))
        ends = [*(self.left(clip, more) for clip in clips), *(self.right(clip, more) for clip in clips)]
        return self._parts(self.long()[:, :, more:-more], ends, more)

    def clip(self, clip: int) -> Tensor:
        """The maps of one whole clip (1, C, L, H, W)."""
        return torch.cat([self.left(clip, self.length - 2 * self.spoilt), self.right(clip)], dim=2)


def _through(run: Run, layers: nn.Module) -> Run:
    """Convolutions in space or in time, norms, activations; in order."""
    spatial: list[nn.Module] = []
    for layer in layers.modules():
        if isinstance(layer, nn.Conv3d) and layer.kernel_size[0] == 3:
            run = (run.each(spatial) if spatial else run).temporal(layer)
            spatial = []
        elif isinstance(layer, nn.Conv3d | nn.BatchNorm3d | nn.ReLU):
            spatial.append(layer)
    return run.each(spatial) if spatial else run


def run_features(
    x_1CTHW: Tensor, *, length: int, stride: int, stem: nn.Module, stage: nn.Sequential,
    rest: Callable[[Tensor], Tensor],
) -> Tensor:
    """Features (G, dim) of the clips that begin every `stride` frames of a normalised run of frames.

    Args:
        length: L, at least 2.
        stem: one spatial and one temporal convolution.
        stage: residual blocks of spatial and temporal convolutions without stride and without a projection; those that
            the clips are too short to share are computed for each clip.
        rest: maps (1, C, L, H, W) of a clip after the stage → (1, dim).
    """
    starts = tuple(range(0, x_1CTHW.shape[2] - length + 1, stride))
    run = _through(Run(x_1CTHW, starts, length), stem)
    blocks = list(stage)
    while blocks and length - 2 * run.spoilt >= 4:  # each block spoils two more, and needs a shared position beyond
        inner = _through(_through(run, blocks[0].get_submodule("conv1")), blocks[0].get_submodule("conv2"))
        skip_1CTHW = run.widened(2).x_1CTHW
        run = replace(inner, x_1CTHW=torch.relu(inner.x_1CTHW + skip_1CTHW))
        del blocks[0]
    own = nn.Sequential(*blocks)
    return torch.cat([rest(own(run.clip(clip))) for clip in range(len(starts))])
