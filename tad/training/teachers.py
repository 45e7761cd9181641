"""Trained runs as teachers: that they fit the student, their detectors, and their features beside the student's."""

import logging
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tad.cache import FeatureReader
from tad.errors import TadError
from tad.provenance import identity_of
from tad.specs import TeacherSpec, TrainStageSpec
from tad.training import checkpoint
from tad.training.data import Item
from tad.training.distillation import Distiller, Teacher
from tad.training.features import Features, SideBySide
from tad.training.frames import open_features
from tad.training.inputs import index_stamp, recipe_of
from tad.training.models import Model, load_model, weights_digest

log = logging.getLogger(__name__)
CPU = torch.device("cpu")


@dataclass(frozen=True)
class TeacherFiles:
    """A teacher's settings, its model and the index of its features."""

    spec: TeacherSpec
    model: Path
    features: Path

    @property
    def called(self) -> str:
        """Its name and run, for messages."""
        return f"teacher {self.spec.name} (run {self.spec.run})"


def teacher_files(spec: TrainStageSpec, models: Sequence[Path], features: Sequence[Path]) -> tuple[TeacherFiles, ...]:
    """The files of each teacher of the settings, in their order.

    Raises:
        TadError: not as many models and indices as teachers.
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
    """The teacher's detector.

    Raises:
        TadError: see `load_model`; it is no detector that one can look into.
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
    require_open(model.detector, f"{teacher.called}: {spec.detector.name}")
    return model


def require_open(detector: Any, called: str) -> None:
    """Raise a TadError where a detector does not show what it computes on the way."""
    if not hasattr(detector, "observe"):
        raise TadError(f"{called} does not show what it computes (it has no `observe`); distill with another detector")


def examine(
    teachers: Iterable[TeacherFiles], spec: TrainStageSpec, labels: list[str], items: list[Item]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """What a student learns from its teachers, by content (for the training's key), and the models' identities.

    Raises:
        TadError: a teacher whose classes, grid or features are not the student's, or not what it was trained on; the
            message names both.
    """
    content, identities = [], {}
    for teacher in teachers:
        with open_features(teacher.features) as reader:
            try:
                model = load_teacher(teacher, reader, spec.dataset, CPU)
                videos = [_compared(item, teacher, reader) for item in items]
            except TadError as error:
                raise TadError(f"run {spec.run}: {teacher.called}: {error}") from None
        if model.labels != labels:
            raise TadError(
                f"{teacher.model}: {teacher.called} knows {len(model.labels)} classes ({_few(model.labels)}) and run"
                f" {spec.run} {len(labels)} ({_few(labels)}): a teacher has the student's classes in their order"
            )
        weights = weights_digest(checkpoint.read_tensors(teacher.model)[0])
        content.append({"name": teacher.spec.name, "weights": weights, "videos": videos})
        identities[f"teacher {teacher.spec.name}"] = identity_of(teacher.model)
    return content, identities


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")


def _compared(item: Item, teacher: TeacherFiles, reader: FeatureReader) -> list[Any]:
    """The video's content among the teacher's features, if they lie on the student's grid."""
    grid = reader.grid(item.video_id)
    grid = grid.spread(teacher.spec.resize) if teacher.spec.resize else grid
    theirs, ours = ((g.length, g.step, g.start) for g in (grid, item.grid))
    if theirs[0] != ours[0] or not np.allclose(theirs[1:], ours[1:], rtol=1e-6, atol=1e-6):
        said = ["{} snippets every {:.6g} s from {:.6g} s".format(*facts) for facts in (theirs, ours)]
        raise TadError(
            f"{teacher.features}: video '{item.video_id}' has {said[0]}, the student's features have {said[1]}: teacher"
            " and student see the same clips; make stride, rate and clip length equal"
        )
    return [item.video_id, str(reader.attrs(item.video_id)["checksum"])]


@torch.no_grad()
def start_from(student: Any, weights: dict[str, Tensor], called: str) -> None:
    """Give the student the weights of equal name and shape.

    Raises:
        TadError: there is none.
    """
    own = student.state_dict()
    shared = [name for name, value in own.items() if name in weights and weights[name].shape == value.shape]
    if not shared:
        raise TadError(f"distill.start: the student shares no weight with {called}; leave distill.start out")
    for name in shared:
        own[name].copy_(weights[name])
    log.info("the student starts with %d of its %d weights from %s", len(shared), len(own), called)


def distiller(
    student: Any,
    features: Features,
    teachers: Sequence[TeacherFiles],
    *,
    spec: TrainStageSpec,
    device: torch.device,
    held: ExitStack,
) -> tuple[Distiller, SideBySide]:
    """The loss of a student that is taught, and the features that it asks for: the student's, then its teachers'.

    Args:
        student: gets the weights that it starts with.
        features: the student's.
        teachers: its teachers.
        spec: of its training.
        device: where they compute.
        held: keeps the teachers' features open.
    """
    assert spec.distill is not None
    require_open(student, f"run {spec.run}: {spec.detector.name}")
    beside = SideBySide([features])
    loaded = []
    for teacher in teachers:
        reader = held.enter_context(open_features(teacher.features))
        model = load_teacher(teacher, reader, spec.dataset, device)
        columns = beside.columns(reader, resize_to=teacher.spec.resize)
        loaded.append(Teacher(teacher.spec.name, teacher.spec.run, model.detector, columns))
        if teacher.spec.name == spec.distill.start:
            start_from(student, model.detector.state_dict(), teacher.called)
    return Distiller(spec.distill, loaded, run=spec.run, columns=slice(0, features.dim)), beside
