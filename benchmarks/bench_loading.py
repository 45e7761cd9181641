"""Compare training steps with and without reading their batches, at the sizes of THUMOS14 and ActivityNet → Markdown.

    python benchmarks/bench_loading.py [--device cpu] [--threads 2] [--steps 8] [--videos 60]

Writes random features of the real sizes to a temporary folder, and trains MSE with the data sets' settings. `alone`
takes the steps on batches that are there already, half of them before and half after `loaded`, which reads the same
batches through the training engine's `read_ahead`: in the first epoch from the disk, later from memory, where
the features stay if they fit. Wall time, median. The bar for later epochs is a ratio of 1.03.
"""

import argparse
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from component_tools import laid

from tad.annotations.table import Instance, Table, Video, read_table, write_table
from tad.core.grid import Grid
from tad.features.store import FeatureReader, ShardWriter
from tad.provenance.stamps import stamp
from tad.settings import plugins
from tad.settings.stages import TrainSpec
from tad.training.data.in_memory import Features
from tad.training.data.windows import Windows, read_items
from tad.training.loop.ahead import read_ahead

# name, settings of the detector, channels, snippets of a video, training settings
CASES: tuple[tuple[str, str, int, tuple[int, int], dict[str, Any]], ...] = (
    ("THUMOS14", "thumos14", 2048, (300, 4000), {"max_length": 2304, "batch_size": 2}),
    ("ActivityNet", "activitynet13", 512, (60, 460), {"max_length": 256, "resize": 256, "batch_size": 16}),
)
CLASSES = 20


def write_features(folder: Path, dim: int, lengths: tuple[int, int], videos: int) -> None:
    """Write random float16 features and annotations of some videos: ten instances of 20 s each."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(lengths[1], dim)).astype(np.float16)
    recipe = {"backbone": {"name": "random", "settings": {}}, "dataset": "d"}
    table = {}
    with ShardWriter(folder / "f.h5", stamp("merge", {"dataset": "d", "features": "f"}, {}, recipe=recipe)) as writer:
        for k in range(videos):
            length = int(rng.integers(*lengths))
            writer.add(f"v{k}", noise[:length], grid=Grid(0.5, 1.0, length, length + 0.5), attrs={})
            starts = rng.uniform(0, length - 21, 10)
            table[f"v{k}"] = Video(
                "train", length + 0.5, tuple(Instance(s, s + 20, f"c{n % CLASSES:02d}") for n, s in enumerate(starts))
            )
        writer.attribute("excluded", {})
    labels = tuple(f"c{n:02d}" for n in range(CLASSES))
    write_table(Table("d", labels, table), folder / "d.json", stamp("annotate", {"dataset": "d"}, {}))


class Training:
    """A detector, its optimiser and its windows."""

    def __init__(
        self, settings: dict[str, Any], windows: Windows, spec: TrainSpec, *, dim: int, device: torch.device
    ) -> None:
        sizes = {"feature_dim": dim, "num_classes": CLASSES, "max_length": spec.max_length}
        torch.manual_seed(0)
        self.detector: Any = plugins.build("detectors", "mse", settings, **sizes)
        self.detector.to(device).train()
        self.optimiser = torch.optim.AdamW(self.detector.parameters(), lr=1e-4)
        self.windows, self.device = windows, device

    def batch(self, step: int) -> Any:
        """Return a step's batch and its number of positives, which is counted where the batch is read."""
        found = self.windows.training_batch(*divmod(step, len(self.windows)))
        return found, self.detector.positives(found.lengths_B, found.targets)

    def step(self, batch: Any, positives: int) -> float:
        """Take a training step; return its seconds."""
        start = time.perf_counter()
        self.optimiser.zero_grad(set_to_none=True)
        self.detector.normalise(positives)
        feats_BTC, lengths_B, targets, _ = next(iter(batch.parts(self.windows.size, self.device)))
        self.detector.loss(feats_BTC, lengths_B, targets)["total"].backward()
        self.optimiser.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def loaded(self, steps: range) -> float:
        """Return the seconds from one step's end to the next one's, with the batches read ahead: the median."""
        times, before = [], None
        for batch, positives in read_ahead(partial(map, self.batch, steps)):
            self.step(batch, positives)
            now = time.perf_counter()
            if before is not None:
                times.append(now - before)
            before = now
        return statistics.median(times)


def compare(device: torch.device, *, steps: int, videos: int, quick: bool) -> Iterator[str]:
    """Measure both cases and yield the table's rows."""
    yield "| data set | videos | step alone, ms | first epoch, ms | ratio | later epochs, ms | ratio |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for name, variant, dim, lengths, settings in CASES:
        own = {"max_length": 64, "batch_size": 2} if quick else settings
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            if quick:
                dim, lengths = 8, (60, 90)
            write_features(folder, dim, lengths, videos)
            spec = TrainSpec.model_validate({"epochs": 1, "warmup_epochs": 0, "lr": 1e-4, **own})
            with FeatureReader(folder / "f.h5") as reader:
                items = read_items(reader, read_table(folder / "d.json"), "train", spec=spec, exclude={})
                features = Features(reader, resize_to=spec.resize, device=device)
                windows = Windows(items, features, spec=spec, seed=0, dim=reader.dim)
                narrow = {"embed_dim": 32, "head_dim": 32, "mlp_dim": 48} if quick else {}
                training = Training(laid("detectors", "mse", narrow, variant), windows, spec, dim=dim, device=device)
                training.step(*training.batch(0))
                first = training.loaded(range(1, min(steps + 2, len(windows))))
                for k in range(len(windows)):  # the rest of the first epoch, without its steps
                    training.batch(k)
                chosen = range(len(windows), len(windows) + steps + 1)
                there = [training.batch(k) for k in chosen]
                before = [training.step(*batch) for batch in there]
                later = training.loaded(chosen)
                alone = statistics.median(before + [training.step(*batch) for batch in there])
        cells = (first, first / alone, later, later / alone)
        yield (
            f"| {name} | {videos} | {1e3 * alone:.1f} | {1e3 * cells[0]:.1f} | {cells[1]:.2f} | {1e3 * cells[2]:.1f} | "
            f"{cells[3]:.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:<index>")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's choice")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--videos", type=int, default=60)
    parser.add_argument("--quick", action="store_true", help="small sizes: does it still run?")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.quick:
        arguments.steps, arguments.videos = 3, 8
    print(f"torch {torch.__version__}, {platform.machine()}, {arguments.device}, {torch.get_num_threads()} threads\n")
    device = torch.device(arguments.device)
    for line in compare(device, steps=arguments.steps, videos=arguments.videos, quick=arguments.quick):
        print(line, flush=True)


if __name__ == "__main__":
    main()
