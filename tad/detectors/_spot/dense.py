"""Decode SPOT's masks in an exported graph: each pair of seed and level is a point, with score 0 if it is no candidate.

The candidates are those of `decode_masks`, without operations whose number of results depends on values.
"""

# B windows, T snippets of a window, S seeds, L levels, P = L · S points, K classes (the background is class K)

import torch
from torch import Tensor
from torch.nn import functional as F

from tad.detectors._spot.decoder import CLASS_LEVELS, MASK_LEVELS, SHORTEST

PER_LENGTH = round(1 / SHORTEST)  # a run of n snippets is long enough if n · PER_LENGTH exceeds the sequence


def decode_dense(
    probability_BTK: Tensor, masks_BTT: Tensor, lengths_B: Tensor, *, seeds: int, one_class: bool
) -> dict[str, Tensor]:
    """Decode the masks and class curves of windows into points.

    Args:
        probability_BTK: class probabilities, background last.
        masks_BTT: mask probabilities; row i is the mask of snippet i.
        lengths_B: int64, snippets of each window, at least 1.
        seeds: number of seeds, the snippets with the highest action scores.
        one_class: all segments have the window's class; otherwise each has its seed's class.

    Returns:
        scores (B, P, K): 0 except for the class of the point, and 0 everywhere for a point that is too short, on the
        padding or a duplicate; segments (B, P, 1, 2) in snippets, 0 where all scores are; level (P,), int64, all 0,
        because the best candidates are chosen among all points.
    """
    size = probability_BTK.shape[1]
    position_T = torch.arange(size, device=probability_BTK.device)
    real_BT = position_T < lengths_B[:, None]
    action_BTK = probability_BTK[:, :, :-1]
    best_BT, class_BT = action_BTK.max(dim=2)
    seed_BS = _highest(best_BT.masked_fill(~real_BT, -1.0), min(seeds, size))
    window_B1 = torch.arange(seed_BS.shape[0], device=seed_BS.device)[:, None]
    used_BS = real_BT[:, : seed_BS.shape[1]]  # a window with fewer snippets than seeds has fewer seeds
    class_BS = class_BT[window_B1, seed_BS]
    if one_class:
        class_B = (action_BTK[window_B1, seed_BS] * used_BS[:, :, None]).sum(dim=1).argmax(dim=1)
        class_BS = class_B[:, None].expand_as(seed_BS)
    rows_BST = masks_BTT[window_B1, seed_BS]
    curve_BST = action_BTK.transpose(1, 2)[window_B1, class_BS]
    inside_BLST = _above(rows_BST, MASK_LEVELS) & real_BT[:, None, None]
    around_BLST = _above(curve_BST, CLASS_LEVELS) & real_BT[:, None, None]
    first_BLS, last_BLS = (
        torch.cat(pair, dim=1)
        for pair in zip(_extents(inside_BLST), _runs_around(around_BLST, seed_BS[:, None, :, None]), strict=True)
    )
    masks = len(MASK_LEVELS)
    runs_BLS = last_BLS[:, masks:] - first_BLS[:, masks:] + 1
    longest_BLS = torch.cat([_longest(inside_BLST), runs_BLS], dim=1)
    score_BLS = _scores(rows_BST[:, None], curve_BST[:, None], first_BLS[..., None], last_BLS[..., None])
    valid_BLS = (longest_BLS * PER_LENGTH > lengths_B[:, None, None]) & used_BS[:, None]
    key_BLS = (class_BS[:, None] * size + first_BLS) * size + last_BLS
    score_BP = _of_distinct(key_BLS, torch.where(valid_BLS, score_BLS, 0.0))
    class_BP = class_BS[:, None].expand_as(key_BLS).flatten(1)
    of_class_BPK = class_BP[:, :, None] == torch.arange(action_BTK.shape[2], device=class_BP.device)
    segments_BP2 = torch.stack([first_BLS - 0.5, last_BLS + 0.5], dim=3).flatten(1, 2)
    segments_BP2 = torch.where(score_BP[:, :, None] > 0, segments_BP2, 0.0)
    return {
        "scores": torch.where(of_class_BPK, score_BP[:, :, None], 0.0),
        "segments": segments_BP2[:, :, None],
        "level": torch.zeros(key_BLS[0].numel(), dtype=torch.long),
    }


def _highest(score_BT: Tensor, count: int) -> Tensor:
    """Return the positions of the highest scores; of equal ones, the first comes first."""
    if torch.compiler.is_exporting():  # a stable sort has no counterpart, but TopK of ONNX is stable
        return score_BT.topk(count, dim=1).indices
    return score_BT.sort(dim=1, descending=True, stable=True).indices[:, :count]


def _above(x_BST: Tensor, levels: tuple[float, ...]) -> Tensor:
    return x_BST[:, None] > torch.tensor(levels, device=x_BST.device)[:, None, None]


def _extents(inside_BLST: Tensor) -> tuple[Tensor, Tensor]:
    """Return first and last snippet of each row, (B, L, S); last < first if it has none."""
    position_T = torch.arange(inside_BLST.shape[3], device=inside_BLST.device)
    first_BLS = torch.where(inside_BLST, position_T, len(position_T)).amin(dim=3)
    return first_BLS, torch.where(inside_BLST, position_T, -1).amax(dim=3)


def _runs_around(inside_BLST: Tensor, seed_B1S1: Tensor) -> tuple[Tensor, Tensor]:
    """Return first and last snippet of the run around each seed, (B, L, S); last < first if the seed is outside."""
    position_T = torch.arange(inside_BLST.shape[3], device=inside_BLST.device)
    before_BLST = ~inside_BLST & (position_T <= seed_B1S1)
    after_BLST = ~inside_BLST & (position_T >= seed_B1S1)
    first_BLS = torch.where(before_BLST, position_T, -1).amax(dim=3) + 1
    return first_BLS, torch.where(after_BLST, position_T, len(position_T)).amin(dim=3) - 1


def _longest(inside_BLST: Tensor) -> Tensor:
    """Return the length of each row's longest run, (B, L, S), in log T steps: ONNX has no cumulative maximum."""
    length_BLST, reach = inside_BLST.long(), 1  # of the run that ends at a snippet, as far as `reach`
    while reach < inside_BLST.shape[3]:
        before_BLST = F.pad(length_BLST[..., :-reach], (reach, 0))
        length_BLST = length_BLST + torch.where(length_BLST == reach, before_BLST, 0)
        reach *= 2
    return length_BLST.amax(dim=3)


def _scores(rows_B1ST: Tensor, curve_B1ST: Tensor, first_BLS1: Tensor, last_BLS1: Tensor) -> Tensor:
    """Return the mean of each row between first and last times the maximum of the curve there, (B, L, S).

    The mean excludes both ends if that leaves a snippet.
    """
    position_T = torch.arange(rows_B1ST.shape[3], device=rows_B1ST.device)
    wide_BLS1 = (last_BLS1 - first_BLS1 >= 2).long()
    inner_BLST = (position_T >= first_BLS1 + wide_BLS1) & (position_T <= last_BLS1 - wide_BLS1)
    mean_BLS = (rows_B1ST * inner_BLST).sum(dim=3) / inner_BLST.sum(dim=3).clamp(min=1)
    in_BLST = (position_T >= first_BLS1) & (position_T <= last_BLS1)
    return mean_BLS * (curve_B1ST * in_BLST).amax(dim=3)


def _of_distinct(key_BLS: Tensor, score_BLS: Tensor) -> Tensor:
    """Return the scores (B, P) of distinct candidates: the first of equal ones has the best score, the others have 0.

    A level at a time is compared with all, which bounds the memory.
    """
    key_B1P, score_B1P = key_BLS.flatten(1)[:, None], score_BLS.flatten(1)[:, None]
    index_P = torch.arange(key_B1P.shape[2], device=key_B1P.device)
    seeds, parts = key_BLS.shape[2], []
    for level in range(key_BLS.shape[1]):
        equal_BSP = (key_BLS[:, level, :, None] == key_B1P) & (score_B1P > 0)
        best_BS = torch.where(equal_BSP, score_B1P, 0.0).amax(dim=2)
        own_S = index_P[level * seeds : (level + 1) * seeds]
        first_BS = torch.where(equal_BSP, index_P, len(index_P)).amin(dim=2)
        parts.append(torch.where(first_BS == own_S, best_BS, 0.0))
    return torch.cat(parts, dim=1)
