"""Settings of two-stream I3D (Inception-V1) with its published Kinetics-400 weights."""

from typing import Literal

from pydantic import Field

from tad.settings.base import Count, Positive
from tad.settings.components import BackboneSettings


class Settings(BackboneSettings):
    """Settings of two-stream I3D, the features of the THUMOS14 results in the literature."""

    streams: Literal["rgb", "flow", "both"] = Field(
        default="both", description="both: 2048 values (RGB, then flow), as in THUMOS14 results; rgb or flow: 1024"
    )
    view: Literal["center_crop", "resize", "ten_crop"] = Field(
        default="center_crop",
        description="center_crop; resize: the whole frame squeezed to the square of crop; ten_crop: mean over the four "
        "corners, the centre, and their horizontal flips",
    )
    short: Count = Field(
        default=256,
        description="length of the resized frame's shorter side in pixels; flow is computed at this size, before view",
    )
    columns: int = Field(
        default=0,
        ge=0,
        description="0: preserve the aspect ratio; otherwise frames are resized to short x columns (340 in the "
        "THUMOS14 features)",
    )
    crop: Count = Field(
        default=224, description="side of the crop in pixels; the final pooling covers 7 x 7 cells of 32 pixels"
    )
    classes: Count = Field(default=400, description="classes of the weights' classifier, which features do not use")
    stream_length: Count = Field(
        default=16, description="steps that each stream uses; with streams both, clip.length is one more"
    )
    flow_method: Literal["tvl1", "dis", "raft_large", "raft_small"] = Field(
        default="tvl1",
        description="tvl1: the only one that matches published weights and features; on a CPU it takes seconds per "
        "frame, so for large data sets use streams: rgb, or import published features. dis (CPU, fast), raft_large and "
        "raft_small (GPU; separate weights) do not match published features: never mix the two in one training set. "
        "No published score is known for them",
    )
    flow_bound: Positive = Field(
        default=20.0, description="flow is clamped to [-bound, bound] pixels and quantised to 256 levels"
    )
