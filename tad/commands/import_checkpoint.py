"""Import a published checkpoint, with the settings that it was trained with, as the model of a run."""

import importlib
import logging
from pathlib import Path

from tad.annotations.table import read_table
from tad.core.claims import claiming
from tad.core.errors import TadError
from tad.core.files import digest
from tad.settings import plugins
from tad.settings.config import Config
from tad.settings.paths import path_of
from tad.settings.resolved import of_component, parse
from tad.settings.stages import TrainStageSpec
from tad.settings.strict_yaml import parse_settings

log = logging.getLogger(__name__)


def published_spec(detector: str, variant: str, *, run: str, features: str, settings: str = "") -> TrainStageSpec:
    """Return a detector's YAML settings for a dataset or `<dataset>-<features>` as the settings of a run.

    Args:
        detector: name of the detector.
        variant: the dataset, or `<dataset>-<features>`.
        run: name of the run.
        features: name of the feature set; empty: as in `variant`.
        settings: YAML or JSON text: settings of the detector that differ from these.

    Raises:
        TadError: the detector or a setting is unknown, or neither the detector nor `tad` knows the dataset.
    """
    changes = plugins.document("detectors", detector).get("for", {})
    known = sorted({*changes, *plugins.names("datasets")})
    if variant not in known:
        raise TadError(f"--for {variant}: no such dataset; {plugins.nearest(variant, known)}")
    dataset, _, own_features = variant.partition("-")
    file = plugins.file_of("detectors", detector)
    resolved = of_component("detectors", detector, list(dict.fromkeys((dataset, variant))))
    if settings:
        resolved.lay("settings", parse_settings(settings, "--settings"), "--settings")
    sections = resolved.check(file).sections
    values = {
        "run": run,
        "dataset": dataset,
        "features": features or own_features,
        "detector": {"name": detector, "settings": sections["settings"]},
        "train": sections["train"],
        "seed": 0,
    }
    return parse(TrainStageSpec, values, file)


def class_names(spec: TrainStageSpec, *, classes: int, annotations: Path | None) -> list[str]:
    """Return the labels in the order of the checkpoint's outputs.

    They come from the annotation table or, without one, from the dataset's module.

    Raises:
        TadError: there is no list of labels, or its length is not `classes` (0: unchecked).
    """
    if spec.train.class_agnostic:
        labels = ["action"]
    elif annotations is not None:
        labels = list(read_table(annotations, in_frames=True).labels)
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
    checkpoint: Path,
    out: Path,
    *,
    run: str = "",
    config: Path = Path("config.yaml"),
    detector: str = "",
    variant: str = "",
    settings: str = "",
    features: str = "",
    feature_dim: int = 0,
    classes: int = 0,
    annotations: Path | None = None,
    weights: str = "ema",
) -> Path:
    """Write a published checkpoint as the model of a run, so that detect uses it in place of a trained one.

    Args:
        checkpoint: the published `.pth.tar`.
        out: the model to write, usually `results/<run>/model.safetensors`.
        run: a run of `config`, which determines dataset, features, detector and settings.
        config: the configuration that contains the run; not read without `run`.
        detector: a module of tad/detectors; used without `run`, as are the next three.
        variant: the dataset, or `<dataset>-<features>`, whose settings in the detector's YAML are used.
        settings: YAML or JSON text: settings of the detector that differ from these.
        features: name of the feature set that detect will read.
        feature_dim: number of channels of the features; 0: as in the run's imported features.
        classes: number of classes, as a check; 0: unchecked.
        annotations: annotation table made by annotate, which gives the labels and their order.
        weights: `ema` (averages, as published) or `plain`.

    Raises:
        TadError: the settings are incomplete, or the file is malicious, damaged or of another detector.
    """
    from tad.training.io.published import import_checkpoint

    if detector:
        spec = published_spec(
            detector, variant, run=run or Path(out).resolve().parent.name, features=features, settings=settings
        )
    elif settings:
        raise TadError("--settings: only with --detector; the settings of a run are in its row of config.yaml")
    elif run:
        loaded = Config.read(config)
        if (seeds := len(loaded.trainings(run))) > 1:
            raise TadError(f"--run {run}: has {seeds} seeds, a checkpoint is one; name {run}/seed-0 or a run without")
        named = loaded.spec("train", run=run)
        assert isinstance(named, TrainStageSpec)
        spec, widths = named, [loaded.file.features[part].width for part in loaded.parts(named.features)]
        feature_dim = feature_dim or (sum(widths) if all(widths) else 0)
        table = path_of("annotate", root=loaded.root, dataset=spec.dataset)
        annotations = annotations or (table if table.is_file() else None)
    else:
        raise TadError("name a run of config.yaml with --run, or --detector and --for")
    if not feature_dim:
        raise TadError("--feature-dim: say how many channels the features have, 2048 for two-stream I3D for example")
    if not spec.features:
        log.warning("no --features: detect accepts the model only with the name of its feature set")
    labels = class_names(spec, classes=classes, annotations=annotations)
    work = digest(["import-checkpoint", str(Path(checkpoint).resolve()), spec.model_dump(mode="json")], 32)
    with claiming(out, lambda: work):
        return import_checkpoint(checkpoint, out, spec=spec, feature_dim=feature_dim, labels=labels, weights=weights)
