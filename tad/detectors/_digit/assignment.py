"""Hungarian matching: assign instances to queries at the least total cost, and compute the cost of each pair."""

# N instances, Q queries, L layers, K classes, R rows, J columns

import numpy as np
import torch
from torch import Tensor

from tad.layers.types import Targets

FAR = 1e9  # stands for costs that are not finite
EPSILON = 1e-8


def assign(cost_RJ: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs (rows, columns) of least total cost; every row or every column, whichever are fewer, is in one.

    Shortest augmenting paths (Crouse, On implementing 2D rectangular assignment algorithms, 2016); rows rise. Costs
    that are not finite count as very large, so that the losses of a network that has diverged are still computed and
    reported.
    """
    cost_RJ = np.nan_to_num(np.asarray(cost_RJ, np.float64), nan=FAR, posinf=FAR, neginf=-FAR)
    if cost_RJ.shape[0] > cost_RJ.shape[1]:
        columns, rows = assign(cost_RJ.T)
        order = np.argsort(rows)
        return rows[order], columns[order]
    count, width = cost_RJ.shape
    row_prices, column_prices = np.zeros(count), np.zeros(width)
    owner_J, place_R = np.full(width, -1), np.full(count, -1)
    for first in range(count):
        distance_J, before_J, done_J = np.full(width, np.inf), np.full(width, -1), np.zeros(width, bool)
        row, least, column = first, 0.0, -1
        while column < 0 or owner_J[column] >= 0:
            row = first if column < 0 else owner_J[column]
            through_J = least + cost_RJ[row] - row_prices[row] - column_prices
            nearer_J = ~done_J & (through_J < distance_J)
            distance_J[nearer_J], before_J[nearer_J] = through_J[nearer_J], row
            column = int(np.argmin(np.where(done_J, np.inf, distance_J)))
            least, done_J[column] = distance_J[column], True
        taken_J = done_J & (owner_J >= 0)
        row_prices[first] += least
        row_prices[owner_J[taken_J]] += least - distance_J[taken_J]
        column_prices[done_J] -= least - distance_J[done_J]
        while column >= 0:  # along the path, each row takes the next column
            row = before_J[column]
            owner_J[column], place_R[row], column = row, column, place_R[row]
    return np.arange(count), place_R


def borders(segments: Tensor) -> Tensor:
    """Return (start, end) of segments (…, 2) given as centre and logarithm of the length."""
    centre, half = segments[..., 0], segments[..., 1].exp() / 2
    return torch.stack([centre - half, centre + half], dim=-1)


def overlap(borders: Tensor, others: Tensor, *, distance: bool) -> Tensor:
    """Return the tIoU of segments (…, 2) given as start and end; with `distance`, the DIoU of both.

    The DIoU is the tIoU minus the square of the distance of the centres as a share of the hull.
    """
    inner = torch.minimum(borders[..., 1], others[..., 1]) - torch.maximum(borders[..., 0], others[..., 0])
    inner = inner.clamp(min=0)
    union = (borders[..., 1] - borders[..., 0]) + (others[..., 1] - others[..., 0]) - inner
    tiou = inner / union
    if not distance:
        return tiou
    hull = torch.maximum(borders[..., 1], others[..., 1]) - torch.minimum(borders[..., 0], others[..., 0])
    return tiou - ((borders.mean(dim=-1) - others.mean(dim=-1)) / hull).square()


def class_costs(logits_LQK: Tensor, labels_N: Tensor) -> Tensor:
    """Return what a query's class costs as that of an instance, (L, Q, N): its focal loss as positive minus as
    negative."""
    p_LQN = logits_LQK[:, :, labels_N].sigmoid()
    positive = 0.25 * (1 - p_LQN).square() * -(p_LQN + EPSILON).log()
    negative = 0.75 * p_LQN.square() * -(1 - p_LQN + EPSILON).log()
    return positive - negative


def match(
    logits_LQK: Tensor, segments_LQ2: Tensor, target: Targets, *, weights: tuple[float, float, float], distance: bool
) -> Tensor:
    """Assign the instances of a video in each layer; return (layer, query, instance) of every pair, int64 (3, M).

    Args:
        logits_LQK: class logits of the real queries.
        segments_LQ2: their segments.
        target: the instances, in seconds.
        weights: of class, overlap and logarithm of the length.
        distance: whether the overlap is the DIoU.
    """
    segments_N2 = target.segments_N2
    length_N = (segments_N2[:, 1] - segments_N2[:, 0]).log()
    cost_LQN = weights[0] * class_costs(logits_LQK, target.labels_N)
    cost_LQN = cost_LQN - weights[1] * overlap(borders(segments_LQ2)[:, :, None], segments_N2, distance=distance)
    if weights[2]:
        apart = torch.nn.functional.smooth_l1_loss(
            segments_LQ2[:, :, None, 1].expand_as(cost_LQN), length_N.expand_as(cost_LQN), reduction="none"
        )
        cost_LQN = cost_LQN + weights[2] * apart
    triples = []
    for layer, cost_QN in enumerate(cost_LQN.cpu().numpy()):
        instances, queries = assign(cost_QN.T)
        triples.append(np.stack([np.full_like(queries, layer), queries, instances]))
    return torch.from_numpy(np.concatenate(triples, axis=1)).to(segments_LQ2.device)
