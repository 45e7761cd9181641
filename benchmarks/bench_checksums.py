"""Measure what checksums cost when features are read and in a training step, and the speed of `tad verify` → Markdown.

    OMP_NUM_THREADS=1 python benchmarks/bench_checksums.py [--quick]

Batches of two windows of 2304 snippets are read window by window from a shard of THUMOS14's width (2048 channels), with
a warm page cache: once as stored, and once from a copy without checksums. The sides alternate in one process. The step
is one of ActionFormer on such a batch: forward, loss and backward. All times are CPU seconds on one thread, which do
not depend on what else the machine does. During training another thread reads, so the share is an upper bound.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from tad.commands.verify import verify
from tad.core import formats
from tad.core.checksums import BlockFile
from tad.core.grid import Grid
from tad.features.store import FeatureReader, ShardWriter
from tad.layers.types import Targets
from tad.provenance.stamps import stamp
from tad.settings import plugins

CHANNELS, LENGTH, CLASSES, VIDEOS = 2048, 2304, 20, 6


def cpu_seconds(function: Callable[[], Any]) -> float:
    """Return the CPU seconds of one call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def write_features(path: Path, dtype: str, length: int) -> Path:
    """Write videos that are a little longer than a window."""
    rng = np.random.default_rng(0)
    with ShardWriter(path, stamp("extract", {"dataset": "toy", "features": "f"}, {})) as writer:
        for k in range(VIDEOS):
            feats_TC = rng.normal(size=(length + 300, CHANNELS)).astype(dtype)
            writer.add(f"video {k}", feats_TC, grid=Grid(0.5, 1, len(feats_TC), len(feats_TC) + 1.0), attrs={})
        writer.attribute("excluded", {})
    return path


def without_checksums(path: Path) -> Path:
    """Return a copy as it was before there were checksums."""
    copy = path.with_name(f"bare {path.name}")
    shutil.copyfile(path, copy)
    with BlockFile(copy) as file:
        length = file.length
    with open(copy, "r+b") as handle:
        handle.truncate(length)
    return copy


def reading(path: Path, length: int, repeats: int) -> Callable[[], None]:
    """Return a function that reads batches of two windows at random places."""
    reader = FeatureReader(path).__enter__()
    out_TC, rng = np.empty((length, CHANNELS), np.float32), np.random.default_rng(1)

    def read() -> None:
        for _ in range(2 * repeats):
            reader.read_into(out_TC, f"video {rng.integers(VIDEOS)}", int(rng.integers(300)))

    return read


def step_seconds(length: int, repeats: int) -> float:
    """Return the CPU seconds of a training step on a batch of two windows."""
    torch.manual_seed(0)
    model = plugins.build(
        "detectors", "actionformer", {}, feature_dim=CHANNELS, num_classes=CLASSES, max_length=length
    ).train()
    feats_BTC, lengths_B = torch.randn(2, length, CHANNELS), torch.tensor([length, length])
    one = Targets(torch.tensor([[10.0, 50.0], [200.0, 260.0]]), torch.tensor([1, 2]))

    def step() -> None:
        model.loss(feats_BTC, lengths_B, [one, one])["total"].backward()

    step()
    return min(cpu_seconds(step) for _ in range(repeats))


def main() -> None:
    """Print two tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="short windows and few repeats, to see that it runs")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    length, repeats, rounds = (64, 2, 2) if quick else (LENGTH, 5, 9)
    step = step_seconds(length, 1 if quick else 3)
    print("| stored as | batch without checksums, ms | with, ms | added, ms | share of a step of "
          f"{step:.2f} s |\n|---|---|---|---|---|")  # fmt: skip
    with tempfile.TemporaryDirectory() as text:
        for dtype in ("float16", "float32"):
            path = write_features(Path(text) / f"{dtype}.h5", dtype, length)
            with mock.patch.object(formats, "check_header"):  # it refuses a file that has lost its checksums
                sides = {
                    "with": reading(path, length, repeats),
                    "without": reading(without_checksums(path), length, repeats),
                }
                taken: dict[str, list[float]] = {name: [] for name in sides}
                for number in range(rounds + 1):
                    for name, read in sides.items():
                        seconds = cpu_seconds(read) / repeats
                        if number:  # the first warms up
                            taken[name].append(1e3 * seconds)
            middle = {name: statistics.median(values) for name, values in taken.items()}
            added = middle["with"] - middle["without"]
            numbers = f"{middle['without']:.2f} | {middle['with']:.2f} | {added:.2f}"
            print(f"| {dtype} | {numbers} | {added / step / 10:.2f} % |")
        size = sum(path.stat().st_size for path in Path(text).glob("float*.h5"))
        paths = sorted(Path(text).glob("float*.h5"))
        seconds = cpu_seconds(lambda: list(verify(paths)))
    print(f"\n`tad verify`: {size / 1e6:.0f} MB in {seconds:.2f} CPU s, {size / seconds / 1e9:.2f} GB/s")


if __name__ == "__main__":
    sys.exit(main())
