"""Two runs' detections → the difference of their scores, and how much of it the choice of videos could make."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tad.annotations import Table, read_table
from tad.config import Config
from tad.errors import TadError
from tad.metrics.bootstrap import LEVEL, RESAMPLES, draw, interval, resample
from tad.metrics.files import Scored, score_file
from tad.metrics.measures import headlines
from tad.provenance import expect
from tad.specs import EvaluateStageSpec, SummariseStageSpec


@dataclass(frozen=True)
class Run:
    """A run's seeds and their evaluations."""

    name: str
    seeds: tuple[int, ...]
    scored: list[Scored]

    def scores(self) -> NDArray[np.float64]:
        """mAP per tIoU (H,), fractions: the mean over seeds."""
        return np.asarray(np.mean([one.result.mean_ap for one in self.scored], axis=0))

    def resampled(self, counts_NV: NDArray[np.int64]) -> NDArray[np.float64]:
        """The same per resample (N, H)."""
        return np.asarray(np.mean([resample(one.result.matches, counts_NV) for one in self.scored], axis=0))

    def measures(self) -> dict[str, float]:
        """Headline numbers of the measures besides mAP: the mean over seeds."""
        found = [headlines(one.measures) for one in self.scored]
        return {name: float(np.mean([numbers[name] for numbers in found])) for name in found[0]}


def _spec(config: Config, run: str) -> SummariseStageSpec:
    found = config.spec("summarise" if len(config.trainings(run)) > 1 else "evaluate", run=run)
    if isinstance(found, SummariseStageSpec):
        return found
    assert isinstance(found, EvaluateStageSpec)
    return SummariseStageSpec.model_construct(**dict(found), seeds=(config.run(run).seed,))


def _refuse_unequal(specs: dict[str, SummariseStageSpec]) -> None:
    (one, a), (other, b) = specs.items()
    facts = {
        "dataset": (a.dataset, b.dataset),
        "split": (a.split, b.split),
        "protocol": (a.eval.protocol, b.eval.protocol),
        "tiou": (list(a.eval.tiou), list(b.eval.tiou)),
    }
    for fact, (first, second) in facts.items():
        if first != second:
            raise TadError(
                f"{one} and {other} cannot be compared: {fact} of {one} is {first}, of {other} {second}; "
                "score both alike (config.yaml, eval of the runs)"
            )


def _load(config: Config, run: str, spec: SummariseStageSpec, table: Table) -> Run:
    folders = [config.root / "results" / name for name in config.trainings(run)]
    names = config.trainings(run)
    scored = [
        score_file(folder / "detections.json", table, run=name, split=spec.split, settings=spec.eval)
        for folder, name in zip(folders, names, strict=True)
    ]
    return Run(run, spec.seeds, scored)


def _line(title: str, one: float, other: float, differences_N: NDArray[np.float64]) -> str:
    low, high = interval(differences_N)
    return (
        f"{title:<8} {100 * one:>8.2f} {100 * other:>8.2f} {100 * (other - one):>+11.2f}   "
        f"[{100 * low:+.2f}, {100 * high:+.2f}]"
    )


def compare(first: str, second: str, *, config: Path = Path("config.yaml")) -> Iterator[str]:
    """Lines: what is compared, then per tIoU and for the average both scores, their difference (second − first) and
    its interval; both runs are scored on the same resampled videos.

    Args:
        first, second: names in `runs`; a run with several seeds counts with the mean over them.

    Raises:
        TadError: runs of different datasets, splits, protocols or kinds of labels; missing or foreign files.
    """
    if first == second:
        raise TadError(f"compare: {first}: name two different runs")
    settings = Config.read(config)
    specs = {run: _spec(settings, run) for run in (first, second)}
    _refuse_unequal(specs)
    spec = specs[first]
    annotations = settings.root / f"results/annotations/{spec.dataset}.json"
    expect(annotations, stage="annotate", dataset=spec.dataset)
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
    yield f"{'tIoU':<8} {first[:8]:>8} {second[:8]:>8} {'difference':>11}   {100 * LEVEL:g} % interval"
    for h, threshold in enumerate(spec.eval.tiou):
        yield _line(f"{threshold:g}", a_H[h], b_H[h], differences_NH[:, h])
    average_N = differences_NH.mean(axis=1)
    yield _line("average", a_H.mean(), b_H.mean(), average_N)
    measures, others = one.measures(), other.measures()
    for name in (name for name in measures if name in others):
        a, b = 100 * measures[name], 100 * others[name]
        yield f"{name}: {first} {a:.2f}, {second} {b:.2f}, difference {b - a:+.2f} (no interval)"
    low, high = interval(average_N)
    verdict = "does not contain" if low > 0 or high < 0 else "contains"
    said = "seeds are averaged." if max(len(one.seeds), len(other.seeds)) > 1 else "not that of the seed."
    yield (
        f"The interval of the average {verdict} 0 ({RESAMPLES} paired resamples of the videos). It covers the choice "
        f"of videos; {said}"
    )
