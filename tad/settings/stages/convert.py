"""Settings of convert, resolved from the rows of config.yaml."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tad.settings.base import Count, Names, Settings, StageSpec
from tad.settings.clips import ClipSpec
from tad.settings.config import Config
from tad.settings.joins import may_miss
from tad.settings.keypoints import KeypointSpec


class ConvertSpec(StageSpec):
    """Settings of convert: published features → index."""

    dataset: str
    features: str
    clip: ClipSpec
    dim: Count = Field(description="number of channels")
    dtype: Literal["float16", "float32"] = "float16"
    prefix: str = Field(default="", description="prefix of names, before the video's id")
    suffix: str = Field(
        default="",
        exclude_if=lambda value: not value,
        description="suffix of names, after the video's id and before the file's own",
    )
    layout: Literal["TC", "CT"] = Field(default="TC", description="axes of the arrays: T snippets, C channels")
    tolerance: float = Field(
        default=0.05, ge=0, lt=1, description="largest relative difference between the numbers of rows and clips"
    )
    timing: Literal["clips", "spread"] = Field(
        default="clips", description="spread: any number of rows, spaced evenly over the video; the clips are unknown"
    )
    every: Count = Field(default=1, description="keep only the first of every this many rows")
    channels: tuple[int, ...] = Field(default=(), description="range [first, last) of channels to keep; empty: all")
    keypoints: KeypointSpec | None = Field(default=None, description="the source holds keypoints, not features")
    may_miss: tuple[str, ...] = Field(default=(), description="videos excluded by runs, which may lack features")

    @model_validator(mode="after")
    def _spread_has_no_clips(self) -> Self:
        if self.timing == "spread" and (self.clip.length, self.clip.stride, self.clip.policy) != (1, 1, "native"):
            raise ValueError("timing spread goes with clip: {length: 1, stride: 1, policy: native, rate: 0.0}")
        return self

    @classmethod
    def resolve(cls, config: Config, names: Names) -> Settings:
        row = config.feature_set(names.features)
        keys = ("clip", "dtype", "prefix", "suffix", "layout", "tolerance", "timing", "every", "channels", "keypoints")
        absent = may_miss(config, names.dataset, names.features)
        named = {"dataset": names.dataset, "features": names.features}
        own = {"dim": row.stored_dim, "may_miss": absent}
        return {**named, **{key: getattr(row, key) for key in keys}, **own}
