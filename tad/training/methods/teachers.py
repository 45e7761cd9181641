"""Teachers of a distillation: load trained runs, check that they fit the student, and append their features."""

import logging
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tad.core.errors import TadError
from tad.features.store import FeatureReader
from tad.layers.contract import DetectorBase
from tad.provenance.stamps import identity_of
from tad.settings.stages import TeacherSpec, TrainStageSpec
from tad.training.data.in_memory import Features, SideBySide
from tad.training.data.inputs import index_stamp, open_features, recipe_of
from tad.training.data.windows import Item
from tad.training.io import tensors as checkpoint
from tad.training.io.models import Model, load_model, weights_digest
from tad.training.methods.distillation import Distiller, Teacher

log = logging.getLogger(__name__)
CPU = torch.device("cpu")


@dataclass(frozen=True)
class TeacherFiles:
    """A teacher's settings, its model file and its feature index."""

    spec: TeacherSpec
    model: Path
    features: Path

    @property
    def title(self) -> str:
        """Name and run of the teacher, for messages."""
        return f"teacher {self.spec.name} (run {self.spec.run})"


def teacher_files(spec: TrainStageSpec, models: Sequence[Path], features: Sequence[Path]) -> tuple[TeacherFiles, ...]:
    """Pair the teachers in the settings with their model and feature files, in the same order.

    Raises:
        TadError: the numbers of teachers, models and indices differ.
    """
    wanted = spec.distill.teachers if spec.distill else ()
    if not len(wanted) == len(models) == len(features):
        raise TadError(
            f"run {spec.run}: {len(models)} models and {len(features)} feature indices for {len(wanted)} teachers; give"
            f" --teachers and --teacher-features in the order of distill.teachers ({', '.join(t.run for t in wanted)})"
        )
    together = zip(wanted, models, features, strict=True)
    return tuple(TeacherFiles(teacher, Path(model), Path(index)) for teacher, model, index in together)


def load_teacher(teacher: TeacherFiles, reader: FeatureReader, dataset: str, device: torch.device) -> Model:
    """Load a teacher's detector.

    Raises:
        TadError: see `load_model`; or the detector is not `observable`.
    """
    spec = teacher.spec
    stamp = index_stamp(teacher.features, dataset=dataset, named=spec.features)
    model = load_model(
        teacher.model,
        dataset=dataset,
        features=spec.features,
        plugin=spec.detector,
        resize=spec.resize,
        dim=reader.dim,
        recipe=recipe_of(stamp),
        device=device,
    )
    require_observable(model.detector, f"{teacher.title}: {spec.detector.name}")
    return model


def require_observable(detector: DetectorBase, title: str) -> None:
    """Check that a detector exposes its intermediate values.

    Raises:
        TadError: it does not.
    """
    if not detector.observable:
        raise TadError(f"{title} does not expose intermediate values (`observable`); distill with another detector")


def examine(
    teachers: Iterable[TeacherFiles], spec: TrainStageSpec, labels: list[str], items: list[Item]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Check that all teachers fit the student.

    Returns: the content that the student learns from (part of the training's key), and the identities of the models.

    Raises:
        TadError: a teacher has other classes or another time grid than the student, or other features than it was
            trained on; the message names both.
    """
    content, identities = [], {}
    for teacher in teachers:
        with open_features(teacher.features, teacher.spec.frames) as reader:
            try:
                model = load_teacher(teacher, reader, spec.dataset, CPU)
                videos = [_compared(item, teacher, reader) for item in items]
            except TadError as error:
                raise TadError(f"run {spec.run}: {teacher.title}: {error}") from None
        if model.labels != labels:
            raise TadError(
                f"{teacher.model}: {teacher.title} has {len(model.labels)} classes ({_few(model.labels)}), but run"
                f" {spec.run} has {len(labels)} ({_few(labels)}); teacher and student need the same classes in the same"
                " order"
            )
        weights = weights_digest(checkpoint.read_tensors(teacher.model)[0])
        content.append({"name": teacher.spec.name, "weights": weights, "videos": videos})
        identities[f"teacher {teacher.spec.name}"] = identity_of(teacher.model)
    return content, identities


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")


def _compared(item: Item, teacher: TeacherFiles, reader: FeatureReader) -> list[Any]:
    """Check that a video has the same grid in the teacher's features; return its id and checksum there."""
    grid = reader.grid(item.video_id)
    grid = grid.spread(teacher.spec.resize) if teacher.spec.resize else grid
    theirs, ours = ((g.length, g.step, g.start) for g in (grid, item.grid))
    if theirs[0] != ours[0] or not np.allclose(theirs[1:], ours[1:], rtol=1e-6, atol=1e-6):
        grids = ["{} snippets every {:.6g} s from {:.6g} s".format(*facts) for facts in (theirs, ours)]
        raise TadError(
            f"{teacher.features}: video '{item.video_id}' has {grids[0]}, but the student's features have {grids[1]};"
            " teacher and student need the same clips: make stride, rate and clip length equal"
        )
    return [item.video_id, str(reader.attrs(item.video_id)["checksum"])]


@torch.no_grad()
def start_from(student: DetectorBase, weights: dict[str, Tensor], title: str) -> None:
    """Initialise the student with the teacher's weights of equal name and shape.

    Raises:
        TadError: there are no such weights.
    """
    own = student.state_dict()
    shared = [name for name, value in own.items() if name in weights and weights[name].shape == value.shape]
    if not shared:
        raise TadError(f"distill.start: the student shares no weight with {title}; remove distill.start")
    for name in shared:
        own[name].copy_(weights[name])
    log.info("initialised %d of the student's %d weights from %s", len(shared), len(own), title)


def distiller(
    student: DetectorBase,
    features: Features,
    teachers: Sequence[TeacherFiles],
    *,
    spec: TrainStageSpec,
    device: torch.device,
    held: ExitStack,
) -> tuple[Distiller, SideBySide]:
    """Build the distillation strategy, and the features that it needs: the student's followed by its teachers'.

    Args:
        student: the student; initialised from a teacher if `distill.start` names one.
        features: the student's features.
        teachers: files of the teachers.
        spec: settings of the training.
        device: device of the teachers.
        held: exit stack that closes the teachers' features.
    """
    assert spec.distill is not None
    require_observable(student, f"run {spec.run}: {spec.detector.name}")
    beside = SideBySide([features])
    loaded = []
    for teacher in teachers:
        reader = held.enter_context(open_features(teacher.features, teacher.spec.frames))
        model = load_teacher(teacher, reader, spec.dataset, device)
        columns = beside.columns(reader, resize_to=teacher.spec.resize)
        loaded.append(Teacher(teacher.spec.name, teacher.spec.run, model.detector, columns))
        if teacher.spec.name == spec.distill.start:
            start_from(student, model.detector.state_dict(), teacher.title)
    return Distiller(spec.distill, loaded, run=spec.run, columns=slice(0, features.dim)), beside
