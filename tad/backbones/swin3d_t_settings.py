"""Settings of torchvision's Video Swin-T with Kinetics-400 weights."""

from pydantic import Field

from tad.backbones._settings import IMAGENET_MEAN, IMAGENET_STD, Deviations, PerChannel, ResizedSettings


class Settings(ResizedSettings):
    """Settings of Video Swin-T: 768-dimensional features of clips of any length."""

    mean: PerChannel = Field(default=IMAGENET_MEAN, description="mean per channel, of values in 0..1")
    std: Deviations = Field(default=IMAGENET_STD, description="standard deviation per channel, of values in 0..1")
