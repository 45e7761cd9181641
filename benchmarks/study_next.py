"""Compare the order of `tad next` with random order on 50Salads: labelled videos needed for 95 % of the full score.

    OMP_NUM_THREADS=1 python benchmarks/study_next.py --data data/50salads --out study.jsonl
    python benchmarks/study_next.py --out study.jsonl --report

Each of five seeds starts with the same four random videos for both orders. A round trains a small TriDet on the
labelled videos and adds four more: random ones, or the four that `tad next` ranks first by the detections of two
trainings. All trainings take equally many steps. The score is the average mAP on the ten test videos; it is compared
with the score of the same recipe and seed on all 40 train videos. A curve ends at 95 % of it. Finished trainings are
kept in the output file, so a second call continues.
"""

import argparse
import json
import math
import platform
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from tad.annotations.table import read_table
from tad.core.files import read_json
from tad.metrics.acquisition import hypotheses, rank_videos, rarities
from tad.metrics.threshold import t_quantile
from tad.settings.config import Config
from tad.settings.stages import DetectStageSpec
from tad.stages.annotate import annotate
from tad.stages.convert import convert
from tad.stages.detect import detect
from tad.stages.evaluate import evaluate
from tad.stages.suppress import suppress
from tad.stages.train import train

START, ADDED, SHARE, STEPS, BATCH, SEEDS = 4, 4, 0.95, 160, 2, 5
RANGES = [[0, 8], [8, 16], [16, 32], [32, 64], [64, 10000]]  # of a network for a snippet every two seconds
DETECTOR = {"name": "tridet", "embed_dim": 48, "mlp_dim": 96, "head_dim": 48, "regression_ranges": RANGES}


class Study:
    """Trainings on chosen videos, in a temporary folder, with the finished ones in a file."""

    def __init__(self, data: Path, folder: Path, out: Path) -> None:
        self.data, self.folder, self.out = data, folder, out
        self.done = {}
        if out.is_file():
            rows = (json.loads(line) for line in out.read_text().splitlines())
            self.done = {(row["seed"], row["training"], tuple(row["videos"])): row for row in rows if "training" in row}
        config = self.config({"dataset": "salads", "features": "scores"})
        self.table_file = annotate(
            data / "annotations.json", folder / "table.json", spec=config.spec("annotate", dataset="salads")
        )
        spec = config.spec("convert", dataset="salads", features="scores")
        self.index = convert(data, self.table_file, folder / "features.h5", spec=spec)
        self.table = read_table(self.table_file)
        self.pool = sorted(v for v, video in self.table.videos.items() if video.split == "train")

    def config(self, row: dict[str, Any]) -> Config:
        """Return a configuration with the data and one run."""
        clip = {"length": 1, "stride": 1, "policy": "resample", "rate": 1.0}
        features = {"source": str(self.data), "dim": 28, "dtype": "float32", "clip": clip, "every": 2}
        dataset = {"format": "activitynet", "annotations": str(self.data / "annotations.json")}
        dataset |= {"eval": {"tiou": [0.3, 0.4, 0.5, 0.6, 0.7]}}
        values = {"datasets": {"salads": dataset}, "features": {"scores": features}}
        return Config({**values, "runs": {"study": {"detector": DETECTOR, **row}}}, root=self.folder)

    def training(self, seed: int, k: int, videos: list[str], *, ranked: bool) -> dict[str, Any]:
        """Train on `videos`; return the score and, if `ranked`, the detections in all train videos."""
        key = (seed, k, tuple(sorted(videos)))
        if key in self.done and (not ranked or "results" in self.done[key]):
            return self.done[key]
        listed = self.folder / "labelled.csv"
        subsets = [f"{v},{'training' if v in videos else 'training_unlabel'}" for v in self.pool]
        listed.write_text("\n".join(["video,subset", *subsets]) + "\n")
        epochs = max(round(STEPS / math.ceil(len(videos) / BATCH)), 2)
        warmup = max(epochs // 8, 1)
        recipe = {"epochs": epochs - warmup, "warmup_epochs": warmup, "lr": 2.0e-3, "ema_decay": 0.98}
        recipe |= {"max_length": 288, "batch_size": BATCH}
        row = {"dataset": "salads", "features": "scores", "train": recipe, "seed": 100 * seed + k}
        row["detect"] = {"topk": 200, "score_threshold": 0.01}
        if len(videos) < len(self.pool):
            row["labels"] = {"file": str(listed), "others": "unused"}
        config, begun = self.config(row), time.perf_counter()
        with tempfile.TemporaryDirectory(dir=self.folder) as text:
            folder = Path(text)
            model = train(
                self.index, self.table_file, folder / "model.safetensors",
                spec=config.spec("train", run="study"), cache=folder / "cache", threads=1,
            )  # fmt: skip
            result = {"seed": seed, "training": k, "videos": sorted(videos)}
            result["score"] = self.score(config, model, folder)
            if ranked:
                result["results"] = self.results(config, model, folder, "train")
        result["seconds"] = round(time.perf_counter() - begun, 1)
        with open(self.out, "a") as file:
            file.write(json.dumps(result) + "\n")
        self.done[key] = result
        return result

    def results(self, config: Config, model: Path, folder: Path, split: str) -> dict[str, Any]:
        """Return the detections in the videos of a split."""
        spec = cast(DetectStageSpec, config.spec("detect", run="study")).model_copy(update={"split": split})
        candidates = detect(self.index, model, self.table_file, folder / f"{split}.h5", spec=spec, threads=1)
        rule = config.spec("suppress", run="study")
        found = read_json(suppress(candidates, folder / f"{split}.json", spec=rule, threads=1))["results"]
        if split == "test":
            return found
        return {video: [row for row in rows if row["score"] >= 0.05] for video, rows in found.items()}

    def score(self, config: Config, model: Path, folder: Path) -> float:
        """Return the average mAP on the test videos, in percent."""
        self.results(config, model, folder, "test")
        spec = config.spec("evaluate", run="study")
        scored = evaluate(folder / "test.json", self.table_file, folder / "map.json", spec=spec, model=model)
        return 100 * float(read_json(scored)["average_mAP"])

    def next(self, seed: int, videos: list[str], count: int) -> list[str]:
        """Return the videos that `tad next` ranks first."""
        found = [self.training(seed, k, videos, ranked=True)["results"] for k in (0, 1)]
        counts: dict[str, int] = {}
        for video in videos:
            for one in self.table.videos[video].instances:
                counts[one.label] = counts.get(one.label, 0) + 1
        factors = rarities(self.table.labels, counts)
        pool = [video for video in self.pool if video not in videos]
        ranked = {v: hypotheses([rows.get(v, []) for rows in found], factors) for v in pool}
        durations = {v: float(self.table.videos[v].duration or 0.0) for v in pool}
        return [part.video for part in rank_videos(ranked, durations)[:count]]

    def run(self) -> None:
        """Draw both curves of every seed, seed by seed."""
        for seed in range(SEEDS):
            full = self.training(seed, 0, self.pool, ranked=False)["score"]
            order = np.random.default_rng(seed).permutation(self.pool).tolist()
            for name in ("random", "next"):
                videos = order[:START]
                while True:
                    score = self.training(seed, 0, videos, ranked=name == "next")["score"]
                    print(f"seed {seed} {name} {len(videos)} videos: {score:.2f} of {full:.2f}", flush=True)
                    with open(self.out, "a") as file:
                        point = {"curve": name, "seed": seed, "videos": len(videos), "score": score, "full": full}
                        point["instances"] = sum(len(self.table.videos[v].instances) for v in videos)
                        point["minutes"] = sum(self.table.videos[v].duration or 0.0 for v in videos) / 60
                        file.write(json.dumps(point) + "\n")
                    if score >= SHARE * full or len(videos) >= len(self.pool):
                        break
                    rest = [v for v in order if v not in videos]
                    videos = videos + (rest[:ADDED] if name == "random" else self.next(seed, videos, ADDED))


def needed(points: list[dict[str, Any]], what: str) -> float:
    """Return the amount at which a curve reaches the share, by linear interpolation between its last two points."""
    points = sorted(points, key=lambda p: p["videos"])
    last, goal = points[-1], SHARE * points[-1]["full"]
    if len(points) == 1:
        return float(last[what])
    before = points[-2]
    t = (goal - before["score"]) / (last["score"] - before["score"])
    return float(before[what] + min(max(t, 0.0), 1.0) * (last[what] - before[what]))


def report(out: Path) -> None:
    """Print the study as Markdown."""
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    points = {(r["seed"], r["curve"], r["videos"]): r for r in rows if "curve" in r}
    seeds = [s for s in range(SEEDS) if any(key[:2] == (s, "next") for key in points)]
    trainings = [r for r in rows if "training" in r]
    seconds = float(np.median([r["seconds"] for r in trainings]))
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread a training.")
    print(f"{len(trainings)} trainings, median {seconds:.0f} s each. Seeds: {len(seeds)}.\n")
    print("| seed | full score | videos, random | videos, next | instances, random | instances, next |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    differences = {"videos": [], "instances": [], "minutes": []}
    complete = []
    for seed in seeds:
        curves = {n: [p for (s, c, _), p in points.items() if (s, c) == (seed, n)] for n in ("random", "next")}
        if any(max(p["score"] for p in c) < SHARE * c[0]["full"] for c in curves.values()):
            continue  # not finished
        complete.append(seed)
        amount = {(n, what): needed(c, what) for n, c in curves.items() for what in differences}
        for what, own in differences.items():
            own.append(amount["next", what] - amount["random", what])
        cells = [curves["next"][0]["full"], *(amount[n, w] for w in ("videos", "instances") for n in curves)]
        print(f"| {seed} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |")
    for what, own in differences.items():
        if len(own) > 1:
            half = t_quantile(0.975, len(own) - 1) * float(np.std(own, ddof=1)) / math.sqrt(len(own))
            mean = float(np.mean(own))
            print(f"\nnext - random, {what}: {mean:+.1f}, 95 % interval {mean - half:+.1f} to {mean + half:+.1f}")
    print("\n| labelled videos | random | next | both curves still below 95 % or just there: seeds |")
    print("| ---: | ---: | ---: | ---: |")
    for count in sorted({key[2] for key in points}):
        both = [s for s in seeds if all((s, n, count) in points for n in ("random", "next"))]
        if both:
            means = [np.mean([points[s, n, count]["score"] for s in both]) for n in ("random", "next")]
            print(f"| {count} | {means[0]:.2f} | {means[1]:.2f} | {len(both)} |")


def main() -> None:
    """Run the study, or report it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/50salads"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    if arguments.report:
        report(arguments.out)
        return
    with tempfile.TemporaryDirectory() as folder:
        Study(arguments.data.absolute(), Path(folder), arguments.out).run()


if __name__ == "__main__":
    main()
