"""Masks and class curves of one video → candidates."""

# T snippets of the video, S seeds, N candidates, K classes (the background is class K)

import torch
from torch import Tensor

from tad.layers.types import Candidates

MASK_LEVELS = (0.0, 0.2, 0.4, 0.6, 0.8)
CLASS_LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SHORTEST = 0.02  # share of the sequence: a run must be longer


def extents(inside_ST: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of rows of a mask with holes filled: first and last snippet, and the longest run before filling, each (S,)."""
    length = inside_ST.shape[1]
    position_T = torch.arange(length, device=inside_ST.device)
    first_S = torch.where(inside_ST, position_T, length).amin(dim=1)
    last_S = torch.where(inside_ST, position_T, -1).amax(dim=1)
    last_gap_ST = torch.where(inside_ST, -1, position_T).cummax(dim=1).values
    return first_S, last_S, (position_T - last_gap_ST).amax(dim=1)


def run_around(inside_ST: Tensor, seed_S: Tensor) -> tuple[Tensor, Tensor]:
    """First and last snippet (S,) of the run that holds the seed of each row; last before first where it is outside."""
    length = inside_ST.shape[1]
    position_T = torch.arange(length, device=inside_ST.device)
    before_ST = ~inside_ST & (position_T <= seed_S[:, None])
    after_ST = ~inside_ST & (position_T >= seed_S[:, None])
    first_S = torch.where(before_ST, position_T, -1).amax(dim=1) + 1
    last_S = torch.where(after_ST, position_T, length).amin(dim=1) - 1
    return first_S, last_S


def _inner_means(row_ST: Tensor, first_S: Tensor, last_S: Tensor) -> Tensor:
    """Mean of each row between first and last, without these two where something is left."""
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
    """Candidates in snippets of one video: of each seed, the extents of its mask and of its class at several levels.

    A score is the mean of the seed's mask within the segment times the maximum of the class there. Equal segments of
    a class are one candidate, with the best of their scores.

    Args:
        probability_KT: of the classes, background last.
        masks_TT: row i is the mask of snippet i.
        seeds: snippets that are looked at, those of the highest action score.
        one_class: all segments have the video's class, as published; else each that of its seed.
        score_threshold, topk, min_length: as `tad.layers.detector.PointDetector.candidates`.
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
            segment_S2 = torch.stack([first_S - 0.5, last_S + 0.5], dim=1)  # a snippet is the cell around its middle
            kept_S = (longest_S > SHORTEST * length) & (score_S > score_threshold)
            kept_S &= segment_S2[:, 1] - segment_S2[:, 0] > min_length
            segments.append(segment_S2[kept_S])
            scores.append(score_S[kept_S])
            labels.append(class_S[kept_S])
    return _unique(torch.cat(segments).float(), torch.cat(scores).float(), torch.cat(labels), topk)


def _unique(segments_N2: Tensor, scores_N: Tensor, labels_N: Tensor, topk: int) -> Candidates:
    """The best of equal segments of a class, in order of their scores."""
    order_N = scores_N.argsort(descending=True, stable=True)
    keys = torch.cat([segments_N2, labels_N[:, None].to(segments_N2.dtype)], dim=1)[order_N]
    seen: set[tuple[float, ...]] = set()
    kept = []
    for place, key in enumerate(map(tuple, keys.tolist())):
        if key not in seen:
            seen.add(key)
            kept.append(place)
    chosen_N = order_N[torch.tensor(kept[:topk], dtype=torch.int64, device=order_N.device)]
    return Candidates(segments_N2[chosen_N], scores_N[chosen_N], labels_N[chosen_N])
