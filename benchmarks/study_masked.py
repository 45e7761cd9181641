"""Study which part of MSE's correction `masked` costs accuracy on 50Salads, on held-out train videos.

    OMP_NUM_THREADS=1 python benchmarks/study_masked.py data/50salads FOLDER [--variants …] [--folds …] [--seeds …]

The folder receives one JSON file per training; those that exist are not repeated. Each fold holds out the ten train
videos of five users (salad_2_… to salad_5_…; their features come from networks that have not seen them, as those of the
test videos). The test videos (salad_1_…) are used by `--final` only, which trains on all 40 train videos. The table has
the mean over folds, and the mAP of all held-out videos together; `--table` prints it without training. `--flip` trains
nothing: it computes the held-out videos with the networks of the first of `--variants` and the parts of each other one.
"""

import argparse
import json
import logging
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

import tad
from tad.detectors._points import sgp, trident
from tad.detectors._points.heads import _Tower, trident_offsets
from tad.detectors._points.pyramid import LevelNorms, Pyramid
from tad.layers import masked as layers
from tad.settings.config import Config
from tad.stages import annotate as annotating
from tad.stages import convert as converting
from tad.stages import detect as detecting
from tad.stages import suppress as suppressing
from tad.stages import train as training
from tad.training.io import tensors as checkpoint

FOLDS = (2, 3, 4, 5)
TIOU = (0.3, 0.4, 0.5, 0.6, 0.7)
PARTS = ("pool", "mean", "norm", "zeros", "neck", "heads", "decode", "shorter")


@dataclass(frozen=True)
class Variant:
    """What a training changes of `salads-mse-parity`.

    Attributes:
        parts: the parts of `masked` that are on. pool, mean, norm: padding does not count in the max-pooling, in the
            mean over time and in the group norms; zeros: padding is set to zero between the encoder's layers, neck and
            heads: in these; decode: boundaries beyond the video have probability 0; shorter: batches are padded to
            their longest video.
        detector, train, nms: changed settings.
    """

    parts: tuple[str, ...] = ()
    detector: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    nms: dict[str, Any] = field(default_factory=dict)


VARIANTS = {
    "parity": Variant(),
    "masked": Variant(PARTS),
    **{part: Variant((part,)) for part in PARTS},
    **{f"without {part}": Variant(tuple(p for p in PARTS if p != part)) for part in PARTS},
    "statistics": Variant(("mean", "norm")),
    "borders": Variant(("neck", "heads", "decode")),
    "encoder": Variant(("pool", "zeros")),
}


@contextmanager
def parts_of(parts: tuple[str, ...]) -> Iterator[None]:
    """Build detectors in which only these parts of `masked` are on."""
    plugins_build = training.plugins.build

    def build(kind: str, name: str, settings: dict[str, Any], **sizes: int) -> Any:
        detector = plugins_build(kind, name, settings, **sizes)
        for module in detector.modules():
            if isinstance(module, (Pyramid, sgp.GranularBlock)):
                module.masked = "zeros" in parts
            if isinstance(module, LevelNorms):
                module.masked = "neck" in parts
            if isinstance(module, _Tower):
                module.masked = "heads" in parts
        detector.masked = "shorter" in parts
        detector.padded = lambda length: padded(detector, length, shorter="shorter" in parts)
        detector.fixed_length = "shorter" not in parts
        return detector

    def padded(detector: Any, length: int, *, shorter: bool) -> int:
        return -(-length // detector.coarsest) * detector.coarsest if shorter else max(detector.max_length, length)

    def time_mean(x_BCT: torch.Tensor, mask_B1T: layers.Mask, *, masked: bool) -> torch.Tensor:
        return layers.time_mean(x_BCT, mask_B1T, masked="mean" in parts)

    def group_norm(x_BCT: torch.Tensor, mask_B1T: layers.Mask, norm: Any, *, masked: bool) -> torch.Tensor:
        return layers.group_norm(x_BCT, mask_B1T, norm, masked="norm" in parts)

    def max_pool(x_BCT: torch.Tensor, mask_B1T: layers.Mask, *, masked: bool) -> torch.Tensor:
        return layers.max_pool(x_BCT, mask_B1T, masked="pool" in parts)

    def decoded(*given: Any, bins: int, masked: bool) -> torch.Tensor:
        return trident_offsets(*given, bins=bins, masked="decode" in parts)

    with (
        mock.patch.object(training.plugins, "build", build),
        mock.patch.object(trident, "trident_offsets", decoded),
        mock.patch.object(sgp, "time_mean", time_mean),
        mock.patch.object(sgp, "group_norm", group_norm),
        mock.patch.object(sgp, "max_pool", max_pool),
    ):
        yield


def annotations_of(data: Path, folder: Path, fold: int) -> Path:
    """Write the annotations of a fold: its videos are the test split; with fold 1 the others are the train split."""
    document = json.loads((data / "annotations.json").read_text())
    videos = {}
    for video_id, entry in document["database"].items():
        of = int(video_id.split("_")[1])
        if fold == 1 or of != 1:
            videos[video_id] = entry | {"subset": "Test" if of == fold else "Train"}
    path = folder / f"fold-{fold}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document | {"database": videos}))
    return path


def config_of(variant: Variant, data: Path, annotations: Path, seed: int) -> Config:
    """The configuration of one training."""
    detector = {"name": "mse", "face": "parity"} | variant.detector
    clip = {"length": 1, "stride": 1, "policy": "resample", "rate": 1.0}
    rows = {
        "datasets": {
            "salads": {"format": "activitynet", "annotations": str(annotations), "eval": {"tiou": list(TIOU)}}
        },
        "features": {"scores": {"source": str(data), "dim": 28, "dtype": "float32", "clip": clip}},
        "runs": {
            "study": {
                "dataset": "salads", "features": "scores", "detector": detector, "seed": seed,
                "train": {"threads": 1} | variant.train, "nms": variant.nms,
            }
        },
    }  # fmt: skip
    return Config(rows, source="study_masked", root=annotations.parent)


def record_of(name: str, folder: Path, fold: int, seed: int) -> Path:
    """The file of one training's record."""
    return folder / "records" / name.replace(" ", "-") / f"fold-{fold}.seed-{seed}.json"


def trained(name: str, data: Path, folder: Path, fold: int, seed: int) -> dict[str, Any]:
    """Train and score one variant on one fold; return its record, from the file if there is one."""
    path = record_of(name, folder, fold, seed)
    if path.is_file():
        return dict(json.loads(path.read_text()))
    variant, work = VARIANTS[name], folder / f"work-{fold}"
    annotations = annotations_of(data, work, fold)
    config = config_of(variant, data.resolve(), annotations, seed)
    table, index = work / "table.json", work / "features.h5"
    if not index.is_file():
        annotating.annotate(annotations, table, spec=config.spec("annotate", dataset="salads"))
        converting.convert(data, table, index, spec=config.spec("convert", dataset="salads", features="scores"))
    own = work / name.replace(" ", "-") / f"seed-{seed}"
    own.mkdir(parents=True, exist_ok=True)
    started = time.process_time()
    with parts_of(variant.parts) if variant.parts or not variant.detector else mock.MagicMock():
        model = training.train(
            index, table, own / "model.safetensors", spec=config.spec("train", run="study"), cache=own / "cache"
        )
        candidates = detecting.detect(index, model, table, own / "c.h5", spec=config.spec("detect", run="study"))
    seconds = time.process_time() - started
    found = suppressing.suppress(candidates, own / "detections.json", spec=config.spec("suppress", run="study"))
    scores = tad.evaluate(found, annotations, tiou=TIOU, split="test")
    results = json.loads(found.read_text())["results"]
    record = {
        "average_mAP": scores.average_mAP, "mAP": {f"{t:g}": v for t, v in scores.mAP.items()}, "seconds": seconds,
        "results": {v: [r for r in rows if r["score"] > 0.01] for v, rows in results.items()},
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))
    return record


def flipped(trained_as: str, name: str, data: Path, folder: Path, fold: int, seed: int) -> float:
    """Average mAP of a fold's held-out videos by the network of one variant, computed with the parts of another."""
    work = folder / f"work-{fold}"
    config = config_of(VARIANTS[trained_as], data.resolve(), annotations_of(data, work, fold), seed)
    own = work / trained_as.replace(" ", "-") / f"seed-{seed}"
    with parts_of(VARIANTS[name].parts):
        spec = config.spec("detect", run="study")
        made = detecting.detect(
            work / "features.h5", own / "model.safetensors", work / "table.json", own / "flipped.h5", spec=spec
        )
    found = suppressing.suppress(made, own / "flipped.json", spec=config.spec("suppress", run="study"))
    return tad.evaluate(found, work / f"fold-{fold}.json", tiou=TIOU, split="test").average_mAP


def scales(trained_as: str, data: Path, folder: Path, fold: int, seed: int) -> list[tuple[float, float]]:
    """How much larger a network's group norms make the real snippets because padding counts in their statistics.

    Returns: for each held-out video the share of real snippets in its window, and the ratio of the standard deviations
    of real snippets behind the published norm and behind one over real snippets only, mean over all norms.
    """
    work, found = folder / f"work-{fold}", []
    config = config_of(VARIANTS[trained_as], data.resolve(), annotations_of(data, work, fold), seed)
    model = work / trained_as.replace(" ", "-") / f"seed-{seed}" / "model.safetensors"
    weights, _ = checkpoint.read_tensors(model)
    plugin = config.spec("train", run="study").detector
    detector = training.build("mse", plugin.settings, feature_dim=28, num_classes=9, max_length=576)
    detector.load_state_dict(weights)
    ratios: list[float] = []

    def group_norm(x_BCT: torch.Tensor, mask_B1T: layers.Mask, norm: Any, *, masked: bool) -> torch.Tensor:
        published = layers.group_norm(x_BCT, mask_B1T, norm, masked=False)
        real = mask_B1T[0, 0] if mask_B1T is not None else torch.ones(x_BCT.shape[2], dtype=torch.bool)
        own = layers.group_norm(x_BCT, mask_B1T, norm, masked=True)
        ratios.append(float(published[0, :, real].std() / own[0, :, real].std()))
        return published

    with mock.patch.object(sgp, "group_norm", group_norm), torch.inference_mode():
        for path in sorted(data.glob(f"salad_{fold}_*.npy")):
            feats_TC = torch.from_numpy(np.load(path)).float()
            ratios.clear()
            detector.eval().raw(feats_TC[None], torch.tensor([len(feats_TC)]))
            found.append((len(feats_TC) / 576, statistics.mean(ratios)))
    return found


def pooled(records: list[dict[str, Any]], data: Path) -> float:
    """Average mAP of all held-out videos together."""
    results = {video: rows for record in records for video, rows in record["results"].items()}
    database = json.loads((data / "annotations.json").read_text())["database"]
    truth = {v: [(*a["segment"], a["label"]) for a in database[v]["annotations"]] for v in results}
    return tad.evaluate(results, truth, tiou=TIOU).average_mAP


def row(name: str, data: Path, folder: Path, folds: list[int], seeds: list[int]) -> str:
    """One row of the table, from the records there are."""
    paths = {(f, s): record_of(name, folder, f, s) for s in seeds for f in folds}
    records = {key: json.loads(path.read_text()) for key, path in paths.items() if path.is_file()}
    if not records:
        return ""
    each = [100 * r["average_mAP"] for r in records.values()]
    whole = [100 * pooled([records[f, s] for f in folds], data) for s in seeds if all((f, s) in records for f in folds)]
    cells = [name, str(len(each)), f"{statistics.mean(each):.2f}", ", ".join(f"{v:.2f}" for v in each)]
    cells.append(", ".join(f"{v:.2f}" for v in whole))
    for t in ("0.3", "0.5", "0.7"):
        cells.append(f"{100 * statistics.mean(r['mAP'][t] for r in records.values()):.2f}")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Run the trainings that have no record yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder of 50Salads (docs/datasets.md)")
    parser.add_argument("folder", type=Path, help="receives records, models and caches")
    parser.add_argument("--variants", nargs="+", default=["parity", "masked", *PARTS], choices=VARIANTS)
    parser.add_argument("--folds", nargs="+", type=int, default=list(FOLDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--final", action="store_true", help="train on all train videos, score the test videos")
    parser.add_argument("--flip", action="store_true", help="compute trained networks with other parts")
    parser.add_argument("--scales", action="store_true", help="print what padding does to the group norms")
    parser.add_argument("--most", type=int, default=1000, help="stop after this many new trainings")
    parser.add_argument("--table", action="store_true", help="print the table of the records there are")
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    folds = [1] if given.final else given.folds
    if given.scales:
        for fold in folds:
            for share, ratio in scales(given.variants[0], given.data, given.folder, fold, given.seeds[0]):
                print(f"| {fold} | {share:.2f} | {ratio:.2f} | {share**-0.5:.2f} |")
        return
    if given.flip:
        for fold in folds:
            for name in given.variants:
                value = flipped(given.variants[0], name, given.data, given.folder, fold, given.seeds[0])
                print(f"| {given.variants[0]} | {name} | {fold} | {100 * value:.2f} |", flush=True)
        return
    new = 0
    if not given.table:
        for seed in given.seeds:
            for fold in folds:
                for name in given.variants:
                    new += not record_of(name, given.folder, fold, seed).is_file()
                    if new > given.most:
                        return
                    record = trained(name, given.data, given.folder, fold, seed)
                    print(f"{name}, fold {fold}, seed {seed}: {100 * record['average_mAP']:.2f}", flush=True)
    print("| variant | trainings | mean mAP | each | all held-out videos | @0.3 | @0.5 | @0.7 |")
    print("| --- | ---: | ---: | --- | --- | ---: | ---: | ---: |")
    for name in given.variants:
        if line := row(name, given.data, given.folder, folds, given.seeds):
            print(line)


if __name__ == "__main__":
    main()
