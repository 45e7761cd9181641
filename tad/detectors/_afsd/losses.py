"""AFSD's target assignment and losses: coarse head, refining head and border features.

All positions are frames of the window. Sums over points are divided by the counts of each video, so that a batch's loss
is the mean over its videos however it is split into micro-batches; or by the counts of the whole batch (published for
THUMOS14), which must then be known in advance.
"""

# P points of all levels, N instances, K classes with the background as class 0, F frames

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tad.layers.kernels import at_least_float32
from tad.layers.point_losses import EPSILON, offset_iou

BACKGROUND_WEIGHT = 0.25  # alpha of the focal loss; actions have the complement
FOCAL_EPSILON = 1e-6  # that the published focal loss adds to probabilities


@dataclass(frozen=True, slots=True)
class Assigned:
    """Targets of a video's points.

    Attributes:
        labels_P: 0 for background, else 1 + the class.
        distances_P2: distances to both borders of the instance; meaningless for background.
    """

    labels_P: Tensor
    distances_P2: Tensor


@dataclass(frozen=True, slots=True)
class Predicted:
    """Predictions of a video's points.

    Attributes:
        distances_P2: coarse distances in frames.
        logits_PK: coarse class logits.
        offsets_P2: refinement of the distances, in units of half the coarse segment.
        refined_PK: class logits after refinement.
        quality_P: logit of the predicted tIoU of the refined segment.
    """

    distances_P2: Tensor
    logits_PK: Tensor
    offsets_P2: Tensor
    refined_PK: Tensor
    quality_P: Tensor

    def refined_P2(self) -> Tensor:
        """Return the distances after refinement."""
        return refine(self.distances_P2, self.offsets_P2)


def refine(distances: Tensor, offsets: Tensor) -> Tensor:
    """Add offsets, in units of half the coarse length, to distances (…, 2)."""
    return distances + 0.5 * distances.sum(dim=-1, keepdim=True) * offsets


def assign(points_P3: Tensor, segments_N2: Tensor, labels_N: Tensor) -> Assigned:
    """Assign each point to the shortest instance that contains it and whose farther border is in the point's range.

    Args:
        points_P3: position, and the range (low, high] of the farther border.
        segments_N2: start and end.
        labels_N: class ids; of instances of equal length the first wins, since a softmax predicts one class.
    """
    if len(segments_N2) == 0:
        return Assigned(torch.zeros(len(points_P3), dtype=torch.long, device=points_P3.device), points_P3[:, :2] * 0)
    position_P1, low_P1, high_P1 = points_P3[:, :, None].unbind(1)
    left_PN, right_PN = position_P1 - segments_N2[:, 0], segments_N2[:, 1] - position_P1
    farther_PN = torch.maximum(left_PN, right_PN)
    fits_PN = (left_PN >= 0) & (right_PN >= 0) & (farther_PN > low_P1) & (farther_PN <= high_P1)
    length_PN = (left_PN + right_PN).masked_fill(~fits_PN, float("inf"))
    shortest_P1 = length_PN.amin(dim=1, keepdim=True)
    winner_P1 = (length_PN == shortest_P1).int().argmax(dim=1, keepdim=True)
    distances_P2 = torch.cat([left_PN.gather(1, winner_P1), right_PN.gather(1, winner_P1)], dim=1)
    labels_P = (labels_N[winner_P1[:, 0]] + 1).masked_fill(~fits_PN.any(dim=1), 0)
    return Assigned(labels_P, distances_P2)


def softmax_focal(logits_PK: Tensor, labels_P: Tensor, *, epsilon: float = 0.0) -> Tensor:
    """Compute the focal loss (γ = 2) of a softmax with a background class, (P,).

    `epsilon`: added to the probability of the label; published: `FOCAL_EPSILON`, which bounds the loss and its gradient
    for labels with a probability close to 0.
    """
    log_P = torch.log_softmax(at_least_float32(logits_PK), dim=1).gather(1, labels_P[:, None])[:, 0]
    probability_P = log_P.exp() + epsilon
    log_P = probability_P.log() if epsilon else log_P
    weight_P = torch.where(labels_P == 0, BACKGROUND_WEIGHT, 1 - BACKGROUND_WEIGHT)
    return -weight_P * (1 - probability_P).square() * log_P


def generalised_iou_loss(predicted_N2: Tensor, target_N2: Tensor) -> Tensor:
    """Compute 1 - GIoU (N,) of segments given as distances from a common point."""
    overlap_N = torch.minimum(predicted_N2, target_N2).sum(dim=1)
    union_N = predicted_N2.sum(dim=1) + target_N2.sum(dim=1) - overlap_N
    hull_N = torch.maximum(predicted_N2, target_N2).sum(dim=1)
    return 1 - offset_iou(predicted_N2, target_N2) + (hull_N - union_N) / hull_N.clamp(min=EPSILON)


@torch.no_grad()
def refined_points(predicted: Predicted, assigned: Assigned, *, piou: float, adaptive: bool) -> Tensor:
    """Return which of a video's positive points are refined, bool (N,): those whose coarse tIoU is at least `piou`.

    `adaptive`: lower the threshold to the best tIoU if necessary, so that at least one point is refined.
    """
    positive_P = assigned.labels_P > 0
    iou_N = offset_iou(at_least_float32(predicted.distances_P2[positive_P]), assigned.distances_P2[positive_P])
    return iou_N >= (torch.clamp(iou_N.max(), max=piou) if adaptive and len(iou_N) else piou)


def video_losses(
    predicted: Predicted,
    assigned: Assigned,
    refined_N: Tensor,
    *,
    smooth: bool,
    detach_quality: bool,
    epsilon: float = 0.0,
    divisors: tuple[float, float] | None = None,
) -> dict[str, Tensor]:
    """Compute the five losses of one video's points: loc, cls, refined_loc, refined_cls, quality.

    Args:
        predicted: predictions of the valid points.
        assigned: targets of the same points.
        refined_N: which positive points are refined, see `refined_points`.
        smooth: smooth L1 for the offsets, else L1.
        detach_quality: no gradient flows through the tIoU that is the target of quality; published: it does.
        epsilon: passed to `softmax_focal`.
        divisors: divisors of the sums over positive and over refined points; None: their numbers in this video.
    """
    positive_P = assigned.labels_P > 0
    coarse_N2, target_N2 = at_least_float32(predicted.distances_P2[positive_P]), assigned.distances_P2[positive_P]
    offsets_N2 = at_least_float32(predicted.offsets_P2[positive_P])
    count, refined_count = divisors or (positive_P.sum().clamp(min=1), refined_N.sum().clamp(min=1))
    with torch.no_grad():
        refined_labels_P = assigned.labels_P.clone()
        refined_labels_P[positive_P] = assigned.labels_P[positive_P] * refined_N
        goal_N2 = (target_N2 - coarse_N2) / (0.5 * coarse_N2.sum(dim=1, keepdim=True)).clamp(min=EPSILON)
    distance = F.smooth_l1_loss if smooth else F.l1_loss
    quality_N = offset_iou(refine(coarse_N2, offsets_N2), target_N2).clamp(0, 1)
    quality_N = quality_N.detach() if detach_quality else quality_N
    logits_N = at_least_float32(predicted.quality_P[positive_P])
    return {
        "loc": generalised_iou_loss(coarse_N2, target_N2).sum() / count,
        "cls": softmax_focal(predicted.logits_PK, assigned.labels_P, epsilon=epsilon).sum() / count,
        "refined_loc": distance(offsets_N2[refined_N], goal_N2[refined_N], reduction="sum") / refined_count,
        "refined_cls": softmax_focal(predicted.refined_PK, refined_labels_P, epsilon=epsilon).sum() / refined_count,
        "quality": F.binary_cross_entropy_with_logits(logits_N, quality_N, reduction="sum") / count,
    }


def border_marks(segments_N2: Tensor, *, frames: int) -> Tensor:
    """Mark the frames around starts and ends, (2, F) of 0 and 1; a mark spans a tenth of its instance, at least 2."""
    frame_F = torch.arange(frames, device=segments_N2.device)
    half_N = ((segments_N2[:, 1] - segments_N2[:, 0]) / 10).clamp(min=2) / 2
    marks = []
    for border_N in segments_N2.unbind(1):
        low_N1 = (border_N - half_N).round().clamp(0, frames - 1)[:, None]
        high_N1 = (border_N + half_N).round().clamp(0, frames - 1)[:, None]
        marks.append(((frame_F >= low_N1) & (frame_F <= high_N1)).any(dim=0))
    return torch.stack(marks).to(segments_N2.dtype)


def border_loss(features_CF: Tensor, marks_2F: Tensor, valid_F: Tensor | None) -> Tensor:
    """Compute the cross-entropy between a video's start and end responses and their marks, summed over both.

    The response is the mean of tanh over half of the channels: the first half for starts, the second for ends.
    `valid_F`: frames that the loss covers; None: all.
    """
    answer_2F = torch.stack([half.tanh().mean(dim=0) for half in at_least_float32(features_CF).chunk(2)])
    # clamped like torch's binary_cross_entropy, which autocast does not support
    loss_2F = -(marks_2F * answer_2F.clamp(min=1e-12).log() + (1 - marks_2F) * (1 - answer_2F).clamp(min=1e-12).log())
    return (loss_2F if valid_F is None else loss_2F[:, valid_F]).mean(dim=1).sum()
