"""Settings of extract, resolved from the rows of config.yaml."""

from typing import Literal

from pydantic import Field

from tad.settings.base import Count, Names, Plugin, Positive, Settings, StageSpec
from tad.settings.clips import ClipSpec, NetworkSpec
from tad.settings.config import Config


class RecipeSpec(StageSpec):
    """All settings that determine the values of features; their digest identifies a feature set."""

    backbone: Plugin
    clip: ClipSpec
    network: NetworkSpec = NetworkSpec()
    dtype: Literal["float16", "float32"] = "float16"
    on_damaged: Literal["exclude", "error"] = Field(
        default="exclude", description="damaged videos: exclude them and list the cause, or stop with an error"
    )
    pretrained_on: str = Field(default="", description="dataset (and share of its labels) used by pretrain")


class ExtractSpec(RecipeSpec):
    """Settings of extract: frames of one shard → features of its videos."""

    dataset: str
    stall_seconds: Positive = Field(
        default=60.0, description="a video whose decoding stalls for this long is excluded as damaged"
    )
    reader_mb: Count = Field(
        default=1536, description="MiB limit for decoding a video (besides some frames); a video above it is excluded"
    )

    @classmethod
    def resolve(cls, config: Config, names: Names) -> Settings:
        return {"dataset": names.dataset, **config.recipe(names.features, names.dataset)}
