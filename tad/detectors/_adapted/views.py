"""Windows of frames as the encoder sees them: random crop, mirror and colours while training, the centre otherwise."""

# B windows, T frames, H rows, W columns, C colours

import math

import torch
from torch import Tensor
from torch.nn import functional as F

ASPECT = (3 / 4, 4 / 3)  # range of the aspect ratio of random crops, as published
DRAWS = 8  # random numbers of a window
GREY = (0.299, 0.587, 0.114)  # weights of the colours in brightness


def centre(x_BTHWC: Tensor, crop: int) -> Tensor:
    """Cut the central square; half of an odd margin is rounded to even."""
    top, left = (round((size - crop) / 2) for size in x_BTHWC.shape[2:4])
    return x_BTHWC[:, :, top : top + crop, left : left + crop]


def random_views(
    x_BTHWC: Tensor, chance_BN: Tensor, *, crop: int, scale: tuple[float, float], flip: float, jitter: float
) -> Tensor:
    """Crop, mirror and recolour windows of frames in 0..255; all frames of a window alike.

    Args:
        x_BTHWC: the frames.
        chance_BN: random numbers in [0, 1), `DRAWS` per window.
        crop: rows and columns of the result.
        scale: range of the area of crops, as a share of the frame.
        flip: share of mirrored windows.
        jitter: largest relative change of brightness, contrast and saturation.
    """
    rows = []
    for x_THWC, chance in zip(x_BTHWC, chance_BN.tolist(), strict=True):
        top, left, height, width = _box(x_THWC.shape[1], x_THWC.shape[2], chance, scale)
        x_TCHW = x_THWC[:, top : top + height, left : left + width].permute(0, 3, 1, 2)
        x_TCHW = F.interpolate(x_TCHW, size=(crop, crop), mode="bilinear", align_corners=False)
        x_TCHW = x_TCHW.flip(3) if chance[4] < flip else x_TCHW
        rows.append(_recoloured(x_TCHW, chance[5:8], jitter).permute(0, 2, 3, 1))
    return torch.stack(rows)


def _box(height: int, width: int, chance: list[float], scale: tuple[float, float]) -> tuple[int, int, int, int]:
    """Return top, left, height and width of a crop with a random area and aspect ratio, cut to the frame."""
    area = height * width * (scale[0] + (scale[1] - scale[0]) * chance[0])
    low, high = (math.log(ratio) for ratio in ASPECT)
    aspect = math.exp(low + (high - low) * chance[1])
    rows = min(max(round(math.sqrt(area / aspect)), 1), height)
    columns = min(max(round(math.sqrt(area * aspect)), 1), width)
    return int(chance[2] * (height - rows + 1)), int(chance[3] * (width - columns + 1)), rows, columns


def _recoloured(x_TCHW: Tensor, chance: list[float], jitter: float) -> Tensor:
    if not jitter:
        return x_TCHW
    brightness, contrast, saturation = (1 + jitter * (2 * one - 1) for one in chance)
    x_TCHW = x_TCHW * brightness
    grey_T1HW = (x_TCHW * x_TCHW.new_tensor(GREY).view(1, 3, 1, 1)).sum(1, keepdim=True)
    mean = grey_T1HW.mean()
    x_TCHW = mean + (x_TCHW - mean) * contrast
    grey_T1HW = mean + (grey_T1HW - mean) * contrast
    return (grey_T1HW + (x_TCHW - grey_T1HW) * saturation).clamp(0, 255)
