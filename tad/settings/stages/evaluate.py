"""Settings of evaluate, resolved from the rows of config.yaml."""

from tad.settings.base import Names, Settings, StageSpec
from tad.settings.config import Config
from tad.settings.sections import EvalSpec as EvalSpec


class EvaluateStageSpec(StageSpec):
    """Settings passed to `tad evaluate`."""

    run: str
    dataset: str
    split: str = "test"
    eval: EvalSpec

    @classmethod
    def resolve(cls, config: Config, names: Names) -> Settings:
        return {"run": names.run, "dataset": names.dataset, "eval": config.resolve_run(names.run).sections["eval"]}
