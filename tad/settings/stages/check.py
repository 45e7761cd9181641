"""Settings of check, resolved from the rows of config.yaml."""

from typing import Literal

from pydantic import Field

from tad.settings.base import Names, Settings, StageSpec
from tad.settings.config import Config


class CheckSpec(StageSpec):
    """Settings of check: annotations and decoded videos → a table whose times fit the videos."""

    dataset: str
    on_invalid: Literal["error", "drop", "clip"] = Field(
        default="error", description="as for annotate; instances that end after a video with no stated duration"
    )

    @classmethod
    def resolve(cls, config: Config, names: Names) -> Settings:
        return {"dataset": names.dataset, "on_invalid": config.dataset(names.dataset).on_invalid}
