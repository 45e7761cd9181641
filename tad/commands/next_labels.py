"""`tad next RUN`: rank unlabelled videos, and minutes of them, by what labelling them would teach the run.

The run's trainings are applied to the videos; `tad.metrics.acquisition` defines the values. The best videos become
drafts for the page's editor, whose saved file also holds the labels that exist already.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from tad.annotations.table import Table, read_table
from tad.commands.apply import trained_runs
from tad.commands.apply_outputs import Request, write_all
from tad.core.errors import TadError
from tad.core.files import publish, read_json, write_json
from tad.metrics.acquisition import Hypothesis, Part, hypotheses, rank_spans, rank_videos, rarities
from tad.settings.config import Config
from tad.settings.stages import SuppressStageSpec
from tad.video.listing import list_videos

COLUMNS = ("rank", "video", "start", "end", "value", "doubt", "disagreement", "detections", "rarest_class")


def next_labels(
    run: str,
    videos: Sequence[Path] = (),
    *,
    out: Path,
    top: int = 10,
    config: Path = Path("config.yaml"),
    device: str = "cpu",
) -> Iterator[str]:
    """Write a ranking of unlabelled videos and drafts of labels into the folder `out`, and yield lines about them.

    Args:
        run: name of a trained run. Its seeds are compared; with one seed only its doubts count.
        videos: videos or folders; by default those in the data set's folder that have no labels.
        out: folder to write: videos.csv, minutes.csv, labels.csv and the folder page.
        top: number of videos that become drafts.
        config: the configuration file.
        device: see `tad.core.device.leased`.

    Raises:
        TadError: every video has labels, no video can be read, or see `tad.commands.apply.apply`.
    """
    if top < 1:
        raise TadError(f"--top {top}: give a number of videos, such as 10")
    settings = Config.read(config)
    row = settings.run(run)
    table_file = settings.table_file(settings.trainings(run)[0])
    if not table_file.is_file():
        raise TadError(f"{table_file}: no such file; train the run with `tad run {run}`")
    table = read_table(table_file)
    chosen = [Path(path) for path in videos] or _unlabelled(settings, row.dataset, table)
    trainings = trained_runs(run, settings, device)
    request = Request.checked("csv,page", Path(out), score=None, precision=None, confidence=0.9)
    found: list[dict[str, Any]] = []
    for number, training in enumerate(trainings):
        applied = training.detect(chosen, training.work / f"detections-{number}.json")
        found.append(read_json(applied.detections)["results"])
    applied = replace(applied, detections=trainings[0].work / "detections-0.json")
    document = read_json(applied.detections)
    durations = {video: float(applied.durations.get(video) or 0.0) for video in found[0]}
    factors = rarities(applied.labels, _counts(table))
    reach = _reach(settings, run, applied.work)
    guessed = {video: hypotheses([rows[video] for rows in found], factors, reach=reach) for video in found[0]}
    ranked, spans = rank_videos(guessed, durations), rank_spans(guessed, durations)
    Path(out).mkdir(parents=True, exist_ok=True)
    for name, parts in (("videos.csv", ranked), ("minutes.csv", spans)):
        _write(Path(out) / name, parts)
    best = [part.video for part in ranked[:top]]
    drafts = {**document, "results": {video: document["results"][video] for video in best}}
    path = write_json(applied.work / "drafts.json", drafts)
    cut = request.threshold(trainings[0].held_out)
    list(write_all(replace(applied, detections=path, known=table), request, cut))
    yield from _lines(ranked, spans, guessed, top, len(trainings), document["excluded"])
    yield f"next: open {Path(out) / 'page' / 'index.html'}, correct the drafts, and save the labels: the file holds all"


def _reach(settings: Config, run: str, work: Path) -> float:
    """Return the seconds up to which moments of two trainings are the same: those up to which one suppresses others.

    It is 0 for a run that detects segments.
    """
    from tad.stages.suppress import read_candidates

    if settings.dataset(settings.run(run).dataset).kind != "moments":
        return 0.0
    spec = cast(SuppressStageSpec, settings.spec("suppress", run=settings.trainings(run)[0]))
    return spec.nms.window * max(grid.step for grid in read_candidates(work / "candidates.h5").grids)


def _unlabelled(settings: Config, dataset: str, table: Table) -> list[Path]:
    """Return the videos of the data set's folder that are not annotated."""
    named = settings.dataset(dataset).videos
    more = "name videos or folders after the run"
    if not named:
        raise TadError(f"{settings.where('datasets', dataset)}: has no folder of videos; {more}")
    folder = settings.root / named
    free = [folder / path for video, path in list_videos(folder).items() if video not in table.videos]
    if not free:
        raise TadError(f"{folder}: every video in it has labels; {more}")
    return free


def _counts(table: Table) -> dict[str, int]:
    """Return the number of instances of each class in the train videos."""
    counts: dict[str, int] = {}
    for video in table.split("train").values():
        for one in video.instances:
            counts[one.label] = counts.get(one.label, 0) + 1
    return counts


def _write(path: Path, parts: Sequence[Part]) -> None:
    """Write a ranking as CSV; values are bits per minute."""
    with publish(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for rank, part in enumerate(parts, start=1):
            numbers = [f"{number:.3f}" for number in (part.start, part.end, part.value, part.doubt, part.disagreement)]
            writer.writerow([rank, part.video, *numbers, part.hypotheses, part.rarest])


def _lines(
    ranked: Sequence[Part],
    spans: Sequence[Part],
    guessed: Mapping[str, Sequence[Hypothesis]],
    top: int,
    trainings: int,
    excluded: Mapping[str, str],
) -> Iterator[str]:
    """Say what ranks first, and where in it."""
    compared = f"{trainings} trainings are compared" if trainings > 1 else "with seeds: 3, trainings are compared too"
    yield f"{len(ranked)} videos ranked by bits per minute of labelling; {compared}"
    for rank, part in enumerate(ranked[:top], start=1):
        place = next(span for span in spans if span.video == part.video)
        where = f", most from {place.start:.0f} to {place.end:.0f} s" if guessed[part.video] else ""
        rare = f", rarest class {part.rarest}" if part.rarest else ""
        yield f"{rank}. {part.video}: {part.value:.1f} in {part.hypotheses} possible actions{rare}{where}"
    for video, cause in sorted(excluded.items()):
        yield f"{video}: excluded: {cause}"
