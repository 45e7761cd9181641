"""Settings of R(2+1)D with TSP's weights."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tad.backbones._settings import NormalisedSettings
from tad.settings.base import Count


class Settings(NormalisedSettings):
    """Settings of TSP: 512-dimensional features, as in ActionFormer's and TriDet's results on ActivityNet."""

    trainable = True

    depth: Literal[18, 34] = Field(default=34, description="number of layers; must match the weights")
    frame_size: tuple[Count, Count] = Field(
        default=(128, 171), description="rows and columns of the resized frame, aspect ratio ignored"
    )
    crop: Count = Field(
        default=112, description="side of the central square crop in pixels (random crop while training)"
    )

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if min(self.frame_size) < self.crop:
            raise ValueError(f"frame_size: {list(self.frame_size)}: each side must be at least crop ({self.crop})")
        return self
