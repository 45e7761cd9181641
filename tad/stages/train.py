"""Features and annotations → a trained detector.

Inputs: index of features (merge, convert or join), annotations (annotate); with `distill`, models of other runs (train)
    and the indices that these read.
Output: `results/<run>/model.safetensors`: averaged (EMA) weights; in the header the stamp, the labels
    and the detector's settings.
Settings: `tad.specs.TrainStageSpec`.
"""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tad import plugins
from tad.annotations import Table
from tad.cache import FeatureReader
from tad.device import leased, name_of, reproducible, resolve
from tad.errors import TadError
from tad.files import digest
from tad.provenance import code, stamp
from tad.specs import TrainStageSpec
from tad.training import checkpoint
from tad.training.data import Item, Windows
from tad.training.engine import Engine, Saving
from tad.training.features import Features, SideBySide
from tad.training.frames import open_features
from tad.training.health import dead_offsets
from tad.training.inputs import (
    check_ends,
    check_lengths,
    label_names,
    labels_behind,
    read_inputs,
    recipe_of,
    select,
)
from tad.training.parallel import Ranks, launch
from tad.training.pretext import learn_pretext
from tad.training.priors import absent_classes, silence
from tad.training.pseudo import SelfTaught
from tad.training.selection import roles_of
from tad.training.starting import begin_with, beginning
from tad.training.strategy import Strategy
from tad.training.teachers import TeacherFiles, distiller, examine, teacher_files
from tad.training.unlabelled import MixedWindows
from tad.weights import weights_identity

log = logging.getLogger(__name__)


def build(name: str, settings: dict[str, Any], *, feature_dim: int, num_classes: int, max_length: int) -> Any:
    """A freshly initialised detector (from torch's random generator)."""
    make = plugins.load("detectors", name)
    return make(feature_dim=feature_dim, num_classes=num_classes, max_length=max_length, **settings)


def _describe(item: Item) -> list[Any]:
    grid = item.grid
    timing = [grid.start, grid.step, grid.length]
    return [item.video_id, item.checksum, timing, np.round(item.segments_N2, 9).tolist(), item.labels_N.tolist()]


def training_key(
    spec: TrainStageSpec,
    labels: list[str],
    roles: dict[str, list[Item]],
    absent: list[int] | None = None,
    taught: Sequence[dict[str, Any]] = (),
) -> str:
    """The digest of all that the weights follow from: settings, code, and the videos that training reads, by content.

    `absent` are the classes that no video of any split shows; `taught` is what teachers are, by content. Names of runs,
    other splits' videos and how the inputs came about are no part of it.
    """
    settings = {key: value for key, value in spec.model_dump(mode="json").items() if key not in ("run", "exclude")}
    for teacher in (settings["distill"] or {"teachers": ()})["teachers"]:
        del teacher["run"]
    videos = {role: [_describe(item) for item in items] for role, items in roles.items()}
    made_by = code("train", spec.model_dump(mode="json"))
    classes = {"labels": labels, "absent": absent or []}
    return digest({"settings": settings, "code": made_by, "videos": videos, **classes, "taught": list(taught)}, 16)


@dataclass(frozen=True)
class Job:
    """What one process needs to take part in a training; it travels to processes."""

    features: Path
    roles: dict[str, list[Item]]
    labels: list[str]
    absent: list[int]
    spec: TrainStageSpec
    key: str
    kept: Path
    device: str
    threads: int
    seconds: float
    tensorboard: Path
    teachers: tuple[TeacherFiles, ...] = ()
    start: Path | None = None

    @property
    def state(self) -> Path:
        """The state of the unfinished training."""
        return self.kept / f"{self.key}.state.safetensors"

    @property
    def pretext(self) -> Path:
        """The state of the learning that comes before it."""
        return self.kept / f"{self.key}.pretext.state.safetensors"

    @property
    def finished(self) -> Path:
        """The weights that it ends with."""
        return self.kept / f"{self.key}.safetensors"


def _engine(job: Job, reader: FeatureReader, ranks: Ranks, device: torch.device, held: ExitStack) -> Engine:
    """The training, resumed where there is a state, else begun with what comes before its first step."""
    spec, features = job.spec, Features(reader, resize_to=job.spec.train.resize, device=device)
    windows = partial(Windows, spec=spec.train, seed=spec.seed)
    torch.manual_seed(job.spec.seed)
    detector = build(
        job.spec.detector.name,
        job.spec.detector.settings,
        feature_dim=reader.dim,
        num_classes=len(job.labels),
        max_length=job.spec.train.max_length,
    )
    strategy: Strategy = Strategy()
    seen: Features | SideBySide = features
    if job.start is not None:
        begin_with(detector, job.start, beginning(job.spec.detector, reader.dim))
    if job.teachers:
        strategy, seen = distiller(detector, features, job.teachers, spec=spec, device=device, held=held)
    silence(detector, job.absent)
    train, judged, others = (job.roles.get(role, []) for role in ("train", "judged", "unlabelled"))
    labelled = windows(train, seen, dim=seen.dim)
    learnt: Windows | MixedWindows = labelled
    if others and spec.labels:
        unlabelled = partial(Windows, others, features, seed=spec.seed, dim=features.dim, everywhere=True)
        learnt = MixedWindows(labelled, unlabelled, spec=spec.train, labels=spec.labels)
        strategy = SelfTaught(detector, spec.labels, inner=strategy, train=spec.train, each=len(learnt), seed=spec.seed)
    engine = Engine(
        detector,
        learnt,
        spec=spec.train,
        seed=spec.seed,
        device=device,
        saving=Saving(job.state, job.key, job.seconds),
        judged=windows(judged, features, dim=features.dim) if judged else None,
        ranks=ranks,
        strategy=strategy,
    )
    engine.resume()
    if spec.train.pretext_epochs and engine.step == 0:
        everything = windows(train + others, features, dim=features.dim, everywhere=True)
        learn_pretext(engine, everything, saving=Saving(job.pretext, job.key, job.seconds), tensorboard=job.tensorboard)
    return engine


def _fit(job: Job, ranks: Ranks) -> None:
    """Train, or continue training; the first process writes the chosen weights and how they came about."""
    device = resolve(f"cuda:{ranks.index}" if job.device == "cuda" else job.device, threads=job.threads)
    with reproducible(device), open_features(job.features) as reader, ExitStack() as held:
        engine = _engine(job, reader, ranks, device, held)
        result = engine.run(job.tensorboard)
        features = Features(reader, resize_to=job.spec.train.resize, device=device)
        seen = Windows(job.roles["train"], features, spec=job.spec.train, seed=job.spec.seed, dim=features.dim)
        dead = dead_offsets(engine.detector, result.weights, seen, device) if ranks.first else []
    if dead:
        log.warning(
            "the detector says 0 for the distance to every %s: its offset head has died, and what it detects is placed"
            " wrongly; train with another seed or a lower train.lr (map.json: dead_offsets)", " and ".join(dead),
        )  # fmt: skip
    facts = {
        "dead_offsets": dead,
        "epoch": result.epoch,
        "epoch_rule": result.rule,
        "seed": job.spec.seed,
        "steps": engine.total,
        "videos": {role: len(items) for role, items in job.roles.items()},
        "device": name_of(device),
        "processes": ranks.count,
        "videos_at_once": engine.gradients.at_once,
    }
    if ranks.first:
        checkpoint.write_tensors(job.finished, result.weights, {"facts": facts})


def _fit_together(job: Job, count: int) -> None:
    """Train in `count` processes, each with a GPU of its own where there are any."""
    cuda = job.device == "cuda"
    with ExitStack() as held_by_all:
        for rank in range(count if cuda else 0):  # in an order that all jobs keep, so that no two wait for each other
            held_by_all.enter_context(leased(f"cuda:{rank}"))
        launch(partial(_fit, job), count=count, backend="nccl" if cuda else "gloo")


def _check_tested(reader: FeatureReader, table: Table, spec: TrainStageSpec, sizes: dict[str, int]) -> None:
    """Say hours before detect would that it has nothing to do, or videos that the detector does not take."""
    tested, _ = select(table, "test", reader, spec.exclude)
    lengths = {v: spec.train.resize or reader.grid(v).length for v in tested}
    with torch.device("meta"):
        detector = build(spec.detector.name, spec.detector.settings, feature_dim=reader.dim, **sizes)
    check_lengths(detector, lengths, source=reader.path, split="test")


def _processes(device: str, devices: int, batch: int) -> int:
    """How many processes train, each with a GPU of its own where there are any.

    Raises:
        TadError: several are asked for, and the GPUs are not there.
    """
    if devices <= 1:
        return 1
    if device != "cpu" and (":" in device or torch.cuda.device_count() < devices):
        raise TadError(
            f"--devices {devices}: device is {device!r} and {torch.cuda.device_count()} CUDA devices are usable; choose"
            " --device cuda where there are as many, or --device cpu for processes that share the CPU"
        )
    if devices > batch:
        log.warning("--devices %d: a batch has %d videos, so no more than %d take part", devices, batch, batch)
    return min(devices, batch)


def train(
    features: Path,
    annotations: Path,
    out: Path,
    *,
    spec: TrainStageSpec,
    kept: Path,
    device: str = "cpu",
    devices: int = 1,
    threads: int = 0,
    checkpoint_seconds: float = 120.0,
    teachers: Sequence[Path] = (),
    teacher_features: Sequence[Path] = (),
    start: Path | None = None,
) -> Path:
    """Train a detector on the train split, or take up where an earlier call with the same settings was cut off.

    Args:
        features: index made by merge, convert or join.
        annotations: table made by annotate.
        out: the model to write.
        kept: folder for the state of an unfinished training and for finished weights, by the digest of what training
            reads; a call in which none of that has changed republishes the weights at once. May be deleted any time.
        device: see `tad.device.leased`.
        devices: GPUs to use, each by a process that computes some videos of every batch; with `device` cpu: processes
            that share the CPU. Like `threads` it changes the order of additions and nothing else.
        threads: CPU threads; 0: torch's choice. Results on CPU are bit-equal for equal numbers of threads.
        checkpoint_seconds: time between saved states within an epoch; at ends of epochs a sixth of it.
        teachers: models made by train, in the order of `spec.distill.teachers`.
        teacher_features: the index that each of them reads.
        start: weights of I3D, file or folder, that a detector on frames begins with; None: random ones.

    Raises:
        TadError: inputs of another dataset or feature set, a video without features, an empty split, no instance, a
            test video that is too long for the detector, features or loss not finite, out of memory; a teacher whose
            classes, grid or features do not fit.
    """
    target = resolve(device, threads=threads)
    read = read_inputs(features, annotations, dataset=spec.dataset, named=spec.features)
    labels = label_names(read.table, class_agnostic=spec.train.class_agnostic)
    sizes = {"num_classes": len(labels), "max_length": spec.train.max_length}
    with open_features(features) as reader:
        check_ends(read.table, reader, read.annotations)
        roles = roles_of(reader, read.table, spec)
        _, left_out = select(read.table, "train", reader, spec.exclude)
        _check_tested(reader, read.table, spec, sizes)
        dim = reader.dim
    absent = absent_classes(read.table, labels)
    taught_by = teacher_files(spec, teachers, teacher_features)
    taught, identities = examine(taught_by, spec, labels, roles.train)
    begun = [{"start": weights_identity(start, beginning(spec.detector, dim))}] if start is not None else []
    key = training_key(spec, labels, roles.videos, absent, [*taught, *begun])
    count = _processes(device, devices, min(spec.train.batch_size, len(roles.train)))
    job = Job(
        features=Path(features),
        roles=roles.videos,
        labels=labels,
        absent=absent,
        spec=spec,
        key=key,
        kept=Path(kept),
        device=target.type,
        threads=max(threads // count, 1) if threads else 0,
        seconds=checkpoint_seconds,
        tensorboard=Path(out).parent / "logs" / "tensorboard",
        teachers=taught_by,
        start=start,
    )
    if job.finished.is_file():
        log.info("nothing that training reads has changed: weights republished from %s", job.finished)
    elif count == 1:
        with leased(device, threads=threads) as held:
            _fit(replace(job, device=str(held)), Ranks())
    else:
        _fit_together(job, count)
    weights, metadata = checkpoint.read_tensors(job.finished)
    facts = checkpoint.read_json_field(job.finished, metadata, "facts", dict)
    facts = {**facts, "recipe": recipe_of(read.features), "training": key, "excluded": left_out}
    if roles.labels:
        behind = {"features_know": labels_behind(read.features)}
        facts |= {"labels": {**roles.labels, **behind, "videos": [v.video_id for v in roles.train]}}
    header = {
        "tad_stamp": stamp("train", spec.model_dump(mode="json"), {**read.identities, **identities}, **facts),
        "labels": labels,
        "detector": {**spec.detector.model_dump(mode="json"), **sizes},
        "feature_dim": str(dim),
    }
    checkpoint.write_tensors(out, weights, header)
    job.state.unlink(missing_ok=True)
    job.pretext.unlink(missing_ok=True)
    log.info("%s: %s, epoch %d, seed %d", out, facts["epoch_rule"], facts["epoch"], facts["seed"])
    return Path(out)
