"""Features and annotations → a trained detector.

Inputs: index of features (merge or convert), annotations (annotate).
Output: `results/<run>/model.safetensors`: averaged (EMA) weights; in the header the stamp, the labels
    and the detector's settings.
Settings: `tad.specs.TrainStageSpec`.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tad import plugins
from tad.annotations import Table, read_table
from tad.cache import FeatureReader
from tad.device import name_of, reproducible, resolve
from tad.errors import TadError
from tad.files import digest
from tad.provenance import FEATURES, code, expect, stamp
from tad.specs import TrainSpec, TrainStageSpec
from tad.training import checkpoint
from tad.training.data import (
    HELD_OUT,
    Features,
    Item,
    Windows,
    check_ends,
    generator,
    label_names,
    read_items,
    recipe_of,
    select,
)
from tad.training.engine import Engine, Saving

log = logging.getLogger(__name__)


def build(name: str, settings: dict[str, Any], *, feature_dim: int, num_classes: int, max_length: int) -> Any:
    """A freshly initialised detector (from torch's random generator)."""
    make = plugins.load("detectors", name)
    return make(feature_dim=feature_dim, num_classes=num_classes, max_length=max_length, **settings)


def _roles(reader: FeatureReader, table: Table, spec: TrainStageSpec) -> tuple[list[Item], list[Item]]:
    """The videos to train on and those whose loss selects the epoch (none with selection `last`)."""
    train = spec.train
    items = read_items(reader, table, "train", spec=train, exclude=spec.exclude)
    if train.selection == "last":
        return items, []
    if train.selection == "test":
        log.warning("train.selection test: the epoch is chosen on the test split; map.json says so")
        return items, read_items(reader, table, "test", spec=train, exclude=spec.exclude)
    count = max(round(train.hold_out * len(items)), 1)
    if train.hold_out == 0 or count >= len(items):
        raise TadError(
            f"train.hold_out: {train.hold_out}: selection held-out keeps {count} of {len(items)} train videos aside;"
            " choose a share between 0 and 1 that leaves videos to train on, or selection last"
        )
    aside = set(generator(spec.seed, HELD_OUT).permutation(len(items))[:count].tolist())
    return [v for k, v in enumerate(items) if k not in aside], [items[k] for k in sorted(aside)]


def _describe(item: Item) -> list[Any]:
    grid = item.grid
    timing = [grid.start, grid.step, grid.length]
    return [item.video_id, item.checksum, timing, np.round(item.segments_N2, 9).tolist(), item.labels_N.tolist()]


def training_key(spec: TrainStageSpec, labels: list[str], roles: dict[str, list[Item]]) -> str:
    """The digest of all that the weights follow from: settings, code, and the videos that training reads, by content.

    The run's name, other splits' videos and how the inputs came about are no part of it.
    """
    settings = {key: value for key, value in spec.model_dump(mode="json").items() if key not in ("run", "exclude")}
    videos = {role: [_describe(item) for item in items] for role, items in roles.items()}
    made_by = code("train", spec.model_dump(mode="json"))
    return digest({"settings": settings, "code": made_by, "labels": labels, "videos": videos}, 16)


def _fit(
    reader: FeatureReader,
    roles: dict[str, list[Item]],
    labels: list[str],
    spec: TrainStageSpec,
    *,
    key: str,
    kept: Path,
    device: torch.device,
    seconds: float,
    tensorboard: Path,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Train, or continue training; the chosen weights and how they came about."""

    def windows(items: list[Item]) -> Windows:
        return Windows(items, features, spec=spec.train, seed=spec.seed, dim=reader.dim)

    train: TrainSpec = spec.train
    features = Features(reader, resize_to=train.resize)
    state = Saving(kept / f"{key}.state.safetensors", key, seconds)
    with reproducible(device):
        torch.manual_seed(spec.seed)
        detector = build(
            spec.detector.name,
            spec.detector.settings,
            feature_dim=reader.dim,
            num_classes=len(labels),
            max_length=train.max_length,
        )
        engine = Engine(
            detector,
            windows(roles["train"]),
            spec=train,
            seed=spec.seed,
            device=device,
            saving=state,
            judged=windows(roles["judged"]) if roles["judged"] else None,
        )
        engine.resume()
        result = engine.run(tensorboard)
    facts = {"epoch": result.epoch, "epoch_rule": result.rule, "seed": spec.seed, "steps": engine.total}
    counts = {"videos": {role: len(items) for role, items in roles.items()}}
    return result.weights, {**facts, **counts, "device": name_of(device)}


def train(
    features: Path,
    annotations: Path,
    out: Path,
    *,
    spec: TrainStageSpec,
    kept: Path,
    device: str = "cpu",
    threads: int = 0,
    checkpoint_seconds: float = 120.0,
) -> Path:
    """Train a detector on the train split, or take up where an earlier call with the same settings was cut off.

    Args:
        features: index made by merge or convert.
        annotations: table made by annotate.
        out: the model to write.
        kept: folder for the state of an unfinished training and for finished weights, by the digest of what training
            reads; a call in which none of that has changed republishes the weights at once. May be deleted any time.
        device: see `tad.device.resolve`.
        threads: CPU threads; 0: torch's choice. Results on CPU are bit-equal for equal numbers of threads.
        checkpoint_seconds: time between saved states within an epoch; at ends of epochs a sixth of it.

    Raises:
        TadError: inputs of another dataset or feature set, a video without features, an empty split, no instance,
            features or loss not finite, out of memory.
    """
    target = resolve(device, threads=threads)
    merged = expect(features, stage=FEATURES, dataset=spec.dataset, features=spec.features)
    table_stamp = expect(annotations, stage="annotate", dataset=spec.dataset)
    table = read_table(annotations)
    labels = label_names(table, class_agnostic=spec.train.class_agnostic)
    with FeatureReader(features) as reader:
        check_ends(table, reader, table_stamp)
        items, judged = _roles(reader, table, spec)
        _, left_out = select(table, "train", reader, spec.exclude)
        roles = {"train": items, "judged": judged}
        key = training_key(spec, labels, roles)
        finished = Path(kept) / f"{key}.safetensors"
        if finished.is_file():
            weights, metadata = checkpoint.read_tensors(finished)
            facts = checkpoint.read_json_field(finished, metadata, "facts", dict)
            log.info("nothing that training reads has changed: weights republished from %s", finished)
        else:
            weights, facts = _fit(
                reader,
                roles,
                labels,
                spec,
                key=key,
                kept=Path(kept),
                device=target,
                seconds=checkpoint_seconds,
                tensorboard=Path(out).parent / "logs" / "tensorboard",
            )
            checkpoint.write_tensors(finished, weights, {"facts": facts})
        dim = reader.dim
    inputs = {"features": str(merged["identity"]), "annotations": str(table_stamp["identity"])}
    facts = {**facts, "recipe": recipe_of(merged), "training": key, "excluded": left_out}
    sizes = {"num_classes": len(labels), "max_length": spec.train.max_length}
    header = {
        "tad_stamp": stamp("train", spec.model_dump(mode="json"), inputs, **facts),
        "labels": labels,
        "detector": {**spec.detector.model_dump(mode="json"), **sizes},
        "feature_dim": str(dim),
    }
    checkpoint.write_tensors(out, weights, header)
    (Path(kept) / f"{key}.state.safetensors").unlink(missing_ok=True)
    log.info("%s: %s, epoch %d, seed %d", out, facts["epoch_rule"], facts["epoch"], facts["seed"])
    return Path(out)
