"""What AFSD says of a batch against what it is to say, video by video, and what sums over its points are divided by."""

# B videos, P points of all levels, N positive ones of a video, F frames

import torch
from torch import Tensor

from tad.errors import TadError
from tad.layers.losses import within
from tad.layers.saliency_losses import (
    Assigned,
    Predicted,
    assign,
    border_loss,
    border_marks,
    refined_points,
    video_losses,
)
from tad.layers.saliency_network import Masks, Outputs
from tad.layers.saliency_points import FrameGrid
from tad.layers.types import Targets

NORMALISERS = ("video", "batch")
UNKNOWN = float("nan")  # of a number that the next losses count themselves
BORDER_WEIGHT = 0.1  # of border losses on the branches, beside that on frames


class Criterion:
    """Losses of both heads and of the borders.

    Attributes:
        normaliser: sums over points are divided by the numbers of positive and of refined ones, of each video (then the
            mean over the batch), or of the batch (as the paper's code for THUMOS14).
        counts_2: these two numbers of the whole batch, set before the losses of its parts.
    """

    def __init__(
        self, grid: FrameGrid, *, piou: float, adaptive: bool, smooth: bool, detach_quality: bool, normaliser: str
    ) -> None:
        """The other arguments are those of `refined_points` and `video_losses`."""
        if normaliser not in NORMALISERS:
            raise TadError(f"settings.normaliser: '{normaliser}': choose {' or '.join(NORMALISERS)}")
        self.grid, self.piou, self.adaptive, self.smooth = grid, piou, adaptive, smooth
        self.detach_quality, self.normaliser = detach_quality, normaliser
        self.counts_2 = torch.tensor([1.0, UNKNOWN])

    def _wanted(self, target: Targets, valid_P: Tensor) -> Assigned:
        """What the points of a video that count are to say."""
        points_P3 = self.grid.points(target.segments_N2.device)
        return assign(points_P3[valid_P], self.grid.to_frames(target.segments_N2), target.labels_N)

    def _in_doubt(self, target: Targets) -> Tensor:
        """Bool (P,): the points without an instance that lie where there may be one; they learn nothing."""
        points_P3 = self.grid.points(target.segments_N2.device)
        if target.doubtful_M2 is None:
            return torch.zeros(len(points_P3), dtype=torch.bool, device=points_P3.device)
        inside_PM = within(points_P3[:, :1], self.grid.to_frames(target.doubtful_M2))
        segments_N2 = self.grid.to_frames(target.segments_N2)
        return inside_PM.any(dim=1) & (assign(points_P3, segments_N2, target.labels_N).labels_P == 0)

    def positives(self, valid_BP: Tensor, targets: list[Targets]) -> int:
        """Points with a class."""
        rows = zip(targets, valid_BP, strict=True)
        return sum(int((self._wanted(target, valid_P).labels_P > 0).sum()) for target, valid_P in rows)

    def _points(
        self, outputs: Outputs, masks: Masks, targets: list[Targets]
    ) -> list[tuple[Predicted, Assigned, Tensor]]:
        """Of each video's points that count what they say, what they are to say, and which are refined."""
        joined, found = outputs.joined(), []
        for row, (target, valid_P) in enumerate(zip(targets, masks.valid_BP, strict=True)):
            valid_P = valid_P & ~self._in_doubt(target)
            said = Predicted(**{name: value[row][valid_P] for name, value in joined.items()})
            wanted = self._wanted(target, valid_P)
            found.append((said, wanted, refined_points(said, wanted, piou=self.piou, adaptive=self.adaptive)))
        return found

    def refined(self, outputs: Outputs, masks: Masks, targets: list[Targets]) -> int:
        """Points that are refined."""
        return sum(int(refined_N.sum()) for _, _, refined_N in self._points(outputs, masks, targets))

    def losses(
        self, outputs: Outputs, masks: Masks, targets: list[Targets], *, videos: int, training: bool
    ) -> dict[str, Tensor]:
        """Sums over the videos of their losses, to be divided by the `videos` of the batch that these are a part of.

        Where nothing is trained each video is judged by itself.
        """
        points = self._points(outputs, masks, targets)
        divisors = None
        if self.normaliser == "batch" and training:
            if bool(torch.isnan(self.counts_2[1])):
                assert len(points) == videos, "of a part of a batch: call normalise_refined first"
                self.counts_2[1] = sum(int(refined_N.sum()) for _, _, refined_N in points)
            positives, refined = self.counts_2.clamp(min=1).tolist()
            divisors = positives / videos, refined / videos
        sums: dict[str, Tensor] = {}
        for row, (target, (said, wanted, refined_N)) in enumerate(zip(targets, points, strict=True)):
            found = video_losses(
                said, wanted, refined_N, smooth=self.smooth, detach_quality=self.detach_quality, divisors=divisors
            )
            found["borders"] = self._borders(outputs, masks, row, self.grid.to_frames(target.segments_N2))
            for name, value in found.items():
                sums[name] = sums.get(name, 0) + value
        return sums

    def _borders(self, outputs: Outputs, masks: Masks, row: int, segments_N2: Tensor) -> Tensor:
        marks_2F = border_marks(segments_N2, frames=self.grid.frames)
        near, fine = masks.inner[0], masks.inner_frames
        valid_T, valid_F = None if near is None else near[row, 0], None if fine is None else fine[row, 0]
        loss = border_loss(outputs.frames_BCF[row], marks_2F, valid_F)
        for near_BCT in (outputs.refined[0].loc_BCT, outputs.refined[0].cls_BCT):
            loss = loss + BORDER_WEIGHT * border_loss(near_BCT[row], marks_2F[:, :: self.grid.stretch], valid_T)
        return loss
