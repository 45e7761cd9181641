"""Points, snippets and frames of AFSD's windows, and decoding of predictions into candidates."""

# P points of all levels, K classes with the background as class 0, N candidates

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tad.detectors._afsd.losses import Predicted, refine
from tad.layers.types import Candidates


@dataclass(frozen=True)
class FrameGrid:
    """Coordinates of a window: snippets, frames, and the points of all levels.

    Attributes:
        snippets: length of the window in snippets.
        upsample: frames per snippet.
        stretch: frames per position of level 0.
        ranges: per level, the range (low, high] of the farther border in frames.
        aligned: snippet t starts at frame t·upsample, so its centre is half a snippet later than published.
    """

    snippets: int
    upsample: int
    stretch: int
    ranges: Sequence[Sequence[float]]
    aligned: bool

    @property
    def frames(self) -> int:
        """Frames of the whole window."""
        return self.snippets * self.upsample

    def to_frames(self, position: Tensor) -> Tensor:
        """Convert snippets to frames of the window."""
        return (position + 0.5 * self.aligned) * self.upsample

    def to_snippets(self, frame: Tensor) -> Tensor:
        """Convert frames to snippets."""
        return frame / self.upsample - 0.5 * self.aligned

    def counts(self) -> list[int]:
        """Return the number of points of each level."""
        return [self.frames // self.stretch // 2**level for level in range(len(self.ranges))]

    def points(self, device: torch.device) -> Tensor:
        """Return position and range (low, high] in frames of the points of all levels, (P, 3)."""
        parts = []
        for count, (low, high) in zip(self.counts(), self.ranges, strict=True):
            part = torch.empty(count, 3, device=device)
            part[:, 0] = (torch.arange(count, device=device) + 0.5) * (self.frames / count)
            part[:, 1], part[:, 2] = low, high
            parts.append(part)
        return torch.cat(parts)


def between(grid: FrameGrid, outputs: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Fuse the segments of several networks: each border is the geometric mean of theirs, clamped to the window first.

    This is how AFSD fuses RGB and flow on ActivityNet. Returns distances of the fused segments, and offsets of 0.

    `outputs`: per network, the fields of `Predicted` with videos as the first axis.
    """
    centre_P = grid.points(outputs[0]["distances_P2"].device)[:, 0]
    logs_BP2 = []
    for predicted in outputs:
        left_BP, right_BP = refine(predicted["distances_P2"], predicted["offsets_P2"]).float().unbind(2)
        segments_BP2 = torch.stack([centre_P - left_BP, centre_P + right_BP], dim=2).clamp(0, grid.frames)
        logs_BP2.append(segments_BP2.log())
    start_BP, end_BP = torch.stack(logs_BP2).mean(dim=0).exp().unbind(2)
    distances_BP2 = torch.stack([centre_P - start_BP, end_BP - centre_P], dim=2)
    return {"distances_P2": distances_BP2, "offsets_P2": torch.zeros_like(distances_BP2)}


def decode(
    predicted: Predicted,
    grid: FrameGrid,
    valid_P: Tensor | None,
    *,
    score_threshold: float,
    topk: int,
    min_length: float,
) -> Candidates:
    """Decode one window's predictions into candidates in snippets: per level, the `topk` best above the threshold.

    A score is the mean of both class probabilities times the quality; borders are clamped to the window. `valid_P`:
    points to use; None: all.
    """
    mean_PK = 0.5 * (predicted.logits_PK.float().softmax(dim=1) + predicted.refined_PK.float().softmax(dim=1))
    score_PK = mean_PK[:, 1:] * predicted.quality_P.float().sigmoid()[:, None]
    if valid_P is not None:
        score_PK = score_PK * valid_P[:, None]
    centre_P = grid.points(score_PK.device)[:, 0]
    left_P, right_P = predicted.refined_P2().float().unbind(1)
    segments_P2 = grid.to_snippets(torch.stack([centre_P - left_P, centre_P + right_P], dim=1).clamp(0, grid.frames))
    parts, first = [], 0
    for count in grid.counts():
        score_TK, segments_T2 = score_PK[first : first + count], segments_P2[first : first + count]
        score_M, classes = score_TK.flatten(), score_TK.shape[1]
        pair_N = torch.nonzero(score_M > score_threshold)[:, 0]
        score_N, order_N = score_M[pair_N].sort(descending=True, stable=True)
        pair_N, score_N = pair_N[order_N[:topk]], score_N[:topk]
        segments_N2 = segments_T2[torch.div(pair_N, classes, rounding_mode="floor")]
        long_N = segments_N2[:, 1] - segments_N2[:, 0] > min_length
        parts.append((segments_N2[long_N], score_N[long_N], (pair_N % classes)[long_N]))
        first += count
    segments_N2, scores_N, labels_N = (torch.cat(part) for part in zip(*parts, strict=True))
    return Candidates(segments_N2, scores_N, labels_N)
