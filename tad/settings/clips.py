"""Settings of clips (which frames make one), and of how a backbone's network is computed."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tad.settings.base import Count, Spec


class ClipSpec(Spec):
    """Which frames make a clip; `policy` and `rate` define the frame sequence that clips are taken from."""

    length: Count = Field(description="frames per clip")
    stride: Count = Field(description="frames between the starts of consecutive clips")
    policy: Literal["native", "resample", "ffmpeg_cfr"] = Field(
        description="native: the decoded frames by index; resample: the frame displayed at k / rate seconds; "
        "ffmpeg_cfr: the frames that ffmpeg's `fps` filter picks (without the lossy encoding that follows it)"
    )
    rate: float = Field(ge=0, description="frames per second of `resample` and `ffmpeg_cfr`; 0 with `native`")

    tail: Literal["drop", "align"] = Field(
        default="drop",
        description="frames after the last complete clip: drop, as in the published I3D, TSP and VideoMAE features; "
        "align: add a clip that ends with the last frame, as in Ego4D's. Its row keeps its time on the regular grid, "
        "so its content is up to one stride earlier than that time",
    )

    @model_validator(mode="after")
    def _rate_fits(self) -> Self:
        if (self.policy == "native") != (self.rate == 0):
            raise ValueError(
                f"clip.rate must be 0 with policy native and > 0 with other policies, not {self.rate} ({self.policy})"
            )
        if self.stride > 8 * self.length:
            raise ValueError(f"clip.stride {self.stride} skips most frames with clip.length {self.length}")
        return self


class NetworkSpec(Spec):
    """How a backbone's network is computed.

    Every setting changes the features slightly: in the last bits, or with bfloat16 in the third digit.
    """

    engine: Literal["torch", "openvino"] = Field(
        default="torch", description="openvino: two to three times as fast, on CPUs only"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="precision of the network's arithmetic; weights, frames and features keep theirs"
    )
    channels_last: bool = Field(default=False, description="torch: channels-last memory format, faster in bfloat16")
    compile: bool = Field(default=False, description="torch: compile the network for its input shape (minutes, once)")
    threads: Count = Field(
        default=1, description="CPU threads of the network, whatever the machine has; clips are computed in parallel"
    )

    @model_validator(mode="after")
    def _for_torch(self) -> Self:
        if self.engine == "openvino" and (self.channels_last or self.compile):
            raise ValueError("channels_last and compile need engine torch; openvino chooses both itself")
        return self
