"""Settings of torchvision's MViTv2-S with Kinetics-400 weights."""

from pydantic import Field

from tad.backbones._settings import GREY_MEAN, GREY_STD, Deviations, PerChannel, ResizedSettings


class Settings(ResizedSettings):
    """Settings of MViTv2-S: 768-dimensional features (class token) of 16-frame clips; the crop must be 224."""

    mean: PerChannel = Field(default=GREY_MEAN, description="mean per channel, of values in 0..1")
    std: Deviations = Field(default=GREY_STD, description="standard deviation per channel, of values in 0..1")
