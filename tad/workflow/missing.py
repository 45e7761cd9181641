"""Missing inputs of a run: files that the user has to provide, one sentence each."""

from typing import NamedTuple

from tad.core.errors import MissingError, TadError
from tad.settings import plugins
from tad.settings.config import Config
from tad.settings.fuse import fused_with
from tad.settings.labels import missing_split, split_file
from tad.settings.lessons import teachers_of
from tad.settings.paths import path_of
from tad.settings.rows import FeatureRow
from tad.weights.published import missing_weights


def _published(kind: str, name: str, key: str) -> str:
    text = plugins.document(kind, name).get("published", {}).get(key, "")
    return " ".join(str(text).split())


def _missing_files(config: Config, dataset: str, key: str) -> list[str]:
    """Return the sentence about the `annotations` or `videos` of a dataset, if they do not exist."""
    path = getattr(config.dataset(dataset), key)
    if dataset in config.generated or (path and (config.root / path).exists()):
        return []
    if not path:
        return [f"set datasets.{dataset}.{key} in {config.source_of('datasets', dataset)}"]
    where = _published("datasets", config.format(dataset), key)
    return [f"put the {key} of {dataset} at {path} ({where})"]


def missing(config: Config, dataset: str, features: str = "") -> list[str]:
    """Return one sentence per missing input, which says where to put it; empty if nothing is missing.

    Runs on imported features need neither videos nor weights. Without `features`, all runs of the dataset count.
    """
    needs = _missing_files(config, dataset, "annotations")
    requested = {features} if features else {r.features for r in config.file.runs.values() if r.dataset == dataset}
    wanted = {part for name in requested for part in config.parts(name)}
    if not wanted or wanted - config.made_by("convert"):
        needs += _missing_files(config, dataset, "videos")
    for name in sorted(wanted):
        entry: FeatureRow = config.file.features[name]
        if entry.source:
            if not (config.root / entry.source).exists():
                where = f" ({entry.published})" if entry.published else ""
                needs.append(f"put the features {name} at {entry.source}{where}")
        elif entry.weights != "pretrain":
            needs += missing_weights(config.root, entry.weights, config.backbone(name, dataset))
    return needs


def missing_scores(config: Config, run: str) -> list[str]:
    """Return the sentences about missing class scores of whole videos and a missing split of labels."""
    source, needs = config.external_scores(run), missing_split(config.root, run, config.run(run).labels)
    if source in ("", "own") or (config.root / source).is_file():
        return needs
    return [
        *needs,
        f"put the class scores of whole videos of run {run} at {source} (external.source), or write source: own for"
        " a classifier on the run's own features",
    ]


def runs_behind(config: Config, features: str) -> list[str]:
    """Return the runs with adapters whose encoders compute a feature set or its parts."""
    return [row.run for row in map(config.feature_set, config.parts(features)) if row.run]


def missing_of_run(config: Config, run: str) -> list[str]:
    """Return one sentence per missing input of a run and of the run that it is fused with.

    Until the run is trained, the inputs of its teachers count as well.
    """
    row = config.run(run)
    sentences = missing(config, row.dataset, row.features) + missing_scores(config, run)
    if row.adapters is not None:
        sentences += missing(config, row.dataset, row.adapters.encoder)
    for source in runs_behind(config, row.features):  # runs with adapters, whose encoders compute features
        sentences += missing_of_run(config, source.partition("/")[0])
    if other := fused_with(config, run):
        sentences += missing_of_run(config, other.partition("/")[0])
    if not all((config.root / path_of("train", run=name)).is_file() for name in config.trainings(run)):
        for teacher in sorted(set(teachers_of(config, run).values())):
            sentences += missing_of_run(config, teacher.partition("/")[0])
    return list(dict.fromkeys(sentences))


class Need(NamedTuple):
    """A file, a folder or another run that a run needs.

    Attributes:
        what: annotations, videos, features, weights, class scores, labels or run.
        path: where it is expected; for a run, its name.
        there: whether it exists (and, for weights, whether the checksum matches); for a run, whether it is trained.
    """

    what: str
    path: str
    there: bool


def needs(config: Config, run: str) -> list[Need]:
    """Return the inputs of a run: files of the user, and runs that are trained first."""
    row = config.run(run)
    inputs = []
    parts = [config.feature_set(part) for part in config.parts(row.features)]
    own = {"annotations"} | ({"videos"} if any(not part.source for part in parts) else set())
    for what in sorted(own) if row.dataset not in config.generated else ():
        path = getattr(config.dataset(row.dataset), what)
        inputs.append(Need(what, path, bool(path) and (config.root / path).exists()))
    for name, part in zip(config.parts(row.features), parts, strict=True):
        if part.source:
            inputs.append(Need("features", part.source, (config.root / part.source).exists()))
        elif part.weights != "pretrain":
            wrong = missing_weights(config.root, part.weights, config.backbone(name, row.dataset))
            inputs.append(Need("weights", part.weights, not wrong))
    if row.adapters is not None:
        entry = config.feature_set(row.adapters.encoder)
        if entry.weights != "pretrain":
            backbone = config.backbone(row.adapters.encoder, row.dataset)
            wrong = missing_weights(config.root, entry.weights, backbone)
            inputs.append(Need("weights", entry.weights, not wrong))
    if (source := config.external_scores(run)) not in ("", "own"):
        inputs.append(Need("class scores", source, (config.root / source).is_file()))
    if file := split_file(row.labels):
        inputs.append(Need("labels", file, (config.root / file).is_file()))
    behind = [name if "/" in name else config.trainings(name)[0] for name in runs_behind(config, row.features)]
    for other in dict.fromkeys([*teachers_of(config, run).values(), *behind, *filter(None, [fused_with(config, run)])]):
        inputs.append(Need("run", other, (config.root / path_of("train", run=other)).is_file()))
    return inputs


def require(config: Config, dataset: str, features: str = "") -> None:
    """Raise all missing inputs as one TadError."""
    if needs := missing(config, dataset, features):
        raise MissingError("; ".join(needs))


def require_scores(config: Config, run: str) -> None:
    """Raise the sentences of `missing_scores` as one TadError."""
    if needs := missing_scores(config, run):
        raise MissingError("; ".join(needs))


def require_files(config: Config, dataset: str, key: str) -> None:
    """Raise a TadError if the `annotations` or `videos` of a dataset are missing."""
    if needs := _missing_files(config, dataset, key):
        raise TadError(needs[0])
