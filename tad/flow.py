"""Neighbouring frames → their optical flow as I3D's flow stream takes it: clamped to a bound, in 256 levels.

Methods, by the name that a recipe gives them:
  tvl1        TV-L1 (OpenCV contrib, extra `flow`): what the published weights and features were made with
  dis         dense inverse search (OpenCV, extra `flow`): about a hundred times quicker, another field
  raft_large, raft_small   RAFT (torchvision) with its published weights: a network, for a GPU
Only tvl1 makes features that may stand beside published ones; `NOTES` says so for the others.
"""

# B pairs, N frames, H rows, W columns; the last axis of a field is (x, y)

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tad.errors import TadError
from tad.vision import torchvision

Method = Callable[[Tensor, Tensor], Tensor]

RAFT_MULTIPLE, RAFT_LEAST = 8, 128  # pixels
RAFT_STEMS = ("feature_encoder.", "context_encoder.", "update_block.", "mask_predictor.")
STILL = 128  # the level of no motion
_OTHER = "does not match published I3D flow features, which are TV-L1's: never mix the two in one training set"
NOTES = {
    "tvl1": "the method of the published weights; OpenCV's, whose results differ slightly between its versions",
    "dis": _OTHER,
    "raft_large": _OTHER,
    "raft_small": _OTHER,
}


def _opencv(name: str) -> Any:
    """The module cv2.

    Raises:
        TadError: OpenCV is absent, or lacks the contributed modules that TV-L1 is in.
    """
    importlib.import_module("decord")  # before cv2: the other order has crashed decord
    try:
        cv2 = importlib.import_module("cv2")
    except ModuleNotFoundError:
        cv2 = None
    if cv2 is None or (name == "tvl1" and not hasattr(cv2, "optflow")):
        raise TadError(
            f"flow_method: {name} needs OpenCV with its contributed modules; pip install 'tad[flow]' "
            "(opencv-contrib-python-headless), or set streams (where there is none: modality) to rgb"
        )
    return cv2


class OpencvFlow:
    """TV-L1 ("A Duality Based Approach for Realtime TV-L1 Optical Flow", DAGM 2007) or DIS ("Fast Optical Flow using
    Dense Inverse Search", ECCV 2016; its medium preset) of grey frames, with OpenCV's defaults, on the CPU."""

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
    """RAFT ("RAFT: Recurrent All-Pairs Field Transforms for Optical Flow", ECCV 2020) as torchvision has it, after its
    12 updates. Frames are padded by repeated edges to multiples of 8 and at least 128 pixels; the field is cut back."""

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
    """Two uint8 RGB frames (H, W, 3) → the motion from the first to the second, (H, W, 2) float32: x, y in pixels.

    Raises:
        TadError: an unknown name; OpenCV or torchvision is not installed.
    """
    if name not in NOTES:
        raise TadError(f"flow_method: {name!r}: one of {', '.join(NOTES)}")
    return Raft(name) if name.startswith("raft") else OpencvFlow(name)


def quantise(field: Tensor, *, bound: float) -> Tensor:
    """Motion in pixels → uint8 levels: clamped to ±bound, then the linear map of [-bound, bound] to [0, 255], rounded.

    The map is the one that the authors of I3D describe. No motion lies between two levels and becomes 128, +0.0039 for
    the network. (video_features rounds 128 + 255/40 · motion instead: half a level more, and 256 at the upper end.)
    """
    levels = ((field.clamp(-bound, bound) + bound) * (255 / (2 * bound))).round()
    return levels.to(torch.uint8)


class FlowSteps:
    """One video's frames, in order and in any portions → the quantised flow into each of them from the one before.

    Every pair of neighbours is computed once, one pair at a time, however many clips will hold it; nothing but the last
    frame is kept. The field into the first frame is `STILL` everywhere.
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
        self._before = frames_NHWC[-1].clone()  # the portion's memory may be used again
        return torch.stack(levels)
