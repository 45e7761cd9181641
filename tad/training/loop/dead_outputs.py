"""Detection of dead regression outputs in a trained detector."""

# B videos, T points of a level, J distances of a point (start and end, per class if offsets are class-specific)

import torch
from torch import Tensor

from tad.layers.contract import DetectorBase
from tad.training.data.windows import Windows

SIDES = ("start", "end")


@torch.no_grad()
def dead_offsets(
    detector: DetectorBase, weights: dict[str, Tensor], windows: Windows, device: torch.device
) -> list[str]:
    """Detect dead ReLU outputs of the regression head: sides ("start", "end") whose distance is 0 at every point.

    No gradient reaches such an output any more, and the detections start or end at the wrong place. This was observed
    in one of three trainings on wide features.

    Args:
        detector: receives the weights; detectors whose offsets pass no ReLU (`rectified`) return no sides.
        weights: final weights of the training.
        windows: training windows; only the first batch is checked.
        device: device to compute on.
    """
    if not detector.rectified:
        return []
    detector.load_state_dict(weights)
    detector.eval()
    batch = next(iter(windows.fixed_batches()))
    with torch.compiler.set_stance("force_eager"):  # compiling for a single batch would take minutes
        outputs = detector.observe(batch.feats_BTC.to(device), batch.lengths_B).outputs
    largest_J2 = [
        (detector.distances(outputs, level) * mask_B1T).flatten(2).amax(dim=(0, 2)).view(-1, 2)
        for level, mask_B1T in enumerate(outputs.masks)
    ]
    largest_2 = torch.stack(largest_J2).amax(dim=(0, 1))
    return [side for side, largest in zip(SIDES, largest_2.tolist(), strict=True) if largest <= 0]
