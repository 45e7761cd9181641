"""Targets of the points from instances, and the class and offset losses on them."""

# P points of all levels, N instances, K classes

import torch
from torch import Tensor
from torch.nn import functional as F

from tad.layers.kernels import at_least_float32
from tad.layers.types import Targets

EPSILON = 1e-8
SAME_LENGTH = 1e-3  # instances within this many snippets of the shortest one share its points


def label_points(points_P4: Tensor, targets: Targets, *, classes: int, radius: float) -> tuple[Tensor, Tensor]:
    """Return class targets (P, K) of 0 and 1, and offsets (P, 2) to the borders in strides, of one video's points.

    A point belongs to the shortest instance whose centre lies within `radius` strides of it (and that contains it) and
    whose farther border lies in the point's range; instances of equal length add their class (ActionFormer,
    section 3.4). Points without an instance are background: zeros.
    """
    points_P4 = points_P4.to(torch.promote_types(points_P4.dtype, targets.segments_N2.dtype))
    position_P1, low_P1, high_P1, stride_P1 = points_P4[:, :, None].unbind(1)
    count = targets.segments_N2.shape[0]
    if count == 0:
        return points_P4.new_zeros(len(points_P4), classes), points_P4.new_zeros(len(points_P4), 2)
    start_N, end_N = targets.segments_N2.to(points_P4).unbind(1)
    left_PN, right_PN = position_P1 - start_N, end_N - position_P1
    centre_N = 0.5 * (start_N + end_N)
    from_PN = torch.maximum(centre_N - radius * stride_P1, start_N)
    to_PN = torch.minimum(centre_N + radius * stride_P1, end_N)
    inside_PN = torch.minimum(position_P1 - from_PN, to_PN - position_P1) > 0
    farther_PN = torch.maximum(left_PN, right_PN)
    fits_PN = inside_PN & (farther_PN >= low_P1) & (farther_PN <= high_P1)
    borders = left_PN, right_PN, end_N - start_N
    return _of_shortest(fits_PN, borders, stride_P1, targets.labels_N, classes)


def label_points_after(points_P4: Tensor, targets: Targets, *, classes: int, delay: float) -> tuple[Tensor, Tensor]:
    """Return the targets of `label_points` for a causal detector: an instance's points come after its end.

    A point belongs to the shortest instance that ended less than `delay` strides ago and half of whose length lies in
    the point's range, as the distance from its centre to its borders does in `label_points`. Its offsets (P, 2) are the
    distance back to the start, and minus the distance back to the end.
    """
    points_P4 = points_P4.to(torch.promote_types(points_P4.dtype, targets.segments_N2.dtype))
    position_P1, low_P1, high_P1, stride_P1 = points_P4[:, :, None].unbind(1)
    if targets.segments_N2.shape[0] == 0:
        return points_P4.new_zeros(len(points_P4), classes), points_P4.new_zeros(len(points_P4), 2)
    start_N, end_N = targets.segments_N2.to(points_P4).unbind(1)
    left_PN, right_PN = position_P1 - start_N, end_N - position_P1
    ended_PN = (right_PN <= 0) & (right_PN > -delay * stride_P1)
    half_N = (end_N - start_N) / 2
    fits_PN = ended_PN & (half_N >= low_P1) & (half_N <= high_P1)
    borders = left_PN, right_PN, end_N - start_N
    return _of_shortest(fits_PN, borders, stride_P1, targets.labels_N, classes)


def _of_shortest(
    fits_PN: Tensor, borders: tuple[Tensor, Tensor, Tensor], stride_P1: Tensor, labels_N: Tensor, classes: int
) -> tuple[Tensor, Tensor]:
    """Return class targets and offsets of points that belong to the shortest of the instances that fit them.

    `borders`: distances to the starts and to the ends (P, N), and the lengths (N,) of the instances.
    """
    left_PN, right_PN, length_N = borders
    length_PN = length_N.expand_as(fits_PN).masked_fill(~fits_PN, float("inf"))
    shortest_P, winner_P = length_PN.min(dim=1)
    shares_PN = (length_PN <= shortest_P[:, None] + SAME_LENGTH) & fits_PN
    one_hot_NK = F.one_hot(labels_N, classes).to(left_PN)
    classes_PK = (shares_PN.to(left_PN.dtype) @ one_hot_NK).clamp(0, 1)
    index_P1 = winner_P[:, None]
    offsets_P2 = torch.cat([left_PN.gather(1, index_P1), right_PN.gather(1, index_P1)], dim=1)
    return classes_PK, offsets_P2 / stride_P1


def within(position_P1: Tensor, segments_N2: Tensor) -> Tensor:
    """Return which positions lie in which segment, bool (P, N)."""
    start_N, end_N = segments_N2.to(position_P1).unbind(1)
    return (position_P1 >= start_N) & (position_P1 <= end_N)


def doubtful_points(points_P4: Tensor, targets: Targets, *, classes: int) -> Tensor:
    """Return which points of one video lie in a doubtful segment of which class, bool (P, K)."""
    if targets.doubtful_M2 is None or targets.doubtful_labels_M is None:
        return points_P4.new_zeros(len(points_P4), classes, dtype=torch.bool)
    inside_PM = within(points_P4[:, :1], targets.doubtful_M2)
    one_hot_MK = F.one_hot(targets.doubtful_labels_M, classes).to(points_P4)
    return inside_PM.to(points_P4.dtype) @ one_hot_MK > 0


def focal_loss(logits: Tensor, targets: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Compute the sigmoid focal loss of each element against soft targets in [0, 1] (RetinaNet, equation 5)."""
    logits = at_least_float32(logits)
    p = torch.sigmoid(logits)
    agreement = p * targets + (1 - p) * (1 - targets)
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return weight * (1 - agreement) ** gamma * cross_entropy


def offset_iou(predicted_N2: Tensor, target_N2: Tensor) -> Tensor:
    """Compute the tIoU (N,) of segments given as non-negative distances (left, right) from a common point."""
    overlap_N = torch.minimum(predicted_N2, target_N2).sum(dim=1)
    union_N = predicted_N2.sum(dim=1) + target_N2.sum(dim=1) - overlap_N
    return overlap_N / union_N.clamp(min=EPSILON)


def distance_iou_loss(predicted_N2: Tensor, target_N2: Tensor, *, after: bool = False) -> Tensor:
    """Compute the DIoU loss in one dimension, (N,): 1 - tIoU + (distance of the centres / length of the hull)².

    `after`: the points lie after the segments, which may then be disjoint; their tIoU is 0.
    """
    hull_N = torch.maximum(predicted_N2, target_N2).sum(dim=1)
    centre_N = 0.5 * (predicted_N2[:, 1] - predicted_N2[:, 0] - target_N2[:, 1] + target_N2[:, 0])
    iou_N = offset_iou(predicted_N2, target_N2)
    iou_N = iou_N.clamp(min=0) if after else iou_N
    return 1 - iou_N + (centre_N / hull_N.clamp(min=EPSILON)).square()
