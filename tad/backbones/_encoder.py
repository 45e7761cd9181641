"""Base of most clip encoders: resize, centre crop and normalisation before the network.

Shapes: B clips, T frames, H rows, W columns, C channels, N frames of any clips.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from tad.backbones._contract import BackboneBase
from tad.backbones._frames import center_crop, normalise, resize_float, resize_uint8, short_side
from tad.backbones._settings import ResizedSettings, ShortSideSettings
from tad.core.errors import TadError

Resampling = Literal["float", "uint8", "antialias"]


class ClipEncoder(BackboneBase, ABC):
    """Base of clip encoders: clips (B, T, H, W, 3) uint8 RGB → (B, dim) float32; a subclass sets `dim` and `features`.

    Args:
        name: name of the backbone, for messages.
        settings: settings of the backbone.
        resampling: `float`: bilinear without antialiasing, not rounded; `uint8`: the same, rounded to integers as by
            torchvision's presets for uint8 frames; `antialias`: bilinear with antialiasing, rounded.
        length: number of frames that the network accepts; 0: any.
    """

    def __init__(
        self, name: str, settings: ResizedSettings | ShortSideSettings, *, resampling: Resampling, length: int = 0
    ) -> None:
        super().__init__()
        # one number: length of the shorter side, aspect ratio preserved; two: rows and columns, aspect ratio ignored
        self.resize: tuple[int, ...] = settings.resize if isinstance(settings, ResizedSettings) else (settings.short,)
        self.name, self.crop, self.resampling, self.length = name, settings.crop, resampling, length
        self.mean, self.std = settings.mean, settings.std

    def shrink(self, frames_NHWC: Tensor) -> Tensor:
        """Resize whole frames to uint8, or with `float` to float32 in 0..255.

        Frames that already have the size are returned unchanged, so that frames of overlapping clips are resized once.
        """
        height, width = frames_NHWC.shape[1:3]
        size = short_side(height, width, self.resize[0])
        if len(self.resize) == 2:
            size = (self.resize[0], self.resize[1])
        if size == (height, width):
            return frames_NHWC
        if self.resampling == "antialias":
            return resize_uint8(frames_NHWC, size)
        small = resize_float(frames_NHWC[None], size)[0].permute(0, 2, 3, 1)
        return small if self.resampling == "float" else small.round().to(torch.uint8)

    def prepare(self, clips_BTHWC: Tensor) -> Tensor:
        """Return the network's input (B, C, T, crop, crop) float32."""
        b, t = clips_BTHWC.shape[:2]
        if self.length not in (0, t):
            raise TadError(f"{self.name}: clip.length {t}: the network needs {self.length} frames; set {self.length}")
        frames_NHWC = self.shrink(clips_BTHWC.flatten(0, 1))
        frames_NCHW = center_crop(frames_NHWC.permute(0, 3, 1, 2), (self.crop, self.crop))
        clips_BTCHW = frames_NCHW.reshape(b, t, *frames_NCHW.shape[1:])
        return normalise(clips_BTCHW, self.mean, self.std)

    def networks(self) -> list[nn.Module]:
        """Return this module itself."""
        return [self]

    @abstractmethod
    def features(self, x_BCTHW: Tensor) -> Tensor:
        """Return the features (B, dim) of a prepared input."""

    def forward(self, clips_BTHWC: Tensor) -> Tensor:
        return self.features(self.prepare(clips_BTHWC))


def fitted(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], *, inside: str, heads: Sequence[str]
) -> dict[str, Tensor]:
    """Rename a published state dict to the names `own` of a module that has the published network at `inside`.

    A key is tried as it is, under `inside`, and under it without the prefix `features.` (TSP's checkpoints); keys of
    classifiers (`heads`) are dropped. A key that fits nowhere keeps its name, so that it is reported as unknown.
    """
    names: dict[str, Tensor] = {}
    for key, tensor in state.items():
        bare = key.removeprefix(f"{inside}.")
        tries = (f"{inside}.{bare}", f"{inside}.{bare.removeprefix('features.')}")
        name = next((n for n in tries if n in own), "")
        if name or not bare.startswith(tuple(heads)):
            names[name or key] = tensor
    return names
