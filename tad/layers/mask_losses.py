"""The losses of SPOT's streams, each a value per video, or one for the whole batch as published."""

# B videos, T snippets, K classes (the background is class K)

import torch
from torch import Tensor
from torch.nn import functional as F

from tad.layers.mask_targets import IGNORED, MaskTargets

EPSILON = 1e-6
SMOOTH = 10  # entries that are added to those counted
ENTROPY_WEIGHT, DICE_WEIGHT = 0.4, 0.6


def _focal(entropy: Tensor) -> Tensor:
    return 0.5 * (1 - torch.exp(-entropy)).square() * entropy


def class_loss(logits_BKT: Tensor, classes_BT: Tensor, *, focal: bool, summed: bool) -> Tensor:
    """Cross entropy of the snippets that count, weighted by how wrong it is; the sum over the videos.

    Args:
        logits_BKT: of the classes.
        classes_BT: with `IGNORED` ones.
        focal: each snippet is weighted by itself; else their mean, as published.
        summed: video by video; else the mean of the batch is weighted (and counted once per video).
    """
    known_BT = classes_BT != IGNORED
    entropy_BT = F.cross_entropy(logits_BKT, classes_BT.clamp(min=0), reduction="none") * known_BT
    if focal:
        entropy_BT = _focal(entropy_BT)
    if summed:
        mean_B = entropy_BT.sum(dim=1) / known_BT.sum(dim=1).clamp(min=1)
    else:
        mean_B = (entropy_BT.sum() / known_BT.sum().clamp(min=1)).expand(len(entropy_BT))
    return (mean_B if focal else _focal(mean_B)).sum()


def mask_loss(masks_BTT: Tensor, targets_BTT: Tensor, valid_BTT: Tensor, *, dice: bool, summed: bool) -> Tensor:
    """0.4 times the balanced binary cross entropy plus 0.6 times the Dice loss; the sum over the videos.

    Args:
        masks_BTT: probabilities.
        targets_BTT: 0 or 1.
        valid_BTT: entries that count.
        dice: with the factor 2 in the numerator, which is missing in the published code.
        summed: the balance is that of each video; else that of the batch.
    """
    valid_BTT = valid_BTT.to(masks_BTT.dtype)
    over = (1, 2) if summed else (0, 1, 2)
    positives = SMOOTH + (targets_BTT * valid_BTT).sum(dim=over, keepdim=True)
    entries = SMOOTH + positives + ((1 - targets_BTT) * valid_BTT).sum(dim=over, keepdim=True)
    ratio = entries / positives
    hit_BTT = targets_BTT * torch.log(masks_BTT + EPSILON)
    miss_BTT = (1 - targets_BTT) * torch.log(1 - masks_BTT + EPSILON)
    weighted_BTT = (0.5 * ratio * hit_BTT + 0.5 * ratio / (ratio - 1) * miss_BTT) * valid_BTT
    entropy = -weighted_BTT.sum(dim=over) / entries.flatten()
    entropy = entropy.sum() if summed else entropy.sum() * len(masks_BTT)
    overlap_B = (masks_BTT * targets_BTT * valid_BTT).sum(dim=(1, 2))
    size_B = ((masks_BTT.square() + targets_BTT.square()) * valid_BTT).sum(dim=(1, 2))
    dice_B = 1 - ((2 if dice else 1) * overlap_B + 1) / (size_B + 1)
    known_B = valid_BTT.flatten(1).any(dim=1)
    return ENTROPY_WEIGHT * entropy + DICE_WEIGHT * (dice_B * known_B).sum()


def reconstruction_loss(embedded_BCT: Tensor, x_BCT: Tensor, real_B1T: Tensor) -> Tensor:
    """Mean squared difference over the real snippets of each video, summed over the videos."""
    squared_BCT = (embedded_BCT.float() - x_BCT.detach().float()).square() * real_B1T
    return (squared_BCT.sum(dim=(1, 2)) / (real_B1T.sum(dim=(1, 2)) * x_BCT.shape[1])).sum()


def stacked(targets: list[MaskTargets]) -> tuple[Tensor, Tensor, Tensor]:
    """Classes (B, T), masks and valid entries (B, T, T) of a batch."""
    classes = [target.classes_T for target in targets if target.classes_T is not None]
    masks = [target.masks_TT for target in targets if target.masks_TT is not None]
    valid = [target.valid_TT for target in targets if target.valid_TT is not None]
    assert len(classes) == len(masks) == len(valid) == len(targets)
    return torch.stack(classes), torch.stack(masks), torch.stack(valid)
