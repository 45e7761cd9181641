"""Decode the masks and class curves of one video into candidates."""

# T snippets of the video, S seeds, N candidates, K classes (the background is class K)

import torch
from torch import Tensor

from tad.layers.types import Candidates

MASK_LEVELS = (0.0, 0.2, 0.4, 0.6, 0.8)
CLASS_LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SHORTEST = 0.02  # a run must be longer than this fraction of the sequence


def extents(inside_ST: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return first and last snippet of each mask row, and the length of its longest run, each (S,)."""
    length = inside_ST.shape[1]
    position_T = torch.arange(length, device=inside_ST.device)
    first_S = torch.where(inside_ST, position_T, length).amin(dim=1)
    last_S = torch.where(inside_ST, position_T, -1).amax(dim=1)
    last_gap_ST = torch.where(inside_ST, -1, position_T).cummax(dim=1).values
    return first_S, last_S, (position_T - last_gap_ST).amax(dim=1)


def run_around(inside_ST: Tensor, seed_S: Tensor) -> tuple[Tensor, Tensor]:
    """Return first and last snippet (S,) of the run around each row's seed; last < first if the seed is outside."""
    length = inside_ST.shape[1]
    position_T = torch.arange(length, device=inside_ST.device)
    before_ST = ~inside_ST & (position_T <= seed_S[:, None])
    after_ST = ~inside_ST & (position_T >= seed_S[:, None])
    first_S = torch.where(before_ST, position_T, -1).amax(dim=1) + 1
    last_S = torch.where(after_ST, position_T, length).amin(dim=1) - 1
    return first_S, last_S


def _inner_means(row_ST: Tensor, first_S: Tensor, last_S: Tensor) -> Tensor:
    """Return each row's mean between first and last, both excluded if that leaves a snippet."""
    wide_S = (last_S - first_S >= 2).long()
    position_T = torch.arange(row_ST.shape[1], device=row_ST.device)
    in_ST = (position_T >= (first_S + wide_S)[:, None]) & (position_T <= (last_S - wide_S)[:, None])
    return (row_ST * in_ST).sum(dim=1) / in_ST.sum(dim=1).clamp(min=1)


def _class_maxima(curve_ST: Tensor, first_S: Tensor, last_S: Tensor) -> Tensor:
    position_T = torch.arange(curve_ST.shape[1], device=curve_ST.device)
    in_ST = (position_T >= first_S[:, None]) & (position_T <= last_S[:, None])
    return (curve_ST * in_ST).amax(dim=1)


def decode_masks(
    probability_KT: Tensor,
    masks_TT: Tensor,
    *,
    seeds: int,
    one_class: bool,
    score_threshold: float,
    topk: int,
    min_length: float,
) -> Candidates:
    """Decode the candidates of one video, in snippets: threshold each seed's mask and class curve at several levels.

    A score is the mean of the seed's mask within the segment times the maximum of the class probability there. Equal
    segments of a class become one candidate with the best of their scores.

    Args:
        probability_KT: class probabilities, background last.
        masks_TT: mask probabilities; row i is the mask of snippet i.
        seeds: number of seeds, the snippets with the highest action scores.
        one_class: all segments have the video's class, as published; otherwise each has its seed's class.
        score_threshold, topk, min_length: as for `tad.detectors._points.detector.PointDetector.candidates`.
    """
    length = masks_TT.shape[0]
    action_KT = probability_KT[:-1]
    best_T, class_T = action_KT.max(dim=0)
    seed_S = best_T.sort(descending=True, stable=True).indices[:seeds]
    class_S = class_T[seed_S]
    if one_class:
        class_S = action_KT[:, seed_S].mean(dim=1).argmax().expand_as(seed_S)
    rows_ST, curve_ST = masks_TT[seed_S], action_KT[class_S]
    segments, scores, labels = [], [], []
    for kind, levels in (("mask", MASK_LEVELS), ("class", CLASS_LEVELS)):
        for level in levels:
            if kind == "mask":
                first_S, last_S, longest_S = extents(rows_ST > level)
            else:
                first_S, last_S = run_around(curve_ST > level, seed_S)
                longest_S = last_S - first_S + 1
            score_S = _inner_means(rows_ST, first_S, last_S) * _class_maxima(curve_ST, first_S, last_S)
            segment_S2 = torch.stack(
                [first_S - 0.5, last_S + 0.5], dim=1
            )  # a snippet extends 0.5 to either side of its centre
            valid_S = (longest_S > SHORTEST * length) & (score_S > score_threshold)
            valid_S &= segment_S2[:, 1] - segment_S2[:, 0] > min_length
            segments.append(segment_S2[valid_S])
            scores.append(score_S[valid_S])
            labels.append(class_S[valid_S])
    return _unique(torch.cat(segments).float(), torch.cat(scores).float(), torch.cat(labels), topk)


def _unique(segments_N2: Tensor, scores_N: Tensor, labels_N: Tensor, topk: int) -> Candidates:
    """Remove duplicate segments of a class, keeping the best score; sort by score."""
    order_N = scores_N.argsort(descending=True, stable=True)
    keys = torch.cat([segments_N2, labels_N[:, None].to(segments_N2.dtype)], dim=1)[order_N]
    seen: set[tuple[float, ...]] = set()
    unique = []
    for rank, key in enumerate(map(tuple, keys.tolist())):
        if key not in seen:
            seen.add(key)
            unique.append(rank)
    chosen_N = order_N[torch.tensor(unique[:topk], dtype=torch.int64, device=order_N.device)]
    return Candidates(segments_N2[chosen_N], scores_N[chosen_N], labels_N[chosen_N])
