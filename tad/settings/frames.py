"""Settings of feature sets that consist of frames, which are decoded during training."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tad.settings.base import Count, Positive, Settings, Spec

Frames = Annotated[
    Literal["", "rgb", "flow"], Field(description="modality of features that are frames; empty for stored features")
]


class FrameSpec(Spec):
    """Which frames are read, and their size."""

    rate: Positive = Field(description="frames per second, displayed at k / rate; at most the video's own rate")
    most: int = Field(default=0, ge=0, description="maximum frames per video (lower rate if longer); 0: no limit")
    height: Count = Field(description="rows that frames are resized to")
    width: Count = Field(description="columns that frames are resized to")
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    modality: Literal["rgb", "flow"] = Field(
        default="rgb", description="flow: the optical flow to the next frame, in two channels, replaces each frame"
    )
    flow_method: Literal["tvl1", "dis"] = Field(
        default="tvl1", description="tvl1: as published; dis: about a hundred times as fast, but other flow"
    )
    flow_bound: Positive = Field(default=20.0, description="the flow is clamped to ± this many pixels")

    @property
    def clip(self) -> Settings:
        """The clip of a feature row, as in the recipe of stored features."""
        return {"length": 1, "stride": 1, "policy": "resample", "rate": self.rate}

    @property
    def channels(self) -> int:
        """Number of values per pixel."""
        return 2 if self.modality == "flow" else 3

    @property
    def dim(self) -> int:
        """Number of values per frame."""
        return self.height * self.width * self.channels

    @model_validator(mode="after")
    def _flow_is_asked_for(self) -> Self:
        if self.modality == "rgb" and {"flow_method", "flow_bound"} & self.model_fields_set:
            own = type(self).model_fields
            if any(getattr(self, name) != own[name].default for name in ("flow_method", "flow_bound")):
                raise ValueError("flow_method and flow_bound need modality flow")
        return self
