"""Choose the settings of the detector `tad` on held-out train videos of 50Salads → Markdown.

    OMP_NUM_THREADS=1 python benchmarks/study_tad.py data/50salads FOLDER [--variants …] [--folds …] [--seeds …]
    python benchmarks/study_tad.py data/50salads FOLDER --suppress [--variants …] [--rules …]

The first command trains MSE as published (`parity`) and with changes; the second applies rules of suppression to the
candidates of these trainings. Folds, records and FOLDER are those of study_masked.py: the test videos are not used.
The score is the average mAP at tIoU 0.3 to 0.7 of all held-out videos together. `--oracles` shows what is missing:
detections with the borders of the best instance of their class, and with scores times their tIoU with any instance.
"""

import argparse
import json
import logging
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import study_masked
from study_masked import FOLDS, TIOU, Variant, annotations_of, config_of, record_of, row, trained

import tad
from tad.metrics.bootstrap import draw, interval, resample
from tad.stages import suppress as suppressing

PUBLISHED = {"face": "parity"}
VARIANTS = {
    "parity": Variant(detector=PUBLISHED),
    **{f"stretch {s:g}": Variant(detector=PUBLISHED, train={"stretch": s}) for s in (1.2, 1.4, 1.7, 2.0)},
    **{f"noise {s:g}": Variant(detector=PUBLISHED | {"input_noise": s}) for s in (0.1, 0.2, 0.5)},
    "crops": Variant(detector=PUBLISHED, train={"crop_ratio": [0.5, 1.0]}),
    "crops, stretch 1.4": Variant(detector=PUBLISHED, train={"crop_ratio": [0.5, 1.0], "stretch": 1.4}),
    "dropped": Variant(detector=PUBLISHED | {"droppath": 0.2, "dropout": 0.1}),
    "twice as long": Variant(detector=PUBLISHED, train={"epochs": 75}),
    "twice as long, stretch 1.4": Variant(detector=PUBLISHED, train={"epochs": 75, "stretch": 1.4}),
}
RULES: dict[str, dict[str, Any]] = {
    "published": {},
    "sigma 0.3": {"sigma": 0.3},
    "sigma 0.7": {"sigma": 0.7},
    "all classes together": {"per_class": False},
    "voting 0.6": {"voting": 0.6},
    "agreement": {"agreement": True},
    "agreement, voting 0.6": {"agreement": True, "voting": 0.6},
    **{f"agreement, voting 0.6, sigma {s:g}": {"agreement": True, "voting": 0.6, "sigma": s} for s in (0.2, 0.3, 0.4)},
    **{f"agreement, voting {v:g}, sigma 0.3": {"agreement": True, "voting": v, "sigma": 0.3} for v in (0.5, 0.7)},
}
Detection = dict[str, Any]
Truth = list[tuple[float, float, str]]


def truth_of(results: dict[str, Any], data: Path) -> dict[str, Truth]:
    """Return the instances of the videos of some results."""
    database = json.loads((data / "annotations.json").read_text())["database"]
    return {video: [(*a["segment"], a["label"]) for a in database[video]["annotations"]] for video in results}


def suppressed(name: str, rule: dict[str, Any], data: Path, folder: Path, folds: list[int], seed: int) -> Any:
    """Return the detections of all held-out videos by a variant's trainings and a rule of suppression."""
    results: dict[str, list[Detection]] = {}
    for fold in folds:
        work = folder / f"work-{fold}"
        config = config_of(Variant(nms=rule), data.resolve(), annotations_of(data, work, fold), seed)
        own = work / name.replace(" ", "-") / f"seed-{seed}"
        spec = config.spec("suppress", run="study")
        found = suppressing.suppress(own / "c.h5", own / "suppressed.json", spec=spec)
        results |= json.loads(found.read_text())["results"]
    return results


def overlap(one: list[float], other: list[float]) -> float:
    """Return the tIoU of two segments."""
    inter = min(one[1], other[1]) - max(one[0], other[0])
    return max(inter, 0.0) / max(max(one[1], other[1]) - min(one[0], other[0]), 1e-9)


def true_borders(detection: Detection, truth: Truth) -> Detection:
    """Return the detection with the borders of the best instance of its class, if its tIoU with it is over 0.3."""
    own = [(overlap(detection["segment"], [s, e]), [s, e]) for s, e, label in truth if label == detection["label"]]
    best = max(own, default=(0.0, []))
    return detection | {"segment": best[1]} if best[0] > min(TIOU) else detection


def true_quality(detection: Detection, truth: Truth) -> Detection:
    """Return the detection with its score times its largest tIoU with an instance of any class."""
    quality = max((overlap(detection["segment"], [s, e]) for s, e, _ in truth), default=0.0)
    return detection | {"score": detection["score"] * quality}


ORACLES: dict[str, Callable[[Detection, Truth], Detection]] = {
    "true borders": true_borders,
    "true quality": true_quality,
}


class Table:
    """Rows with a score each, and its difference from that of the first row with a 95 % interval over videos."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.first: tuple[float, Any] | None = None

    def row(self, name: str, rule: str, made: list[dict[str, Any]]) -> str:
        """Return the row of the results of one or more seeds, which are averaged."""
        scores = [tad.evaluate(results, truth_of(results, self.data), tiou=TIOU) for results in made]
        drawn_NV = draw(len(scores[0].evaluation.matches.video_ids))
        drawn_N = np.mean([resample(one.evaluation.matches, drawn_NV).mean(axis=1) for one in scores], axis=0)
        average = statistics.mean(one.average_mAP for one in scores)
        difference = ""
        if self.first is None:
            self.first = average, drawn_N
        else:
            low, high = interval(drawn_N - self.first[1])
            difference = f"{100 * (average - self.first[0]):+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"
        cells = [f"{100 * statistics.mean(one.mAP[t] for one in scores):.2f}" for t in (0.3, 0.5, 0.7)]
        return f"| {name} | {rule} | {100 * average:.2f} | {difference} | {' | '.join(cells)} |"


def suppressions(given: argparse.Namespace) -> Iterator[str]:
    """Yield the table of suppression rules; seeds are averaged."""
    table = Table(given.data)
    yield "| variant | suppression | average mAP | difference from the first row | @0.3 | @0.5 | @0.7 |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: |"
    for name in given.variants:
        for rule in given.rules:
            places = (given.data, given.folder, given.folds)
            yield table.row(name, rule, [suppressed(name, RULES[rule], *places, seed) for seed in given.seeds])
        if given.oracles:
            results = suppressed(name, {}, given.data, given.folder, given.folds, given.seeds[0])
            truth = truth_of(results, given.data)
            for oracle, change in ORACLES.items():
                changed = {v: [change(d, truth[v]) for d in rows] for v, rows in results.items()}
                yield table.row(name, f"published, {oracle}", [changed])


def trainings(given: argparse.Namespace) -> Iterator[str]:
    """Run the trainings without a record; yield a line for each of them, then the table of all."""
    for seed in given.seeds:
        for name in given.variants:
            for fold in given.folds:
                if not record_of(name, given.folder, fold, seed).is_file():
                    record = trained(name, given.data, given.folder, fold, seed)
                    yield f"{name}, fold {fold}, seed {seed}: {100 * record['average_mAP']:.2f}"
    yield "| variant | trainings | mean mAP | each | all held-out videos | @0.3 | @0.5 | @0.7 |"
    yield "| --- | ---: | ---: | --- | --- | ---: | ---: | ---: |"
    yield from filter(None, (row(name, given.data, given.folder, given.folds, given.seeds) for name in given.variants))


def main() -> None:
    """Train, or compare rules of suppression."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder of 50Salads (docs/datasets.md)")
    parser.add_argument("folder", type=Path, help="receives records, models and candidates")
    parser.add_argument("--variants", nargs="+", default=["parity", "stretch 1.4"], choices=VARIANTS)
    parser.add_argument("--folds", nargs="+", type=int, default=list(FOLDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--suppress", action="store_true", help="apply rules of suppression to what was trained")
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=RULES)
    parser.add_argument("--oracles", action="store_true", help="with --suppress: also with true borders and quality")
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    study_masked.VARIANTS.update(VARIANTS)
    for text in suppressions(given) if given.suppress else trainings(given):
        print(text, flush=True)


if __name__ == "__main__":
    main()
