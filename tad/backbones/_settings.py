"""Settings that several backbones share: resizing, cropping and normalisation of frames."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tad.settings.base import Count, Positive
from tad.settings.components import BackboneSettings

PerChannel = tuple[float, float, float]
Deviations = tuple[Positive, Positive, Positive]
KINETICS_MEAN, KINETICS_STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GREY_MEAN, GREY_STD = (0.45,) * 3, (0.225,) * 3
Pool = Literal["sliding7_mean", "global"]


class NormalisedSettings(BackboneSettings):
    """Settings of backbones that normalise frames by the mean and standard deviation of their pre-training data."""

    mean: PerChannel = Field(default=KINETICS_MEAN, description="mean per channel, of values in 0..1")
    std: Deviations = Field(default=KINETICS_STD, description="standard deviation per channel, of values in 0..1")


class ResizedSettings(NormalisedSettings):
    """Settings of backbones that resize frames and crop the central square."""

    resize: Annotated[tuple[Count, ...], Field(min_length=1, max_length=2)] = Field(
        default=(256,),
        description="one number: length of the shorter side, aspect ratio preserved; two: rows and columns, aspect "
        "ratio ignored. Pixels are rounded to integers, as by torchvision",
    )
    crop: Count = Field(default=224, description="side of the central square crop, in pixels")

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if min(self.resize) < self.crop:
            raise ValueError(f"resize: {list(self.resize)}: each side must be at least crop ({self.crop})")
        return self


class SmallFrameSettings(ResizedSettings):
    """Settings of torchvision's backbones for small frames."""

    resize: Annotated[tuple[Count, ...], Field(min_length=1, max_length=2)] = Field(
        default=(128, 171), description="rows and columns, aspect ratio ignored; or length of the shorter side"
    )
    crop: Count = Field(default=112, description="side of the central square crop, in pixels")


class ShortSideSettings(NormalisedSettings):
    """Settings of backbones that resize frames by their shorter side and crop the central square."""

    short: Count = Field(default=256, description="length of the resized frame's shorter side, in pixels")
    crop: Count = Field(default=256, description="side of the central square crop, in pixels")

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if self.short < self.crop:
            raise ValueError(f"short: {self.short}: must be at least crop ({self.crop})")
        return self


class PatchSettings(ShortSideSettings):
    """Settings of vision transformers with patches of 16 x 16 pixels."""

    crop: Count = Field(
        default=224, multiple_of=16, description="side of the central square crop in pixels, a multiple of 16"
    )
    mean: PerChannel = Field(default=IMAGENET_MEAN, description="mean per channel, of values in 0..1")
    std: Deviations = Field(default=IMAGENET_STD, description="standard deviation per channel, of values in 0..1")


Pooling = Literal["mean", "max", "change"]


class PooledSettings(BackboneSettings):
    """Settings of encoders of single frames: how a clip's frames become one feature."""

    pool: Annotated[tuple[Pooling, ...], Field(min_length=1)] = Field(
        default=("mean",),
        description="what a clip's feature consists of, in this order: mean and max over its frames, and change, the "
        "mean absolute difference between consecutive frames; several names are concatenated",
    )

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.pool)) < len(self.pool):
            raise ValueError(f"pool: {list(self.pool)}: name each kind once")
        return self


class CroppedFrameSettings(PooledSettings):
    """Settings of encoders of single frames that resize them by the shorter side and crop the central square."""

    short: Count = Field(default=256, description="length of the resized frame's shorter side, in pixels")
    crop: Count = Field(default=224, description="side of the central square crop, in pixels")

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if self.short < self.crop:
            raise ValueError(f"short: {self.short}: must be at least crop ({self.crop})")
        return self
