"""Decode the masks and class curves of one video into candidates."""

# T snippets of the video, S seeds, N candidates, K classes (the background is class K)

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from tad.layers.types import Candidates

MASK_LEVELS = (0.0, 0.2, 0.4, 0.6, 0.8)
CLASS_LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SHORTEST = 0.02  # a run must be longer than this fraction of the sequence


def extents(inside_ST: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return first and last snippet of each mask row, and the length of its longest run, each (…, S)."""
    length = inside_ST.shape[-1]
    position_T = torch.arange(length, device=inside_ST.device)
    first_S = torch.where(inside_ST, position_T, length).amin(dim=-1)
    last_S = torch.where(inside_ST, position_T, -1).amax(dim=-1)
    gaps_ST = torch.where(inside_ST, -1, position_T)
    if torch.compiler.is_exporting():  # ONNX has no cumulative maximum
        until_TT = position_T[:, None] >= position_T
        last_gap_ST = torch.where(until_TT, gaps_ST[..., None, :], -1).amax(dim=-1)
    else:
        last_gap_ST = gaps_ST.cummax(dim=-1).values
    return first_S, last_S, (position_T - last_gap_ST).amax(dim=-1)


def run_around(inside_ST: Tensor, seed_S: Tensor) -> tuple[Tensor, Tensor]:
    """Return first and last snippet (…, S) of the run around each row's seed; last < first if the seed is outside."""
    length = inside_ST.shape[-1]
    position_T = torch.arange(length, device=inside_ST.device)
    before_ST = ~inside_ST & (position_T <= seed_S[..., None])
    after_ST = ~inside_ST & (position_T >= seed_S[..., None])
    first_S = torch.where(before_ST, position_T, -1).amax(dim=-1) + 1
    last_S = torch.where(after_ST, position_T, length).amin(dim=-1) - 1
    return first_S, last_S


def _inner_means(row_ST: Tensor, first_S: Tensor, last_S: Tensor) -> Tensor:
    """Return each row's mean between first and last, both excluded if that leaves a snippet."""
    wide_S = (last_S - first_S >= 2).long()
    position_T = torch.arange(row_ST.shape[-1], device=row_ST.device)
    in_ST = (position_T >= (first_S + wide_S)[..., None]) & (position_T <= (last_S - wide_S)[..., None])
    return (row_ST * in_ST).sum(dim=-1) / in_ST.sum(dim=-1).clamp(min=1)


def _class_maxima(curve_ST: Tensor, first_S: Tensor, last_S: Tensor) -> Tensor:
    position_T = torch.arange(curve_ST.shape[-1], device=curve_ST.device)
    in_ST = (position_T >= first_S[..., None]) & (position_T <= last_S[..., None])
    return (curve_ST * in_ST).amax(dim=-1)


class Dense(NamedTuple):
    """Candidates of a batch: segments (B, N, 2) in snippets, scores (B, N), classes (B, N) and seeds (B, N)."""

    segments_BN2: Tensor
    scores_BN: Tensor
    labels_BN: Tensor
    seeds_BN: Tensor


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


def decode_dense(probability_BKT: Tensor, masks_BTT: Tensor, real_BT: Tensor, *, seeds: int, one_class: bool) -> Dense:
    """Decode what `decode_masks` does for a batch, with the same number of candidates whatever the values are.

    Candidates that `decode_masks` leaves out, because they are too short or equal to a better one, have the score 0.

    Args:
        probability_BKT: class probabilities, background last.
        masks_BTT: mask probabilities.
        real_BT: snippets of each video; there is at least one.
        seeds, one_class: as for `decode_masks`.
    """
    length = masks_BTT.shape[1]
    action_BKT = probability_BKT[:, :-1]
    best_BT, class_BT = action_BKT.max(dim=1)
    # no two of the padding are equal, because programs order equal values as they like
    after_T = torch.arange(length, device=real_BT.device).to(best_BT.dtype) * -1.0 - 1.0
    best_BS, seed_BS = torch.where(real_BT, best_BT, after_T).topk(min(seeds, length), dim=1)
    real_BS = best_BS >= 0
    class_BS = class_BT.gather(1, seed_BS)
    # rows are chosen by products with ones and zeros, which are exact: gathering has no equal in all programs
    of_seed_BST = F.one_hot(seed_BS, length).to(masks_BTT.dtype)
    if one_class:
        sum_BK = (action_BKT @ (of_seed_BST * real_BS[:, :, None]).transpose(1, 2)).sum(dim=2)
        class_BS = sum_BK.argmax(dim=1, keepdim=True).expand_as(seed_BS)
    of_class_BSK = F.one_hot(class_BS, action_BKT.shape[1]).to(action_BKT.dtype)
    rows_BST = of_seed_BST @ masks_BTT * real_BT[:, None]
    curve_BST = of_class_BSK @ action_BKT * real_BT[:, None]
    segments, scores = [], []
    for kind, levels in (("mask", MASK_LEVELS), ("class", CLASS_LEVELS)):
        for level in levels:
            if kind == "mask":
                first_BS, last_BS, longest_BS = extents((rows_BST > level) & real_BT[:, None])
            else:
                first_BS, last_BS = run_around((curve_BST > level) & real_BT[:, None], seed_BS)
                longest_BS = last_BS - first_BS + 1
            score_BS = _inner_means(rows_BST, first_BS, last_BS) * _class_maxima(curve_BST, first_BS, last_BS)
            valid_BS = real_BS & (longest_BS > SHORTEST * real_BT.sum(dim=1, keepdim=True))
            scores.append(torch.where(valid_BS, score_BS, 0.0))
            segments.append(torch.stack([first_BS - 0.5, last_BS + 0.5], dim=2))
    turns = len(scores)
    segment_BN2, score_BN = torch.cat(segments, dim=1), torch.cat(scores, dim=1)
    seed_BN, class_BN = seed_BS.repeat(1, turns), class_BS.repeat(1, turns)
    equal_BNN = (segment_BN2[:, :, None] == segment_BN2[:, None]).all(dim=3) & (
        class_BN[:, :, None] == class_BN[:, None]
    )
    rank_N = torch.arange(score_BN.shape[1], device=score_BN.device)
    better_BNN = score_BN[:, None] > score_BN[:, :, None]
    earlier_BNN = (score_BN[:, None] == score_BN[:, :, None]) & (rank_N[None] < rank_N[:, None])
    beaten_BN = (equal_BNN & (better_BNN | earlier_BNN)).any(dim=2)
    return Dense(segment_BN2, score_BN.masked_fill(beaten_BN, 0.0), class_BN, seed_BN)
