"""TSP's R(2+1)D-34 and R(2+1)D-18, trained for localisation: 512-dimensional features of 16-frame clips.

"TSP: Temporally-Sensitive Pretraining of Video Encoders for Localization Tasks" (ICCV-W 2021); the network is that of
"A Closer Look at Spatiotemporal Convolutions for Action Recognition" (CVPR 2018). Parameter names are torchvision's.
Shapes: B clips, T frames, H rows, W columns, C channels, N frames.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from tad.backbones._contract import BackboneBase
from tad.backbones._frames import center_crop, normalise, resize_float
from tad.backbones._sharing import run_features
from tad.backbones.tsp_settings import Settings

LAYERS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
WIDTHS = (64, 128, 256, 512)


def middle_width(c_in: int, c_out: int) -> int:
    """Return the channels between both convolutions, so that the pair has as many weights as one 3-D convolution."""
    return c_in * c_out * 27 // (c_in * 9 + 3 * c_out)


def _pair(c_in: int, middle: int, c_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(c_in, middle, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False),
        nn.BatchNorm3d(middle),
        nn.ReLU(inplace=True),
        nn.Conv3d(middle, c_out, (3, 1, 1), (stride, 1, 1), (1, 0, 0), bias=False),
    )


class Block(nn.Module):
    """Residual block of two factorised convolutions.

    torchvision derives one middle width per block from the block's input; the 34-layer weights have one per convolution
    (`own_width`), which is larger where the block increases the channels.
    """

    def __init__(self, c_in: int, c_out: int, stride: int, *, own_width: bool) -> None:
        super().__init__()
        first = middle_width(c_in, c_out)
        second = middle_width(c_out, c_out) if own_width else first
        self.conv1 = nn.Sequential(_pair(c_in, first, c_out, stride), nn.BatchNorm3d(c_out), nn.ReLU(inplace=True))
        self.conv2 = nn.Sequential(_pair(c_out, second, c_out, 1), nn.BatchNorm3d(c_out))
        self.downsample: nn.Module | None = None
        if stride != 1 or c_in != c_out:
            self.downsample = nn.Sequential(nn.Conv3d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm3d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.downsample is None else self.downsample(x)
        return torch.relu(self.conv2(self.conv1(x)) + skip)


class Backbone(BackboneBase):
    """R(2+1)D: clips (B, T, H, W, 3) uint8 RGB of any size → (B, 512) float32; any T."""

    shares: ClassVar[bool] = True
    trainable: ClassVar[bool] = True
    layer1: nn.Sequential

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        depth = settings.depth
        self.dim = WIDTHS[-1]
        self.frame_size, self.crop_size = settings.frame_size, (settings.crop, settings.crop)
        self.mean, self.std = settings.mean, settings.std
        self.stem = nn.Sequential(
            nn.Conv3d(3, 45, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False),
            nn.BatchNorm3d(45),
            nn.ReLU(inplace=True),
            nn.Conv3d(45, 64, (3, 1, 1), 1, (1, 0, 0), bias=False),
            nn.BatchNorm3d(64),
            nn.ReLU(inplace=True),
        )
        c_in = WIDTHS[0]
        for k, (count, width) in enumerate(zip(LAYERS[depth], WIDTHS, strict=True), 1):
            blocks = []
            for block in range(count):
                stride = 2 if block == 0 and k > 1 else 1
                blocks.append(Block(c_in, width, stride, own_width=depth == 34))
                c_in = width
            setattr(self, f"layer{k}", nn.Sequential(*blocks))
        if depth == 34:  # as converted from the Caffe2 weights
            for module in self.modules():
                if isinstance(module, nn.BatchNorm3d):
                    module.eps, module.momentum = 1e-3, 0.9

    def published_keys(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the encoder of a TSP checkpoint (`features.`) or of a plain R(2+1)D one, without heads (`fc*`)."""
        names = {key.removeprefix("features."): tensor for key, tensor in state.items()}
        return {name: tensor for name, tensor in names.items() if not name.startswith("fc")}

    def shrink(self, frames_NHWC: Tensor) -> Tensor:
        """Resize whole frames to `frame_size`, ignoring the aspect ratio: (N, h, w, 3) float32 in 0..255, unrounded."""
        if tuple(frames_NHWC.shape[1:3]) == self.frame_size:
            return frames_NHWC
        return resize_float(frames_NHWC[None], self.frame_size)[0].permute(0, 2, 3, 1)

    def networks(self) -> list[nn.Module]:
        """Return this module itself."""
        return [self]

    def features(self, x_BCTHW: Tensor) -> Tensor:
        """Return the pooled features (B, 512) of a normalised input."""
        return self._rest(self.layer1(self.stem(x_BCTHW)))

    def _rest(self, x_BCTHW: Tensor) -> Tensor:
        for k in range(2, 5):
            x_BCTHW = getattr(self, f"layer{k}")(x_BCTHW)
        return x_BCTHW.mean(dim=(2, 3, 4))

    def encode(self, clips_BTHWC: Tensor) -> Tensor:
        """Return features (B, 512) of clips (values in 0..255) that are already cropped."""
        return self.features(self._normalised(clips_BTHWC))

    def overlapping(self, frames_NHWC: Tensor, *, length: int, stride: int) -> Tensor:
        """Return features (G, 512) of clips that start every `stride` consecutive frames, equal to separate clips'."""
        return run_features(
            self._normalised(self._cropped(frames_NHWC[None])), length=length, stride=stride, stem=self.stem,
            stage=self.layer1, rest=self._rest,
        )  # fmt: skip

    def _cropped(self, clips_BTHWC: Tensor) -> Tensor:
        frames_NHWC = self.shrink(clips_BTHWC.flatten(0, 1))
        cropped = center_crop(frames_NHWC.permute(0, 3, 1, 2), self.crop_size).permute(0, 2, 3, 1)
        return cropped.reshape(*clips_BTHWC.shape[:2], *cropped.shape[1:])

    def _normalised(self, clips_BTHWC: Tensor) -> Tensor:
        return normalise(clips_BTHWC.permute(0, 1, 4, 2, 3), self.mean, self.std)

    def forward(self, clips_BTHWC: Tensor) -> Tensor:
        return self.encode(self._cropped(clips_BTHWC))
