"""Settings of PyTorchVideo's I3D on ResNet-50, 8x8, with Kinetics-400 weights."""

from pydantic import Field

from tad.backbones._settings import GREY_MEAN, GREY_STD, Deviations, PerChannel, Pool, ShortSideSettings
from tad.settings.base import Count


class Settings(ShortSideSettings):
    """Settings of I3D on ResNet-50: 2048-dimensional features of 8-frame clips."""

    pool: Pool = Field(
        default="sliding7_mean", description="sliding7_mean: the classifier's input; global: plain average"
    )
    classes: Count = Field(default=400, description="classes of the weights' classifier, which features do not use")
    mean: PerChannel = Field(default=GREY_MEAN, description="mean per channel, of values in 0..1")
    std: Deviations = Field(default=GREY_STD, description="standard deviation per channel, of values in 0..1")
