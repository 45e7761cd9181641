"""AFSD's targets and losses: points compete on equal terms, coarse and refined heads learn, borders are marked.

Everything is in frames of the window. Sums are divided by numbers of the video itself, so that a batch's loss is the
mean of its videos' whichever way it is computed; or by those of the whole batch (published for THUMOS14), which are
then counted before the loss.
"""

# P points of all levels, N instances, K classes with the background as class 0, F frames

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tad.layers.kernels import at_least_float32
from tad.layers.losses import EPSILON, offset_iou

BACKGROUND_WEIGHT = 0.25  # alpha of the focal loss; actions have the complement


@dataclass(frozen=True, slots=True)
class Assigned:
    """What the points of a video are to say.

    Attributes:
        labels_P: 0 background, else 1 + the class.
        distances_P2: to both borders of the instance; meaningless on the background.
    """

    labels_P: Tensor
    distances_P2: Tensor


@dataclass(frozen=True, slots=True)
class Predicted:
    """What the points of a video say.

    Attributes:
        distances_P2: coarse distances in frames.
        logits_PK: coarse classes.
        offsets_P2: refinement, in halves of the coarse segment.
        refined_PK: classes after refinement.
        quality_P: logit of the refined segment's tIoU.
    """

    distances_P2: Tensor
    logits_PK: Tensor
    offsets_P2: Tensor
    refined_PK: Tensor
    quality_P: Tensor

    def refined_P2(self) -> Tensor:
        """Distances after refinement."""
        return refine(self.distances_P2, self.offsets_P2)


def refine(distances: Tensor, offsets: Tensor) -> Tensor:
    """Distances (…, 2) moved by the offsets times half the coarse length."""
    return distances + 0.5 * distances.sum(dim=-1, keepdim=True) * offsets


def assign(points_P3: Tensor, segments_N2: Tensor, labels_N: Tensor) -> Assigned:
    """Each point belongs to the shortest instance that contains it and whose farther border is in the point's range.

    Args:
        points_P3: position, and the range (low, high] of the farther border.
        segments_N2: start and end.
        labels_N: class ids; of instances of equal length the first in the list wins, since a softmax names one class.
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


def softmax_focal(logits_PK: Tensor, labels_P: Tensor) -> Tensor:
    """Focal loss (γ 2) of a softmax with background, (P,)."""
    log_P = torch.log_softmax(at_least_float32(logits_PK), dim=1).gather(1, labels_P[:, None])[:, 0]
    weight_P = torch.where(labels_P == 0, BACKGROUND_WEIGHT, 1 - BACKGROUND_WEIGHT)
    return -weight_P * (1 - log_P.exp()).square() * log_P


def generalised_iou_loss(predicted_N2: Tensor, target_N2: Tensor) -> Tensor:
    """1 - GIoU (N,) of segments given as distances from a common point."""
    overlap_N = torch.minimum(predicted_N2, target_N2).sum(dim=1)
    union_N = predicted_N2.sum(dim=1) + target_N2.sum(dim=1) - overlap_N
    hull_N = torch.maximum(predicted_N2, target_N2).sum(dim=1)
    return 1 - offset_iou(predicted_N2, target_N2) + (hull_N - union_N) / hull_N.clamp(min=EPSILON)


@torch.no_grad()
def refined_points(said: Predicted, wanted: Assigned, *, piou: float, adaptive: bool) -> Tensor:
    """Which of a video's positive points are refined, bool (N,): those whose coarse tIoU is at least `piou`.

    `adaptive`: that is lowered to the best tIoU there is, so that one point at least is refined.
    """
    positive_P = wanted.labels_P > 0
    iou_N = offset_iou(at_least_float32(said.distances_P2[positive_P]), wanted.distances_P2[positive_P])
    return iou_N >= (torch.clamp(iou_N.max(), max=piou) if adaptive and len(iou_N) else piou)


def video_losses(
    said: Predicted,
    wanted: Assigned,
    refined_N: Tensor,
    *,
    smooth: bool,
    detach_quality: bool,
    divisors: tuple[float, float] | None = None,
) -> dict[str, Tensor]:
    """The five losses of one video's points: loc, cls, refined_loc, refined_cls, quality.

    Args:
        said: of the points that count.
        wanted: of the same points.
        refined_N: `refined_points`.
        smooth: smooth L1 for the offsets, else L1.
        detach_quality: the tIoU that quality is compared with has no gradient; published: it has.
        divisors: what the sums over positive points and over refined ones are divided by; None: their numbers in this
            video.
    """
    positive_P = wanted.labels_P > 0
    coarse_N2, target_N2 = at_least_float32(said.distances_P2[positive_P]), wanted.distances_P2[positive_P]
    offsets_N2 = at_least_float32(said.offsets_P2[positive_P])
    count, refined_count = divisors or (positive_P.sum().clamp(min=1), refined_N.sum().clamp(min=1))
    with torch.no_grad():
        refined_labels_P = wanted.labels_P.clone()
        refined_labels_P[positive_P] = wanted.labels_P[positive_P] * refined_N
        goal_N2 = (target_N2 - coarse_N2) / (0.5 * coarse_N2.sum(dim=1, keepdim=True)).clamp(min=EPSILON)
    distance = F.smooth_l1_loss if smooth else F.l1_loss
    quality_N = offset_iou(refine(coarse_N2, offsets_N2), target_N2).clamp(0, 1)
    quality_N = quality_N.detach() if detach_quality else quality_N
    logits_N = at_least_float32(said.quality_P[positive_P])
    return {
        "loc": generalised_iou_loss(coarse_N2, target_N2).sum() / count,
        "cls": softmax_focal(said.logits_PK, wanted.labels_P).sum() / count,
        "refined_loc": distance(offsets_N2[refined_N], goal_N2[refined_N], reduction="sum") / refined_count,
        "refined_cls": softmax_focal(said.refined_PK, refined_labels_P).sum() / refined_count,
        "quality": F.binary_cross_entropy_with_logits(logits_N, quality_N, reduction="sum") / count,
    }


def border_marks(segments_N2: Tensor, *, frames: int) -> Tensor:
    """(2, F) of 0 and 1: where starts and where ends are, each a tenth of its instance long and 2 frames at least."""
    frame_F = torch.arange(frames, device=segments_N2.device)
    half_N = ((segments_N2[:, 1] - segments_N2[:, 0]) / 10).clamp(min=2) / 2
    marks = []
    for border_N in segments_N2.unbind(1):
        low_N1 = (border_N - half_N).round().clamp(0, frames - 1)[:, None]
        high_N1 = (border_N + half_N).round().clamp(0, frames - 1)[:, None]
        marks.append(((frame_F >= low_N1) & (frame_F <= high_N1)).any(dim=0))
    return torch.stack(marks).to(segments_N2.dtype)


def border_loss(features_CF: Tensor, marks_2F: Tensor, valid_F: Tensor | None) -> Tensor:
    """Cross-entropy of where a video's features answer to starts (first half of the channels) and to ends, summed.

    The answer is the mean of tanh over the channels. `valid_F`: the frames that count; None: all.
    """
    answer_2F = torch.stack([half.tanh().mean(dim=0) for half in at_least_float32(features_CF).chunk(2)])
    # bounded as torch's own is, which autocast refuses
    loss_2F = -(marks_2F * answer_2F.clamp(min=1e-12).log() + (1 - marks_2F) * (1 - answer_2F).clamp(min=1e-12).log())
    return (loss_2F if valid_F is None else loss_2F[:, valid_F]).mean(dim=1).sum()
