"""Bias initialisation for classes without instances.

EPIC-KITCHENS-100 has 300 nouns, and a few of them have no instance. ActionFormer and TriDet initialise the bias of such
classes far below that of the others; otherwise their losses dominate the first steps.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn

from tad.annotations.table import Table
from tad.detectors._points.heads import ClassHead

ABSENT = 1e-6  # initial probability, as published


def absent_classes(table: Table, labels: Sequence[str]) -> list[int]:
    """Return the indices of the labels without an instance in any split; empty for a class-agnostic detector."""
    present = {instance.label for video in table.videos.values() for instance in video.instances}
    return [k for k, label in enumerate(labels) if label in table.labels and label not in present]


@torch.no_grad()
def lower_initial_bias(detector: nn.Module, absent: Sequence[int]) -> None:
    """Set the bias of absent classes to probability `ABSENT` in all classification heads, boundary heads included."""
    for module in detector.modules():
        if isinstance(module, ClassHead) and absent:
            bias = module.cls_head.conv.bias
            assert bias is not None
            bias[list(absent)] = -math.log((1 - ABSENT) / ABSENT)
