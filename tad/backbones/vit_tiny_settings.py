"""Settings of a tiny video transformer that `tad pretrain` trains from scratch in minutes on a CPU."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tad.backbones._settings import Deviations, PerChannel
from tad.settings.base import Count
from tad.settings.clips import ClipSpec
from tad.settings.components import BackboneSettings


class Settings(BackboneSettings):
    """Settings of the tiny video transformer, for end-to-end adapters on the demo and on small data sets."""

    trainable = True
    clip = ClipSpec(length=16, stride=4, policy="resample", rate=12.5)

    crop: Count = Field(default=32, description="rows and columns of the input in pixels, a multiple of patch")
    patch: Count = Field(default=8, description="rows and columns of a patch in pixels")
    dim: Count = Field(default=64, description="width, a multiple of heads")
    layers: Count = Field(default=3, description="number of blocks")
    heads: Count = Field(default=2, description="attention heads of a block")
    subtract: Literal["clip_mean", "none"] = Field(
        default="clip_mean",
        description="clip_mean: subtract the mean of the 16 frames, which removes a static background; none: nothing",
    )
    mean: PerChannel = Field(default=(0.5, 0.5, 0.5), description="mean per channel, of values in 0..1")
    std: Deviations = Field(default=(0.25, 0.25, 0.25), description="standard deviation per channel")

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.crop % self.patch:
            raise ValueError(f"crop: {self.crop}: must be a multiple of patch ({self.patch})")
        if self.dim % self.heads:
            raise ValueError(f"dim: {self.dim}: must be a multiple of heads ({self.heads})")
        return self
