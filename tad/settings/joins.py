"""Joined feature sets (`features.<name>.join`), whose channels are concatenated; checks that they fit together."""

from tad.core.errors import TadError
from tad.settings.base import Settings
from tad.settings.layers import Resolution
from tad.settings.plugins import nearest

NAMED = {
    "extract": "features of your videos", "convert": "published features", "encode": "features of a run's encoder",
}  # fmt: skip


def check_joins(config: Resolution) -> None:
    """Check the names in every row with `join`.

    Raises:
        TadError: a single part, or one that is duplicate, unknown, of frames, or joined itself.
    """
    for name, row in config.file.features.items():
        where = f"{config.where('features', name)}.join"
        if len(row.join) == 1:
            raise TadError(f"{where}: only {row.join[0]}; name at least two feature sets, or use {row.join[0]} itself")
        for part in row.join:
            if part not in config.file.features:
                raise TadError(f"{where}: no features are called '{part}'; {nearest(part, list(config.file.features))}")
            if row.join.count(part) > 1:
                raise TadError(f"{where}: {part} is listed twice; name each feature set once")
            kind = config.file.features[part].made_by
            if kind not in NAMED:
                what = "frames, not features" if kind == "index" else "joined itself; name its parts"
                raise TadError(f"{where}: {part} is {what}; join {' or '.join(NAMED.values())}")


def may_miss(config: Resolution, dataset: str, features: str) -> list[str]:
    """Return the videos that runs on these features, alone or joined, exclude; they may have no features."""
    rows = [row for row in config.file.runs.values() if row.dataset == dataset]
    users = [row for row in rows if features in (row.features, *config.parts(row.features))]
    return sorted({video_id for user in users for video_id in user.exclude})


def _step(config: Resolution, part: str, dataset: str) -> tuple[str, float]:
    """Return the unit and the stride of a part's snippets; rows spread over a video have a unit of their own."""
    row, clip = config.file.features[part], config.resolve_features(part, dataset).sections["clip"]
    frames = float(clip["stride"]) * row.every
    if row.timing == "spread":
        return "rows", frames
    return ("frames", frames) if clip["policy"] == "native" else ("seconds", frames / float(clip["rate"]))


def join_spec(config: Resolution, dataset: str, features: str) -> Settings:
    """Return the fields of the `JoinSpec` of a feature set.

    Raises:
        TadError: parts whose clips have different strides.
    """
    parts = config.parts(features)
    known: dict[str, tuple[str, float]] = {}  # unit → a part and the stride of its snippets
    for part in parts:
        unit, step = _step(config, part, dataset)
        other, its_step = known.setdefault(unit, (part, step))
        if abs(step - its_step) > 1e-6 * step:
            raise TadError(
                f"{config.where('features', features)}.join: {other} has a snippet every {its_step:g} {unit}, {part} "
                f"every {step:g}; joined features need an equal clip.stride / clip.rate"
            )
    missing = may_miss(config, dataset, features)
    return {"dataset": dataset, "features": features, "parts": parts, "may_miss": missing}
