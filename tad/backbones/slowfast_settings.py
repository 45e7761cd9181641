"""Settings of PyTorchVideo's SlowFast 8x8 with Kinetics-400 weights."""

from typing import Literal

from pydantic import Field

from tad.backbones._settings import GREY_MEAN, GREY_STD, Deviations, PerChannel, Pool, ShortSideSettings
from tad.settings.base import Count


class Settings(ShortSideSettings):
    """Settings of SlowFast: 2304-dimensional features of 32-frame clips, 2048 slow and 256 fast."""

    depth: Literal[50, 101] = Field(default=50, description="depth of the ResNet; must match the weights")
    crop: Count = Field(default=256, description="side of the central square crop in pixels; 224 is faster")
    pool: Pool = Field(
        default="sliding7_mean",
        description="sliding7_mean: the classifier's input; global: plain average (EPIC-Kitchens features)",
    )
    classes: int = Field(
        default=400,
        ge=0,
        description="classes of the weights' classifier, which features do not use; 0: drop all classifiers of the "
        "file (the EPIC-Kitchens weights have two)",
    )
    mean: PerChannel = Field(default=GREY_MEAN, description="mean per channel, of values in 0..1")
    std: Deviations = Field(default=GREY_STD, description="standard deviation per channel, of values in 0..1")
