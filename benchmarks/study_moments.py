"""When do the demo's actions begin? A detector of moments against the starts and middles of detected segments.

    make demo
    python benchmarks/study_moments.py results --out FOLDER [--seeds 3]

Features, videos and detected segments (detector mse) are those of the finished demo. The labels become moments at the
starts of the actions; `spot_moments` is trained on them with the settings of the row demo-starts, and scored, like the
segments, on the test videos. Differences have a bootstrap interval over videos, with the same resamples for both.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from tad.annotations.table import read_table
from tad.metrics.bootstrap import draw, interval, resample
from tad.metrics.files import score_file
from tad.settings.config import Config
from tad.settings.strict_yaml import read_yaml
from tad.stages.annotate import annotate
from tad.stages.check import check
from tad.stages.detect import detect
from tad.stages.suppress import suppress
from tad.stages.train import train

TOLERANCES = ["1f", "2f", "5f", "10f", "25f"]
ZOO = Path(__file__).resolve().parents[1] / "zoo" / "demo.yaml"


def configuration(folder: Path, seeds: int) -> Config:
    """Return the rows of the study: the demo's data set as moments, and the run demo-starts on it."""
    rows = read_yaml(ZOO)
    own = rows["datasets"]["demo_starts"] | {"format": "demo", "eval": {"tolerances": TOLERANCES}}
    run = rows["runs"]["demo-starts"] | {"dataset": "demo", "seeds": max(seeds, 2)}
    values = {
        "datasets": {"demo": own},
        "features": {"demo_clips": {"backbone": "r2plus1d_small"}},
        "runs": {"starts": run},
    }
    return Config(values, source="study", root=folder)


def trained(config: Config, name: str, results: Path, table: Path, out: Path) -> Path:
    """Train a seed and return its detections in the test videos."""
    features, folder = results / "features" / "demo" / "demo_clips.h5", out / name.replace("/", "-")
    specs: dict[str, Any] = {stage: config.spec(stage, run=name) for stage in ("train", "detect", "suppress")}
    model, candidates = folder / "model.safetensors", folder / "candidates.h5"
    train(features, table, model, spec=specs["train"], cache=out / ".kept", device="cpu")
    detect(features, model, table, candidates, spec=specs["detect"], device="cpu")
    return suppress(candidates, folder / "detections.json", spec=specs["suppress"])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    results, out = options.results, options.out
    config, data = configuration(out, options.seeds), results / "data" / "demo"
    annotated = annotate(
        data / "annotations.json",
        out / "demo.json",
        spec=config.spec("annotate", dataset="demo"),  # type: ignore[arg-type]
    )
    manifests = sorted((results / "videos" / "demo").glob("*-of-*.json"))
    checked = check(
        annotated,
        manifests,
        data / "videos",
        out / "demo.checked.json",
        spec=config.spec("check", dataset="demo"),  # type: ignore[arg-type]
    )
    table = read_table(checked)
    begin = time.process_time()
    names = config.trainings("starts")[: options.seeds]
    settings: Any = config.spec("evaluate", run=names[0])
    files = [trained(config, name, results, checked, out) for name in names]
    spent = (time.process_time() - begin) / len(names)
    spotted = [
        score_file(file, table, run=name, split="test", settings=settings.eval).result
        for file, name in zip(files, names, strict=True)
    ]
    segments = {
        at: score_file(
            results / "demo" / "detections.json", table, run="demo", split="test",
            settings=settings.eval.model_copy(update={"moment": at}),
        ).result
        for at in ("start", "middle")
    }  # fmt: skip
    counts_NV = draw(spotted[0].videos)
    ours_NH = np.mean([resample(one.matches, counts_NV) for one in spotted], axis=0)
    means = np.array([one.mean_ap for one in spotted])
    print(f"{spotted[0].videos} videos, {sum(spotted[0].instances)} starts; {spent:.0f} CPU s per training\n")
    print("| mAP within | " + " | ".join(TOLERANCES) + " |\n|---|" + "---:|" * len(TOLERANCES))
    cells = [f"{100 * m:.1f} ± {100 * s:.1f}" for m, s in zip(means.mean(0), means.std(0, ddof=1), strict=True)]
    print(f"| spot_moments, {len(names)} seeds | " + " | ".join(cells) + " |")
    for at, one in segments.items():
        print(f"| {at} of the detected segment | " + " | ".join(f"{100 * v:.1f}" for v in one.mean_ap) + " |")
    for at, one in segments.items():
        ends = [interval(column) for column in (ours_NH - resample(one.matches, counts_NV)).T]
        cells = [f"{100 * low:+.1f} to {100 * high:+.1f}" for low, high in ends]
        print(f"| spot_moments less {at}, 95 % interval | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
