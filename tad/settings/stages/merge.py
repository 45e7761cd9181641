"""Settings of merge, resolved from the rows of config.yaml."""

from typing import Literal

from tad.settings.base import Names, Settings, StageSpec
from tad.settings.config import Config


class MergeSpec(StageSpec):
    """Settings of merge: feature shards → one index."""

    dataset: str
    features: str
    on_damaged: Literal["exclude", "error"] = "exclude"

    @classmethod
    def resolve(cls, config: Config, names: Names) -> Settings:
        row = config.feature_set(names.features)
        return {"dataset": names.dataset, "features": names.features, "on_damaged": row.on_damaged}
