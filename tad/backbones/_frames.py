"""Preprocessing that the backbones share: resizing, cropping and normalisation of uint8 clips.

Shapes: B clips, T frames, H rows, W columns, C channels, N frames of any clips.
"""

from collections.abc import Sequence
from functools import cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

Kernel = Literal["bilinear", "bicubic", "lanczos"]
REACH = {"bilinear": 1, "bicubic": 2, "lanczos": 3}  # pixels on either side


def resize_uint8(frames_NHWC: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize uint8 frames to exactly `size` (rows, columns) by antialiased bilinear interpolation, rounded to uint8.

    Frames that already have the size are returned unchanged, so that frames of overlapping clips are resized once.
    On a CPU, torch's uint8 kernel is used; its fixed-point weights may differ by one level from the float kernel.
    """
    if tuple(frames_NHWC.shape[1:3]) == size:
        return frames_NHWC
    frames_NCHW = frames_NHWC.permute(0, 3, 1, 2)
    if frames_NCHW.device.type == "cpu":
        small = F.interpolate(frames_NCHW, size=size, mode="bilinear", antialias=True)
    else:
        small = F.interpolate(frames_NCHW.float(), size=size, mode="bilinear", antialias=True)
        small = small.round_().clamp_(0, 255).to(torch.uint8)
    return small.permute(0, 2, 3, 1)


def _kernel(name: Kernel, away: Tensor) -> Tensor:
    """Return the weights of a resampling kernel at distances `away`, in pixels of the coarser grid."""
    if name == "lanczos":
        return torch.sinc(away) * torch.sinc(away / REACH[name]) * (away.abs() < REACH[name])
    if name == "bilinear":
        return (1 - away.abs()).clamp(min=0)
    x, a = away.abs(), -0.5  # bicubic convolution (Keys 1981)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x < 1, near, torch.where(x < REACH[name], far, torch.zeros_like(x)))


@cache
def _resampling(old: int, new: int, kernel: Kernel) -> Tensor:
    """Return the resampling matrix (new, old) of one axis: the kernel, widened for downscaling; rows sum to 1."""
    scale = old / new
    wide = max(scale, 1.0)
    away = (torch.arange(old, dtype=torch.float64) + 0.5 - (torch.arange(new)[:, None] + 0.5) * scale) / wide
    weights = _kernel(kernel, away)
    return (weights / weights.sum(dim=1, keepdim=True)).float()


def _resize_by_matrices(frames_NHWC: Tensor, size: tuple[int, int], kernel: Kernel) -> Tensor:
    """Resize uint8 frames with any number of channels; columns first, and both steps round to integers, as in Pillow.

    Pillow's fixed-point weights may differ by one level.
    """
    x_NCHW = frames_NHWC.permute(0, 3, 1, 2).float()
    (rows, columns), (height, width) = size, x_NCHW.shape[-2:]
    if width != columns:
        x_NCHW = (x_NCHW @ _resampling(width, columns, kernel).to(x_NCHW.device).T).round_().clamp_(0, 255)
    if height != rows:
        x_NCHW = (_resampling(height, rows, kernel).to(x_NCHW.device) @ x_NCHW).round_().clamp_(0, 255)
    return x_NCHW.to(torch.uint8).permute(0, 2, 3, 1)


def resize_lanczos(frames_NHWC: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize uint8 frames with any number of channels to exactly `size` (rows, columns) by antialiased Lanczos.

    Frames that already have the size are returned unchanged.
    """
    return frames_NHWC if tuple(frames_NHWC.shape[1:3]) == size else _resize_by_matrices(frames_NHWC, size, "lanczos")


def resize_pillow(frames_NHWC: Tensor, size: tuple[int, int], kernel: Kernel) -> Tensor:
    """Resize uint8 RGB frames to exactly `size` (rows, columns) by Pillow, with antialiasing.

    On another device than the CPU, matrices with the same kernel are used, which may differ by one level. Frames that
    already have the size are returned unchanged.
    """
    if tuple(frames_NHWC.shape[1:3]) == size:
        return frames_NHWC
    if frames_NHWC.device.type != "cpu":
        return _resize_by_matrices(frames_NHWC, size, kernel)
    how = Image.Resampling[kernel.upper()]
    small = [np.asarray(Image.fromarray(frame).resize(size[::-1], how)) for frame in frames_NHWC.numpy()]
    return torch.from_numpy(np.stack(small))


def resize_float(clips_BTHWC: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize by bilinear interpolation without antialiasing in float32 (align_corners off), as published recipes do.

    Returns:
        (B, T, C, h, w) float32, in the range of the input.
    """
    b, t, h, w, c = clips_BTHWC.shape
    frames = clips_BTHWC.reshape(b * t, h, w, c).permute(0, 3, 1, 2).float()
    if (h, w) != size:
        frames = F.interpolate(frames, size=size, mode="bilinear", align_corners=False)
    return frames.reshape(b, t, c, *size)


def short_side(height: int, width: int, short: int) -> tuple[int, int]:
    """Return (rows, columns) with the shorter side `short` and the same aspect ratio (longer side rounded down)."""
    if height <= width:
        return short, short * width // height
    return short * height // width, short


def center_crop(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Crop the centre `size` of the last two axes; half of an odd margin is rounded to even, as in torchvision."""
    height, width = frames.shape[-2:]
    top, left = round((height - size[0]) / 2), round((width - size[1]) / 2)
    return frames[..., top : top + size[0], left : left + size[1]]


def normalise(clips_BTCHW: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return (value / 255 - mean) / std per channel, in the networks' layout: (B, C, T, H, W) float32."""
    device = clips_BTCHW.device
    mean_C = torch.tensor(mean, device=device).view(-1, 1, 1)
    std_C = torch.tensor(std, device=device).view(-1, 1, 1)
    return ((clips_BTCHW.float() / 255 - mean_C) / std_C).transpose(1, 2)
