"""Inception-V1 inflated to 3-D with TensorFlow's padding: I3D's network ("Quo Vadis, Action Recognition?", CVPR 2017).

Parameter names are those of the PyTorch conversion `rgb_imagenet.pt` / `flow_imagenet.pt`.
Shapes: B clips, T frames, C channels, H rows, W columns, K classes.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CELLS = 7  # on a side, that the published pooling averages
# block: input channels, then the widths of b0, b1a, b1b, b2a, b2b, b3b
MIXED = {
    "3b": (192, 64, 96, 128, 16, 32, 32),
    "3c": (256, 128, 128, 192, 32, 96, 64),
    "4b": (480, 192, 96, 208, 16, 48, 64),
    "4c": (512, 160, 112, 224, 24, 64, 64),
    "4d": (512, 128, 128, 256, 24, 64, 64),
    "4e": (512, 112, 144, 288, 32, 64, 64),
    "4f": (528, 256, 160, 320, 32, 128, 128),
    "5b": (832, 256, 160, 320, 32, 128, 128),
    "5c": (832, 384, 192, 384, 48, 128, 128),
}


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the (front, back) padding of one dimension under TensorFlow's SAME rule; an odd zero goes to the end."""
    total = max(kernel - (size % stride or stride), 0)
    return total // 2, total - total // 2


def _pad(x_BCTHW: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    pads = [same_padding(n, k, s) for n, k, s in zip(x_BCTHW.shape[2:], kernel, stride, strict=True)]
    flat = [side for pad in reversed(pads) for side in pad]
    return F.pad(x_BCTHW, flat) if any(flat) else x_BCTHW


class Unit(nn.Module):
    """Convolution with SAME padding, batch norm, ReLU; the classifier has a bias instead of the last two."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1, *, classifier: bool = False) -> None:
        super().__init__()
        self.kernel, self.stride = (kernel,) * 3, (stride,) * 3
        self.conv3d = nn.Conv3d(c_in, c_out, self.kernel, self.stride, bias=classifier)
        # a momentum of 0.01 corresponds to TensorFlow's decay of 0.99; eps as in the published graph
        self.bn = None if classifier else nn.BatchNorm3d(c_out, eps=1e-3, momentum=0.01)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        out: Tensor = self.conv3d(_pad(x_BCTHW, self.kernel, self.stride))
        return out if self.bn is None else torch.relu(self.bn(out))


class MaxPool(nn.Module):
    """Max pooling with SAME padding; zero padding is harmless because the inputs are never negative."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return F.max_pool3d(_pad(x_BCTHW, self.kernel, self.stride), self.kernel, self.stride)


class Mixed(nn.Module):
    """Inception block: four branches, concatenated."""

    def __init__(self, c_in: int, b0: int, b1a: int, b1b: int, b2a: int, b2b: int, b3b: int) -> None:
        super().__init__()
        self.b0 = Unit(c_in, b0)
        self.b1a, self.b1b = Unit(c_in, b1a), Unit(b1a, b1b, 3)
        self.b2a, self.b2b = Unit(c_in, b2a), Unit(b2a, b2b, 3)
        self.b3a, self.b3b = MaxPool((3, 3, 3), (1, 1, 1)), Unit(c_in, b3b)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))], dim=1)


class Inception(nn.Module):
    """One stream. Input (B, C, T, H, W) in [-1, 1], T > 8; H and W 224 as published (7 x 7 cells remain), or any."""

    def __init__(self, *, channels: int, num_classes: int) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(channels, 64, 7, 2)
        self.MaxPool3d_2a_3x3 = MaxPool((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = Unit(64, 64)
        self.Conv3d_2c_3x3 = Unit(64, 192, 3)
        self.MaxPool3d_3a_3x3 = MaxPool((1, 3, 3), (1, 2, 2))
        self.Mixed_3b, self.Mixed_3c = Mixed(*MIXED["3b"]), Mixed(*MIXED["3c"])
        self.MaxPool3d_4a_3x3 = MaxPool((3, 3, 3), (2, 2, 2))
        self.Mixed_4b, self.Mixed_4c, self.Mixed_4d = Mixed(*MIXED["4b"]), Mixed(*MIXED["4c"]), Mixed(*MIXED["4d"])
        self.Mixed_4e, self.Mixed_4f = Mixed(*MIXED["4e"]), Mixed(*MIXED["4f"])
        self.MaxPool3d_5a_2x2 = MaxPool((2, 2, 2), (2, 2, 2))
        self.Mixed_5b, self.Mixed_5c = Mixed(*MIXED["5b"]), Mixed(*MIXED["5c"])
        self.logits = Unit(1024, num_classes, classifier=True)
        self.order = [name for name, _ in self.named_children() if name != "logits"]

    def features(self, x_BCTHW: Tensor) -> Tensor:
        """(B, 1024, T') average-pooled features: 1 row for 9 to 16 frames, 2 for 17 to 24, and so on."""
        for name in self.order:
            x_BCTHW = getattr(self, name)(x_BCTHW)
        height, width = (min(CELLS, size) for size in x_BCTHW.shape[3:])
        return F.avg_pool3d(x_BCTHW, (2, height, width), stride=1).mean(dim=(3, 4))

    def taps(self, x_BCTHW: Tensor, names: Sequence[str]) -> list[Tensor]:
        """Return the outputs of some blocks, in this order; blocks after the last one are not computed."""
        outputs = []
        for name in self.order:
            x_BCTHW = getattr(self, name)(x_BCTHW)
            if name in names:
                outputs.append(x_BCTHW)
            if len(outputs) == len(names):
                break
        return outputs

    def classify(self, feats_BCT: Tensor) -> Tensor:
        """(B, K, T') class scores of features, before the softmax."""
        scores: Tensor = self.logits(feats_BCT[..., None, None])
        return scores[..., 0, 0]
