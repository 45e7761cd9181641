"""Stage train: trains a detector on features and annotations.

Inputs: feature index (merge, convert or join), annotations (annotate); with `distill`, models of other runs (train) and
    their feature indices.
Output: `results/<run>/model.safetensors`: averaged (EMA) weights; the header holds the stamp, the labels and the
    detector's settings.
Settings: `tad.settings.stages.TrainStageSpec`.
"""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tad.annotations.table import Table
from tad.core import formats
from tad.core.device import arithmetic, leased, name_of, reproducible, resolve
from tad.core.errors import TadError
from tad.features.store import FeatureReader
from tad.layers.contract import DetectorBase
from tad.provenance.conditions import uses
from tad.provenance.stamps import stamp
from tad.settings import plugins
from tad.settings.stages import TrainStageSpec
from tad.training.data.in_memory import Features, SideBySide
from tad.training.data.inputs import (
    Inputs,
    check_ends,
    check_lengths,
    label_names,
    labels_behind,
    open_features,
    read_inputs,
    recipe_of,
    select,
)
from tad.training.data.roles import Roles, roles_of
from tad.training.data.windows import Item, Windows
from tad.training.io import tensors as checkpoint
from tad.training.job import Job, training_key
from tad.training.loop.absent_classes import absent_classes, lower_initial_bias
from tad.training.loop.dead_outputs import dead_offsets
from tad.training.loop.engine import Engine, Saving
from tad.training.loop.optim import warn_of_initial_weights
from tad.training.loop.parallel import Ranks, launch, process_count
from tad.training.loop.strategy import Strategy
from tad.weights.published import weights_identity

if TYPE_CHECKING:
    from tad.training.data.unlabelled import MixedWindows
    from tad.training.methods.teachers import TeacherFiles

log = logging.getLogger(__name__)


def build(name: str, settings: dict[str, Any], *, feature_dim: int, num_classes: int, max_length: int) -> DetectorBase:
    """Return a newly initialised detector; its weights are drawn from torch's default generator."""
    sizes = {"feature_dim": feature_dim, "num_classes": num_classes, "max_length": max_length}
    detector: DetectorBase = plugins.build("detectors", name, settings, **sizes)
    return detector


def _detector(job: Job, *, feature_dim: int) -> DetectorBase:
    """Return the detector of a training, newly initialised; with adapters, behind their encoder."""
    spec, sizes = job.spec, {"num_classes": len(job.labels), "max_length": job.spec.train.max_length}
    if uses("adapters", spec) and spec.adapters is not None:
        from tad.training.adapted import build_adapted

        lr = spec.train.lr
        return build_adapted(spec.detector, spec.adapters, job.encoder, lr=lr, feature_dim=feature_dim, **sizes)
    return build(spec.detector.name, spec.detector.settings, feature_dim=feature_dim, **sizes)


def _engine(job: Job, reader: FeatureReader, ranks: Ranks, device: torch.device, held: ExitStack) -> Engine:
    """Create the engine of a training; resume it from a state, or run the pretext task first if it has one."""
    spec, features = job.spec, Features(reader, resize_to=job.spec.train.resize, device=device)
    windows = partial(Windows, spec=spec.train, seed=spec.seed)
    torch.manual_seed(job.spec.seed)
    detector = _detector(job, feature_dim=reader.dim)
    strategy: Strategy = Strategy()
    seen: Features | SideBySide = features
    if uses("start", spec) and job.start is not None:
        from tad.training.io.initial_weights import initial_backbone, load_initial_weights

        load_initial_weights(detector, job.start, initial_backbone(job.spec.detector, reader.dim))
    if uses("distill", spec):
        from tad.training.methods.teachers import distiller

        strategy, seen = distiller(detector, features, job.teachers, spec=spec, device=device, held=held)
    lower_initial_bias(detector, job.absent)
    train, judged, others = (job.roles.get(role, []) for role in ("train", "judged", "unlabelled"))
    labelled = windows(train, seen, dim=seen.dim)
    learnt: Windows | MixedWindows = labelled
    if uses("pseudo", spec) and others and spec.labels:
        from tad.training.data import unlabelled as mixed
        from tad.training.methods.pseudo import SelfTaught

        unlabelled = partial(Windows, others, features, seed=spec.seed, dim=features.dim, everywhere=True)
        learnt = mixed.MixedWindows(labelled, unlabelled, spec=spec.train, labels=spec.labels)
        strategy = SelfTaught(detector, spec.labels, inner=strategy, train=spec.train, each=len(learnt), seed=spec.seed)
    engine = Engine(
        detector,
        learnt,
        spec=spec.train,
        seed=spec.seed,
        device=device,
        saving=Saving(job.state, job.course, job.seconds),
        judged=windows(judged, features, dim=features.dim) if judged else None,
        ranks=ranks,
        strategy=strategy,
    )
    engine.resume()
    if uses("pretext", spec) and engine.step == 0:
        from tad.training.methods.pretext import learn_pretext

        everything = windows(train + others, features, dim=features.dim, everywhere=True)
        learn_pretext(
            engine, everything, saving=Saving(job.pretext, job.course, job.seconds), tensorboard=job.tensorboard
        )
    return engine


def _computed(job: Job, device: "torch.device") -> Job:
    """Return the job with the precision that this device computes in.

    A state that another machine saved in the other precision does not resume.
    """
    train = job.spec.train
    precision = arithmetic(train.precision, device)
    if train.precision == precision:
        return job
    spec = job.spec.model_copy(update={"train": train.model_copy(update={"precision": precision})})
    return replace(job, spec=spec, precision=precision)


def _fit(job: Job, ranks: Ranks) -> None:
    """Train, or resume training; the first process writes the selected weights and facts about the training."""
    device = resolve(f"cuda:{ranks.index}" if job.device == "cuda" else job.device, threads=job.threads)
    job = _computed(job, device)
    with reproducible(device), open_features(job.features, job.spec.frames) as reader, ExitStack() as held:
        engine = _engine(job, reader, ranks, device, held)
        result = engine.run(job.tensorboard)
        features = Features(reader, resize_to=job.spec.train.resize, device=device)
        seen = Windows(job.roles["train"], features, spec=job.spec.train, seed=job.spec.seed, dim=features.dim)
        dead = dead_offsets(engine.detector, result.weights, seen, device) if ranks.first else []
    facts = {
        "dead_offsets": dead,
        "epoch": result.epoch,
        "epoch_rule": result.rule,
        "seed": job.spec.seed,
        "steps": engine.total,
        "videos": {role: len(items) for role, items in job.roles.items()},
        "device": name_of(device),
        "precision": job.spec.train.precision,
        "processes": ranks.count,
        "threads": job.threads,
        "videos_at_once": engine.gradients.at_once,
    }
    if ranks.first:
        checkpoint.write_tensors(job.finished, result.weights, {"facts": facts, **formats.mark("trained-weights")})


def _fit_together(job: Job, count: int) -> None:
    """Train in `count` processes, each with its own GPU unless the device is the CPU."""
    cuda = job.device == "cuda"
    with ExitStack() as held_by_all:
        for rank in range(count if cuda else 0):  # all jobs lease in the same order, which avoids deadlocks
            held_by_all.enter_context(leased(f"cuda:{rank}"))
        launch(partial(_fit, job), count=count, backend="nccl" if cuda else "gloo")


def _check_tested(reader: FeatureReader, table: Table, spec: TrainStageSpec, sizes: dict[str, int]) -> None:
    """Check that the test split has videos and that they fit the detector, hours before detect would fail.

    Raises:
        TadError: see `select` and `check_lengths`.
    """
    tested, _ = select(table, "test", reader, spec.exclude)
    if spec.adapters is not None:
        return  # long videos are cut into windows
    lengths = {v: spec.train.resize or reader.grid(v).length for v in tested}
    with torch.device("meta"):
        detector = build(spec.detector.name, spec.detector.settings, feature_dim=reader.dim, **sizes)
    check_lengths(detector, lengths, source=reader.path, split="test")


def _taught_by(
    spec: TrainStageSpec, files: tuple[Sequence[Path], Sequence[Path]], labels: list[str], items: list[Item]
) -> "tuple[tuple[TeacherFiles, ...], list[dict[str, Any]], dict[str, str]]":
    """Return the teachers' files, their content, and the identities of their models.

    Raises:
        TadError: files are given without teachers; see also `teacher_files` and `examine`.
    """
    if uses("distill", spec):
        from tad.training.methods.teachers import examine, teacher_files

        taught_by = teacher_files(spec, *files)
        return taught_by, *examine(taught_by, spec, labels, items)
    if any(files):
        raise TadError(
            f"run {spec.run}: {len(files[0])} models and {len(files[1])} feature indices for 0 teachers; remove"
            " --teachers and --teacher-features, or name the teachers in distill"
        )
    return (), [], {}


def _initial_content(spec: TrainStageSpec, start: Path | None, dim: int) -> list[dict[str, Any]]:
    """Return the content of a detector's initial weights, or of its text encoder (part of the training's key).

    Raises:
        TadError: initial weights are given although the settings name none, or the other way round.
    """
    if uses("texts", spec) and spec.texts and start is not None:
        from tad.training.methods.prompts import texts_content

        return [texts_content(start, spec.texts)]
    if (start is None) == (uses("start", spec) or uses("texts", spec)):
        needed = "the weights of its text encoder" if spec.texts else f"initial weights ({spec.start})"
        problem = f"{needed} are missing; add --start" if start is None else f"needs no weights {start}; remove --start"
        raise TadError(f"run {spec.run}: {problem}")
    if uses("start", spec) and start is not None:
        from tad.training.io.initial_weights import initial_backbone

        return [{"start": weights_identity(start, initial_backbone(spec.detector, dim))}]
    return []


def _encoder_content(spec: TrainStageSpec, encoder: Path | None) -> dict[str, str]:
    """Return the identity of the frozen weights of adapters' encoder; empty without adapters.

    Raises:
        TadError: weights are given although the run has no adapters, or the other way round.
    """
    if uses("adapters", spec) and spec.adapters is not None:
        from tad.training.adapted import encoder_identity

        return {"encoder": encoder_identity(spec.adapters, encoder, run=spec.run)}
    if encoder is not None:
        raise TadError(f"run {spec.run}: has no adapters, but weights of an encoder are given; remove --encoder")
    return {}


def _run(job: Job, count: int, *, device: str, threads: int) -> None:
    """Make the weights of a job in `count` processes, unless they are in the cache folder."""
    if job.finished.is_file():
        log.info("inputs, settings and code are unchanged: weights republished from %s", job.finished)
    elif uses("texts", job.spec) and job.spec.texts and job.start:
        from tad.training.methods.prompts import embed_classes

        embed_classes(job.finished, job.labels, job.spec, job.start)
    elif count == 1:
        with leased(device, threads=threads) as held:
            _fit(replace(job, device=str(held)), Ranks())
    else:
        _fit_together(job, count)


def _warn(facts: dict[str, Any], spec: TrainStageSpec) -> None:
    """Log the warnings about the weights, also about cached ones, which no attempt at training logs again."""
    if "steps" in facts:
        warn_of_initial_weights(spec.train.ema_decay, facts["steps"])
    if dead := facts.get("dead_offsets"):
        log.warning(
            "dead regression outputs: the detector predicts distance 0 to every %s, so its detections are misplaced;"
            " train with another seed or a lower train.lr (map.json: dead_offsets)", " and ".join(dead),
        )  # fmt: skip


def _publish(
    job: Job, out: Path, inputs: dict[str, str], facts: dict[str, Any], *, sizes: dict[str, int], dim: int
) -> None:
    """Write the model: the finished weights of a job, with its stamp, labels and detector settings.

    Args:
        inputs: identities of the inputs.
        facts: facts for the stamp, besides those that the training wrote with its weights.
        sizes: arguments of `build` that the settings do not contain. dim: width of the features.
    """
    spec = job.spec
    weights, metadata = checkpoint.read_tensors(job.finished)
    formats.check(metadata, job.finished, kind="trained-weights")
    facts = {**checkpoint.read_json_field(job.finished, metadata, "facts", dict), **facts}
    _warn(facts, spec)
    header = {
        "tad_stamp": stamp("train", spec.model_dump(mode="json"), inputs, **facts),
        "labels": job.labels,
        "detector": {**spec.detector.model_dump(mode="json"), **sizes},
        "feature_dim": str(dim),
    }
    checkpoint.write_tensors(out, weights, header)
    log.info("%s: %s, epoch %d, seed %d", out, facts["epoch_rule"], facts["epoch"], facts["seed"])


def _selected(
    features: Path, spec: TrainStageSpec, read: Inputs, sizes: dict[str, int]
) -> tuple[Roles, dict[str, str], int]:
    """Return the train videos by role, the excluded ones with the cause, and the width of the features.

    Raises:
        TadError: the times do not fit the features, or a test video does not fit the detector.
    """
    with open_features(features, spec.frames) as reader:
        check_ends(read.table, reader, read.annotations)
        learns = not uses("texts", spec)
        roles = roles_of(reader, read.table, spec) if learns else Roles([])
        left_out = select(read.table, "train", reader, spec.exclude)[1] if learns else {}
        _check_tested(reader, read.table, spec, sizes)
        return roles, left_out, reader.dim


def train(
    features: Path,
    annotations: Path,
    out: Path,
    *,
    spec: TrainStageSpec,
    cache: Path,
    device: str = "cpu",
    devices: int = 1,
    threads: int = 0,
    checkpoint_seconds: float = 120.0,
    teachers: Sequence[Path] = (),
    teacher_features: Sequence[Path] = (),
    start: Path | None = None,
    encoder: Path | None = None,
) -> Path:
    """Train a detector on the train split, or resume an interrupted call with the same settings.

    Args:
        features: feature index made by merge, convert or join.
        annotations: table made by annotate.
        out: the model to write.
        spec: settings.
        cache: folder for states of unfinished trainings and weights of finished ones, named by a digest of
            everything that training depends on. If nothing has changed, the weights are reused without training. May be
            deleted at any time.
        device: see `tad.core.device.leased`.
        devices: number of GPUs, each with its own process for a share of every batch; with `device` cpu, number of
            processes that share the CPU. Like `threads`, it only changes the order of additions.
        threads: CPU threads; 0: `spec.train.threads`. Results on the CPU are bit-equal for equal numbers of threads.
        checkpoint_seconds: time between saved states within an epoch; a sixth of it at the end of an epoch.
        teachers: models made by train, in the order of `spec.distill.teachers`.
        teacher_features: the feature index of each teacher.
        start: initial I3D weights (file or folder) of a detector on frames, or the file of a prompted detector's text
            encoder, with its tokeniser beside it; None: random weights.
        encoder: weights (file or folder) of the frozen encoder of adapters.

    Raises:
        TadError: inputs belong to another dataset or feature set; a video has no features; a split is empty or has no
            instance; a test video is too long for the detector; features or loss are not finite; memory is exhausted;
            or a teacher has other classes, grid or features.
    """
    threads = threads or spec.train.threads
    target = resolve(device, threads=threads)
    read = read_inputs(features, annotations, dataset=spec.dataset, named=spec.features)
    labels = label_names(read.table, class_agnostic=spec.train.class_agnostic)
    sizes = {"num_classes": len(labels), "max_length": spec.train.max_length}
    roles, left_out, dim = _selected(features, spec, read, sizes)
    absent = absent_classes(read.table, labels)
    taught_by, taught, identities = _taught_by(spec, (teachers, teacher_features), labels, roles.train)
    around = _encoder_content(spec, encoder)
    given = [*taught, *_initial_content(spec, start, dim), *([around] if around else [])]
    key = training_key(spec, labels, roles.videos, absent, given)
    count = process_count(device, devices, max(min(spec.train.batch_size, len(roles.train)), 1))
    job = Job(
        features=Path(features), roles=roles.videos, labels=labels, absent=absent, spec=spec, key=key,
        cache=Path(cache), device=target.type, threads=max(threads // count, 1) if threads else 0,
        seconds=checkpoint_seconds, tensorboard=Path(out).parent / "logs" / "tensorboard",
        teachers=taught_by, start=start, encoder=encoder,
    )  # fmt: skip
    _run(job, count, device=device, threads=threads)
    facts = {"recipe": recipe_of(read.features), "training": key, "excluded": left_out}
    if roles.labels:
        behind = {"features_know": labels_behind(read.features)}
        facts |= {"labels": {**roles.labels, **behind, "videos": [v.video_id for v in roles.train]}}
    _publish(job, Path(out), {**read.identities, **identities, **around}, facts, sizes=sizes, dim=dim)
    job.state.unlink(missing_ok=True)
    job.pretext.unlink(missing_ok=True)
    return Path(out)
