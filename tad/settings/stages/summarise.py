"""Settings of summarise, resolved from the rows of config.yaml."""

from pydantic import Field

from tad.settings.base import Names, Settings
from tad.settings.config import Config
from tad.settings.stages.evaluate import EvaluateStageSpec


class SummariseStageSpec(EvaluateStageSpec):
    """Settings passed to `tad summarise`."""

    seeds: tuple[int, ...] = Field(min_length=2, description="seeds of the trainings <run>/seed-0, <run>/seed-1, …")

    @classmethod
    def resolve(cls, config: Config, names: Names) -> Settings:
        seeds = [config.run(name).seed for name in config.trainings(names.run)]
        return {**super().resolve(config, names), "seeds": seeds}
