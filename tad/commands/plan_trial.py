"""Measure a sample of a run's work for `tad plan`, with the functions of the stages themselves.

Pieces of a few videos are copied without decoding them, then probed, extracted and trained on in a temporary folder.
Each stage runs on a small and on a large sample after a first call that is not counted, so that the cost of a job (the
intercept) and that of its videos (the slope) are told apart.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NamedTuple

import numpy as np

from tad.annotations.table import Table, Video, write_table
from tad.core.bundle import ROOT
from tad.core.errors import TadError
from tad.core.files import read_json
from tad.core.grid import Grid
from tad.provenance.stamps import read_stamp, stamp
from tad.settings.stages import ExtractSpec, PretrainSpec, ProbeSpec, TrainStageSpec
from tad.video.base import av

MOST_PIECE = 20.0  # seconds of one video, so that a sample has several
FIXED_WORK_SECONDS = 0.38  # of `_fixed_work` on the machine and at the load of the assumed times
BATCHES, EPOCHS = 4, (1, 4)  # of the trial trainings


class Effort(NamedTuple):
    """Seconds on the clock, and of all processors together."""

    wall: float
    cpu: float

    def plus(self, other: "Effort", times: float = 1.0) -> "Effort":
        """Return the sum with `times` the other effort."""
        return Effort(self.wall + times * other.wall, self.cpu + times * other.cpu)

    def per(self, units: float) -> "Effort":
        """Return the effort per unit, at least 0: the difference of two noisy measurements may be negative."""
        return Effort(max(self.wall, 0.0) / units, max(self.cpu, 0.0) / units)


@dataclass(frozen=True)
class Line:
    """A linear estimate of a stage's effort, per job and per unit in it, and its bytes on disk per unit."""

    job: Effort
    unit: Effort
    size: float = 0.0

    def of(self, units: float, jobs: int = 1) -> Effort:
        """Return the effort of `jobs` jobs with `units` units altogether."""
        return Effort(jobs * self.job.wall + units * self.unit.wall, jobs * self.job.cpu + units * self.unit.cpu)


def timed(call: Callable[[], Any]) -> Effort:
    """Return the effort of a call, with that of the child processes that it has waited for."""
    before, began = os.times(), time.monotonic()
    call()
    after = os.times()
    return Effort(time.monotonic() - began, sum(after[:4]) - sum(before[:4]))


def start_of(module: str) -> Effort:
    """Return the effort of a new process that imports a module, as each job and each decoding process begins."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {module}"
    return timed(partial(subprocess.run, [sys.executable, "-P", "-c", code], check=True))


def _fixed_work() -> None:
    """Do the same work on every machine: half of it Python, half of it NumPy on one core."""
    seen: dict[int, int] = {}
    for k in range(1_000_000):
        seen[k & 1023] = seen.get(k & 511, 0) + k
    values = np.random.default_rng(0).random(1_000_000)
    for _ in range(6):
        np.sort(values)


def pace() -> Effort:
    """Return how long a job takes here and now, relative to its CPU time on the machine of the assumed times.

    The second number is that of the processor; the first one also contains waiting for it, on a machine with load.
    """
    quickest = min((timed(_fixed_work) for _ in range(3)), key=lambda effort: effort.cpu)
    cpu = max(quickest.cpu, 0.01)  # a clock tick
    return Effort(max(quickest.wall, cpu) / FIXED_WORK_SECONDS, cpu / FIXED_WORK_SECONDS)


def line_through(few: Effort, few_units: float, many: Effort, many_units: float) -> Line:
    """Return the line through two measurements; if its slope is not positive, all effort is per unit.

    Clock and CPU time are told apart: a moment of load in the first measurement says nothing about the CPU time.
    """

    def fitted(first: float, second: float) -> tuple[float, float]:
        unit = (second - first) / (many_units - few_units)
        return (max(first - unit * few_units, 0.0), unit) if unit > 0 else (0.0, max(second, 0.0) / many_units)

    job, unit = zip(*map(fitted, few, many), strict=True)
    return Line(Effort(*job), Effort(*unit))


def duration_of(path: Path) -> float:
    """Return the seconds that the header of a video states; 0 if it does not say or cannot be read."""
    with suppress(av.error.FFmpegError, OSError), av.open(str(path), metadata_errors="replace") as container:
        return float(container.duration or 0) / 1e6
    return 0.0


def cut(source: Path, target: Path, seconds: float) -> None:
    """Copy the first seconds of a video's picture into a Matroska file, without decoding it.

    Raises:
        TadError: the video cannot be copied.
    """
    try:
        with (
            av.open(str(source), metadata_errors="replace") as whole,
            av.open(str(target), "w", format="matroska") as piece,
        ):
            stream = whole.streams.video[0]
            copy = piece.add_stream_from_template(stream)
            for packet in whole.demux(stream):
                if packet.dts is None:
                    continue
                if float(packet.dts * packet.time_base) > seconds:
                    break
                packet.stream = copy
                piece.mux(packet)
    except (av.error.FFmpegError, OSError, ValueError, IndexError) as error:
        raise TadError(f"{source}: cannot be copied for a trial ({error})") from None


class Sample:
    """Pieces of videos in a temporary folder, in a small and a large part, with their manifests.

    Args:
        folder: the temporary folder.
        videos: video id → path, in the order in which they are tried.
        seconds: of video in both parts together.
        spec: settings of probe.
    """

    def __init__(self, folder: Path, videos: dict[str, Path], *, seconds: float, spec: ProbeSpec) -> None:
        self.folder, self.parts = folder, (folder / "few", folder / "many")
        self.pieces: list[dict[str, float]] = [{}, {}]
        wanted = (seconds / 4, seconds)
        for video_id, path in videos.items():
            part = next((k for k in (0, 1) if sum(self.pieces[k].values()) < wanted[k]), None)
            if part is None:
                break
            length = min(duration_of(path) or MOST_PIECE, MOST_PIECE, wanted[part])
            self.parts[part].mkdir(exist_ok=True)
            with suppress(TadError):  # damaged files are what probe is for; others are tried instead
                cut(path, self.parts[part] / f"{video_id.replace('/', '_')}.mkv", length)
                self.pieces[part][video_id] = length
        if not all(self.pieces):
            raise TadError(
                f"{next(iter(videos.values())).parent}: too few readable videos for a trial (two are needed)"
            )
        from tad.stages.probe import probe

        self.manifests = [folder / f"{part.name}.json" for part in self.parts]
        efforts = [timed(partial(probe, self.parts[k], self.manifests[k], spec=spec)) for k in (0, 0, 1)]
        entries = [read_json(path)["videos"] for path in self.manifests]
        self.seconds = [sum(e["duration"] for e in part.values() if e["usable"]) for part in entries]
        if not all(self.seconds):
            raise TadError(
                f"{next(iter(videos.values())).parent}: no video of the sample can be decoded; run tad probe"
            )
        self.probe = line_through(efforts[1], self.seconds[0], efforts[2], self.seconds[1])

    def extract(
        self, spec: ExtractSpec, weights: Path | None, device: str, *, cores: int, decoder: Effort
    ) -> tuple[Line, int, Grid]:
        """Extract both parts; return the line per second of video, the width C of the rows, and one video's grid.

        Args:
            spec, weights, device: see `tad.stages.extract.extract`.
            cores: what a job of the workflow has: so many decoding processes and lanes.
            decoder: the start of a decoding process. A part of few videos has fewer of them, so their CPU time is taken
                out: it would seem to be that of the seconds of video.
        """
        from tad.core.device import resolve, threads_of_network
        from tad.features.store import FeatureReader
        from tad.stages.extract import extract

        spec = spec.model_copy(update={"on_damaged": "exclude"})
        place = Path(mkdtemp(dir=self.folder))  # a run may have several feature sets
        outs = [place / f"{k}.h5" for k in range(3)]

        efforts = []
        with threads_of_network(resolve(device), cores):
            for k, part in enumerate((0, 0, 1)):
                call = partial(extract, self.manifests[part], self.parts[part], weights, outs[k], spec=spec)
                effort = timed(partial(call, cache=place / f"cache{k}", device=device, workers=cores))
                efforts.append(effort.plus(Effort(0, decoder.cpu), -min(cores, len(self.pieces[part]))))
        line = line_through(efforts[1], self.seconds[0], efforts[2], self.seconds[1])
        with FeatureReader(outs[2]) as reader:
            longest = max(map(reader.grid, reader.video_ids), key=lambda grid: grid.length)
            dim = int(reader.dim)
        return Line(line.job, line.unit, outs[2].stat().st_size / self.seconds[1]), dim, longest


def synthetic_features(out: Path, spec: TrainStageSpec, durations: dict[str, float], *, dim: int, like: Grid) -> Path:
    """Write random features with the time grid `like` for videos that have not been extracted yet."""
    from tad.features.store import ShardWriter

    rng = np.random.default_rng(0)
    settings = {"dataset": spec.dataset, "features": spec.features}
    with ShardWriter(out, stamp("merge", settings, {})) as writer:
        for video_id, seconds in sorted(durations.items()):
            rows = max(int((seconds - 2 * like.start) / like.step) + 1, 1)
            grid = Grid(like.start, like.step, rows, max(seconds, like.start + rows * like.step))
            writer.add(video_id, rng.standard_normal((rows, dim), np.float32), grid=grid, attrs={})
    return out


def chosen_for_training(table: Table, spec: TrainStageSpec, known: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return train videos for a few batches, drawn with a seed, and a test video."""
    drawn = np.random.default_rng(0).permutation(sorted(set(known) & set(table.videos))).tolist()
    train = [v for v in drawn if table.videos[v].split == "train" and table.videos[v].instances]
    return train[: BATCHES * spec.train.batch_size], [v for v in drawn if table.videos[v].split == "test"][:1]


def try_train(folder: Path, features: Path, annotations: Path, table: Table, spec: TrainStageSpec, *,
          device: str, known: Sequence[str]) -> tuple[Line, float]:  # fmt: skip
    """Train a few steps; return the line per step, with the bytes of the model, and the steps per video and epoch.

    Teachers and unlabelled videos are left out.
    """
    from tad.stages.train import train

    train_ids, test_ids = chosen_for_training(table, spec, known)
    if not train_ids or not test_ids:
        raise TadError(f"{annotations}: no train or no test video for a trial training")
    others = dict.fromkeys(set(table.videos) - {*train_ids, *test_ids}, "not in the trial") | dict(spec.exclude)
    steps, efforts = [], []
    for k, epochs in enumerate((EPOCHS[0], *EPOCHS)):
        recipe = {"epochs": epochs, "warmup_epochs": 0, "pretext_epochs": 0, "selection": "last"}
        trial = spec.model_copy(update={
            "exclude": others, "distill": None, "labels": None, "train": spec.train.model_copy(update=recipe),
        })  # fmt: skip
        out = folder / f"trained{k}" / "model.safetensors"
        out.parent.mkdir()
        call = partial(train, features, annotations, out, spec=trial, cache=folder / f"training{k}", device=device)
        efforts.append(timed(call))
        steps.append(int(read_stamp(out)["steps"]))
    line = line_through(efforts[1], steps[1], efforts[2], steps[2])
    return Line(line.job, line.unit, out.stat().st_size), steps[1] / EPOCHS[0] / len(train_ids)


def clipped(video: Video, seconds: float) -> Video:
    """Return a video's instances within its first seconds."""
    inside = tuple(replace(i, end=min(i.end, seconds)) for i in video.instances if i.start < seconds)
    return replace(video, duration=seconds, instances=inside, ambiguous=())


def segments(table: Table, spec: PretrainSpec, rate: float) -> int:
    """Return how many segments `pretrain` draws clips from in the train split of a table."""
    from tad.training.tsp.clips import segment_table

    videos = [(v, v.duration) for v in table.split("train").values() if v.duration]
    annotated = [{"instances": [[i.start, i.end, i.label] for i in v.instances], "ambiguous": []} for v, _ in videos]
    seconds = spec.clip.length / (spec.clip.rate or rate)
    found = segment_table(
        annotated, [length for _, length in videos], {label: k for k, label in enumerate(table.labels)},
        clip_seconds=[seconds] * len(videos), short=spec.short_segments, shortest_gap=spec.shortest_gap,
    )  # fmt: skip
    return len(found)


class Pretraining(NamedTuple):
    """The effort of training an encoder.

    Attributes:
        start: of a training, besides its imports.
        epoch: per epoch, and per segment in it.
        decoding: per second of video.
        rate: frames per second.
        size: bytes on disk.
    """

    start: Effort
    epoch: Line
    decoding: Effort
    rate: float
    size: float

    def of(self, *, units: int, epochs: int, seconds: float) -> Effort:
        """Return the effort of some epochs with so many segments each, from videos of so many seconds."""
        return self.start.plus(self.epoch.of(units), epochs).plus(self.decoding, seconds)


def try_pretrain(sample: Sample, table: Table, spec: PretrainSpec, *, device: str, made: dict[str, Any]) -> Pretraining:
    """Train the encoder on both parts of the sample, for few and for more epochs.

    An epoch has work of its own (it saves the weights and the state), and so has a training (it builds the network).
    A sample has few segments and seconds, so that work must not be taken for theirs: a run has a hundred times as many.
    """
    entries = read_json(sample.manifests[1])["videos"]
    rate = float(np.mean([entry["rate"] for entry in entries.values() if entry["usable"]]))
    tables = [_part_of(table, sample, k) for k in (0, 1)]
    few, many = (segments(part, spec, rate) for part in tables)
    tried = partial(_epochs, sample, spec=spec, device=device, made=made)
    line, size = tried(tables[1], 1, first=EPOCHS[0])  # the first call is not counted
    epoch = Line(Effort(0, 0), line.unit.per(many))
    if 0 < few < many:
        with suppress(TadError):  # too short for a clip
            epoch = line_through(tried(tables[0], 0)[0].unit, few, line.unit, many)
    decoding = _decoding(sample, spec, entries)
    rest = line.job.plus(decoding, -1)
    start = Effort(max(rest.wall, 0.0), max(rest.cpu, 0.0))
    return Pretraining(start, epoch, decoding.per(sample.seconds[1]), rate, 2.0 * size)


def _part_of(table: Table, sample: Sample, part: int) -> Table:
    """Return the annotations of a part of the sample."""
    pieces = {
        v.replace("/", "_"): clipped(table.videos[v], s) for v, s in sample.pieces[part].items() if v in table.videos
    }
    return replace(table, videos=pieces, missing={}, flawed=None, excluded={})


def _epochs(
    sample: Sample, table: Table, part: int, *, spec: PretrainSpec, device: str, made: dict[str, Any], first: int = 0
) -> tuple[Line, int]:
    """Train the encoder on a part of the sample; return the line per epoch, and the bytes of the weights.

    `first`: epochs of a call before those that are measured.
    """
    from tad.stages.pretrain import pretrain

    place = Path(mkdtemp(dir=sample.folder))
    annotations = write_table(table, place / "sample.json", made)
    efforts = []
    for k, epochs in enumerate((*([first] if first else []), *EPOCHS)):
        trial = spec.model_copy(update={"epochs": epochs, "hold_out": 0.0, "share": 1.0})
        out = place / f"encoder{k}.safetensors"
        call = partial(pretrain, annotations, [sample.manifests[part]], sample.parts[part], out, spec=trial)
        efforts.append(timed(partial(call, cache=place / f"encoding{k}", device=device)))
    return line_through(efforts[-2], EPOCHS[0], efforts[-1], EPOCHS[1]), out.stat().st_size


def _decoding(sample: Sample, spec: PretrainSpec, entries: dict[str, Any]) -> Effort:
    """Return the effort of decoding the larger part of a sample in the way that `pretrain` decodes."""
    from tad.settings import plugins
    from tad.training.tsp.frames import frames_of

    backbone = plugins.build("backbones", spec.backbone.name, spec.backbone.settings)
    videos: dict[str, tuple[Any, Any]] = {v: ({}, entry) for v, entry in entries.items() if entry["usable"]}
    return timed(partial(frames_of, videos, sample.parts[1], backbone=backbone, clip=spec.clip, scratch=sample.folder))
