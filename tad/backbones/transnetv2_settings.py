"""Settings of TransNetV2, a network for the detection of shot boundaries."""

from typing import ClassVar, Literal

from pydantic import Field

from tad.backbones._settings import PooledSettings
from tad.settings.clips import ClipSpec


class Settings(PooledSettings):
    """Settings of TransNetV2: 1024 values per frame, each computed from about 50 frames on either side."""

    clip: ClassVar[ClipSpec | None] = ClipSpec(length=10, stride=10, policy="resample", rate=25.0)

    interpolation: Literal["bicubic", "bilinear"] = Field(
        default="bicubic",
        description="how frames are resized to 48 x 27 pixels (with antialiasing; aspect ratio ignored); bicubic, as "
        "ffmpeg does for the published code",
    )
