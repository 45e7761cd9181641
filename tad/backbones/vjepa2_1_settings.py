"""Settings of V-JEPA 2.1's vision transformer."""

from typing import Literal

from pydantic import Field

from tad.backbones._settings import PatchSettings
from tad.settings.base import Count


class Settings(PatchSettings):
    """Settings of V-JEPA 2.1: 768- to 1664-dimensional features of clips with an even number of frames."""

    size: Literal["base", "large", "giant", "gigantic"] = Field(
        default="base", description="768, 1024, 1408 or 1664 dimensions; must match the weights"
    )
    short: Count = Field(default=438, description="length of the resized frame's shorter side (antialiased)")
    crop: Count = Field(
        default=384, multiple_of=16, ge=32, description="side of the central square crop in pixels, a multiple of 16"
    )
