"""SPOT's boundary refinement: a contrastive loss that pulls hard snippets near borders towards easy snippets.

Easy snippets are those with the highest class probabilities; hard ones lie in a band along the borders of the predicted
masks. Snippets are gathered over time; the published code gathers over channels.
"""

# T snippets of one video, C channels, K classes (the background is class K)

import torch
from torch import Tensor
from torch.nn import functional as F

TEMPERATURE = 0.07
EASY, HARD = 10, 20  # numbers of snippets
WIDE, SLIM = 8, 4  # sides of the square structuring elements
HIDDEN = 0.3  # fraction of snippets excluded from the easy ones, drawn at random in every step


def _dilated(mask_TT: Tensor, side: int) -> Tensor:
    before, after = (side - 1) // 2, side // 2
    padded = F.pad(mask_TT[None, None], (before, after, before, after))
    return F.max_pool2d(padded, side, stride=1)[0, 0]


def _eroded(mask_TT: Tensor, side: int) -> Tensor:
    return 1 - _dilated(1 - mask_TT, side)


def bands(masks_TT: Tensor) -> tuple[Tensor, Tensor]:
    """Return each snippet's weight (T,) in the band inside the borders of the masks, and in the band outside."""
    inside_TT = (masks_TT > masks_TT.median()).float()
    inner_TT = _eroded(inside_TT, SLIM) - _eroded(inside_TT, WIDE)
    outer_TT = _dilated(inside_TT, WIDE) - _dilated(inside_TT, SLIM)
    return (masks_TT * inner_TT).sum(dim=0), (masks_TT * outer_TT).sum(dim=0)


def _best(score_T: Tensor, count: int) -> Tensor:
    """Return the `count` snippets with the highest positive scores."""
    value_N, index_N = score_T.topk(min(count, len(score_T)))
    return index_N[value_N > 0]


def _information(query_C: Tensor, positive_C: Tensor, negative_NC: Tensor) -> Tensor:
    """Compute the InfoNCE loss of one query; vectors need not be normalised."""
    query_C, positive_C = F.normalize(query_C, dim=0), F.normalize(positive_C, dim=0)
    logits = torch.cat([(query_C @ positive_C)[None], F.normalize(negative_NC, dim=1) @ query_C]) / TEMPERATURE
    return -logits.log_softmax(dim=0)[0]


def boundary_contrast(embedded_TC: Tensor, logits_KT: Tensor, masks_TT: Tensor, chance_T: Tensor | None) -> Tensor:
    """Compute the contrastive loss of one video, given without padding; 0 if it has no hard snippets.

    Args:
        embedded_TC: snippet embeddings.
        logits_KT: class logits.
        masks_TT: mask probabilities.
        chance_T: uniform random numbers; None: no snippet is excluded.
    """
    with torch.no_grad():
        classes_T = logits_KT[:-1].argmax(dim=0)
        class_ = int(classes_T.mode().values)
        probability_KT = logits_KT.softmax(dim=0)
        shown_T = torch.ones_like(classes_T) if chance_T is None else (chance_T >= HIDDEN).long()
        action_N = _best(probability_KT[class_] * shown_T, EASY)
        background_N = _best(probability_KT[-1] * shown_T, EASY)
        near_T, far_T = bands(masks_TT)
        near_N, far_N = _best(near_T, HARD), _best(far_T, HARD)
    loss = embedded_TC.new_zeros(())
    if not (len(action_N) and len(background_N)):
        return loss
    action_NC, background_NC = embedded_TC[action_N].float(), embedded_TC[background_N].float()
    if len(near_N):
        loss = loss + _information(embedded_TC[near_N].float().mean(dim=0), action_NC.mean(dim=0), background_NC)
    if len(far_N):
        loss = loss + _information(embedded_TC[far_N].float().mean(dim=0), background_NC.mean(dim=0), action_NC)
    return loss
