"""Base of pretrained image encoders with published preprocessing, applied to single frames."""

# N frames, H rows, W columns, C channels, T frames of an input (always 1)

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from tad.backbones._frames import Kernel, center_crop, normalise, resize_pillow, short_side
from tad.backbones._framewise import FrameEncoder
from tad.backbones._settings import PerChannel, PooledSettings


@dataclass(frozen=True)
class Preparation:
    """Preprocessing of a published image encoder.

    Attributes:
        resize: length of the shorter side after resizing; or, with `squash`, of both sides.
        squash: whether the aspect ratio is ignored.
        crop: side of the central square crop, in pixels.
        kernel: resampling of Pillow, with antialiasing.
        mean: mean per channel, of values in 0..1.
        std: standard deviation per channel.
    """

    resize: int
    squash: bool
    crop: int
    kernel: Kernel
    mean: PerChannel
    std: PerChannel


class ImageEncoder(FrameEncoder, ABC):
    """Base of image encoders: clips (B, T, H, W, 3) uint8 RGB → (B, width per kind of pooling) float32; any T.

    Args:
        name: name of the backbone, for messages.
        settings: settings of the backbone.
        net: network with a method `features` from normalised frames (N, 3, 1, H, W) to (N, width).
        width: values per frame.
        preparation: preprocessing of the frames.
    """

    def __init__(
        self, name: str, settings: PooledSettings, *, net: "ImageNetwork", width: int, preparation: Preparation
    ) -> None:
        super().__init__(name, settings, dim=width)
        self.net, self.preparation = net, preparation

    def networks(self) -> list[nn.Module]:
        """Return the network."""
        return [self.net]

    def shrink(self, frames_NHWC: Tensor) -> Tensor:
        """Resize uint8 frames and crop the central square."""
        how = self.preparation
        if tuple(frames_NHWC.shape[1:3]) == (how.crop, how.crop):
            return frames_NHWC
        size = (how.resize, how.resize)
        if not how.squash:
            size = short_side(frames_NHWC.shape[1], frames_NHWC.shape[2], how.resize)
        small = resize_pillow(frames_NHWC, size, how.kernel)
        return center_crop(small.permute(0, 3, 1, 2), (how.crop, how.crop)).permute(0, 2, 3, 1)

    def frame_values(self, frames_NHWC: Tensor) -> Tensor:
        """Return the features (N, width) of resized uint8 frames."""
        frames_NTCHW = frames_NHWC.permute(0, 3, 1, 2)[:, None]
        return self.net.features(normalise(frames_NTCHW, self.preparation.mean, self.preparation.std))


class ImageNetwork(nn.Module, ABC):
    """An image network, in the form that inference engines run."""

    @abstractmethod
    def features(self, x_NCTHW: Tensor) -> Tensor:
        """Return the features (N, width) of normalised frames (N, 3, 1, H, W)."""
