"""Late fusion of two runs (`detect.fuse`): which training's raw outputs are averaged with those of a run."""

from tad.core.errors import TadError
from tad.settings.base import Settings
from tad.settings.config import Config


def fused_with(config: Config, run: str) -> str:
    """Return the training whose raw outputs are averaged with those of a run's training; empty for none.

    Raises:
        TadError: the named run is the run itself, is fused too, or has another data set or number of seeds.
    """
    base, _, part = run.partition("/")
    other = str(config.resolve_run(base).sections["detect"]["fuse"])
    if not other:
        return ""
    where = f"{config.where('runs', base)}.detect.fuse: {other}"
    if other == base or config.run(other).dataset != config.run(base).dataset:
        raise TadError(f"{where}: name another run of {config.run(base).dataset}")
    if config.resolve_run(other).sections["detect"]["fuse"]:
        raise TadError(f"{where}: this run is fused itself; name a run that is not")
    trainings = config.trainings(other)
    if trainings == [other] or "/" in other:
        return other
    if part and f"{other}/{part}" in trainings:
        return f"{other}/{part}"
    if len(config.trainings(base)) == len(trainings):  # for the run as a whole, its first seed represents all
        return trainings[0]
    raise TadError(f"{where}: has {len(trainings)} seeds; give this run as many, or name one of them")


def _unlike(config: Config, run: str, other: str) -> str:
    """Describe how the raw outputs of two runs' detectors differ in meaning; empty if they do not."""
    ours, theirs = config.detector(run)["name"], config.detector(other)["name"]
    own, its = config.detector_settings(run), config.detector_settings(other)
    if theirs not in (ours, *own.kin):
        return f"its detector is {theirs}, this run's {ours}"
    mine, given = own.units(), its.units()
    for key in {**mine, **given}:
        if mine.get(key) != given.get(key):
            return f"its detector has {key} {given.get(key)}, this run's {mine.get(key)}"
    return ""


def fused_spec(config: Config, run: str) -> Settings | None:
    """Return the field `fused` of the settings of detect; None without fusion."""
    if not (other := fused_with(config, run)):
        return None
    if config.run(other.partition("/")[0]).adapters is not None:
        where = config.where("runs", run.partition("/")[0])
        raise TadError(f"{where}.detect.fuse: {other}: has adapters, whose outputs are not averaged; name another run")
    if unlike := _unlike(config, run, other):
        raise TadError(
            f"{config.where('runs', run.partition('/')[0])}.detect.fuse: {other}: {unlike}, so their outputs cannot be"
            " averaged; make these settings equal"
        )
    return {
        "run": other,
        "features": config.run(other).features,
        "detector": config.detector(other),
        "resize": config.resolve_run(other).sections["train"]["resize"],
        "frames": config.frames(config.run(other).features)["frames"],
    }
