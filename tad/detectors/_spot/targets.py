"""SPOT's targets: snippet classes and instance masks from annotations or from a teacher; random foregrounds."""

# B videos, T snippets, N instances, K classes (the background is class K)

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tad.layers.types import Targets

IGNORED = -1  # class of snippets that the losses ignore
NARROW = 5  # snippets; a random foreground shorter than this is extended by as many on either side


@dataclass(frozen=True, slots=True)
class MaskTargets(Targets):
    """SPOT's targets for a window, derived from instances or from a teacher's outputs.

    Attributes:
        classes_T: int64, `IGNORED` where the class is unknown.
        masks_TT: float32, 0 or 1; row i is the instance of snippet i.
        valid_TT: bool, entries that the losses cover.
    """

    classes_T: Tensor | None = None
    masks_TT: Tensor | None = None
    valid_TT: Tensor | None = None


def inside(segments_N2: Tensor, *, length: int, shrunk: bool) -> Tensor:
    """Return the range [first, last) of snippets of each instance, int64 (N, 2): those whose centres it contains.

    An instance that contains no centre gets the snippet nearest to its own centre. `shrunk`: drop the first and last
    snippet, as published, which removes instances of one or two snippets.
    """
    first_N, last_N = segments_N2.ceil().long().unbind(1)  # half-open: a snippet at the end is outside
    nearest_N = segments_N2.mean(dim=1).round().long()
    empty_N = last_N <= first_N
    first_N = torch.where(empty_N, nearest_N, first_N)
    last_N = torch.where(empty_N, nearest_N + 1, last_N)
    first_N, last_N = first_N.clamp(0, length - 1), last_N.clamp(0, length)
    last_N = torch.maximum(last_N, first_N + 1)
    return torch.stack([first_N + 1, last_N - 1] if shrunk else [first_N, last_N], dim=1)


def blocks(spans_N2: Tensor, size: int) -> Tensor:
    """Return a float32 matrix (size, size) with 1 on the diagonal block of every span [first, last)."""
    position_T = torch.arange(size, device=spans_N2.device)
    in_NT = ((position_T >= spans_N2[:, :1]) & (position_T < spans_N2[:, 1:])).float()
    return (in_NT.T @ in_NT).clamp(max=1)


def label_snippets(targets: Targets, *, length: int, size: int, classes: int, shrunk: bool) -> MaskTargets:
    """Return the classes and masks of a window of `length` snippets padded to `size`; padding is ignored.

    Where instances overlap, a snippet has the class of the shortest one.
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
    """Convert a teacher's confident outputs into targets.

    A snippet counts if its class probability is at least `confidence`. Its mask entries are 1 from probability `mask`
    on, 0 up to 1 - `mask`, and ignored in between. (Published: 0 everywhere below `mask`; masks are too small early in
    training, and such targets keep them small.) Background snippets have empty masks. `labels_N` are the action classes
    that occur, `segments_N2` is empty.
    """
    targets = []
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
        targets.append(MaskTargets(empty_N2, labels_N, classes_T=classes_T, masks_TT=targets_TT, valid_TT=valid_TT))
    return targets


def random_foregrounds(chance_B4: Tensor, lengths_B: Tensor) -> Tensor:
    """Return two random spans [first, last) per window, int64 (B, 2, 2), from a few snippets to nearly the whole.

    `chance_B4`: uniform random numbers in [0, 1).
    """
    length_B1 = lengths_B.to(chance_B4.device)[:, None]
    first_B2 = (chance_B4[:, :2] * (length_B1 - NARROW - 1).clamp(min=1)).long()
    rest_B2 = (length_B1 - first_B2 - 1).clamp(min=1)
    last_B2 = first_B2 + 1 + (chance_B4[:, 2:] * rest_B2).long()
    narrow_B2 = (last_B2 - first_B2 < NARROW).long() * NARROW
    first_B2 = (first_B2 - narrow_B2).clamp(min=0)
    last_B2 = torch.minimum(last_B2 + narrow_B2, length_B1)
    return torch.stack([first_B2, last_B2], dim=2)
