"""Feature sets that are frames, read while training: which frames, and what `tad index` receives."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tad.spec_base import Count, Positive, Settings, Spec


class FrameSpec(Spec):
    """Which frames are read, and at which size."""

    rate: Positive = Field(description="frames per second, those displayed at k / rate; at most a video's own")
    most: int = Field(default=0, ge=0, description="frames of a video: longer ones at a lower rate; 0: no limit")
    height: Count = Field(description="rows that frames are squeezed to")
    width: Count = Field(description="columns that frames are squeezed to")
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    modality: Literal["rgb", "flow"] = Field(
        default="rgb", description="flow: in place of each frame the motion to the next one, in two channels"
    )
    flow_method: Literal["tvl1", "dis"] = Field(
        default="tvl1", description="tvl1: as published; dis: about a hundred times quicker, another field"
    )
    flow_bound: Positive = Field(default=20.0, description="pixels to which motion is clamped, either way")

    @property
    def clip(self) -> Settings:
        """What a row is of, as a recipe of features says it."""
        return {"length": 1, "stride": 1, "policy": "resample", "rate": self.rate}

    @property
    def channels(self) -> int:
        """Values of a pixel."""
        return 2 if self.modality == "flow" else 3

    @property
    def dim(self) -> int:
        """Values of a frame."""
        return self.height * self.width * self.channels

    @model_validator(mode="after")
    def _flow_is_asked_for(self) -> Self:
        if self.modality == "rgb" and {"flow_method", "flow_bound"} & self.model_fields_set:
            own = type(self).model_fields
            if any(getattr(self, name) != own[name].default for name in ("flow_method", "flow_bound")):
                raise ValueError("flow_method and flow_bound go with modality flow")
        return self


class IndexSpec(Spec):
    """Manifests → index of frames."""

    dataset: str
    features: str
    frames: FrameSpec
    on_damaged: Literal["exclude", "error"] = "exclude"
