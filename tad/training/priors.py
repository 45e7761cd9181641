"""Classes that no video shows → a start at which the detector does not look for them.

EPIC-KITCHENS-100 has 300 nouns, a few of them without any instance; ActionFormer and TriDet let those begin far below
the others, so that unlearning them does not dominate the first steps.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn

from tad.annotations import Table
from tad.layers.heads import ClassHead

ABSENT = 1e-6  # probability at the start, as published


def absent_classes(table: Table, labels: Sequence[str]) -> list[int]:
    """Indices of the labels of a table that have no instance in any split; none of a detector's one class."""
    present = {instance.label for video in table.videos.values() for instance in video.instances}
    return [k for k, label in enumerate(labels) if label in table.labels and label not in present]


@torch.no_grad()
def silence(detector: nn.Module, absent: Sequence[int]) -> None:
    """Let the classes with these indices begin at `ABSENT` in every head that scores classes, boundaries included."""
    for module in detector.modules():
        if isinstance(module, ClassHead) and absent:
            bias = module.cls_head.conv.bias
            assert bias is not None
            bias[list(absent)] = -math.log((1 - ABSENT) / ABSENT)
