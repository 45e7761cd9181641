"""Losses of SPOT's class and mask streams, computed per video, or (published) over the whole batch."""

# B videos, T snippets, K classes (the background is class K)

import torch
from torch import Tensor
from torch.nn import functional as F

from tad.detectors._spot.targets import IGNORED, MaskTargets

EPSILON = 1e-6
SMOOTH = 10  # added to the counted entries
ENTROPY_WEIGHT, DICE_WEIGHT = 0.4, 0.6


def _focal(entropy: Tensor) -> Tensor:
    return 0.5 * (1 - torch.exp(-entropy)).square() * entropy


def class_loss(logits_BKT: Tensor, classes_BT: Tensor, *, focal: bool, summed: bool) -> Tensor:
    """Compute the focal cross-entropy of the labelled snippets, summed over the videos.

    Args:
        logits_BKT: class logits.
        classes_BT: class labels; `IGNORED` snippets do not count.
        focal: apply the focal weight to each snippet; published: to the mean over snippets.
        summed: average over the snippets of each video; published: over the batch, counted once per video.
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
    """Compute 0.4 · class-balanced binary cross-entropy + 0.6 · Dice loss, summed over the videos.

    Args:
        masks_BTT: mask probabilities.
        targets_BTT: target masks, 0 or 1.
        valid_BTT: entries that the loss covers.
        dice: include the factor 2 in the Dice numerator, which the published code lacks.
        summed: balance positives and negatives within each video; published: within the batch.
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
    """Compute the mean squared error over the snippets of each video, without padding, summed over the videos."""
    squared_BCT = (embedded_BCT.float() - x_BCT.detach().float()).square() * real_B1T
    return (squared_BCT.sum(dim=(1, 2)) / (real_B1T.sum(dim=(1, 2)) * x_BCT.shape[1])).sum()


def stacked(targets: list[MaskTargets]) -> tuple[Tensor, Tensor, Tensor]:
    """Stack the classes (B, T), masks and valid entries (B, T, T) of a batch."""
    classes = [target.classes_T for target in targets if target.classes_T is not None]
    masks = [target.masks_TT for target in targets if target.masks_TT is not None]
    valid = [target.valid_TT for target in targets if target.valid_TT is not None]
    assert len(classes) == len(masks) == len(valid) == len(targets)
    return torch.stack(classes), torch.stack(masks), torch.stack(valid)
