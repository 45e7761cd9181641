"""Instances, or what a teacher is sure of → classes of snippets and masks of instances; random foregrounds."""

# B videos, T snippets, N instances, K classes (the background is class K)

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tad.layers.types import Targets

IGNORED = -1  # class of snippets that do not count
NARROW = 5  # snippets: a random foreground shorter than this is widened by as many on either side


@dataclass(frozen=True, slots=True)
class MaskTargets(Targets):
    """What SPOT learns of a window, in place of instances or made of them.

    Attributes:
        classes_T: int64, `IGNORED` where nothing is known.
        masks_TT: float32 0 or 1; row i is the instance of snippet i.
        valid_TT: bool, entries that count.
    """

    classes_T: Tensor | None = None
    masks_TT: Tensor | None = None
    valid_TT: Tensor | None = None


def inside(segments_N2: Tensor, *, length: int, shrunk: bool) -> Tensor:
    """First and last (not included) snippet of each instance, int64 (N, 2): those whose middle lies in it.

    One too short for that has the snippet nearest to its centre. `shrunk`: without the first and last snippet, as
    published, by which instances of two and fewer snippets disappear.
    """
    first_N, last_N = segments_N2.ceil().long().unbind(1)  # half open: a snippet at the end is outside
    nearest_N = segments_N2.mean(dim=1).round().long()
    empty_N = last_N <= first_N
    first_N = torch.where(empty_N, nearest_N, first_N)
    last_N = torch.where(empty_N, nearest_N + 1, last_N)
    first_N, last_N = first_N.clamp(0, length - 1), last_N.clamp(0, length)
    last_N = torch.maximum(last_N, first_N + 1)
    return torch.stack([first_N + 1, last_N - 1] if shrunk else [first_N, last_N], dim=1)


def blocks(spans_N2: Tensor, size: int) -> Tensor:
    """Float32 (size, size): 1 on the square of every span [first, last)."""
    position_T = torch.arange(size, device=spans_N2.device)
    in_NT = ((position_T >= spans_N2[:, :1]) & (position_T < spans_N2[:, 1:])).float()
    return (in_NT.T @ in_NT).clamp(max=1)


def label_snippets(targets: Targets, *, length: int, size: int, classes: int, shrunk: bool) -> MaskTargets:
    """The classes and masks of a window of `length` snippets that is padded to `size`; padding does not count.

    Of instances that overlap the shortest gives a snippet its class.
    """
    if isinstance(targets, MaskTargets) and targets.classes_T is not None:
        return targets
    spans_N2 = inside(targets.segments_N2, length=length, shrunk=shrunk)
    classes_T = torch.full((size,), classes, dtype=torch.int64, device=spans_N2.device)
    order_N = (spans_N2[:, 1] - spans_N2[:, 0]).argsort(descending=True, stable=True)
    for first, last, label in torch.cat([spans_N2, targets.labels_N[:, None]], dim=1)[order_N].tolist():
        classes_T[first : max(last, first)] = label
    classes_T[length:] = IGNORED
    real_T = torch.arange(size, device=spans_N2.device) < length
    return MaskTargets(
        targets.segments_N2,
        targets.labels_N,
        classes_T=classes_T,
        masks_TT=blocks(spans_N2, size),
        valid_TT=real_T[:, None] & real_T,
    )


def confident(
    probability_BKT: Tensor, masks_BTT: Tensor, lengths: Sequence[int], *, confidence: float, mask: float
) -> list[MaskTargets]:
    """What a teacher is sure of: classes from probability `confidence` on, and of these snippets which entries are in
    their masks (from probability `mask` on) and which are not (up to 1 - `mask`); between, nothing is known.

    As published all entries below `mask` are out of it: early masks are too small, and then teach to be so. Background
    snippets have empty masks. `labels_N` are the action classes that occur, `segments_N2` is empty.
    """
    found = []
    for probability_KT, masks_TT, length in zip(probability_BKT, masks_BTT, lengths, strict=True):
        best_T, classes_T = probability_KT.max(dim=0)
        background = probability_KT.shape[0] - 1
        real_T = torch.arange(len(best_T), device=best_T.device) < length
        sure_T = (best_T >= confidence) & real_T
        classes_T = classes_T.masked_fill(~sure_T, IGNORED)
        action_T = sure_T & (classes_T != background)
        targets_TT = ((masks_TT >= mask) & action_T[:, None]).float()
        empty_N2 = masks_TT.new_zeros(0, 2)
        known_TT = (masks_TT >= mask) | (masks_TT <= 1 - mask) | (classes_T == background)[:, None]
        valid_TT = sure_T[:, None] & real_T & known_TT
        labels_N = classes_T[action_T].unique()
        found.append(MaskTargets(empty_N2, labels_N, classes_T=classes_T, masks_TT=targets_TT, valid_TT=valid_TT))
    return found


def random_foregrounds(chance_B4: Tensor, lengths_B: Tensor) -> Tensor:
    """Two spans [first, last) per window, int64 (B, 2, 2), of any size from a few snippets to nearly all.

    `chance_B4`: uniform numbers.
    """
    length_B1 = lengths_B.to(chance_B4.device)[:, None]
    first_B2 = (chance_B4[:, :2] * (length_B1 - NARROW - 1).clamp(min=1)).long()
    rest_B2 = (length_B1 - first_B2 - 1).clamp(min=1)
    last_B2 = first_B2 + 1 + (chance_B4[:, 2:] * rest_B2).long()
    narrow_B2 = (last_B2 - first_B2 < NARROW).long() * NARROW
    first_B2 = (first_B2 - narrow_B2).clamp(min=0)
    last_B2 = torch.minimum(last_B2 + narrow_B2, length_B1)
    return torch.stack([first_B2, last_B2], dim=2)
