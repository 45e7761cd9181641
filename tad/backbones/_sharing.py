"""Share computation between overlapping clips of R(2+1)D, in the stem and the first stage.

A clip is zero-padded in time, so each temporal convolution makes one more position at either end of the clip depend on
the padding. Positions in between are equal in all clips that contain them and are computed once per run of clips; the
ends, and everything after the first stage, are computed per clip. Libraries choose the kernel of a spatial convolution,
and thereby its order of summation, by the number of positions. Spatial layers are therefore applied to exactly as many
positions at a time as a clip has, which makes the results equal to those of single clips bit by bit. The caller
verifies this (`tad.extraction.overlap`).
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
    """Feature maps of a run of clips in one tensor, so that spatial layers apply to all clips at once.

    Attributes:
        x_1CTHW: the shared positions (from position `spoilt` of the first clip on), then each clip's own `spoilt`
            positions at its left end, then those at the right ends.
        starts: first frame of each clip, relative to the run.
        length: frames of a clip.
        spoilt: positions at either end of a clip that depend on its padding.
    """

    x_1CTHW: Tensor
    starts: tuple[int, ...]
    length: int
    spoilt: int = 0

    @property
    def _ends(self) -> int:
        """Number of shared positions, after which the clips' own ends follow."""
        return int(self.x_1CTHW.shape[2]) - 2 * len(self.starts) * self.spoilt

    def long(self) -> Tensor:
        """Return the shared positions."""
        return self.x_1CTHW[:, :, : self._ends]

    def between(self, clip: int, first: int, last: int) -> Tensor:
        """Return the range [first, last) of a clip's positions that neighbouring clips share."""
        begin = self.starts[clip] - self.spoilt
        return self.x_1CTHW[:, :, begin + first : begin + last]

    def left(self, clip: int, more: int = 0) -> Tensor:
        """Return a clip's first `spoilt` positions, which padding affects, and the next `more` positions."""
        begin = self._ends + clip * self.spoilt
        own = self.x_1CTHW[:, :, begin : begin + self.spoilt]
        return torch.cat([own, self.between(clip, self.spoilt, self.spoilt + more)], dim=2)

    def right(self, clip: int, more: int = 0) -> Tensor:
        """Return a clip's last `spoilt` positions, which padding affects, and the `more` positions before them."""
        begin = self._ends + (len(self.starts) + clip) * self.spoilt
        own, end = self.x_1CTHW[:, :, begin : begin + self.spoilt], self.length - self.spoilt
        return torch.cat([self.between(clip, end - more, end), own], dim=2)

    def _parts(self, long_1CTHW: Tensor, ends: Iterable[Tensor], more: int) -> "Run":
        return Run(torch.cat([long_1CTHW, *ends], dim=2), self.starts, self.length, self.spoilt + more)

    def each(self, layers: list[nn.Module]) -> "Run":
        """Apply spatial layers to as many positions at a time as a clip has, which keeps the results exact."""
        count, chunks = int(self.x_1CTHW.shape[2]), []
        for begin in range(0, count, self.length):
            first = min(begin, count - self.length)
            chunk = self.x_1CTHW[:, :, first : first + self.length]
            for layer in layers:
                chunk = layer(chunk)
            chunks.append(chunk[:, :, begin - first :])
        return Run(torch.cat(chunks, dim=2), self.starts, self.length, self.spoilt)

    def temporal(self, conv: nn.Conv3d) -> "Run":
        """Apply a temporal convolution of kernel 3 with zero padding at the ends of each clip."""
        nothing = torch.zeros_like(self.x_1CTHW[:, :, :1])
        clips = range(len(self.starts))
        ends = chain(
            ([nothing, self.left(clip, 2)] for clip in clips), ([self.right(clip, 2), nothing] for clip in clips)
        )
        # one after another: a batch would need several times the memory
        convolved = [F.conv3d(self.long(), conv.weight, conv.bias)]
        convolved += [F.conv3d(torch.cat(end, dim=2), conv.weight, conv.bias) for end in ends]
        return self._parts(convolved[0], convolved[1:], 1)

    def widened(self, more: int) -> "Run":
        """Return equal maps that store `more` further positions per clip at either end, instead of sharing them."""
        clips = range(len(self.starts))
        ends = [*(self.left(clip, more) for clip in clips), *(self.right(clip, more) for clip in clips)]
        return self._parts(self.long()[:, :, more:-more], ends, more)

    def clip(self, clip: int) -> Tensor:
        """Return the feature maps of one whole clip (1, C, L, H, W)."""
        return torch.cat([self.left(clip, self.length - 2 * self.spoilt), self.right(clip)], dim=2)


def _through(run: Run, layers: nn.Module) -> Run:
    """Apply spatial and temporal convolutions, norms and activations in order."""
    spatial: list[nn.Module] = []
    for layer in layers.modules():
        if isinstance(layer, nn.Conv3d) and layer.kernel_size[0] == 3:
            run = (run.each(spatial) if spatial else run).temporal(layer)
            spatial = []
        elif isinstance(layer, nn.Conv3d | nn.BatchNorm3d | nn.ReLU):
            spatial.append(layer)
    return run.each(spatial) if spatial else run


def run_features(
    x_1CTHW: Tensor,
    *,
    length: int,
    stride: int,
    stem: nn.Module,
    stage: nn.Sequential,
    rest: Callable[[Tensor], Tensor],
) -> Tensor:
    """Compute features (G, dim) of the clips that start every `stride` frames of a normalised run of frames.

    Args:
        x_1CTHW: the normalised frames.
        length: L, at least 2.
        stride: frames between the starts of neighbouring clips.
        stem: one spatial and one temporal convolution.
        stage: residual blocks of spatial and temporal convolutions without stride or projection. Blocks for which the
            clips are too short to share positions are computed per clip.
        rest: function from a clip's maps (1, C, L, H, W) after the stage to features (1, dim).
    """
    starts = tuple(range(0, x_1CTHW.shape[2] - length + 1, stride))
    run = _through(Run(x_1CTHW, starts, length), stem)
    blocks = list(stage)
    while blocks and length - 2 * run.spoilt >= 4:  # each block adds two spoilt positions per end
        inner = _through(_through(run, blocks[0].get_submodule("conv1")), blocks[0].get_submodule("conv2"))
        skip_1CTHW = run.widened(2).x_1CTHW
        run = replace(inner, x_1CTHW=torch.relu(inner.x_1CTHW + skip_1CTHW))
        del blocks[0]
    own = nn.Sequential(*blocks)
    return torch.cat([rest(own(run.clip(clip))) for clip in range(len(starts))])
