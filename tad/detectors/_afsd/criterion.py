"""AFSD's training criterion: assign targets to points, compute the losses of each video, and normalise them."""

# B videos, P points of all levels, N positive points of a video, F frames

import torch
from torch import Tensor

from tad.core.errors import TadError
from tad.detectors._afsd.losses import (
    Assigned,
    Predicted,
    assign,
    border_loss,
    border_marks,
    refined_points,
    video_losses,
)
from tad.detectors._afsd.network import Masks, Outputs
from tad.detectors._afsd.points import FrameGrid
from tad.layers.point_losses import within
from tad.layers.types import Targets

NORMALISERS = ("video", "batch")
UNKNOWN = float("nan")  # placeholder for a count that the next call of `losses` determines
BORDER_WEIGHT = 0.1  # weight of the border losses on the branches, relative to that on frames


class Criterion:
    """Losses of both heads and of the borders.

    Attributes:
        normaliser: sums over points are divided by the numbers of positive and of refined points: "video": of each
            video, followed by the mean over the batch; "batch": of the whole batch (the paper's code for THUMOS14).
        counts_2: these two numbers for the whole batch, set before the losses of its micro-batches.
    """

    def __init__(
        self,
        grid: FrameGrid,
        *,
        piou: float,
        adaptive: bool,
        smooth: bool,
        detach_quality: bool,
        normaliser: str,
        epsilon: float = 0.0,
    ) -> None:
        """Create the criterion; further arguments as for `refined_points` and `video_losses`."""
        if normaliser not in NORMALISERS:
            raise TadError(f"settings.normaliser: '{normaliser}': choose {' or '.join(NORMALISERS)}")
        self.grid, self.piou, self.adaptive, self.smooth = grid, piou, adaptive, smooth
        self.detach_quality, self.normaliser, self.epsilon = detach_quality, normaliser, epsilon
        self.counts_2 = torch.tensor([1.0, UNKNOWN])

    def _assigned(self, target: Targets, valid_P: Tensor) -> Assigned:
        """Assign targets to the valid points of a video."""
        points_P3 = self.grid.points(target.segments_N2.device)
        return assign(points_P3[valid_P], self.grid.to_frames(target.segments_N2), target.labels_N)

    def _doubtful(self, target: Targets) -> Tensor:
        """Return which points are background inside a doubtful segment, bool (P,); the losses ignore them."""
        points_P3 = self.grid.points(target.segments_N2.device)
        if target.doubtful_M2 is None:
            return torch.zeros(len(points_P3), dtype=torch.bool, device=points_P3.device)
        inside_PM = within(points_P3[:, :1], self.grid.to_frames(target.doubtful_M2))
        segments_N2 = self.grid.to_frames(target.segments_N2)
        return inside_PM.any(dim=1) & (assign(points_P3, segments_N2, target.labels_N).labels_P == 0)

    def positives(self, valid_BP: Tensor, targets: list[Targets]) -> int:
        """Count the positive points of a batch."""
        rows = zip(targets, valid_BP, strict=True)
        return sum(int((self._assigned(target, valid_P).labels_P > 0).sum()) for target, valid_P in rows)

    def _points(
        self, outputs: Outputs, masks: Masks, targets: list[Targets]
    ) -> list[tuple[Predicted, Assigned, Tensor]]:
        """Return, per video, predictions and targets of the valid points, and which positive points are refined."""
        joined, points = outputs.joined(), []
        for row, (target, valid_P) in enumerate(zip(targets, masks.valid_BP, strict=True)):
            valid_P = valid_P & ~self._doubtful(target)
            predicted = Predicted(**{name: value[row][valid_P] for name, value in joined.items()})
            assigned = self._assigned(target, valid_P)
            points.append(
                (predicted, assigned, refined_points(predicted, assigned, piou=self.piou, adaptive=self.adaptive))
            )
        return points

    def refined_positives(self, outputs: Outputs, masks: Masks, targets: list[Targets]) -> int:
        """Count the points of a batch that are refined."""
        return sum(int(refined_N.sum()) for _, _, refined_N in self._points(outputs, masks, targets))

    def losses(
        self, outputs: Outputs, masks: Masks, targets: list[Targets], *, videos: int, training: bool
    ) -> dict[str, Tensor]:
        """Compute the losses, summed over these videos; the caller divides them by the batch size `videos`.

        Outside training every video is normalised by its own counts.
        """
        points = self._points(outputs, masks, targets)
        divisors = None
        if self.normaliser == "batch" and training:
            if bool(torch.isnan(self.counts_2[1])):
                assert len(points) == videos, "call normalise_by_refined before the losses of a micro-batch"
                self.counts_2[1] = sum(int(refined_N.sum()) for _, _, refined_N in points)
            positives, refined = self.counts_2.clamp(min=1).tolist()
            divisors = positives / videos, refined / videos
        sums: dict[str, Tensor] = {}
        for row, (target, (predicted, assigned, refined_N)) in enumerate(zip(targets, points, strict=True)):
            losses = video_losses(
                predicted,
                assigned,
                refined_N,
                smooth=self.smooth,
                detach_quality=self.detach_quality,
                epsilon=self.epsilon,
                divisors=divisors,
            )
            losses["borders"] = self._borders(outputs, masks, row, self.grid.to_frames(target.segments_N2))
            for name, value in losses.items():
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
