"""What most clip encoders do before their network: resize, cut the centre, scale. One class, the steps as settings.

Shapes: B clips, T frames, H rows, W columns, C channels, N frames of any clips.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from tad.backbones._frames import center_crop, normalise, resize_float, resize_uint8, short_side
from tad.errors import TadError

Resampling = Literal["float", "uint8", "antialias"]


class ClipEncoder(nn.Module):
    """Clips (B, T, H, W, 3) uint8 RGB → (B, dim) float32; a subclass sets `dim` and says what its network does.

    Args:
        name: the plug-in's, for messages.
        resize: one number: the shorter side, aspect kept; two: rows and columns, whatever the aspect.
        crop: pixels of the square that is cut from the centre.
        mean: per channel, of values in 0..1.
        std: likewise.
        resampling: `float`: bilinear without antialias, not rounded; `uint8`: the same, rounded to whole levels, as
            torchvision's presets do with uint8 frames; `antialias`: bilinear with antialias, rounded.
        length: frames that the network takes; 0: any number.

    Raises:
        TadError: settings that cannot be.
    """

    dim: int

    def __init__(
        self, name: str, *, resize: Sequence[int], crop: int, mean: Sequence[float], std: Sequence[float],
        resampling: Resampling, length: int = 0,
    ) -> None:
        super().__init__()
        if len(resize) not in (1, 2) or min(resize) < crop:
            raise TadError(
                f"{name}.resize: {list(resize)}: the shorter side, or rows and columns, each at least crop ({crop})"
            )
        self.name, self.resize, self.crop = name, tuple(resize), crop
        self.mean, self.std, self.resampling, self.length = tuple(mean), tuple(std), resampling, length

    def shrink(self, frames_NHWC: Tensor) -> Tensor:
        """Whole frames, resized: uint8, or float32 in 0..255 with `float`. Frames that have the size stay as they are,
        so the work is done once for overlapping clips."""
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
        """The network's input (B, C, T, crop, crop) float32."""
        b, t = clips_BTHWC.shape[:2]
        if self.length not in (0, t):
            raise TadError(f"{self.name}: clip.length {t}: the network takes {self.length} frames; set {self.length}")
        frames_NHWC = self.shrink(clips_BTHWC.flatten(0, 1))
        frames_NCHW = center_crop(frames_NHWC.permute(0, 3, 1, 2), (self.crop, self.crop))
        clips_BTCHW = frames_NCHW.reshape(b, t, *frames_NCHW.shape[1:])
        return normalise(clips_BTCHW, self.mean, self.std)

    def features(self, x_BCTHW: Tensor) -> Tensor:
        """(B, dim) features of a prepared input."""
        raise NotImplementedError

    def forward(self, clips_BTHWC: Tensor) -> Tensor:
        return self.features(self.prepare(clips_BTHWC))


def fitted(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], *, inside: str, heads: Sequence[str]
) -> dict[str, Tensor]:
    """A published state dict under the names `own` of a module that keeps the published network at `inside`.

    A name is taken as it is, below `inside`, or below it without the wrapper `features.` (TSP's checkpoints); the
    classifier's (`heads`) is dropped. Whatever fits nowhere keeps its name, so that it is reported as unknown.
    """
    names: dict[str, Tensor] = {}
    for key, tensor in state.items():
        bare = key.removeprefix(f"{inside}.")
        tries = (f"{inside}.{bare}", f"{inside}.{bare.removeprefix('features.')}")
        name = next((n for n in tries if n in own), "")
        if name or not bare.startswith(tuple(heads)):
            names[name or key] = tensor
    return names
