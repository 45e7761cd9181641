"""Two frames → their optical flow, as the flow stream of I3D was trained on it: TV-L1, clamped, in 256 levels."""

import importlib
from typing import Any

import numpy as np

from tad.errors import TadError

# H rows, W columns


def _tvl1() -> Any:
    """OpenCV's TV-L1 with its defaults.

    Raises:
        TadError: OpenCV is absent, or lacks the contributed modules.
    """
    importlib.import_module("decord")  # before cv2: the other order has crashed decord
    try:
        cv2 = importlib.import_module("cv2")
    except ModuleNotFoundError:
        cv2 = None
    if cv2 is None or not hasattr(cv2, "optflow"):
        raise TadError("i3d.streams: flow needs TV-L1; pip install opencv-contrib-python-headless, or set streams: rgb")
    return cv2.optflow.DualTVL1OpticalFlow_create()


def grey(image_HW3: np.ndarray) -> np.ndarray:
    """(H, W) uint8 luma (BT.601) of an RGB image."""
    return np.asarray(np.rint(image_HW3 @ np.array([0.299, 0.587, 0.114])), dtype=np.uint8)


def tvl1_flow(first_HW3: np.ndarray, second_HW3: np.ndarray) -> np.ndarray:
    """Motion from the first to the second uint8 RGB image: (H, W, 2) float32, x then y, in pixels.

    "A Duality Based Approach for Realtime TV-L1 Optical Flow" (DAGM 2007); seconds per pair of frames on a CPU.

    Raises:
        TadError: OpenCV's contributed modules are not installed.
    """
    return np.asarray(_tvl1().calc(grey(first_HW3), grey(second_HW3), None), dtype=np.float32)


def quantise(flow: np.ndarray, *, bound: float) -> np.ndarray:
    """Flow in pixels → uint8 levels: clamped to ±bound, no motion at 128 (+0.0039 for the network, as trained)."""
    levels = np.rint(128 + 255 / (2 * bound) * np.asarray(flow, dtype=np.float32))
    return np.asarray(np.clip(levels, 0, 255), dtype=np.uint8)
