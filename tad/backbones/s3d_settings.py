"""Settings of torchvision's S3D with Kinetics-400 weights."""

from typing import Annotated

from pydantic import Field

from tad.backbones._settings import ResizedSettings
from tad.settings.base import Count


class Settings(ResizedSettings):
    """Settings of S3D: 1024-dimensional features of clips with at least 14 frames."""

    resize: Annotated[tuple[Count, ...], Field(min_length=1, max_length=2)] = Field(
        default=(256, 256), description="rows and columns, aspect ratio ignored; or length of the shorter side"
    )
