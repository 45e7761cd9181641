"""Which frames make a clip, and what `tad convert` receives: features that somebody else cut into clips."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tad.spec_base import Count, Spec


class ClipSpec(Spec):
    """Which frames make a clip. `rate` is the policy that turns a video's frames into a sequence of frames."""

    length: Count = Field(description="frames the backbone sees at once")
    stride: Count = Field(description="frames between the starts of neighbouring clips")
    policy: Literal["native", "resample", "ffmpeg_cfr"] = Field(
        description="native: the decoded frames by index; resample: the frame displayed at k / rate seconds; "
        "ffmpeg_cfr: the frames that ffmpeg's `fps` filter picks (without the lossy encoding that follows it)"
    )
    rate: float = Field(ge=0, description="frames per second of `resample` and `ffmpeg_cfr`; 0 with `native`")

    tail: Literal["drop", "align"] = Field(
        default="drop",
        description="frames after the last whole clip: drop, as the published I3D, TSP and VideoMAE features; align: "
        "one clip more that ends with the last frame, as Ego4D's. Its row keeps its place in the regular grid, so its "
        "content is up to one stride earlier than its time",
    )

    @model_validator(mode="after")
    def _rate_fits(self) -> Self:
        if (self.policy == "native") != (self.rate == 0):
            raise ValueError(
                f"clip.rate must be 0 with policy native and > 0 with the others, not {self.rate} ({self.policy})"
            )
        if self.stride > 8 * self.length:
            raise ValueError(f"clip.stride {self.stride} leaves most frames unseen with clip.length {self.length}")
        return self


class ConvertSpec(Spec):
    """Published features → index."""

    dataset: str
    features: str
    clip: ClipSpec
    dim: Count = Field(description="channels")
    dtype: Literal["float16", "float32"] = "float16"
    prefix: str = Field(default="", description="what names begin with before the video's id")
    layout: Literal["TC", "CT"] = Field(default="TC", description="axes of the arrays: T snippets, C channels")
    tolerance: float = Field(
        default=0.05, ge=0, lt=1, description="share by which numbers of rows may differ from what the clips give"
    )
    timing: Literal["clips", "spread"] = Field(
        default="clips", description="spread: rows lie evenly over a video, however many there are; no clips are known"
    )
    every: Count = Field(default=1, description="rows are thinned to the first of every so many")
    channels: tuple[int, ...] = Field(default=(), description="[first, last) of the channels alone; empty: all of them")
    may_miss: tuple[str, ...] = Field(default=(), description="videos that runs exclude: they need no features")

    @model_validator(mode="after")
    def _spread_has_no_clips(self) -> Self:
        if self.timing == "spread" and (self.clip.length, self.clip.stride, self.clip.policy) != (1, 1, "native"):
            raise ValueError("timing spread goes with clip: {length: 1, stride: 1, policy: native, rate: 0.0}")
        return self
