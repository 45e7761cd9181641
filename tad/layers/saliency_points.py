"""Points, snippets and frames of AFSD's windows, and candidates from what the points say."""

# P points of all levels, K classes with the background as class 0, N candidates

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tad.layers.saliency_losses import Predicted, refine
from tad.layers.types import Candidates


@dataclass(frozen=True)
class FrameGrid:
    """A window of `snippets` as frames, `upsample` a snippet, and the points on its levels.

    Attributes:
        snippets, upsample: of the window; frames per snippet.
        stretch: frames per position of level 0.
        ranges: per level, (low, high] of the farther border in frames.
        aligned: snippet t is the frames from t·upsample on, its middle half a snippet later than published.
    """

    snippets: int
    upsample: int
    stretch: int
    ranges: Sequence[Sequence[float]]
    aligned: bool

    @property
    def frames(self) -> int:
        """Of the whole window."""
        return self.snippets * self.upsample

    def to_frames(self, position: Tensor) -> Tensor:
        """Snippets → frames of the window."""
        return (position + 0.5 * self.aligned) * self.upsample

    def to_snippets(self, frame: Tensor) -> Tensor:
        """Frames → snippets."""
        return frame / self.upsample - 0.5 * self.aligned

    def counts(self) -> list[int]:
        """Points of each level."""
        return [self.frames // self.stretch // 2**level for level in range(len(self.ranges))]

    def points(self, device: torch.device) -> Tensor:
        """Position in frames and range (low, high] of the points of all levels, (P, 3)."""
        parts = []
        for count, (low, high) in zip(self.counts(), self.ranges, strict=True):
            part = torch.empty(count, 3, device=device)
            part[:, 0] = (torch.arange(count, device=device) + 0.5) * (self.frames / count)
            part[:, 1], part[:, 2] = low, high
            parts.append(part)
        return torch.cat(parts)


def between(grid: FrameGrid, outputs: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Distances and offsets of every point whose segment lies, border by border, at the geometric mean of those that
    several networks say, moved into the window first (as AFSD fuses RGB and flow on ActivityNet).

    `outputs`: of each network, fields of `Predicted` with a first axis of videos.
    """
    centre_P = grid.points(outputs[0]["distances_P2"].device)[:, 0]
    logs_BP2 = []
    for said in outputs:
        left_BP, right_BP = refine(said["distances_P2"], said["offsets_P2"]).float().unbind(2)
        segments_BP2 = torch.stack([centre_P - left_BP, centre_P + right_BP], dim=2).clamp(0, grid.frames)
        logs_BP2.append(segments_BP2.log())
    start_BP, end_BP = torch.stack(logs_BP2).mean(dim=0).exp().unbind(2)
    distances_BP2 = torch.stack([centre_P - start_BP, end_BP - centre_P], dim=2)
    return {"distances_P2": distances_BP2, "offsets_P2": torch.zeros_like(distances_BP2)}


def decode(
    said: Predicted, grid: FrameGrid, valid_P: Tensor | None, *, score_threshold: float, topk: int, min_length: float
) -> Candidates:
    """What the points of one window say → candidates in its snippets, per level the `topk` best above the threshold.

    A score is the mean of both classifications times quality; borders are moved into the window. `valid_P`: the points
    that count; None: all.
    """
    mean_PK = 0.5 * (said.logits_PK.float().softmax(dim=1) + said.refined_PK.float().softmax(dim=1))
    score_PK = mean_PK[:, 1:] * said.quality_P.float().sigmoid()[:, None]
    if valid_P is not None:
        score_PK = score_PK * valid_P[:, None]
    centre_P = grid.points(score_PK.device)[:, 0]
    left_P, right_P = said.refined_P2().float().unbind(1)
    segments_P2 = grid.to_snippets(torch.stack([centre_P - left_P, centre_P + right_P], dim=1).clamp(0, grid.frames))
    parts, first = [], 0
    for count in grid.counts():
        score_TK, segments_T2 = score_PK[first : first + count], segments_P2[first : first + count]
        score_M, classes = score_TK.flatten(), score_TK.shape[1]
        kept_N = torch.nonzero(score_M > score_threshold)[:, 0]
        score_N, order_N = score_M[kept_N].sort(descending=True, stable=True)
        kept_N, score_N = kept_N[order_N[:topk]], score_N[:topk]
        segments_N2 = segments_T2[torch.div(kept_N, classes, rounding_mode="floor")]
        long_N = segments_N2[:, 1] - segments_N2[:, 0] > min_length
        parts.append((segments_N2[long_N], score_N[long_N], (kept_N % classes)[long_N]))
        first += count
    segments_N2, scores_N, labels_N = (torch.cat(part) for part in zip(*parts, strict=True))
    return Candidates(segments_N2, scores_N, labels_N)
