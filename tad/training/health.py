"""Whether a trained detector can still say where actions begin and end."""

# B videos, T points of a level, J distances of a point: start and end, of each class where each has its own

from typing import Any

import torch
from torch import Tensor

from tad.training.data import Windows

SIDES = ("start", "end")


@torch.no_grad()
def dead_offsets(detector: Any, weights: dict[str, Tensor], windows: Windows, device: torch.device) -> list[str]:
    """The sides to which a detector whose offsets pass a ReLU says 0 at every point of a batch: no gradient reaches
    them any more, and its detections begin or end at the wrong place. Seen in one training of three with wide features.

    Args:
        detector: gets the weights; those without such a ReLU (`rectified`) are not looked at.
        weights: that the training ends with.
        windows: of the videos that it was trained on; the first batch is looked at.
        device: that it computes on.
    """
    if not getattr(detector, "rectified", False):
        return []
    detector.load_state_dict(weights)
    detector.eval()
    batch = next(iter(windows.fixed_batches()))
    with torch.compiler.set_stance("force_eager"):  # a graph for one look would take minutes
        outputs = detector.observe(batch.feats_BTC.to(device), batch.lengths_B).outputs
    found_J2 = [
        (detector.distances(outputs, level) * mask_B1T).flatten(2).amax(dim=(0, 2)).view(-1, 2)
        for level, mask_B1T in enumerate(outputs.masks)
    ]
    most_2 = torch.stack(found_J2).amax(dim=(0, 1))
    return [side for side, most in zip(SIDES, most_2.tolist(), strict=True) if most <= 0]
