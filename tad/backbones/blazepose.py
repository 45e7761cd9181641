"""BlazePose (full): 39 landmarks of a person with five values each, and the person's presence, pooled over a clip.

"BlazePose: On-device Real-time Body Pose tracking" (2020). The model comes in the Python package mediapipe
(Apache-2.0) as a TensorFlow Lite file, which OpenVINO computes on the CPU.

The network expects one person in the centre of a square; here this is the central square of the frame. Without a person
the landmarks are noise, so the presence (0 to 1) is kept as the last value of each frame.
"""

# N frames, H rows, W columns, D values

import importlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from tad.backbones._frames import center_crop, resize_pillow
from tad.backbones._framewise import FrameEncoder
from tad.backbones.blazepose_settings import Settings
from tad.core.errors import TadError

SIDE = 256
VALUES = 196  # 39 landmarks: x, y and z in pixels, logits of visibility and presence; then the person's presence


class Backbone(FrameEncoder):
    """BlazePose: clips (B, T, H, W, 3) uint8 RGB → (B, 196 per kind of pooling) float32; any T."""

    model_file: ClassVar[bool] = True

    def __init__(self, settings: Settings) -> None:
        super().__init__("blazepose", settings, dim=VALUES)
        self._model: Any = None

    def load_model(self, path: Path) -> None:
        """Read the TensorFlow Lite file.

        Raises:
            TadError: OpenVINO is not installed, or the file is not such a model.
        """
        try:
            openvino = importlib.import_module("openvino")
        except ImportError:
            raise TadError("backbone blazepose: OpenVINO is not installed; pip install openvino") from None
        core = openvino.Core()
        try:
            model = core.read_model(path)
        except RuntimeError:
            raise TadError(f"{path}: not a TensorFlow Lite model; use the file of mediapipe 0.10.14") from None
        shapes = [list(model.input(0).shape), *(list(output.shape) for output in model.outputs[:2])]
        if shapes != [[1, SIDE, SIDE, 3], [1, VALUES - 1], [1, 1]]:
            raise TadError(f"{path}: not BlazePose's model (shapes {shapes}); use the file of mediapipe 0.10.14")
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        self._model = core.compile_model(model, "CPU", settings)

    def shrink(self, frames_NHWC: Tensor) -> Tensor:
        """Crop the central square of uint8 frames and resize it (bilinear, as Pillow)."""
        side = min(frames_NHWC.shape[1:3])
        square_NHWC = center_crop(frames_NHWC.permute(0, 3, 1, 2), (side, side)).permute(0, 2, 3, 1)
        return resize_pillow(square_NHWC, (SIDE, SIDE), "bilinear")

    def frame_values(self, frames_NHWC: Tensor) -> Tensor:
        """Return the values (N, 196) of resized uint8 frames.

        Raises:
            TadError: no model was loaded; it cannot be replaced by random weights.
        """
        if self._model is None:
            raise TadError("backbone blazepose: no model is loaded; give its file as weights")
        rows = []
        for frame_HWC in frames_NHWC.cpu().numpy().astype(np.float32) / 255:
            outputs = self._model(frame_HWC[None])
            rows.append(np.concatenate([outputs[0][0], outputs[1][0]]))
        return torch.from_numpy(np.stack(rows)).to(frames_NHWC.device)
