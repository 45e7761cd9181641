"""A published checkpoint, and the settings that it was trained with → the model of a run."""

import importlib
import logging
from pathlib import Path

from tad import plugins
from tad.annotations import read_table
from tad.config import Config
from tad.errors import TadError
from tad.resolved import parse
from tad.specs import TrainStageSpec

log = logging.getLogger(__name__)


def published_spec(detector: str, variant: str, *, run: str, features: str) -> TrainStageSpec:
    """The settings in a detector's YAML for a dataset, or for `<dataset>-<features>`, as those of a run.

    Raises:
        TadError: unknown detector, or a dataset that neither the detector nor `tad` knows.
    """
    document = plugins.document("detectors", detector)
    changes = document.get("for", {})
    known = sorted({*changes, *plugins.names("datasets")})
    if variant not in known:
        raise TadError(f"--for {variant}: no such dataset; {plugins.nearest(variant, known)}")
    dataset, _, own_features = variant.partition("-")
    sections = {section: document[section] for section in ("settings", "train")}
    for layer in dict.fromkeys((dataset, variant)):
        for section, values in sections.items():
            own = changes.get(layer, {}).get(section, {})
            sections[section] = plugins.override(section, values, own, variant)
    values = {
        "run": run,
        "dataset": dataset,
        "features": features or own_features,
        "detector": {"name": detector, "settings": sections["settings"]},
        "train": sections["train"],
        "seed": 0,
    }
    return parse(TrainStageSpec, values, f"tad/detectors/{detector}.yaml")


def class_names(spec: TrainStageSpec, *, classes: int, annotations: Path | None) -> list[str]:
    """The labels in the order of the checkpoint's outputs: the annotation table's, or the dataset's own list.

    Raises:
        TadError: no list to be had, or one of another length than `classes` (0: not said).
    """
    if spec.train.class_agnostic:
        labels = ["action"]
    elif annotations is not None:
        labels = list(read_table(annotations).labels)
    elif spec.dataset in plugins.names("datasets"):
        labels = list(getattr(importlib.import_module(f"tad.datasets.{spec.dataset}"), "LABELS", ()))
    else:
        labels = []
    if not labels:
        raise TadError(f"--annotations: the classes of {spec.dataset} are not known; name the table that annotate made")
    if classes not in (0, len(labels)):
        raise TadError(f"--classes {classes}: {spec.dataset} has {len(labels)} here; check --for and --annotations")
    return labels


def import_model(
    path: Path,
    out: Path,
    *,
    run: str = "",
    config: Path = Path("config.yaml"),
    detector: str = "",
    variant: str = "",
    features: str = "",
    feature_dim: int = 0,
    classes: int = 0,
    annotations: Path | None = None,
    weights: str = "ema",
) -> Path:
    """Write a published checkpoint as the model of a run, so that detect takes it in place of a trained one.

    Args:
        path: the published `.pth.tar`.
        out: the model to write, usually `results/<run>/model.safetensors`.
        run: a run of `config`: dataset, features, detector and settings are its.
        config: the configuration that has the run; not read without one.
        detector: without a run of the configuration: a module of tad/detectors,
        variant: the dataset whose settings in the detector's YAML count,
        features: and the name of the feature set that detect will be given.
        feature_dim: channels of the features; 0: those of the run's imported features.
        classes: number of classes, as a check; 0: unchecked.
        annotations: table made by annotate, for the labels and their order.
        weights: `ema` (averages, as published) or `plain`.

    Raises:
        TadError: settings that do not say enough; a file that is hostile, damaged or of another detector.
    """
    from tad.training.published import import_checkpoint

    if detector:
        spec = published_spec(detector, variant, run=run or Path(out).resolve().parent.name, features=features)
    elif run:
        loaded = Config.read(config)
        if (seeds := len(loaded.trainings(run))) > 1:
            raise TadError(f"--run {run}: has {seeds} seeds, a checkpoint is one; name {run}/seed-0 or a run without")
        named = loaded.spec("train", run=run)
        assert isinstance(named, TrainStageSpec)
        spec, widths = named, [loaded.file.features[part].width for part in loaded.parts(named.features)]
        feature_dim = feature_dim or (sum(widths) if all(widths) else 0)
        made = loaded.root / f"results/annotations/{spec.dataset}.json"
        annotations = annotations or (made if made.is_file() else None)
    else:
        raise TadError("name a run of config.yaml with --run, or --detector and --for")
    if not feature_dim:
        raise TadError("--feature-dim: say how many channels the features have, 2048 for two-stream I3D for example")
    if not spec.features:
        log.warning("no --features: detect accepts the model only with the name of its feature set")
    labels = class_names(spec, classes=classes, annotations=annotations)
    return import_checkpoint(path, out, spec=spec, feature_dim=feature_dim, labels=labels, weights=weights)
