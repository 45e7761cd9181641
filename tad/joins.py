"""`features.<name>.join` of config.yaml: feature sets whose channels stand side by side, and whether they can."""

from typing import Any, Protocol

from tad.errors import TadError
from tad.plugins import nearest
from tad.resolved import Resolved
from tad.specs import Settings

SAID = {"extract": "features of your videos", "convert": "published features"}


class Features(Protocol):
    """What is asked of `tad.config.Config`."""

    source: str
    file: Any

    def resolve_features(self, name: str, dataset: str) -> Any:
        """The sections of a feature set."""


def parts_of(config: Features, name: str) -> list[str]:
    """The feature sets that one is joined from, in order; of any other, itself."""
    row = config.file.features.get(name)
    return list(row.join) if row and row.join else [name]


def check_joins(config: Features) -> None:
    """Raise what is wrong with the names in a row with `join`.

    Raises:
        TadError: one part alone, one that is there twice, that there is not, or that is frames or joined itself.
    """
    for name, row in config.file.features.items():
        where = f"{config.source}: features.{name}.join"
        if len(row.join) == 1:
            raise TadError(f"{where}: {row.join[0]} alone; name two feature sets or more, or use {row.join[0]} itself")
        for part in row.join:
            if part not in config.file.features:
                raise TadError(f"{where}: no features are called '{part}'; {nearest(part, list(config.file.features))}")
            if row.join.count(part) > 1:
                raise TadError(f"{where}: {part} is there twice; name each feature set once")
            kind = config.file.features[part].made_by
            if kind not in SAID:
                what = "frames and no features" if kind == "index" else "joined itself; name what it is joined from"
                raise TadError(f"{where}: {part} is {what}; join {' or '.join(SAID.values())}")


def join_sections(parts: list[str], first: Resolved, source: str) -> Resolved:
    """What the configuration says of joined features: their parts, and the clips of the first, whose times count."""
    clips = {key: origin for key, origin in first.origin.items() if key.startswith("clip.")}
    sections = {"settings": {"join": parts}, "clip": first.sections["clip"]}
    return Resolved(sections, clips | {"settings.join": source})


def may_miss(config: Features, dataset: str, features: str) -> list[str]:
    """Videos that a run on these features, or on what they are joined to, leaves out: they need no features."""
    rows = [row for row in config.file.runs.values() if row.dataset == dataset]
    users = [row for row in rows if features in (row.features, *parts_of(config, row.features))]
    return sorted({video_id for user in users for video_id in user.exclude})


def _step(config: Features, part: str, dataset: str) -> tuple[str, float]:
    """The unit and the distance of a part's snippets, as the settings say it; those that are spread over a video have
    one of its own."""
    row, clip = config.file.features[part], config.resolve_features(part, dataset).sections["clip"]
    frames = float(clip["stride"]) * row.every
    if row.timing == "spread":
        return "rows", frames
    return ("frames", frames) if clip["policy"] == "native" else ("seconds", frames / float(clip["rate"]))


def join_spec(config: Features, dataset: str, features: str) -> Settings:
    """Fields of the `JoinSpec` of a feature set.

    Raises:
        TadError: parts whose clips follow one another at different distances.
    """
    parts = parts_of(config, features)
    known: dict[str, tuple[str, float]] = {}  # unit → a part and the distance of its snippets
    for part in parts:
        unit, step = _step(config, part, dataset)
        other, its_step = known.setdefault(unit, (part, step))
        if abs(step - its_step) > 1e-6 * step:
            raise TadError(
                f"{config.source}: features.{features}.join: {other} has a snippet every {its_step:g} {unit}, {part} "
                f"every {step:g}: joined features are of the same clips; make clip.stride and clip.rate equal"
            )
    missing = may_miss(config, dataset, features)
    return {"dataset": dataset, "features": features, "parts": parts, "may_miss": missing}
