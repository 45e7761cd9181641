"""Time one training step of given runs, on random features of their batch sizes and window lengths → Markdown.

    OMP_NUM_THREADS=1 python benchmarks/bench_steps.py salads-actionformer salads-afsd salads-gaf --dim 28 --classes 17

A step is: gradients to zero, loss, backward pass, clipped gradients, optimiser. Process CPU time, median of the
repeats; the runs alternate. Batch size and window length are those of each run. Detectors on frames are not measured.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from tad.layers.types import Targets
from tad.settings import plugins
from tad.settings.config import Config

INSTANCES = 10  # of a window


def step_of(config: Config, run: str, *, dim: int, classes: int, shortest: int) -> tuple[Callable[[], None], str]:
    """Return a function that takes a training step, and the sizes of its batch."""
    spec = config.spec("train", run=run)
    length, size = spec.train.max_length, spec.train.batch_size
    if shortest:
        length, size = min(length, shortest), min(size, 2)
    torch.manual_seed(0)
    sizes = {"feature_dim": dim, "num_classes": classes, "max_length": length}
    detector = plugins.build("detectors", spec.detector.name, spec.detector.settings, **sizes).train()
    optimiser = torch.optim.AdamW(detector.parameters(), lr=1e-4)
    rng = np.random.default_rng(0)
    feats_BTC, lengths_B = torch.randn(size, length, dim), torch.full((size,), length)
    starts = rng.uniform(0, length * 0.8, (size, INSTANCES))
    ends = starts + rng.uniform(1, length * 0.2, starts.shape)
    segments = torch.from_numpy(np.stack([starts, ends], 2).astype(np.float32))
    targets = [Targets(one, torch.from_numpy(rng.integers(0, classes, INSTANCES))) for one in segments]

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        detector.normalise(detector.positives(lengths_B, targets))
        detector.loss(feats_BTC, lengths_B, targets)["total"].backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 1.0)
        optimiser.step()

    return step, f"{spec.detector.name} | {size} x {length}"


def main() -> None:
    """Print one row per run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", default=["demo-actionformer", "demo-afsd", "demo-gaf"])
    parser.add_argument("--dim", type=int, default=256, help="channels of the features")
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--steps", type=int, default=15, help="of each run; the first is not counted")
    parser.add_argument("--config", type=Path, default=Path(__file__).resolve().parents[1] / "config.yaml")
    parser.add_argument("--quick", action="store_true", help="small sizes: does it still run?")
    arguments = parser.parse_args()
    config = Config.read(arguments.config)
    shortest, dim, steps = (64, 16, 3) if arguments.quick else (0, arguments.dim, arguments.steps)
    cases = {run: step_of(config, run, dim=dim, classes=arguments.classes, shortest=shortest) for run in arguments.runs}
    times: dict[str, list[float]] = {run: [] for run in cases}
    for _ in range(steps):
        for run, (step, _) in cases.items():
            start = time.process_time()
            step()
            times[run].append(time.process_time() - start)
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads\n")
    print("| run | detector | batch x snippets | CPU s | of the first row's |\n| --- | --- | --- | ---: | ---: |")
    first = 0.0
    for run, (_, what) in cases.items():
        median = statistics.median(times[run][1:])
        first = first or median
        print(f"| {run} | {what} | {median:.3f} | {median / first:.2f} |")


if __name__ == "__main__":
    main()
