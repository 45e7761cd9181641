"""Measure detection on streams: mAP offline, causal and online, latency, and CPU time per frame → Markdown rows.

    python benchmarks/bench_stream.py scores OFFLINE:CAUSAL … [--config config.yaml]
    python benchmarks/bench_stream.py speed RUN VIDEO [--score 0.3] [--config config.yaml]
    python benchmarks/bench_stream.py encoder VIDEO [--rate 5]

`scores` needs finished runs (`snakemake results/RUN/map.json`) and a chosen score (`tad stream RUN --choose --on
train`). Online: the stored features of the test videos, one by one, emitted at the chosen score; nothing is chosen on
the test videos. Latency: emission minus the true end, of emitted instances that match one with tIoU 0.5. `speed`
streams a video with one thread and counts CPU seconds; `encoder` does so with EfficientNet-Lite0 in place of a run's
encoder and a causal ActionFormer with random weights. With `--quick`, it measures random features only.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from tad.annotations.table import Table, read_table
from tad.commands.apply import trained_run
from tad.commands.stream import Rules, Session
from tad.commands.stream_choice import chosen_score, matched
from tad.commands.stream_emission import Emitter, Instance, of_candidates, results_of
from tad.core.files import read_json
from tad.core.grid import Grid
from tad.detectors._points.online import OnlineDetector
from tad.extraction.live import LiveFeatures
from tad.features.store import FeatureReader
from tad.metrics.columns import collect
from tad.metrics.files import Detections, score_detections
from tad.settings import plugins
from tad.settings.config import Config
from tad.settings.paths import path_of
from tad.settings.resolved import of_component
from tad.settings.stages import DetectStageSpec, EvaluateStageSpec
from tad.training.data.inputs import read_inputs, recipe_of
from tad.training.io.models import Model, load_model
from tad.video.live import open_source, rate_of, source_of
from tad.video.sampling import sampled

TIOU = 0.3  # of the suppression


def row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def emitted(config: Config, run: str) -> tuple[list[Instance], Table, EvaluateStageSpec, float]:
    """What a run emits on the stored features of its test videos, with its table and evaluation."""
    name = config.trainings(run)[0]
    plan = cast(DetectStageSpec, config.spec("detect", run=name))
    features = path_of("features", root=config.root, dataset=plan.dataset, features=plan.features)
    table_file, model_file = config.table_file(name), path_of("train", root=config.root, run=name)
    table, read = read_table(table_file), read_inputs(features, table_file, dataset=plan.dataset, named=plan.features)
    score = chosen_score(config, run)
    with FeatureReader(features) as reader:
        model = load_model(
            model_file, dataset=plan.dataset, features=plan.features, plugin=plan.detector, resize=plan.resize,
            dim=reader.dim, recipe=recipe_of(read.features), device=torch.device("cpu"),
        )  # fmt: skip
        found: list[Instance] = []
        for video in sorted(set(table.split("test")) & set(reader.video_ids)):
            grid = reader.grid(video)
            half = grid.start - grid.offset
            online = OnlineDetector(model.detector, threshold=score, min_length=plan.detect.min_length)
            candidates = online.push(reader.read(video))
            found += of_candidates(candidates, model.labels, grid, half_clip=half, name=video, tiou=TIOU)
    return found, table, cast(EvaluateStageSpec, config.spec("evaluate", run=name)), score


def latencies(found: list[Instance], table: Table) -> list[float]:
    """Seconds from the true end to the emission, of the instances that match an annotated one, each at most once."""
    videos = sorted({one.video for one in found})
    return [one.emitted - true.end for one, true in matched(found, table, videos)]


def scores(pairs: list[str], config: Config) -> Iterator[str]:
    yield row("offline run", "causal run", "offline", "causal", "online", "score", "emitted", "right", "instances",
              "p50 s", "p99 s")  # fmt: skip
    yield row(*["---"] * 11)
    for pair in pairs:
        offline, causal = pair.split(":")
        found, table, spec, score = emitted(config, causal)
        results = results_of(found, table.split("test"))
        columns = collect(results.items())
        scored = score_detections(
            Detections(columns, list(table.labels), {}, None, {}), Path(causal), table, split="test", settings=spec.eval
        )
        online = float(np.mean(scored.result.ap.mean(axis=1)))
        files = [path_of("evaluate", root=config.root, run=run) for run in (offline, causal)]
        maps = [f"{100 * read_json(path)['average_mAP']:.2f}" if path.is_file() else "–" for path in files]
        late = latencies(found, table)
        count = sum(len(table.videos[video].instances) for video in table.split("test"))
        times = [f"{np.quantile(late, q):.2f}" if late else "-" for q in (0.5, 0.99)]
        yield row(offline, causal, *maps, f"{100 * online:.2f}", f"{score:g}", len(found), len(late),
                  count, *times)  # fmt: skip


def speed(run: str, video: str, score: float, config: Config) -> Iterator[str]:
    session = Session(config, trained_run(run, config, "cpu"), torch.device("cpu"))
    list(session.emitted(source_of(video), "warm", Rules(score, TIOU)))  # compiles the loops
    with open_source(source_of(video)) as reader:
        native, frames = rate_of(reader), sum(1 for _ in reader)
    begin = time.process_time()
    count = len(list(session.emitted(source_of(video), "x", Rules(score, TIOU))))
    spent = time.process_time() - begin
    yield row("run", "frames", "frames/s of the video", "CPU s", "CPU ms per frame", "share of a core", "instances")
    yield row(*["---"] * 7)
    yield row(run, frames, f"{native:g}", f"{spent:.2f}", f"{1000 * spent / frames:.2f}",
              f"{100 * spent * native / frames:.1f} %", count)  # fmt: skip


def random_model(dim: int) -> Model:
    """A causal ActionFormer of the demo's size with random weights."""
    resolved = of_component("detectors", "actionformer", ["demo"])
    resolved.lay("settings", {"causal": True}, "bench_stream")
    settings = resolved.check("bench_stream").sections["settings"]
    torch.manual_seed(0)
    detector = plugins.build("detectors", "actionformer", settings, feature_dim=dim, num_classes=5, max_length=288)
    return Model(detector.eval(), {}, list("abcde"), 288)


def encoder(video: str, rate: float) -> Iterator[str]:
    config = Config.read(Path(__file__).parents[1] / "config.yaml")
    plugin: Any = config.backbone("demo_clips", "demo").model_copy(
        update={"name": "efficientnet_lite0", "settings": plugins.defaults("backbones", "efficientnet_lite0")}
    )
    from tad.stages.extract import encoder_of
    from tad.weights.published import PACKAGE, located

    spec: Any = config.spec("extract", dataset="demo", features="demo_clips")
    clip = spec.clip.model_copy(update={"length": 1, "stride": 1, "rate": rate})
    spec = spec.model_copy(update={"backbone": plugin, "clip": clip})
    backbone = encoder_of(spec, located(PACKAGE, plugin), torch.device("cpu"))
    model = random_model(backbone.dim)
    yield row("encoder", "frames encoded", "features/s", "CPU ms per feature", "share of a core")
    yield row(*["---"] * 5)
    for attempt in ("warm", "measured"):
        features, count = LiveFeatures(backbone, spec, torch.device("cpu")), 0
        online = OnlineDetector(model.detector, threshold=0.5)
        emitter = Emitter(model.labels, features.grid(rate, 0.0), name="x", tiou=TIOU)
        begin = time.process_time()
        with open_source(source_of(video)) as reader:
            for image in sampled(iter(reader), policy="resample", rate=rate, native_rate=rate_of(reader)):
                for row_C in features.push(image):
                    emitter.push(online.push(row_C[None]), 0.0)
                    count += 1
                if attempt == "warm" and count:
                    break
        spent = time.process_time() - begin
    yield row(
        "efficientnet_lite0", count, f"{rate:g}", f"{1000 * spent / count:.1f}", f"{100 * spent * rate / count:.1f} %"
    )


def detector_alone(features: int) -> Iterator[str]:
    model = random_model(64)
    online = OnlineDetector(model.detector, threshold=0.5)
    emitter = Emitter(model.labels, Grid(0.5, 0.32, 0, 0.0), name="x", tiou=TIOU)
    rows_TC = np.random.default_rng(0).standard_normal((features + 64, 64)).astype(np.float32)
    for row_C in rows_TC[:64]:
        emitter.push(online.push(row_C[None]), 0.0)
    begin = time.process_time()
    for row_C in rows_TC[64:]:
        emitter.push(online.push(row_C[None]), 0.0)
    spent = time.process_time() - begin
    yield row("detector", "features", "CPU ms per feature")
    yield row(*["---"] * 3)
    yield row("actionformer, causal, of the demo's size", features, f"{1000 * spent / features:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="detector", choices=("scores", "speed", "encoder", "detector"))
    parser.add_argument("given", nargs="*", help="pairs of runs; a run and a video; or a video")
    parser.add_argument("--config", type=Path, default=Path("config.yaml"))
    parser.add_argument("--score", type=float, default=0.3)
    parser.add_argument("--rate", type=float, default=5.0, help="features per second of `encoder`")
    parser.add_argument("--quick", action="store_true", help="few random features only")
    a = parser.parse_args()
    torch.set_num_threads(1)
    if a.quick or a.what == "detector":
        lines = detector_alone(200 if a.quick else 2000)
    elif a.what == "scores":
        lines = scores(a.given, Config.read(a.config))
    elif a.what == "speed":
        lines = speed(a.given[0], a.given[1], a.score, Config.read(a.config))
    else:
        lines = encoder(a.given[0], a.rate)
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    main()
