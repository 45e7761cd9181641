"""Settings of BlazePose (full), which finds the landmarks of a person's body."""

from typing import ClassVar

from tad.backbones._settings import PooledSettings
from tad.settings.clips import ClipSpec


class Settings(PooledSettings):
    """Settings of BlazePose: 196 values per frame."""

    clip: ClassVar[ClipSpec | None] = ClipSpec(length=2, stride=2, policy="resample", rate=5.0)
