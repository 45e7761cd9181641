"""Settings of timm's image encoders."""

from typing import ClassVar

from pydantic import Field

from tad.backbones._settings import PooledSettings
from tad.settings.clips import ClipSpec


class Settings(PooledSettings):
    """Settings of timm's image encoders: as many values per frame as the model has features."""

    clip: ClassVar[ClipSpec | None] = ClipSpec(length=2, stride=2, policy="resample", rate=5.0)
    model: str = Field(
        default="vit_small_patch16_dinov3.lvd1689m",
        pattern=r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?$",
        description="timm's name of the model, with the tag of its weights, which decides the preprocessing",
    )
