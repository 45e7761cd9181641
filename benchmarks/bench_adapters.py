"""Memory and time of end-to-end adapters: measured at a small size, forecast for published sizes → Markdown tables.

    OMP_NUM_THREADS=1 python benchmarks/bench_adapters.py [--repeats 2] [--no-run] [--quick]

The first table is measured: VideoMAE-S with random weights, one window of 96 frames of 96 pixels, forward and backward
pass in float32 on one thread; CPU seconds (best of the repeats) and peak memory above the start of the process (Linux).

The second table is a forecast for one GPU. The network of each size runs on torch's device `meta`, which computes
shapes only. FLOPs are those that torch counts in a forward and backward pass. Bytes are those that autograd stores for
one block in bfloat16, without attention matrices, which fused attention does not store. With checkpointing, the input
of each block is stored, and the activations of one block at a time. Time assumes the share `--share` of `--tflops`.
"""

import argparse
import multiprocessing
from collections.abc import Callable
from typing import Any

import torch
from bench_sharing import spent
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from tad.layers.adapters.encoder import AdaptedEncoder, places_of
from tad.settings import plugins

CASES: dict[str, dict[str, Any]] = {  # how the adapters are put in
    "frozen": {"blocks": "none"},
    "all, stored": {"blocks": "all", "checkpointing": False},
    "all, checkpointing": {"blocks": "all"},
    "last half, stored": {"blocks": "last_half", "checkpointing": False},
    "last half, checkpointing": {"blocks": "last_half"},
    "beside, stored": {"blocks": "all", "side": True, "checkpointing": False},
    "beside, checkpointing": {"blocks": "all", "side": True},
}
SIZES = [  # size, pixels, frames, steps of a training as published
    ("small", 160, 768, 6000), ("base", 160, 768, 6000), ("large", 160, 768, 6000), ("huge", 160, 768, 6000),
    ("large", 224, 1536, 6000), ("huge", 224, 1536, 6000),
]  # fmt: skip
GIB = 2**30


def encoder_of(size: str, pixels: int, *, blocks: str, **options: Any) -> AdaptedEncoder:
    """Return an adapted VideoMAE with random weights."""
    settings = plugins.defaults("backbones", "videomae") | {"size": size, "crop": pixels, "short": pixels}
    trunk = plugins.build("backbones", "videomae", settings).trunk(16)
    return AdaptedEncoder(trunk, places=places_of(blocks, len(trunk.blocks)), drop_path=0.0, **options).train()


def step(encoder: AdaptedEncoder, x_BCTHW: Tensor) -> Callable[[], None]:
    """Return a function that computes one forward pass, and one backward pass if anything learns."""

    def work() -> None:
        total = encoder(x_BCTHW, x_BCTHW.shape[2]).sum()
        if total.requires_grad:
            total.backward()
        encoder.zero_grad()

    return work


def measured(name: str, repeats: int) -> str:
    """Measure one case and return its table row."""
    torch.manual_seed(0)
    encoder, x_BCTHW = encoder_of("small", 96, **CASES[name]), torch.randn(1, 3, 96, 96, 96)
    work = step(encoder, x_BCTHW)
    with torch.no_grad():
        encoder(x_BCTHW[:, :, :16], 16)  # warm up
    seconds, memory = min(spent(work) for _ in range(repeats))
    learns = sum(parameter.numel() for parameter in encoder.parameters())
    return f"| {name} | {learns:,} | {seconds:.2f} | {memory} |"


def alone(name: str, repeats: int) -> str:
    """Return the row of `measured`, run in a new process so that its peak memory is that of this case alone."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measured, (name, repeats))


def stored_by(function: Callable[[], Any], tokens: int) -> int:
    """Return the bytes that autograd stores for a function's backward pass, parameters and attention matrices aside."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        attention = tensor.dim() == 4 and tuple(tensor.shape[-2:]) == (tokens, tokens)
        if not isinstance(tensor, torch.nn.Parameter) and not attention:
            storage = tensor.untyped_storage()
            storages[storage._cdata] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = function()
    del kept
    return sum(storages.values())


def forecast(size: str, pixels: int, frames: int, steps: int, *, tflops: float, share: float) -> str:
    """Return a row of the second table: a batch of one window."""
    with torch.device("meta"):
        encoder = encoder_of(size, pixels, blocks="all", checkpointing=False).to(torch.bfloat16)
        x_BCTHW = torch.empty(1, 3, frames, pixels, pixels, dtype=torch.bfloat16)
        counter = FlopCounterMode(display=False)
        with counter:
            step(encoder, x_BCTHW)()
        with torch.no_grad():
            x_MND = encoder.trunk.embed(encoder._clips(x_BCTHW))
        x_MND = x_MND.detach().requires_grad_()
        block = stored_by(lambda: encoder._block(1, (None, None), 1, x_MND), x_MND.shape[1])
    depth, inputs = len(encoder.trunk.blocks), x_MND.nbytes
    weights = sum(p.numel() for p in encoder.trunk.parameters()) * 4  # kept in float32
    forward = counter.get_total_flops() / 2.0  # of frozen weights, the backward pass has as many as the forward pass
    flops = {"stored": 2 * forward, "checkpointing": 3 * forward}
    memory = {"stored": depth * block + weights, "checkpointing": depth * inputs + block + weights}
    seconds = {name: value / (share * tflops * 1e12) for name, value in flops.items()}
    learns = sum(parameter.numel() for parameter in encoder.parameters())
    cells = [f"{size}, {frames} x {pixels} px", f"{learns / 1e6:.2f}", f"{forward / 1e12:.1f}"]
    hours = 2 * steps * seconds["checkpointing"] / 3600
    cells += [f"{memory[name] / GIB:.1f}" for name in memory] + [f"{seconds[name]:.2f}" for name in seconds]
    return f"| {' | '.join([*cells, f'{hours:.1f}'])} |"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--tflops", type=float, default=790.0, help="bfloat16 matrix products of the GPU (H200: 790)")
    parser.add_argument("--share", type=float, default=0.4, help="share of it that a transformer of this kind reaches")
    parser.add_argument("--no-run", action="store_true", help="print the forecast only")
    parser.add_argument("--quick", action="store_true", help="print the forecast of the smallest size only")
    given = parser.parse_args()
    if not given.no_run and not given.quick:
        print("| adapters | learning | CPU s | MiB |\n|---|---|---|---|")
        for name in CASES:
            print(alone(name, given.repeats), flush=True)
        print()
    print(
        "| VideoMAE | adapters, M | forward, TFLOP | GiB stored | GiB checkpointing | s stored | s checkpointing | h |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for size, pixels, frames, steps in SIZES[:1] if given.quick else SIZES:
        print(forecast(size, pixels, frames, steps, tflops=given.tflops, share=given.share), flush=True)


if __name__ == "__main__":
    main()
