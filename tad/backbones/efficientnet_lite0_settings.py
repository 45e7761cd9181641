"""Settings of EfficientNet-Lite0 with ImageNet weights."""

from typing import ClassVar

from tad.backbones._settings import CroppedFrameSettings
from tad.settings.clips import ClipSpec


class Settings(CroppedFrameSettings):
    """Settings of EfficientNet-Lite0: 1280 values per frame."""

    clip: ClassVar[ClipSpec | None] = ClipSpec(length=2, stride=2, policy="resample", rate=5.0)
