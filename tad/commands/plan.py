"""`tad plan`: estimate a run's time and disk space from a dry run, the times of finished jobs, and a small trial."""

import logging
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tad.annotations.table import Table
from tad.commands import plan_size as size
from tad.commands import plan_trial as trial
from tad.commands.plan_trial import Effort
from tad.core.errors import MissingError, TadError
from tad.core.grid import Grid
from tad.core.lanes import MOST
from tad.core.storage import free_at, readable
from tad.settings.config import Config
from tad.settings.paths import RESULTS, path_of
from tad.settings.stage_table import STAGES
from tad.settings.stages import ExtractSpec, PretrainSpec, ProbeSpec, TrainStageSpec
from tad.weights.published import located
from tad.workflow.missing import missing_of_run
from tad.workflow.rules import share_of_cores
from tad.workflow.why import Job, planned

SHARE, LEAST_SECONDS, MOST_SECONDS = 0.01, 24.0, 240.0  # of video in the trial
# Of stages that are not tried: seconds of a job, and of each test video in it, and bytes for each video. Taken from
# the benchmark files of a run on the demo on two cores (2026-11-29; page, summarise, classify, convert, join and table
# from earlier ones). They are multiplied with the pace of this machine (`plan_trial.pace`).
ASSUMED = {
    "render": (25.0, 0.0, 0.6e6), "annotate": (0.4, 0.0, 2e3), "check": (0.4, 0.0, 2e3), "merge": (0.4, 0.0, 1e3),
    "index": (0.4, 0.0, 1e3), "convert": (2.0, 0.05, 1e3), "join": (2.0, 0.01, 1e3), "detect": (3.0, 0.06, 1e5),
    "classify": (10.0, 0.1, 1e4), "suppress": (0.8, 0.02, 3e4), "evaluate": (1.9, 0.03, 2e3),
    "page": (15.0, 0.5, 1e5), "summarise": (6.0, 0.1, 2e3), "table": (2.0, 0.0, 0.0),
}  # fmt: skip
OTHER = (5.0, 0.0, 0.0)
TRIED, UNKNOWN = ("probe", "extract", "pretrain", "train"), "unknown"
PYTHON = Effort(0.6, 0.6)  # the start of a job that does not import torch


@dataclass
class Row:
    """A line of the table: the jobs of a rule for one dataset, feature set or run.

    Attributes:
        rule: the rule. names: its wildcards, without the shard. jobs: the jobs.
        videos, seconds: what they work on. effort: what they take. disk: bytes that they leave.
        source: `finished`, `trial`, `assumed` or `unknown`.
    """

    rule: str
    names: dict[str, str]
    jobs: list[Job]
    videos: int = 0
    seconds: float = 0.0
    effort: Effort = field(default=Effort(0, 0))
    disk: float = 0.0
    source: str = "assumed"

    def numbers(self) -> list[str]:
        """Return time, CPU time and disk as text."""
        if self.source == UNKNOWN:
            return ["?"] * 3
        return [duration(self.effort.wall), duration(self.effort.cpu), readable(self.disk)]

    @property
    def title(self) -> str:
        """The rule and what it is run for."""
        return " ".join(
            [self.rule, self.names.get("run") or self.names.get("features") or self.names.get("dataset", "")]
        )


def _names(job: Job) -> dict[str, str]:
    """Return the dataset, feature set or run of a job; the trainings of a run with several seeds count as the run."""
    return {k: v.partition("/")[0] for k, v in job.wildcards.items() if k in ("dataset", "features", "run")}


class Plan:
    """Estimates for the planned jobs of a run."""

    def __init__(self, config: Config, run: str, jobs: Sequence[Job], folder: Path, *, device: str) -> None:
        self.config, self.run, self.folder, self.device = config, run, folder, device
        self.dataset, self.features = config.run(run).dataset, config.run(run).features
        self.notes: list[str] = []
        self.table, self.annotations = size.table_of(config, run, folder)
        needs_videos = any(config.feature_set(part).made_by != "convert" for part in config.parts(self.features))
        self.videos = size.videos_of(config, self.dataset) if needs_videos else self._imported()
        self.sample: trial.Sample | None = None
        self._started: dict[str, Effort] = {}
        self.rates: dict[str, tuple[int, Grid]] = {}  # feature set → width and grid of its rows, from the trial
        groups: dict[tuple[Any, ...], list[Job]] = {}
        for job in jobs:
            groups.setdefault((job.rule, *sorted(_names(job).items())), []).append(job)
        order = list(STAGES)
        rows = [self._row(group) for group in groups.values()]
        self.rows = sorted(rows, key=lambda row: order.index(row.rule) if row.rule in order else len(order))

    def _imported(self) -> size.Videos:
        seconds = {v: video.duration or 0.0 for v, video in self.table.videos.items()}
        return size.Videos({}, seconds, 0)

    def _row(self, jobs: list[Job]) -> Row:
        row = Row(jobs[0].rule, _names(jobs[0]), jobs)
        if self._dataset(row) != self.dataset:
            self.notes.append(f"{row.title}: of another data set; plan it by itself")
            return row
        shards = [job.wildcards["shard"] for job in jobs if "shard" in job.wildcards]
        of_row = self.videos.of(shards) if shards else dict(self.videos.seconds)
        split = {"train": "train", "pretrain": "train", "detect": "test", "classify": "test", "suppress": "test",
                 "evaluate": "test", "page": "test", "summarise": "test"}.get(row.rule, "")  # fmt: skip
        if split:
            of_row = {v: s for v, s in of_row.items() if v in self.table.videos and self.table.videos[v].split == split}
        row.videos, row.seconds = len(of_row), sum(of_row.values())
        return row

    def _dataset(self, row: Row) -> str:
        """Return the dataset of a row; that of the plan for rules without one."""
        run = row.names.get("run")
        return self.config.run(run).dataset if run else row.names.get("dataset", self.dataset)

    # -- efforts -------------------------------------------------------------------------------------------------------

    def estimate(self) -> None:
        """Fill in the efforts: from finished jobs, else from a trial, else as assumed."""
        pace = trial.pace()
        for row in self.rows:
            if self._from_finished(row):
                continue
            try:
                if row.rule == "detect" and self.config.frames(self.config.run(row.names["run"]).features)["frames"]:
                    raise TadError("detection on frames is not tried")
                if row.rule in TRIED and self._dataset(row) != self.dataset:
                    raise TadError("another data set")
                if row.rule in TRIED:
                    getattr(self, f"_{row.rule}")(row)
                    row.source = "trial"
                    continue
            except TadError as error:
                self.notes.append(f"{row.title}: not measured ({error})")
                row.source = UNKNOWN
                continue
            job, video, disk = ASSUMED.get(row.rule, OTHER)
            times = len(row.jobs) if "run" in row.names else 1  # each training sees all videos, each shard its own
            seconds = job * len(row.jobs) + video * row.videos * times
            row.effort, row.disk = Effort(seconds * pace.wall, seconds * pace.cpu), disk * row.videos * times

    def _from_finished(self, row: Row) -> bool:
        """Take the times of finished jobs of the same kind: other shards, or other seeds of the run."""
        if row.rule not in STAGES:
            return False
        wildcards = row.jobs[0].wildcards
        out = self.config.root / RESULTS / STAGES[row.rule].output.format(**wildcards)
        if "shard" in wildcards:
            done = size.finished(row.rule, out.parent, planned={job.wildcards["shard"] for job in row.jobs})
            seconds = sum(self.videos.of(done).values())
            if not seconds:
                return False
            total = Effort(sum(e.wall for e in done.values()), sum(e.cpu for e in done.values()))
            row.effort = total.per(seconds / row.seconds) if row.seconds else Effort(0, 0)
            row.disk = seconds and sum((out.parent / f"{s}{out.suffix}").stat().st_size for s in done) / seconds
            row.disk *= row.seconds
        else:
            others = [] if "run" not in wildcards else self.config.trainings(wildcards["run"].partition("/")[0])
            planned_runs = {job.wildcards.get("run") for other in self.rows for job in other.jobs}
            folders = [
                path_of(row.rule, root=self.config.root, run=run).parent for run in others if run not in planned_runs
            ]
            times = [e for place in folders for e in size.finished(row.rule, place, planned=set()).values()]
            if not times:
                return False
            mean = Effort(sum(e.wall for e in times), sum(e.cpu for e in times)).per(len(times))
            row.effort = mean.per(1 / len(row.jobs))
        row.source = "finished"
        return True

    def _sampled(self) -> trial.Sample:
        if self.sample is None:
            import numpy as np

            drawn = np.random.default_rng(0).permutation(sorted(self.videos.paths)).tolist()
            split = {v: self.table.videos[v].split for v in drawn if v in self.table.videos}
            drawn.sort(key=lambda video_id: split.get(video_id) != "train")  # pretrain needs those; the order stays
            total = sum(self.videos.seconds.values())
            seconds = min(max(SHARE * total, LEAST_SECONDS), MOST_SECONDS, 0.8 * total)  # two parts of few videos, too
            spec = self.config.spec("probe", dataset=self.dataset)
            assert isinstance(spec, ProbeSpec)
            paths = {video_id: self.videos.paths[video_id] for video_id in drawn}
            self.sample = trial.Sample(self.folder, paths, seconds=seconds, spec=spec)
        return self.sample

    def _start(self, module: str) -> Effort:
        """Return the effort of starting a process and importing a module, which every job begins with."""
        if module not in self._started:
            self._started[module] = trial.start_of(module)
        return self._started[module]

    def _probe(self, row: Row) -> None:
        row.effort = self._sampled().probe.of(row.seconds, len(row.jobs)).plus(PYTHON, len(row.jobs))
        row.disk = 1000.0 * row.videos

    def _extract(self, row: Row) -> None:
        sample, features = self._sampled(), row.names["features"]
        spec = self.config.spec("extract", dataset=row.names["dataset"], features=features)
        assert isinstance(spec, ExtractSpec)
        weights: Path | None = None
        if (given := self.config.feature_set(features).weights) != "pretrain":
            weights = self.config.root / located(given, self.config.backbone(features, self.dataset))
        reader, shards = self._start("tad.video.ring"), int(row.jobs[0].wildcards["shard"].partition("-of-")[2])
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        cores = min(cores, MOST) if _cuda(self.device) else share_of_cores(cores, shards)  # as in rules/common.smk
        line, dim, grid = sample.extract(spec, weights, self.device, cores=cores, decoder=reader)
        self.rates[features] = dim, grid
        processes = len(row.jobs) * min(cores, math.ceil(row.videos / len(row.jobs)))
        row.effort = line.of(row.seconds, len(row.jobs)).plus(self._start("tad.stages.extract"), len(row.jobs))
        row.effort = row.effort.plus(Effort(0, reader.cpu), processes)
        row.disk = line.size * row.seconds

    def _pretrain(self, row: Row) -> None:
        sample = self._sampled()
        spec = self.config.spec("pretrain", **row.names)
        assert isinstance(spec, PretrainSpec)
        from tad.provenance.stamps import read_stamp

        made = read_stamp(self.annotations)
        tried = trial.try_pretrain(sample, self.table, spec, device=self.device, made=made)
        timed = Table(self.table.dataset, self.table.labels, {
            v: trial.clipped(video, self.videos.seconds[v])
            for v, video in self.table.videos.items() if v in self.videos.seconds
        })  # fmt: skip
        units = round(trial.segments(timed, spec, tried.rate) * spec.share)
        row.effort = tried.of(units=units, epochs=spec.epochs, seconds=row.seconds * spec.share)
        row.effort = row.effort.plus(self._start("tad.stages.pretrain"))
        row.disk = tried.size

    def _train(self, row: Row) -> None:
        spec = self.config.spec("train", run=row.jobs[0].wildcards["run"])
        assert isinstance(spec, TrainStageSpec)
        features = path_of("features", root=self.config.root, dataset=self.dataset, features=spec.features)
        known = list(self.videos.seconds)
        if spec.frames:
            raise TadError("trainings on frames are not tried")
        remade = any(job.outputs and Path(job.outputs[0]) == features for other in self.rows for job in other.jobs)
        if remade or not features.is_file():
            parts = self.config.parts(spec.features)
            absent = [part for part in parts if part not in self.rates]
            if absent:
                raise TadError(f"features {', '.join(absent)} are neither stored nor tried; make them first")
            dim = sum(self.rates[part][0] for part in parts)
            train, test = trial.chosen_for_training(self.table, spec, known)
            durations = {v: self.videos.seconds[v] for v in [*train, *test]}
            features = trial.synthetic_features(
                self.folder / f"{spec.features}.h5", spec, durations, dim=dim, like=self.rates[parts[0]][1]
            )
            known = list(durations)
        folder = self.folder / f"train-{len(list(self.folder.iterdir()))}"
        folder.mkdir()
        line, steps = trial.try_train(
            folder, features, self.annotations, self.table, spec, device=self.device, known=known
        )
        share = spec.labels.share if spec.labels and not spec.labels.file else 1.0
        epochs = spec.train.epochs + spec.train.warmup_epochs + spec.train.pretext_epochs
        row.effort = line.of(math.ceil(steps * row.videos * share) * epochs * len(row.jobs), len(row.jobs)).plus(
            self._start("tad.stages.train"), len(row.jobs)
        )
        row.disk = 2.0 * line.size * len(row.jobs)
        if spec.distill or spec.labels:
            self.notes.append(f"{row.title}: tried without teachers and unlabelled videos, which take more")

    # -- the table -----------------------------------------------------------------------------------------------------

    def lines(self) -> Iterator[str]:
        """Yield the table, its sum, and where the numbers come from."""
        head = ["stage", "jobs", "videos", "hours of video", "time", "CPU time", "disk", "from"]
        body = [
            [row.title, str(len(row.jobs)), str(row.videos), f"{row.seconds / 3600:.2f}", *row.numbers(), row.source]
            for row in self.rows
        ]
        wall, cpu = (sum(getattr(row.effort, name) for row in self.rows) for name in ("wall", "cpu"))
        hours = sum(self.videos.seconds.values()) / 3600
        jobs = sum(len(row.jobs) for row in self.rows)
        last = ["sum", str(jobs), str(len(self.videos.seconds)), f"{hours:.2f}",
                duration(wall), duration(cpu), readable(sum(row.disk for row in self.rows)), ""]  # fmt: skip
        table = [head, *body, last]
        widths = [max(len(line[k]) for line in table) for k in range(len(head))]
        for line in table:
            cells = [
                cell.ljust(w) if k in (0, 7) else cell.rjust(w)
                for k, (cell, w) in enumerate(zip(line, widths, strict=True))
            ]
            yield "  ".join(cells).rstrip()
        yield from self._remarks(wall, cpu)

    def _remarks(self, wall: float, cpu: float) -> Iterator[str]:
        gpu = sum(row.effort.wall for row in self.rows if row.rule in STAGES and STAGES[row.rule].device)
        on_gpu = self.sample is not None and _cuda(self.device)
        hours = (
            f"{gpu / 3600:.2f} GPU hours and {cpu / 3600:.2f} CPU hours" if on_gpu else f"{cpu / 3600:.2f} CPU hours"
        )
        if unknown := [row.title for row in self.rows if row.source == UNKNOWN]:
            yield f"the sum is too low: it does not contain {', '.join(unknown)}"
        yield f"{hours}; {duration(wall)} if the jobs run one after the other on this machine"
        if self.sample:
            yield (
                f"trial: {sum(self.sample.seconds):.0f} s of video from {sum(map(len, self.sample.pieces))} videos were"
                " probed and, where needed, extracted and trained on. Clock times hold for the load of this moment; CPU"
                " times are steadier"
            )
        if assumed := [row.title for row in self.rows if row.source == "assumed"]:
            share = sum(row.effort.cpu for row in self.rows if row.source == "assumed") / max(cpu, 1e-9)
            yield f"assumed, not measured ({100 * share:.0f} % of the CPU time): {', '.join(assumed)}"
        if self.videos.estimated:
            yield f"the length of {self.videos.estimated} videos was estimated from their bytes"
        yield from self.notes
        free, disk = free_at(self.config.root / RESULTS), sum(row.disk for row in self.rows)
        if free is not None and disk > free:
            yield f"the disk has only {readable(free)} free; free some before you start"


def _cuda(device: str) -> bool:
    from tad.core.device import resolve

    return resolve(device).type == "cuda"


def duration(seconds: float) -> str:
    """Return a time such as 12 s, 3.4 min or 5.6 h."""
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def plan(run: str, *, config: Path = Path("config.yaml"), device: str = "auto") -> Iterator[str]:
    """Yield a table of what the jobs of a run will take: jobs, videos, hours of video, time and disk.

    Args:
        run: name of a run.
        config: the configuration.
        device: see `tad.core.device.leased`.

    Raises:
        TadError: unknown run, missing inputs, or no videos.
    """
    settings = Config.read(config)
    settings.run(run)
    if missing := missing_of_run(settings, run):
        raise MissingError("; ".join(missing))
    made = settings.run(run).dataset in settings.generated
    if made:
        size.videos_of(settings, settings.run(run).dataset)  # refused in one line if they are not rendered yet
    jobs = planned([run], config=config)
    if not jobs:
        yield f"{run}: up to date, nothing would run"
        return
    log = logging.getLogger("tad")
    log.info("%s: stages that have not run yet are tried on a small sample; this takes a minute", run)
    before = log.level
    log.setLevel(logging.ERROR)  # the stages of the trial would report what their real run will report
    try:
        with TemporaryDirectory(prefix="tad-plan-") as folder:
            estimates = Plan(settings, run, jobs, Path(folder), device=device)
            estimates.estimate()
            yield from estimates.lines()
    finally:
        log.setLevel(before)
