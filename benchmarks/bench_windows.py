"""Compare Trident decoding and the reading of training windows with the published code → Markdown.

    OMP_NUM_THREADS=1 python benchmarks/bench_windows.py --tridet FOLDER --actionformer FOLDER --mse FOLDER

The folders are checkouts, see published_detectors.py.
Decoding: one level of 2304 points, 20 classes and 16 bins, its 2000 best candidates; both sides must return the same
distances. Reading: batches of two windows from files of THUMOS14's size, from the file to the padded batch, with a warm
page cache. The published side uses its data set and its model's padding. Ours uses an index of the cache as in
training, in the first epoch (which checks for non-finite values) and in later ones. The sides alternate in one process;
times are process CPU time on one thread, median of the repeats.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import torch
from published_detectors import CHANNELS, CLASSES, LENGTH, import_libs
from torch.nn import functional as F

from tad.core.grid import Grid
from tad.core.h5 import H5Writer
from tad.detectors._points.heads import trident_offsets
from tad.features.store import FeatureReader, ShardWriter
from tad.settings.resolved import component_sections
from tad.settings.stages import TrainSpec
from tad.training.data.in_memory import Features
from tad.training.data.windows import Item, Windows

BINS, TOPK, VIDEOS, REPEATS = 16, 2000, 12, 21


def seconds(function: Callable[[], Any]) -> float:
    """Return CPU seconds of one call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def row(name: str, published: Callable[[], Any], ours: Callable[[], Any], target: float, repeats: int) -> str:
    """Return a line of the table; one warm-up call each is not counted."""
    taken: dict[str, list[float]] = {"published": [], "ours": []}
    for repeat in range(repeats + 1):
        for side, function in (("published", published), ("ours", ours)):
            value = seconds(function)
            if repeat:
                taken[side].append(1e3 * value)
    middle = {side: statistics.median(values) for side, values in taken.items()}
    shown = [f"{middle[s]:.2f} ({min(v):.2f} to {max(v):.2f})" for s, v in taken.items()]
    ratio = middle["published"] / middle["ours"]
    reached = "reached" if ratio >= target else "missed"
    return f"| {name} | {shown[0]} | {shown[1]} | {ratio:.1f} x | {target:g} x: {reached} |"


def decoding(folder: Path) -> str:
    """Compare their distances of all classes and points, then the chosen ones, with ours of the chosen ones only."""
    import_libs(folder)
    theirs = next(v for v in vars(sys.modules["libs.modeling.meta_archs"]).values() if hasattr(v, "decode_offset"))
    torch.manual_seed(0)
    start_KT, end_KT = torch.randn(CLASSES, LENGTH), torch.randn(CLASSES, LENGTH)
    centre_TJ = torch.rand(LENGTH, 2 * (BINS + 1))
    chosen = torch.randperm(CLASSES * LENGTH)[:TOPK]
    point_N, class_N = chosen // CLASSES, chosen % CLASSES
    settings = SimpleNamespace(use_trident_head=True, training=False)

    def published() -> torch.Tensor:
        neighbours = [F.pad(x, pad).unfold(1, BINS + 1, 1) for x, pad in ((start_KT, (BINS, 0)), (end_KT, (0, BINS)))]
        distances: torch.Tensor = theirs.decode_offset(settings, centre_TJ, *neighbours)[class_N, point_N]
        return distances

    mask, video_N = torch.ones(1, 1, LENGTH, dtype=torch.bool), torch.zeros_like(point_N)
    # each side's native layout: ours has the channels innermost
    centre_BJT = centre_TJ[None].transpose(1, 2)
    start_BKT, end_BKT = (x.T.contiguous().T[None] for x in (start_KT, end_KT))

    def ours() -> torch.Tensor:
        triple = (video_N, point_N, class_N)
        return trident_offsets(start_BKT, end_BKT, centre_BJT, mask, triple, bins=BINS, masked=False)

    error = float((published() - ours()).abs().max())
    if error > 1e-5:
        raise SystemExit(f"the sides decode differently: {error:g} strides")
    return row(f"trident decoding, {LENGTH} points, {TOPK} candidates, ms", published, ours, 10, REPEATS)


def write_both(scratch: Path) -> list[Item]:
    """Write the same videos as a cache of one shard and an index, and in the layout of the published loaders."""
    rng = np.random.default_rng(0)
    items, database = [], {}
    with ShardWriter(scratch / "shard.h5", {"stage": "bench"}) as shard:
        for k, length in enumerate(rng.integers(1000, 4000, VIDEOS).tolist()):
            feats_TC = rng.standard_normal((length, CHANNELS), dtype=np.float32)
            segments = np.sort(rng.random((10, 2)) * length, axis=1)
            segments[:, 1] = np.minimum(segments[:, 0] + 40, length)
            labels = rng.integers(0, CLASSES, 10)
            labels[0] = k  # so that every class occurs, as the loaders require
            labels[1] = (k + VIDEOS) % CLASSES
            grid = Grid(0.5, 1.0, length, float(length))
            shard.add(f"v{k:02}", feats_TC, grid=grid, attrs={})
            items.append(Item(f"v{k:02}", grid, segments, labels, ""))
            np.save(scratch / f"v{k:02}.npy", feats_TC)
            annotations = [
                {"label": f"c{label}", "label_id": label, "segment": segment}
                for label, segment in zip(labels.tolist(), segments.tolist(), strict=True)
            ]
            database[f"v{k:02}"] = {"subset": "train", "duration": length, "annotations": annotations}
    (scratch / "annotations.json").write_text(json.dumps({"database": database}))
    with H5Writer(scratch / "index.h5", {"stage": "bench"}) as index:
        for item in items:
            index.file[item.video_id] = h5py.ExternalLink("shard.h5", f"/{item.video_id}")
    return items


def published_loader(folder: Path, scratch: Path, spec: TrainSpec) -> Callable[[int], torch.Tensor]:
    """Return batch k of their data set, padded by their model."""
    libs = import_libs(folder, "datasets.thumos14", "modeling.meta_archs")
    dataset = libs["datasets.thumos14"].THUMOS14Dataset(
        True, ("train",), str(scratch), str(scratch / "annotations.json"), 1, 1, 1, 1, spec.max_length,
        spec.trunc_threshold, list(spec.crop_ratio), CHANNELS, CLASSES, None, ".npy", False,
    )  # fmt: skip
    model = next(v for v in vars(libs["modeling.meta_archs"]).values() if hasattr(v, "preprocessing"))
    # ours draws noise in the loss, which is not timed here
    settings = SimpleNamespace(training=True, max_seq_len=spec.max_length, input_noise=0.0, device=torch.device("cpu"))

    def load(k: int) -> torch.Tensor:
        batch: torch.Tensor = model.preprocessing(settings, [dataset[2 * k], dataset[2 * k + 1]])[0]
        return batch

    return load


def reading(name: str, folder: Path, scratch: Path, items: list[Item]) -> list[str]:
    """Time batches of two: theirs by data set and model, ours from the cache, without keeping any in memory."""
    spec = TrainSpec.model_validate(component_sections("detectors", name)["train"])
    load = published_loader(folder, scratch, spec)
    what = f"reading a batch of 2 windows of {spec.max_length} x {CHANNELS}, {name}'s loader, ms"
    rows, batches = [], VIDEOS // 2
    for epoch, when in ((0, "first epoch"), (1, "later epochs")):
        with FeatureReader(scratch / "index.h5") as reader:
            windows = Windows(items, Features(reader, memory=0), spec=spec, seed=0, dim=CHANNELS)
            for k in range(epoch * batches):
                windows.training_batch(0, k)
            places = [iter(range(epoch * batches, 99 * batches)) for _ in range(2)]

            def published() -> torch.Tensor:
                return load(next(places[0]) % batches)  # noqa: B023  (called in this turn only)

            def ours() -> torch.Tensor:
                return windows.training_batch(*divmod(next(places[1]), batches)).feats_BTC  # noqa: B023

            random.seed(0)
            repeats = batches - 1 if epoch == 0 else 4 * batches
            rows.append(row(f"{what}, {when}", published, ours, 10, repeats))
    return rows


def main() -> None:
    """Compare, time and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tridet", type=Path, required=True, help="checkout of github.com/dingfengshi/TriDet")
    parser.add_argument("--actionformer", type=Path, required=True, help="checkout of actionformer_release")
    parser.add_argument("--mse", type=Path, required=True, help="checkout of github.com/XinAn9508/MSE_for_TAD")
    parser.add_argument("--quick", action="store_true", help="decoding alone: does it still run?")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        rows = [decoding(arguments.tridet)]
        items = [] if arguments.quick else write_both(Path(scratch))
        for name in () if arguments.quick else ("actionformer", "mse"):
            rows += reading(name, getattr(arguments, name), Path(scratch), items)
    head = ["| part | published | ours | ratio | target |", "| --- | ---: | ---: | ---: | --- |"]
    sys.stdout.write("\n".join(head + rows) + "\n")


if __name__ == "__main__":
    main()
