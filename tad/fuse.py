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

    def constraints(self, detector: str) -> Settings:
        """What is declared of a detector."""


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


def _unlike(ours: Settings, theirs: Settings, kin: list[str]) -> str:
    """In what two detectors' raw outputs mean other things, in words; empty where they mean the same. `kin`: detectors
    that are one network with ours."""
    if theirs["name"] not in (ours["name"], *kin):
        return f"its detector is {theirs['name']}, this run's {ours['name']}"
    mine, other = ours["settings"], theirs["settings"]
    for key in ("upsample", "num_bins"):  # what a distance is counted in
        if mine.get(key) != other.get(key):
            return f"its detector has {key} {other.get(key)}, this run's {mine.get(key)}"
    levels = [len(settings.get("regression_ranges", ())) for settings in (mine, other)]
    if levels[0] != levels[1]:
        return f"its detector has {levels[1]} levels, this run's {levels[0]}"
    aligned = [s.get("face") == "corrected" and "aligned" in s.get("corrections", ()) for s in (mine, other)]
    if aligned[0] != aligned[1]:  # half a snippet apart
        return "one of both has the correction aligned and the other has not"
    return ""


def fused_spec(config: Runs, run: str) -> Settings | None:
    """Field `fused` of the settings of detect."""
    if not (other := fused_with(config, run)):
        return None
    ours, theirs = (config.spec("train", run=name).model_dump(mode="json")["detector"] for name in (run, other))
    if unlike := _unlike(ours, theirs, config.constraints(ours["name"]).get("kin", [])):
        raise TadError(
            f"{config.source}: runs.{run.partition('/')[0]}.detect.fuse: {other}: {unlike}, and what they say cannot be"
            " averaged; make them alike"
        )
    return {
        "run": other,
        "features": config.run(other).features,
        "detector": theirs,
        "resize": config.resolve_run(other).sections["train"]["resize"],
    }
