"""Frame preprocessing that the backbones share: resizing, cropping and scaling of uint8 clips.

Shapes: B clips, T frames, H rows, W columns, C channels, N frames of any clips.
"""

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

LOBES = 3  # of Lanczos' kernel, on either side


def resize_uint8(frames_NHWC: Tensor, size: tuple[int, int]) -> Tensor:
    """Antialiased bilinear resize of uint8 frames to exactly `size` (rows, columns), rounded to uint8.

    Frames that already have the size come back as they are, so the work can be done once for overlapping clips.
    On a CPU torch's uint8 kernel does it; its fixed-point weights may differ by one level from the float kernel.
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


@cache
def _lanczos(old: int, new: int) -> Tensor:
    """(new, old) weights of one axis: Lanczos with three lobes, widened where the axis shrinks, rows adding up to 1."""
    scale = old / new
    wide = max(scale, 1.0)
    away = (torch.arange(old, dtype=torch.float64) + 0.5 - (torch.arange(new)[:, None] + 0.5) * scale) / wide
    weights = torch.sinc(away) * torch.sinc(away / LOBES) * (away.abs() < LOBES)
    return (weights / weights.sum(dim=1, keepdim=True)).float()


def resize_lanczos(frames_NHWC: Tensor, size: tuple[int, int]) -> Tensor:
    """Antialiased Lanczos resize of uint8 frames of any channels to exactly `size` (rows, columns), as Pillow does it:
    columns first, whole levels in between and at the end. Frames that have the size come back as they are."""
    if tuple(frames_NHWC.shape[1:3]) == size:
        return frames_NHWC
    x_NCHW = frames_NHWC.permute(0, 3, 1, 2).float()
    (rows, columns), (height, width) = size, x_NCHW.shape[-2:]
    if width != columns:
        x_NCHW = (x_NCHW @ _lanczos(width, columns).to(x_NCHW.device).T).round_().clamp_(0, 255)
    if height != rows:
        x_NCHW = (_lanczos(height, rows).to(x_NCHW.device) @ x_NCHW).round_().clamp_(0, 255)
    return x_NCHW.to(torch.uint8).permute(0, 2, 3, 1)


def resize_float(clips_BTHWC: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize without antialias on float32 (align_corners off), as the published recipes do.

    Returns:
        (B, T, C, h, w) float32, in the range of the input.
    """
    b, t, h, w, c = clips_BTHWC.shape
    frames = clips_BTHWC.reshape(b * t, h, w, c).permute(0, 3, 1, 2).float()
    if (h, w) != size:
        frames = F.interpolate(frames, size=size, mode="bilinear", align_corners=False)
    return frames.reshape(b, t, c, *size)


def short_side(height: int, width: int, short: int) -> tuple[int, int]:
    """(rows, columns) with the shorter side `short` and the aspect ratio kept (longer side rounded down)."""
    if height <= width:
        return short, short * width // height
    return short * height // width, short


def center_crop(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle `size` of the last two axes; an odd margin is halved to even (Python's round, as torchvision does)."""
    height, width = frames.shape[-2:]
    top, left = round((height - size[0]) / 2), round((width - size[1]) / 2)
    return frames[..., top : top + size[0], left : left + size[1]]


def normalise(clips_BTCHW: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(value / 255 - mean) / std per channel, as the networks take it: (B, C, T, H, W) float32."""
    device = clips_BTCHW.device
    mean_C = torch.tensor(mean, device=device).view(-1, 1, 1)
    std_C = torch.tensor(std, device=device).view(-1, 1, 1)
    return ((clips_BTCHW.float() / 255 - mean_C) / std_C).transpose(1, 2)
