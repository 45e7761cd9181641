"""Settings of VideoMAE's vision transformer."""

from typing import Literal

from pydantic import Field

from tad.backbones._settings import PatchSettings
from tad.settings.base import Count


class Settings(PatchSettings):
    """Settings of VideoMAE: 384- to 1280-dimensional features of 16-frame clips."""

    size: Literal["small", "base", "large", "huge"] = Field(
        default="base", description="384, 768, 1024 or 1280 dimensions; must match the weights"
    )
    norm: Literal["after_mean", "before_mean"] = Field(
        default="after_mean",
        description="after_mean: average the tokens, then normalise, for fine-tuned models; before_mean: normalise "
        "each token, then average, for pre-trained models",
    )
    short: Count = Field(default=224, description="length of the resized frame's shorter side (antialiased)")
