"""Losses of DiGIT's queries and of the encoder's points, against the instances that are assigned to them."""

# B videos, L layers, Q queries, K classes, N instances, M pairs

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from tad.detectors._digit.assignment import borders, match, overlap
from tad.detectors._digit.network import Outputs
from tad.detectors.digit_settings import Settings
from tad.layers.point_losses import focal_loss, within
from tad.layers.types import Targets


@dataclass(frozen=True, slots=True)
class Predictions:
    """Classes and segments of queries in several layers, or of the encoder's points as one layer with one class."""

    logits_LBQK: Tensor
    segments_LBQ2: Tensor
    real_BQ: Tensor


def anybody(target: Targets) -> Targets:
    """Return the instances as those of one class, which the encoder's points are trained with."""
    doubtful = target.doubtful_labels_M
    return replace(
        target,
        labels_N=torch.zeros_like(target.labels_N),
        doubtful_labels_M=None if doubtful is None else torch.zeros_like(doubtful),
    )


def pairs_of(
    made: Predictions, targets: list[Targets], *, weights: tuple[float, float, float], distance: bool
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor]:
    """Return (layer, video, query) of all pairs, each (M,), and labels (M,) and segments (M, 2) of their instances."""
    places, labels, segments = [], [], []
    for row, target in enumerate(targets):
        query_R = made.real_BQ[row].nonzero()[:, 0]
        layer_M, query_M, instance_M = match(
            made.logits_LBQK[:, row, query_R].detach().to(made.segments_LBQ2.dtype),
            made.segments_LBQ2[:, row, query_R].detach(),
            target,
            weights=weights,
            distance=distance,
        )
        places.append(torch.stack([layer_M, torch.full_like(layer_M, row), query_R[query_M]]))
        labels.append(target.labels_N[instance_M])
        segments.append(target.segments_N2[instance_M])
    layer_M, video_M, query_M = torch.cat(places, dim=1)
    return (layer_M, video_M, query_M), torch.cat(labels), torch.cat(segments)


def ignored(made: Predictions, targets: list[Targets]) -> Tensor | None:
    """Return which classes of which queries may be those of doubtful segments; None: there are none."""
    if all(target.doubtful_M2 is None for target in targets):
        return None
    ignored_LBQK = torch.zeros_like(made.logits_LBQK, dtype=torch.bool)
    for row, target in enumerate(targets):
        if target.doubtful_M2 is not None and target.doubtful_labels_M is not None:
            for layer, segments_Q2 in enumerate(made.segments_LBQ2[:, row].detach()):
                inside_QM = within(segments_Q2[:, :1], target.doubtful_M2)
                one_hot_MK = F.one_hot(target.doubtful_labels_M, made.logits_LBQK.shape[3])
                ignored_LBQK[layer, row] = inside_QM.float() @ one_hot_MK.float() > 0
    return ignored_LBQK


def layer_losses(
    made: Predictions, targets: list[Targets], *, settings: Settings, instances: float, mean: Tensor, encoder: bool
) -> dict[str, Tensor]:
    """Return the losses of each layer, (L,): `cls`, `reg` and `length`, without their weights.

    The class loss of a video is a mean over its queries times `mean`, the queries of a video of the batch on average;
    sums over the pairs are divided by `instances`.
    """
    weights = (1.0 if encoder else settings.match_class, settings.match_iou, settings.match_length)
    chosen, labels_M, wanted_M2 = pairs_of(made, targets, weights=weights, distance=settings.diou)
    truth_LBQK = torch.zeros_like(made.logits_LBQK, dtype=made.segments_LBQ2.dtype)
    truth_LBQK[(*chosen, labels_M)] = 1.0
    focal_LBQK = focal_loss(made.logits_LBQK, truth_LBQK) * made.real_BQ[:, :, None]
    if (free := ignored(made, targets)) is not None:
        focal_LBQK = focal_LBQK.masked_fill(free & (truth_LBQK == 0), 0.0)
    share_LB = focal_LBQK.sum(dim=(2, 3)) / made.real_BQ.sum(dim=1)
    predicted_M2 = made.segments_LBQ2[chosen]
    apart_M = 1 - overlap(borders(predicted_M2), wanted_M2, distance=settings.diou)
    length_M = (wanted_M2[:, 1] - wanted_M2[:, 0]).log()
    longer_M = F.smooth_l1_loss(predicted_M2[:, 1], length_M, reduction="none")
    zero_L = predicted_M2.new_zeros(len(made.logits_LBQK))
    return {
        "cls": share_LB.sum(dim=1) * mean / instances,
        "reg": zero_L.index_add(0, chosen[0], apart_M) / instances,
        "length": zero_L.index_add(0, chosen[0], longer_M) / instances,
    }


def losses_of(
    outputs: Outputs, targets: list[Targets], *, settings: Settings, instances: float, means: tuple[Tensor, Tensor]
) -> dict[str, Tensor]:
    """Return the losses of a batch or a part of it.

    `cls`, `reg` and `length` are those of the last layer, `auxiliary` the weighted sum of the layers before, and
    `encoder` the class loss of the encoder's points, whose segments cannot change. `total` has all weights.

    Args:
        outputs: outputs of the network.
        targets: one per video, in seconds.
        settings: weights of losses and of the assignment.
        instances: instances of the whole batch, at least 1.
        means: average numbers of queries and of points of a video of the whole batch.
    """
    queries = Predictions(outputs.logits_LBQK, outputs.segments_LBQ2, outputs.real_BQ)
    points = Predictions(outputs.points_BS[None, :, :, None], outputs.anchors_BS2[None], outputs.real_BS)
    of_layers = layer_losses(queries, targets, settings=settings, instances=instances, mean=means[0], encoder=False)
    of_points = layer_losses(
        points, [anybody(t) for t in targets], settings=settings, instances=instances, mean=means[1], encoder=True
    )
    weights = {"cls": settings.class_weight, "reg": settings.iou_weight, "length": settings.length_weight}
    weighted_L = sum(
        (weights[name] * value_L for name, value_L in of_layers.items()), torch.zeros_like(of_layers["cls"])
    )
    encoder = of_points["cls"][0]
    return {
        **{name: value_L[-1] for name, value_L in of_layers.items()},
        "auxiliary": weighted_L[:-1].sum(),
        "encoder": encoder,
        "total": weighted_L.sum() + settings.class_weight * encoder,
    }
