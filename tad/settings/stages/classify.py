"""Settings of classify, resolved from the rows of config.yaml."""

from pydantic import Field

from tad.settings.base import Count, Fraction, Names, Positive, Settings, Spec, StageSpec
from tad.settings.config import Config
from tad.settings.sections import SAME_BYTES, THREADS


class ClassifySpec(Spec):
    """Settings of the video-level classifier."""

    epochs: Count = 30
    batch_size: Count = 32
    lr: Positive = 1e-3
    weight_decay: float = Field(default=0.01, ge=0)
    hidden: Count = Field(default=256, description="width of the hidden layer")
    dropout: float = Field(default=0.5, ge=0, lt=1)
    best_share: Fraction = Field(default=0.125, description="share of top-scoring snippets averaged per class")
    max_snippets: Count = Field(default=512, description="most snippets of a video that are used, evenly spaced")
    threads: Count = Field(default=THREADS, description=SAME_BYTES)


class ClassifyStageSpec(StageSpec):
    """Settings passed to `tad classify`."""

    run: str
    dataset: str
    features: str
    classify: ClassifySpec
    seed: int
    split: str = "test"
    exclude: dict[str, str] = {}

    @classmethod
    def resolve(cls, config: Config, names: Names) -> Settings:
        row = config.run(names.run)
        named = {"run": names.run, "dataset": names.dataset, "features": names.features}
        return {**named, "classify": row.classify, "seed": row.seed, "exclude": row.exclude}
