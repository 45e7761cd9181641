"""Settings of a small R(2+1)D that `tad pretrain` trains from scratch in minutes on a CPU."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tad.backbones._settings import Deviations, PerChannel
from tad.settings.base import Count, Positive
from tad.settings.components import BackboneSettings


class Settings(BackboneSettings):
    """Settings of the small R(2+1)D, for the demo and for small data sets."""

    trainable = True

    height: Count = Field(
        default=36,
        description="height of the input in pixels; whole frames are resized to height x width, so choose their aspect "
        "ratio. The receptive field is about 33 pixels: a larger input shows more detail but less context",
    )
    width: Count = Field(default=64, description="width of the input in pixels")
    widths: tuple[Count, ...] = Field(
        default=(16, 32, 64, 128),
        min_length=2,
        description="channels of the stem and of each stage; the last is the feature's dimension",
    )
    time_strides: tuple[Count, ...] = Field(
        default=(1, 2, 2),
        description="temporal stride of each stage; 1 preserves short motions, 2 is faster",
    )
    subtract: Literal["clip_mean", "previous", "none"] = Field(
        default="clip_mean",
        description="clip_mean: subtract the clip's mean, which removes a static background; previous: subtract the "
        "previous frame; none: plain frames",
    )
    pool: Literal["mean", "max", "both"] = Field(
        default="mean", description="pooling over space and time: mean, max, or both (twice the dimension)"
    )
    mean: PerChannel = Field(
        default=(0.5, 0.5, 0.5),
        description="mean per channel, of values in 0..1; flow uses the first two, with 0.5 as zero motion",
    )
    std: Deviations = Field(default=(0.25, 0.25, 0.25), description="standard deviation per channel")
    modality: Literal["rgb", "flow"] = Field(
        default="rgb",
        description="flow: optical flow between consecutive frames as input (needs OpenCV, extra `flow`); combine it "
        "with subtract: none, which preserves steady motion",
    )
    flow_method: Literal["dis", "tvl1"] = Field(
        default="dis", description="dis: fast; tvl1: finer, 150 times slower at this size"
    )
    flow_bound: Positive = Field(
        default=4.0,
        description="flow is clamped to [-bound, bound] input pixels; 0.01 % of the demo's flow exceeds 2.2",
    )

    @model_validator(mode="after")
    def _strides_fit(self) -> Self:
        if len(self.time_strides) != len(self.widths) - 1:
            raise ValueError(
                f"time_strides: {list(self.time_strides)}: needs one entry fewer than widths {list(self.widths)}"
            )
        return self
