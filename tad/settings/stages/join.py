"""Settings of join, resolved from the rows of config.yaml."""

from pydantic import Field

from tad.settings.base import Names, Settings, StageSpec
from tad.settings.config import Config
from tad.settings.joins import join_spec


class JoinSpec(StageSpec):
    """Settings of join: feature sets of the same videos → one index with their concatenated channels."""

    dataset: str
    features: str
    parts: tuple[str, ...] = Field(min_length=2, description="feature sets, in the order of their channels")
    may_miss: tuple[str, ...] = Field(default=(), description="videos excluded by runs, which may lack features")

    @classmethod
    def resolve(cls, config: Config, names: Names) -> Settings:
        return join_spec(config, names.dataset, names.features)
