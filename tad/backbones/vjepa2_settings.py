"""Settings of V-JEPA 2's vision transformer."""

from typing import Literal

from pydantic import Field

from tad.backbones._settings import PatchSettings
from tad.settings.base import Count


class Settings(PatchSettings):
    """Settings of V-JEPA 2: 1024- to 1408-dimensional features of clips with an even number of frames."""

    size: Literal["large", "huge", "giant"] = Field(
        default="large", description="1024, 1280 or 1408 dimensions; must match the weights"
    )
    pooling: Literal["mean", "attentive"] = Field(
        default="mean",
        description="mean: the mean of all tokens, for pre-trained models; attentive: the input of the classifier of a "
        "fine-tuned model, which its attention pooling computes",
    )
    short: Count = Field(default=292, description="length of the resized frame's shorter side (antialiased)")
    crop: Count = Field(
        default=256, multiple_of=16, description="side of the central square crop in pixels, a multiple of 16"
    )
