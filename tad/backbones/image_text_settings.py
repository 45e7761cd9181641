"""Settings of image-text encoders."""

from typing import ClassVar, Literal

from pydantic import Field

from tad.settings.clips import ClipSpec
from tad.settings.components import BackboneSettings


class Settings(BackboneSettings):
    """Settings of image-text encoders: 512 or 768 values per frame, in a space shared with texts."""

    clip: ClassVar[ClipSpec | None] = ClipSpec(length=1, stride=1, policy="resample", rate=2.0)
    model: Literal[
        "google/siglip2-base-patch16-224", "openai/clip-vit-base-patch16", "openai/clip-vit-base-patch32"
    ] = Field(default="google/siglip2-base-patch16-224", description="name of the model; must match the weights")
