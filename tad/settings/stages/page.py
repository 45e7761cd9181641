"""Settings of page, resolved from the rows of config.yaml."""

from typing import Any

from pydantic import Field, field_validator

from tad.core.errors import TadError
from tad.settings.base import Count, Names, Settings, Spec, StageSpec
from tad.settings.config import Config
from tad.settings.resolved import parse
from tad.settings.sections import EvalSpec


class PageSpec(Spec):
    """The section `page`: the page of a run."""

    beside: tuple[str, ...] = Field(
        default=(), description="other runs on the same data set that the page shows side by side with this one"
    )
    height: int = Field(default=240, ge=32, le=1080, description="rows of the copies of the videos")
    copies: int = Field(
        default=50, ge=0, description="videos that the page plays, those with the most costly errors first"
    )
    others: int = Field(
        default=50, ge=0, description="videos of other splits that the page shows too, with their labels only"
    )
    detections: Count = Field(default=100, description="best detections of a video that the page holds, of each run")
    errors: Count = Field(default=300, description="errors that the page lists, of each run")

    @field_validator("beside", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError(f"write a list, such as [{value}]")
        return value


class PageStageSpec(StageSpec):
    """Settings passed to `tad page`."""

    run: str
    dataset: str
    runs: tuple[str, ...] = Field(min_length=1, description="the runs (of several seeds: all trainings) on the page")
    split: str = "test"
    eval: EvalSpec
    page: PageSpec

    @classmethod
    def resolve(cls, config: Config, names: Names) -> Settings:
        row = config.run(names.run)
        for other in _settings(config, names.run).beside:
            if config.run(other).dataset != row.dataset:
                where = f"{config.where('runs', names.run)}.page.beside"
                raise TadError(f"{where}: run {other} is on {config.run(other).dataset}, not on {row.dataset}")
        return {
            "run": names.run,
            "dataset": names.dataset,
            "runs": runs_of(config, names.run),
            "eval": config.resolve_run(names.run).sections["eval"],
            "page": row.page,
        }


def _settings(config: Config, run: str) -> PageSpec:
    return parse(PageSpec, config.run(run).page, f"{config.source_of('runs', run)} runs.{run}.page")


def runs_of(config: Config, run: str) -> list[str]:
    """Return the trainings on the page of a run: its own, and those of the runs beside it."""
    beside = _settings(config, run).beside
    own = [run] if "/" in run else config.trainings(run)
    return list(dict.fromkeys([*own, *(name for other in beside for name in config.trainings(other))]))
