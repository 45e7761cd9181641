"""Tiny video transformer for clips of 16 frames, which `tad pretrain` trains from scratch on a CPU.

VideoMAE's network ("VideoMAE: Masked Autoencoders are Data-Efficient Learners for Self-Supervised Video Pre-Training",
NeurIPS 2022) with a width, depth and resolution that two cores can train; for end-to-end adapters without a GPU.
Shapes: B clips, T frames, H rows, W columns, C channels, N tokens or frames.
"""

from typing import Any, ClassVar

from torch import Tensor, nn

from tad.backbones._contract import BackboneBase
from tad.backbones._frames import normalise, resize_uint8
from tad.backbones._videomae import FRAMES, VideoMaeTrunk, build_network, centred
from tad.backbones.vit_tiny_settings import Settings
from tad.core.errors import TadError
from tad.layers.adapters.trunk import Trunk


class Backbone(BackboneBase):
    """Tiny video transformer: clips (B, 16, H, W, 3) uint8 RGB → (B, dim) float32, the mean of all tokens."""

    trainable: ClassVar[bool] = True

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.frame_size = self.crop_size = (settings.crop, settings.crop)
        self.dim, self.mean, self.std = settings.dim, settings.mean, settings.std
        self.centred = settings.subtract == "clip_mean"
        self.net: Any = build_network(
            width=settings.dim, layers=settings.layers, heads=settings.heads, hidden=4 * settings.dim,
            image=self.frame_size, patch=settings.patch, side=settings.crop // settings.patch, use_mean_pooling=True,
        )  # fmt: skip

    @property
    def stem(self) -> nn.Module:  # type: ignore[override]
        """The patch embedding."""
        stem: nn.Module = self.net.embeddings
        return stem

    def shrink(self, frames_NHWC: Tensor) -> Tensor:
        """Resize whole frames to the size of the input."""
        return resize_uint8(frames_NHWC, self.frame_size)

    def networks(self) -> list[nn.Module]:
        """Return this module itself."""
        return [self]

    def features(self, x_BCTHW: Tensor) -> Tensor:
        """Return the features (B, dim) of a normalised input."""
        if self.centred:
            x_BCTHW = centred(x_BCTHW)
        tokens_BNC: Tensor = self.net(x_BCTHW.transpose(1, 2)).last_hidden_state
        return tokens_BNC.mean(dim=1)

    def encode(self, clips_BTHWC: Tensor) -> Tensor:
        """Return features (B, dim) of uint8 clips that have the size of the input."""
        self._expect(clips_BTHWC.shape[1])
        return self.features(normalise(clips_BTHWC.permute(0, 1, 4, 2, 3), self.mean, self.std))

    def forward(self, clips_BTHWC: Tensor) -> Tensor:
        frames_NHWC = self.shrink(clips_BTHWC.flatten(0, 1))
        return self.encode(frames_NHWC.reshape(*clips_BTHWC.shape[:2], *frames_NHWC.shape[1:]))

    def trunk(self, clip: int) -> Trunk:
        """Return the transformer without its pooling."""
        self._expect(clip)
        return VideoMaeTrunk(self.net, mean=self.mean, std=self.std, subtract=self.centred)

    def _expect(self, clip: int) -> None:
        if clip != FRAMES:
            raise TadError(f"vit_tiny: clip.length {clip}: the network needs {FRAMES} frames; set {FRAMES}")
