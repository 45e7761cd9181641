"""Late fusion of two runs, as config.yaml says it: which training a run's raw outputs are averaged with."""

from typing import Any, Protocol

from tad.errors import TadError
from tad.specs import Settings, Spec


class Runs(Protocol):
    """What is asked of `tad.config.Config`."""

    source: str

    def run(self, name: str) -> Any:
        """The row of a run."""

    def trainings(self, run: str) -> list[str]:
        """What is trained for a run."""

    def resolve_run(self, name: str) -> Any:
        """Its sections."""

    def spec(self, stage: str, *, run: str) -> Spec:
        """The settings of a stage."""


def fused_with(config: Runs, run: str) -> str:
    """The training whose raw outputs are averaged with those of a run's training; empty for none.

    Raises:
        TadError: it is itself, of another data set, fused too, or has other seeds.
    """
    base, _, part = run.partition("/")
    other = str(config.resolve_run(base).sections["detect"]["fuse"])
    if not other:
        return ""
    where = f"{config.source}: runs.{base}.detect.fuse: {other}"
    if other == base or config.run(other).dataset != config.run(base).dataset:
        raise TadError(f"{where}: name another run of {config.run(base).dataset}")
    if config.resolve_run(other).sections["detect"]["fuse"]:
        raise TadError(f"{where}: is fused itself; name a run that is not")
    trainings = config.trainings(other)
    if trainings == [other] or "/" in other:
        return other
    if part and f"{other}/{part}" in trainings:
        return f"{other}/{part}"
    if len(config.trainings(base)) == len(trainings):  # asked for the run as a whole: its first seed stands for all
        return trainings[0]
    raise TadError(f"{where}: has {len(trainings)} seeds; give this run as many, or name one of them")


def fused_spec(config: Runs, run: str) -> Settings | None:
    """Field `fused` of the settings of detect."""
    if not (other := fused_with(config, run)):
        return None
    return {
        "run": other,
        "features": config.run(other).features,
        "detector": config.spec("train", run=other).model_dump(mode="json")["detector"],
        "resize": config.resolve_run(other).sections["train"]["resize"],
    }
