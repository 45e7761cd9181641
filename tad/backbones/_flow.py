"""Optical flow between consecutive frames as I3D's flow stream expects it: clamped to a bound, quantised to 256 levels.

Methods, by their names in settings:
  tvl1        TV-L1 (OpenCV contrib, extra `flow`): the method of the published weights and features
  dis         dense inverse search (OpenCV, extra `flow`): about a hundred times faster, with different results
  raft_large, raft_small   RAFT (torchvision) with its published weights: a network, for a GPU
Only features from tvl1 can be mixed with published ones; `NOTES` warns about the others.
"""

# B pairs, N frames, H rows, W columns; the last axis of a flow field is (x, y)

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tad.core.errors import TadError
from tad.core.optional import torchvision

Method = Callable[[Tensor, Tensor], Tensor]

RAFT_MULTIPLE, RAFT_LEAST = 8, 128  # pixels
RAFT_STEMS = ("feature_encoder.", "context_encoder.", "update_block.", "mask_predictor.")
STILL = 128  # quantised level of zero motion
_OTHER = "does not match published I3D flow features, which use TV-L1: never mix the two in one training set"
NOTES = {
    "tvl1": "the method of the published weights; results differ slightly between versions of OpenCV",
    "dis": _OTHER,
    "raft_large": _OTHER,
    "raft_small": _OTHER,
}


def _opencv(name: str) -> Any:
    """Import and return the module cv2.

    Raises:
        TadError: OpenCV is not installed, or lacks the contrib modules, which TV-L1 needs.
    """
    importlib.import_module("decord")  # before cv2: the other order can crash decord
    try:
        cv2 = importlib.import_module("cv2")
    except ModuleNotFoundError:
        cv2 = None
    if cv2 is None or (name == "tvl1" and not hasattr(cv2, "optflow")):
        raise TadError(
            f"flow_method: {name} needs OpenCV with its contrib modules; pip install opencv-contrib-python-headless, "
            "or set streams (where there is none: modality) to rgb"
        )
    return cv2


class OpencvFlow:
    """Optical flow by OpenCV on grey frames, on the CPU, with OpenCV's default parameters.

    TV-L1: "A Duality Based Approach for Realtime TV-L1 Optical Flow", DAGM 2007. DIS, medium preset: "Fast Optical Flow
    using Dense Inverse Search", ECCV 2016.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        _opencv(name)

    def __call__(self, first_HW3: Tensor, second_HW3: Tensor) -> Tensor:
        cv2 = _opencv(self.name)
        if self.name == "tvl1":
            algorithm = cv2.optflow.DualTVL1OpticalFlow_create()
        else:
            algorithm = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        grey = [cv2.cvtColor(f.cpu().numpy(), cv2.COLOR_RGB2GRAY) for f in (first_HW3, second_HW3)]
        field_HW2 = np.asarray(algorithm.calc(*grey, None), dtype=np.float32)
        return torch.from_numpy(field_HW2).to(first_HW3.device)


class Raft(nn.Module):
    """Optical flow by torchvision's RAFT with 12 updates.

    "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow", ECCV 2020. Frames are padded by replicated edges to
    multiples of 8 and at least 128 pixels; the flow field is cropped back.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        torchvision()
        models = importlib.import_module("torchvision.models.optical_flow")
        self.network = getattr(models, name)(weights=None, progress=False)

    def forward(self, first_HW3: Tensor, second_HW3: Tensor) -> Tensor:
        pair_BCHW = torch.stack([first_HW3, second_HW3]).permute(0, 3, 1, 2).contiguous() / 127.5 - 1
        height, width = pair_BCHW.shape[-2:]
        rows, columns = (max(-(-n // RAFT_MULTIPLE) * RAFT_MULTIPLE, RAFT_LEAST) - n for n in (height, width))
        top, left = rows // 2, columns // 2
        padded = F.pad(pair_BCHW, (left, columns - left, top, rows - top), mode="replicate")
        field_2HW: Tensor = self.network(padded[:1], padded[1:])[-1][0]
        return field_2HW[:, top : top + height, left : left + width].permute(1, 2, 0)


def method(name: str) -> Method:
    """Return the named flow method: two uint8 RGB frames (H, W, 3) → motion (H, W, 2) float32, x and y in pixels.

    Raises:
        TadError: the name is unknown, or OpenCV or torchvision is not installed.
    """
    if name not in NOTES:
        raise TadError(f"flow_method: {name!r}: must be one of {', '.join(NOTES)}")
    return Raft(name) if name.startswith("raft") else OpencvFlow(name)


def quantise(field: Tensor, *, bound: float) -> Tensor:
    """Quantise motion in pixels to uint8: clamp it to ±bound, then map [-bound, bound] linearly to [0, 255] and round.

    This is the mapping that the authors of I3D describe. Zero motion lies between two levels and becomes 128, which is
    +0.0039 for the network. (video_features rounds 128 + 255/40 · motion: half a level more, and 256 at the upper end.)
    """
    levels = ((field.clamp(-bound, bound) + bound) * (255 / (2 * bound))).round()
    return levels.to(torch.uint8)


class FlowSteps:
    """Compute the quantised flow from the previous frame to each frame of a video.

    Frames are given in order, in chunks of any size. Each pair of consecutive frames is computed once, however many
    clips contain it, and only the last frame is stored. The flow of the first frame is `STILL` everywhere.
    """

    def __init__(self, motion: Method, *, bound: float) -> None:
        self._motion, self._bound = motion, bound
        self._before: Tensor | None = None

    def __call__(self, frames_NHWC: Tensor) -> Tensor:
        """(N, H, W, 3) uint8 → (N, H, W, 2) uint8."""
        levels, before = [], self._before
        for frame in frames_NHWC:
            if before is None:
                levels.append(torch.full_like(frame[..., :2], STILL))
            else:
                levels.append(quantise(self._motion(before, frame), bound=self._bound))
            before = frame
        self._before = frames_NHWC[-1].clone()  # the caller may reuse the chunk's memory
        return torch.stack(levels)
