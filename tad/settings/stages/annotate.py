"""Settings of annotate, resolved from the rows of config.yaml."""

from typing import Literal

from pydantic import Field

from tad.settings.base import Names, Plugin, Settings, StageSpec
from tad.settings.config import Config


class AnnotateSpec(StageSpec):
    """Settings of annotate: official or own annotations → one validated table."""

    dataset: str
    format: Plugin
    exclude: dict[str, str] = Field(default={}, description="video id → why it is excluded")
    on_invalid: Literal["error", "drop", "clip"] = Field(
        default="error",
        description="invalid instances: stop with an error; drop and list them; or clip and list those that extend"
        " beyond their video, and drop the others",
    )

    kind: Literal["segments", "moments"] = Field(
        default="segments", description="segments have a start and an end, moments a single time"
    )
    moment: Literal["", "start", "middle", "end"] = Field(
        default="", description="with kind moments: the time of a segment that is its moment; empty: none is a segment"
    )

    @classmethod
    def resolve(cls, config: Config, names: Names) -> Settings:
        row = config.dataset(names.dataset)
        settings = config.resolve_dataset(names.dataset).sections["settings"]
        plugin = Plugin(name=config.format(names.dataset), settings=settings).model_dump()
        own = row.model_dump(include={"exclude", "on_invalid", "kind", "moment"})
        return {"dataset": names.dataset, "format": plugin, **own}
