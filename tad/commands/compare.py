"""Compare two runs: the difference of their scores, with a bootstrap confidence interval over videos."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tad.annotations.table import Table, read_table
from tad.core.errors import TadError
from tad.metrics.bootstrap import LEVEL, RESAMPLES, draw, interval, resample
from tad.metrics.files import Scored, score_file
from tad.metrics.measures import headlines
from tad.provenance.stamps import expect
from tad.settings.config import Config
from tad.settings.paths import path_of
from tad.settings.stage_table import TABLES
from tad.settings.stages import EvaluateStageSpec, SummariseStageSpec

# settings of the section `eval` on which the scores depend, and those on which measures besides mAP do
OF_SCORES = ("protocol", "tiou", "tolerances", "moment", "background")
OF_MEASURES = {
    "frame_rate": {"frames", "segmentation"}, "frame_score": {"segmentation"}, "unseen_splits": {"unseen"},
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A run's seeds and the evaluation of each."""

    name: str
    seeds: tuple[int, ...]
    scored: list[Scored]

    def scores(self) -> NDArray[np.float64]:
        """Return the mAP per tIoU (H,) as fractions, averaged over seeds."""
        return np.asarray(np.mean([one.result.mean_ap for one in self.scored], axis=0))

    def resampled(self, counts_NV: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the mAP per resample and tIoU (N, H) as fractions, averaged over seeds."""
        return np.asarray(np.mean([resample(one.result.matches, counts_NV) for one in self.scored], axis=0))

    def measures(self) -> dict[str, float]:
        """Return the headline numbers of the measures other than mAP, averaged over seeds."""
        values = [headlines(one.measures) for one in self.scored]
        return {name: float(np.mean([numbers[name] for numbers in values])) for name in values[0]}


def _spec(config: Config, run: str) -> SummariseStageSpec:
    spec = config.spec("summarise" if len(config.trainings(run)) > 1 else "evaluate", run=run)
    if isinstance(spec, SummariseStageSpec):
        return spec
    assert isinstance(spec, EvaluateStageSpec)
    return SummariseStageSpec.model_construct(**dict(spec), seeds=(config.run(run).seed,))


def _refuse_unequal(specs: dict[str, SummariseStageSpec]) -> None:
    (one, a), (other, b) = specs.items()
    both = set(a.eval.measures) & set(b.eval.measures)
    names = (*OF_SCORES, *(name for name, measures in OF_MEASURES.items() if measures & both))
    one_eval, other_eval = (spec.eval.model_dump(mode="json", include=set(names)) for spec in (a, b))
    facts = {"dataset": (a.dataset, b.dataset), "split": (a.split, b.split)}
    facts |= {name: (one_eval[name], other_eval[name]) for name in names}
    for fact, (first, second) in facts.items():
        if first != second:
            raise TadError(
                f"{one} and {other} cannot be compared: {fact} of {one} is {first}, of {other} {second}; "
                "score both alike (eval in the rows of the runs)"
            )


def _load(config: Config, run: str, spec: SummariseStageSpec, table: Table) -> Run:
    files = {name: path_of("suppress", root=config.root, run=name) for name in config.trainings(run)}
    scored = [score_file(path, table, run=name, split=spec.split, settings=spec.eval) for name, path in files.items()]
    return Run(run, spec.seeds, scored)


def _line(title: str, one: float, other: float, differences_N: NDArray[np.float64]) -> str:
    low, high = interval(differences_N)
    return (
        f"{title:<8} {100 * one:>8.2f} {100 * other:>8.2f} {100 * (other - one):>+11.2f}   "
        f"[{100 * low:+.2f}, {100 * high:+.2f}]"
    )


def compare(first: str, second: str, *, config: Path = Path("config.yaml"), seeds: int = 0) -> Iterator[str]:
    """Yield lines: a heading, then both scores and their difference, per tIoU and for the average.

    A difference (second − first) has a confidence interval; both runs are scored on the same resampled videos.

    Args:
        first, second: names in `runs`; the scores of a run with several seeds are averaged over them.
        config: the configuration.
        seeds: seeds of each run, as made with Snakemake's --config 'runs={<run>: {seeds: 3}}'; 0: as in the rows.

    Raises:
        TadError: the runs differ in dataset, split, protocol or kind of labels, or a file is missing or not of the run.
    """
    if first == second:
        raise TadError(f"{first}: given twice; name two different runs")
    changes = {"runs": {run: {"seeds": seeds} for run in (first, second)}} if seeds else {}
    settings = Config.read(config, changes=changes)
    specs = {run: _spec(settings, run) for run in (first, second)}
    _refuse_unequal(specs)
    spec = specs[first]
    annotations = settings.table_file(first)
    expect(annotations, stage=TABLES, dataset=spec.dataset)
    table = read_table(annotations)
    one, other = (_load(settings, run, specs[run], table) for run in (first, second))
    kinds = [f"proposals ('{r.scored[0].proposals}')" if r.scored[0].proposals else "classes" for r in (one, other)]
    if kinds[0] != kinds[1]:
        raise TadError(f"{first} and {second} cannot be compared: {first} detects {kinds[0]}, {second} {kinds[1]}")
    result = one.scored[0].result
    counts_NV = draw(result.videos)
    differences_NH = other.resampled(counts_NV) - one.resampled(counts_NV)
    a_H, b_H = one.scores(), other.scores()
    yield (
        f"{second} − {first}: {spec.dataset}, split {spec.split}, protocol {spec.eval.protocol}, "
        f"{result.videos} videos, {sum(result.instances)} instances"
    )
    for run in (one, other):
        yield f"{run.name}: seed{'s' * (len(run.seeds) > 1)} {', '.join(map(str, run.seeds))}"
    what = "within" if result.near else "tIoU"
    yield f"{what:<8} {first[:8]:>8} {second[:8]:>8} {'difference':>11}   {100 * LEVEL:g} % interval"
    for h, threshold in enumerate(result.names):
        yield _line(threshold, a_H[h], b_H[h], differences_NH[:, h])
    weights_H = np.full(len(a_H), 1 / len(a_H)) if result.weights is None else result.weights
    average_N = differences_NH @ weights_H
    yield _line("average", float(a_H @ weights_H), float(b_H @ weights_H), average_N)
    measures, others = one.measures(), other.measures()
    for name in (name for name in measures if name in others):
        a, b = 100 * measures[name], 100 * others[name]
        yield f"{name}: {first} {a:.2f}, {second} {b:.2f}, difference {b - a:+.2f} (no interval)"
    low, high = interval(average_N)
    verdict = "does not contain" if low > 0 or high < 0 else "contains"
    ending = "seeds are averaged." if max(len(one.seeds), len(other.seeds)) > 1 else "not that of the seed."
    yield (
        f"The interval of the average {verdict} 0 ({RESAMPLES} paired resamples of the videos). It covers the choice "
        f"of videos; {ending}"
    )
