"""Trident decoding and the reading of training windows beside the published code → Markdown.

    OMP_NUM_THREADS=1 python benchmarks/bench_windows.py --tridet FOLDER --actionformer FOLDER

The folders are checkouts of github.com/dingfengshi/TriDet and github.com/happyharrycn/actionformer_release.
Decoding: one level of 2304 points, 20 classes and 16 bins, its 2000 best candidates; both sides must give the same
distances. Reading: batches of two windows from files of THUMOS14's size, from the file to the padded batch, in the same
order; warm in the page cache. Sides take turns in one process; times are process CPU time of one thread, median of the
repeats.
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from bench_detectors import CHANNELS, CLASSES, LENGTH, import_libs
from torch.nn import functional as F

from tad import plugins
from tad.cache import FeatureReader, ShardWriter
from tad.grid import Grid
from tad.layers.heads import trident_offsets
from tad.specs import TrainSpec
from tad.training.data import Item, Windows
from tad.training.features import Features

BINS, TOPK, VIDEOS, REPEATS = 16, 2000, 12, 9


def seconds(function: Callable[[], Any]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def row(name: str, published: Callable[[], Any], ours: Callable[[], Any], target: float) -> str:
    """A line of the table; one call each before is not kept."""
    taken: dict[str, list[float]] = {"published": [], "ours": []}
    for repeat in range(REPEATS + 1):
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
    """Their distances of all classes and points, then the chosen ones, and ours of the chosen ones only."""
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
    # each side's own memory: ours has the channels innermost
    centre_BJT = centre_TJ[None].transpose(1, 2)
    start_BKT, end_BKT = (x.T.contiguous().T[None] for x in (start_KT, end_KT))

    def ours() -> torch.Tensor:
        triple = (video_N, point_N, class_N)
        return trident_offsets(start_BKT, end_BKT, centre_BJT, mask, triple, bins=BINS, masked=False)

    error = float((published() - ours()).abs().max())
    if error > 1e-5:
        raise SystemExit(f"the sides decode differently: {error:g} strides")
    return row(f"trident decoding, {LENGTH} points, {TOPK} candidates, ms", published, ours, 10)


def reading(folder: Path, scratch: Path) -> str:
    """Batches of two from files: theirs by their data set and its padding, ours from the cache, nothing kept."""
    rng = np.random.default_rng(0)
    truncate_feats = import_data(folder)
    items, published_items = [], []
    with ShardWriter(scratch / "features.h5", {"stage": "bench"}) as shard:
        for k, length in enumerate(rng.integers(1000, 4000, VIDEOS).tolist()):
            feats_TC = rng.standard_normal((length, CHANNELS), dtype=np.float32)
            segments = np.sort(rng.random((10, 2)) * length, axis=1)
            segments[:, 1] = np.minimum(segments[:, 0] + 40, length)
            labels = rng.integers(0, CLASSES, 10)
            grid = Grid(0.5, 1.0, length, float(length))
            shard.add(f"v{k:02}", feats_TC, grid=grid, attrs={})
            items.append(Item(f"v{k:02}", grid, segments, labels, ""))
            np.save(scratch / f"v{k:02}.npy", feats_TC)
            published_items.append((scratch / f"v{k:02}.npy", segments.astype(np.float32), labels))
    document = plugins.document("detectors", "actionformer")
    spec = TrainSpec.model_validate(document["train"])
    with FeatureReader(scratch / "features.h5") as reader:
        windows = Windows(items, Features(reader, memory=0), spec=spec, seed=0, dim=CHANNELS)
        turns = {"published": 0, "ours": 0}

        def published() -> torch.Tensor:
            turns["published"] += 1
            first = 2 * (turns["published"] % (VIDEOS // 2))
            batch = torch.zeros(2, CHANNELS, spec.max_length)
            for place, (path, segments, labels) in enumerate(published_items[first : first + 2]):
                feats_TC = np.load(path).astype(np.float32)
                feats = torch.from_numpy(np.ascontiguousarray(feats_TC.transpose()))
                item = {"feats": feats, "segments": torch.from_numpy(segments), "labels": torch.from_numpy(labels)}
                cut = truncate_feats(item, spec.max_length, spec.trunc_threshold, 0.5, spec.crop_ratio)["feats"]
                batch[place, :, : cut.shape[1]].copy_(cut)
            return batch

        def ours() -> torch.Tensor:
            turns["ours"] += 1
            return windows.training_batch(0, turns["ours"] % (VIDEOS // 2)).feats_BTC

        random.seed(0)
        return row(f"reading a batch of 2 windows of {spec.max_length} x {CHANNELS}, ms", published, ours, 10)


def import_data(folder: Path) -> Callable[..., Any]:
    """Their truncation of a loaded video."""
    import_libs(folder)
    sys.path.insert(0, str(folder))
    try:
        module = __import__("libs.datasets.data_utils", fromlist=["truncate_feats"])
    finally:
        sys.path.remove(str(folder))
    truncate: Callable[..., Any] = module.truncate_feats
    return truncate


def main() -> None:
    """Compare, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tridet", type=Path, required=True, help="checkout of github.com/dingfengshi/TriDet")
    parser.add_argument("--actionformer", type=Path, required=True, help="checkout of actionformer_release")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        rows = [decoding(arguments.tridet), reading(arguments.actionformer, Path(scratch))]
    head = ["| part | published | ours | ratio | target |", "| --- | ---: | ---: | ---: | --- |"]
    sys.stdout.write("\n".join(head + rows) + "\n")


if __name__ == "__main__":
    main()
