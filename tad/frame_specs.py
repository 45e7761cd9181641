"""Feature sets that are frames, read while training: which frames, and what `tad index` receives."""

from typing import Literal

from pydantic import Field

from tad.spec_base import Count, Positive, Spec


class FrameSpec(Spec):
    """Which frames are read, and at which size."""

    rate: Positive = Field(description="frames per second, those displayed at k / rate; at most a video's own")
    most: int = Field(default=0, ge=0, description="frames of a video: longer ones at a lower rate; 0: no limit")
    height: Count = Field(description="rows that frames are squeezed to")
    width: Count = Field(description="columns that frames are squeezed to")
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"


class IndexSpec(Spec):
    """Manifests → index of frames."""

    dataset: str
    features: str
    frames: FrameSpec
    on_damaged: Literal["exclude", "error"] = "exclude"
