"""Run all GPU measurements and write one dated Markdown report, with shares of the peak rates measured on the device.

    make bench-gpu                                  # benchmarks/reports/gpu_<date>.md
    python benchmarks/bench_gpu.py [--budget 1080] [--out FILE]
    python benchmarks/bench_gpu.py --device cpu --quick   # does it still run? small sizes, no report of a GPU

Parts, each with the time it took; a part that would begin after the budget is listed as left out:

    device       memory bandwidth and matrix products as measured here: the bounds of the other parts
    suppression  the Triton engine on data sets of THUMOS14's and ActivityNet's size, beside the compiled CPU loops
    training     one training step of each detector at THUMOS14's size, in float32, bfloat16 and compiled bfloat16
    loading      the same step with and without reading its batch, features cached on the device
    backbones    clips per second of each encoder at its published size, in float32 and bfloat16

"Of the peak" is the floating-point operations that torch counts, over the time and the measured matrix product of that
precision. Everything uses random weights and random data of the real sizes; times do not depend on the values.
"""

import argparse
import datetime
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import bench_loading
from component_tools import laid

from tad.layers.types import Targets
from tad.nms import compile_loops, suppress_segments
from tad.settings import plugins
from tad.settings.resolved import component_sections

BUDGET, REPEATS = 1080, 5
THUMOS = {"feature_dim": 2048, "num_classes": 20, "max_length": 2304}
BACKBONES = ("i3d", "slowfast", "tsp", "videomae", "vjepa2", "efficientnet_lite0")
DETECTORS = ("mse", "actionformer", "tridet")


class Clock:
    """Times calls on a device: the median of several, after one that warms up."""

    def __init__(self, device: torch.device, repeats: int) -> None:
        self.device, self.repeats = device, repeats

    def wait(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def __call__(self, work: Callable[[], object]) -> float:
        """Return the seconds of one call."""
        work()
        self.wait()
        times = []
        for _ in range(self.repeats):
            start = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - start)
        return statistics.median(times)


def operations(work: Callable[[], object]) -> int:
    """Return the floating-point operations of a call as torch counts them; multiply-add is two."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def measure_device(clock: Clock, *, size: int) -> dict[str, float]:
    """Return bytes per second of a copy on the device, and operations per second of matrix products by precision."""
    device = clock.device
    source = torch.ones(size * size, device=device)
    target = torch.empty_like(source)
    found = {"bytes": 2 * source.nbytes / clock(lambda: target.copy_(source))}
    for name, kind in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        matrix = torch.ones(size, size, device=device, dtype=kind)
        found[name] = 2 * size**3 / clock(lambda matrix=matrix: matrix @ matrix)  # type: ignore[misc]
    return found


def device_part(clock: Clock, peak: dict[str, float]) -> Iterator[str]:
    yield "| copy in device memory | matrix product, float32 | matrix product, bfloat16 |"
    yield "| ---: | ---: | ---: |"
    products = " | ".join(f"{peak[name] / 1e12:.1f} TFLOP/s" for name in ("float32", "bfloat16"))
    yield f"| {peak['bytes'] / 1e9:.0f} GB/s | {products} |"


def candidates(videos: int, each: int, classes: int) -> tuple[np.ndarray, ...]:
    """Return random candidates of `videos` videos: segments, scores, labels, offsets."""
    rng = np.random.default_rng(0)
    total = videos * each
    start = rng.random(total) * 2000
    segments = np.stack([start, start + rng.lognormal(2.5, 0.8, total)], 1).astype(np.float32)
    scores = (rng.beta(0.25, 6, total) + 0.001).astype(np.float32)
    return segments, scores, rng.integers(0, classes, total), np.arange(videos + 1) * each


def suppression_part(clock: Clock, peak: dict[str, float], *, quick: bool) -> Iterator[str]:
    """Time one call for a whole data set; the results of both engines must have equal bits."""
    yield "| case | Triton, ms | first call, with compilation, s | CPU loops, ms | ratio | of the copy bandwidth |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    rule: dict[str, Any] = {"method": "gaussian", "tiou": 0.1, "min_score": 0.001, "voting_weight": "score*tiou"}
    per_class = rule | {"sigma": 0.5, "per_class": True, "topk": 2000, "voting": 0.0}
    agnostic = rule | {"sigma": 0.75, "per_class": False, "topk": 100, "voting": 0.9}
    compile_loops()  # of the CPU; what Triton takes to compile is a column
    cases = {
        "THUMOS14 test, 212 × 8000, per class, top 2000": (212, 8000, 20, per_class),
        "ActivityNet validation, 4728 × 2000, voting, top 100": (4728, 2000, 1, agnostic),
    }
    for name, (videos, each, classes, chosen) in cases.items():
        if quick:
            videos, each = 3, 40
        arrays = candidates(videos, each, classes)
        start = time.perf_counter()
        expected = suppress_segments(*arrays[:3], offsets=arrays[3], **chosen)
        on_cpu = time.perf_counter() - start
        if clock.device.type != "cuda":
            yield f"| {name} | no CUDA | no CUDA | {1e3 * on_cpu:.1f} | no CUDA | no CUDA |"
            continue
        from tad.nms.cuda import suppress_tensors

        tensors = [torch.from_numpy(values).to(clock.device) for values in arrays]
        start = time.perf_counter()
        kept = suppress_tensors(*tensors, classes=classes, **chosen)
        clock.wait()
        first = time.perf_counter() - start
        if not np.array_equal(kept.index[: len(expected.index)].cpu().numpy(), expected.index):
            raise SystemExit(f"{name}: the engines differ")
        seconds = clock(lambda: suppress_tensors(*tensors, classes=classes, **chosen))  # noqa: B023
        moved = sum(tensor.nbytes for tensor in tensors)
        yield (
            f"| {name} | {1e3 * seconds:.1f} | {first:.1f} | {1e3 * on_cpu:.0f} | {on_cpu / seconds:.0f} x | "
            f"{moved / seconds / peak['bytes']:.1%} |"
        )


def detector_of(name: str, sizes: dict[str, int], device: torch.device, *, quick: bool) -> Any:
    """Return a detector with the settings of THUMOS14, or a narrow one."""
    changes = {"embed_dim": 32, "head_dim": 32, "mlp_dim": 48} if quick else {}
    torch.manual_seed(0)
    return plugins.build("detectors", name, laid("detectors", name, changes, "thumos14"), **sizes).to(device).train()


def batch_of(sizes: dict[str, int], device: torch.device, videos: int = 2) -> tuple[Any, Any, list[Targets]]:
    """Return features (B, T, C), lengths and targets of one batch."""
    length = sizes["max_length"]
    feats_BTC = torch.randn(videos, length, sizes["feature_dim"], device=device)
    segments = torch.tensor([[k * length / 20, k * length / 20 + 25.0] for k in range(15)], device=device)
    return feats_BTC, torch.full((videos,), length), [Targets(segments, torch.arange(15, device=device) % 20)] * videos


def training_part(clock: Clock, peak: dict[str, float], *, quick: bool) -> Iterator[str]:
    """Time forward and backward pass and the optimiser's step."""
    yield "| detector | precision | step, ms | of the peak | peak memory, GB |"
    yield "| --- | --- | ---: | ---: | ---: |"
    sizes = THUMOS if not quick else {"feature_dim": 12, "num_classes": 20, "max_length": 96}
    cuda = clock.device.type == "cuda"
    for name in DETECTORS:
        for precision in ("float32", "bfloat16", *(["compiled bfloat16"] if cuda else [])):
            detector = detector_of(name, sizes, clock.device, quick=quick)
            if precision.startswith("compiled"):
                for part in detector.children():
                    part.compile()
            optimiser = torch.optim.AdamW(detector.parameters(), lr=1e-4)
            feats_BTC, lengths_B, targets = batch_of(sizes, clock.device)
            low = precision != "float32"

            def step() -> None:
                optimiser.zero_grad(set_to_none=True)  # noqa: B023
                with torch.autocast(clock.device.type, dtype=torch.bfloat16, enabled=low):  # noqa: B023
                    loss = detector.loss(feats_BTC, lengths_B, targets)["total"]  # noqa: B023
                loss.backward()
                optimiser.step()  # noqa: B023

            if cuda:
                torch.cuda.reset_peak_memory_stats(clock.device)
            seconds = clock(step)
            memory = f"{torch.cuda.max_memory_allocated(clock.device) / 1e9:.2f}" if cuda else "no CUDA"
            share = "as bfloat16" if precision.startswith("compiled") else ""
            if not share:
                share = f"{operations(step) / seconds / peak['bfloat16' if low else 'float32']:.1%}"
            yield f"| {name} | {precision} | {1e3 * seconds:.1f} | {share} | {memory} |"


def loading_part(clock: Clock, peak: dict[str, float], *, quick: bool) -> Iterator[str]:
    """See bench_loading.py."""
    yield from bench_loading.compare(clock.device, steps=3 if quick else 30, videos=8 if quick else 60, quick=quick)


def backbones_part(clock: Clock, peak: dict[str, float], *, quick: bool) -> Iterator[str]:
    """Time batches of clips of 340 × 256 pixels."""
    yield "| backbone | clips per batch | precision | clips per second | of the peak |"
    yield "| --- | ---: | --- | ---: | ---: |"
    names = ("r2plus1d_small",) if quick else BACKBONES
    for name in names:
        document = component_sections("backbones", name)
        changes = {"streams": "rgb"} if name == "i3d" else {}
        torch.manual_seed(0)
        network = plugins.build("backbones", name, document["settings"] | changes).eval().to(clock.device)
        length = network.stream_length if name == "i3d" else document["clip"]["length"]
        count = 2 if quick else 32
        clips = torch.randint(0, 256, (count, length, 256, 340, 3), dtype=torch.uint8, device=clock.device)
        for precision in ("float32", "bfloat16"):

            def encode() -> None:
                with (
                    torch.inference_mode(),
                    torch.autocast(clock.device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"),  # noqa: B023
                ):
                    network(clips)  # noqa: B023

            seconds = clock(encode)
            share = operations(encode) / seconds / peak[precision]
            yield f"| {name} | {count} | {precision} | {count / seconds:.1f} | {share:.1%} |"


PARTS: dict[str, Callable[..., Iterator[str]]] = {
    "Suppression": suppression_part,
    "Training": training_part,
    "Loading": loading_part,
    "Backbones": backbones_part,
}


def report(device: torch.device, *, quick: bool, budget: float) -> Iterator[str]:
    """Run the parts within the budget and yield the report's lines."""
    began = time.monotonic()
    clock = Clock(device, 1 if quick else REPEATS)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({platform.machine()})"
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    yield f"# Measurements on {name}, {datetime.date.today():%Y-%m-%d}\n"
    yield "Command: `python benchmarks/bench_gpu.py" + (" --quick" if quick else "") + f"`; {versions}.\n"
    peak = measure_device(clock, size=128 if quick else 8192)
    yield "## Device\n"
    yield from device_part(clock, peak)
    for title, part in PARTS.items():
        yield f"\n## {title}\n"
        start = time.monotonic()
        if start - began > budget:
            yield f"Left out: the budget of {budget:.0f} s was used up."
            continue
        yield from part(clock, peak, quick=quick)
        yield f"\n{time.monotonic() - start:.0f} s."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:<index>, or cpu to try the script")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds after which no part begins")
    parser.add_argument("--out", type=Path, help="the report; default: standard output")
    parser.add_argument("--quick", action="store_true", help="small sizes: does it still run?")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("bench_gpu: there is no CUDA device; `--device cpu --quick` tries the script")
    out = arguments.out.open("w", encoding="utf-8") if arguments.out else sys.stdout
    for line in report(device, quick=arguments.quick, budget=arguments.budget):
        out.write(line + "\n")
        out.flush()


if __name__ == "__main__":
    main()
