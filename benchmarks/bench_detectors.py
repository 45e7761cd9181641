"""Compare the detectors with the published code at THUMOS14's size: training step, inference, peak memory → Markdown.

    OMP_NUM_THREADS=1 python benchmarks/bench_detectors.py --mse FOLDER --tridet FOLDER --actionformer FOLDER

The folders are checkouts (see published_detectors.py). All sides get the same weights and the same batch. --parts
selects some of these parts:

    outputs   check that loss and candidates are equal in float32
    speed     process CPU time on one thread, median of the repeats; the sides alternate in one process. The published
              code runs in float32, ours in float32 and in bfloat16 (as train.precision does)
    memory    peak memory of two training steps, each side in its own process
    exact     check that loss and every gradient are equal in float64, where rounding hides nothing; measure the
              rounding error of float32
    compiled  speed of compiled bfloat16 (as train.compile does), and the compilation time: minutes, unless
              $TORCHINDUCTOR_CACHE_DIR is a folder with cached graphs
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from published_detectors import BATCH, CHANNELS, LENGTH, Published, batch, ours_of, published_of, still, wide
from torch import Tensor

from tad.layers.types import Targets

# rows, inputs and outputs of matrix products in the detectors
PRODUCTS = ((4608, 2048, 512), (4608, 512, 512), (4608, 512, 2048), (2304, 1536, 512), (512, 512, 512))
DETECTORS, REPEATS = ("mse", "tridet", "actionformer"), 3
CASES = {
    "forward": "(a) forward, training mode",
    "backward": "(b) forward + backward",
    "step": "(c) full step: (b) + clip + AdamW + EMA",
    "detect": "(d) inference: forward + candidates, B = 1",
}
HALF, COMPILED = "bfloat16", "bfloat16 compiled"
# target speed-ups; 1 for all others in float32
TARGETS = {
    ("mse", "float32", "forward"): 1.5, ("mse", "float32", "step"): 1.2,
    **{(name, side, case): bar for name in DETECTORS
       for side, case, bar in ((HALF, "forward", 2.5), (HALF, "step", 2.5), (COMPILED, "step", 3.5))},
}  # fmt: skip
MEMORY = 0.7  # relative to the published peak
EXACT, TOLERANCE, RANKS = 1e-9, 1e-5, 3


def gradients(side: Any, feats_BTC: Tensor, targets: list[Targets]) -> tuple[float, dict[str, Tensor]]:
    """Return loss and gradients of one batch, without random numbers."""
    side.model.train().zero_grad(set_to_none=True)
    with still(side.model):
        loss = side.loss(feats_BTC, targets)
    loss.backward()
    found = {name: p.grad for name, p in side.model.named_parameters() if p.grad is not None}
    side.model.zero_grad(set_to_none=True)
    side.reset()
    return loss.item(), found


def whole(gradient: dict[str, Tensor]) -> Tensor:
    """Return all gradients as one float64 vector."""
    return torch.cat([gradient[name].flatten().double() for name in sorted(gradient)])


def exact(name: str, folder: Path) -> str:
    """Compare loss and every gradient in float64, and measure the float32 rounding error of each side's gradient.

    Raises:
        SystemExit: the sides differ, or ours rounds worse than the published one.
    """
    feats_BTC, targets = batch()
    wide_feats_BTC = feats_BTC.double()
    wide_targets = [Targets(t.segments_N2.double(), t.labels_N) for t in targets]
    ours = ours_of(name)
    ours.model.double()
    loss, found = gradients(ours, wide_feats_BTC, wide_targets)
    with wide():
        published = published_of(name, folder, ours)
        published.model.double()
        loss2, found2 = gradients(published, wide_feats_BTC, wide_targets)
    del ours, published, wide_feats_BTC
    vector = whole(found2)
    size = float(vector.norm())
    # relative to the larger of a tensor's norm and a millionth of the whole, as some exact gradients are zero
    errors = {n: float((found[n] - g).norm()) / max(float(g.norm()), 1e-6 * size) for n, g in found2.items()}
    worst = max(errors, key=lambda n: errors[n])
    apart = abs(loss / loss2 - 1)
    off = {}
    for side, it in both(name, folder).items():
        off[side] = float((whole(gradients(it, feats_BTC, targets)[1]) - vector).norm()) / size
    said = f"float64: loss {loss:.9f}, relative difference {apart:.0e}; gradients of {len(errors)} tensors, relative"
    said += f" differences up to {errors[worst]:.0e} ({worst}). float32: gradient off the exact one by"
    said += f" {off['float32']:.0e} of its norm (published {off['published']:.0e})"
    same = found.keys() == found2.keys() and max(apart, errors[worst]) <= EXACT
    if not same or off["float32"] > 3 * off["published"] + TOLERANCE:
        raise SystemExit(f"{name}: the sides differ: {said}")
    return f"- {name}, {said}"


def outputs(name: str, folder: Path) -> str:
    """Compare loss and candidates in float32.

    Raises:
        SystemExit: the sides differ.
    """
    feats_BTC, targets = batch()
    loss, found = {}, {}
    for side, it in both(name, folder).items():
        with torch.no_grad(), still(it.model.train()):
            loss[side] = it.loss(feats_BTC, targets).item()
        it.model.eval()
        found[side] = it.detect(feats_BTC[:1])
    counts = {side: len(scores) for side, (_, scores, _) in found.items()}
    if counts["float32"] != counts["published"]:
        raise SystemExit(f"{name}: the sides differ: candidates {counts}")
    errors = {"loss": abs(loss["float32"] / loss["published"] - 1)}
    ranked = [[part[it[1].argsort(stable=True)] for part in it] for it in found.values()]
    (segments, scores, labels), (segments2, scores2, labels2) = ranked
    errors["scores"] = float((scores / scores2 - 1).abs().max())
    # neighbours in the ranking may be swapped if their scores differ by rounding only
    same = torch.zeros_like(labels, dtype=torch.bool)
    for shift in range(-RANKS, RANKS + 1):
        near = (segments - segments2.roll(shift, 0)).abs().amax(1) < 0.01
        same |= near & (labels == labels2.roll(shift))
    share = float(same.float().mean())
    said = f"float32: loss {loss['float32']:.6f} and {loss['published']:.6f}; relative differences: "
    said += ", ".join(f"{what} {error:.0e}" for what, error in errors.items())
    said += f"; {counts['float32']} candidates, {share:.1%} with the same segment and label within {RANKS} ranks"
    if max(errors.values()) > TOLERANCE or share < 0.99:
        raise SystemExit(f"{name}: the sides differ: {said}")
    return f"- {name}, {said}"


def train_step(side: Any, optimizer: Any, ema: Any, feats_BTC: Tensor, targets: list[Targets]) -> dict[str, float]:
    """Return CPU seconds from the start of one step to the end of each of its parts."""
    side.model.train()
    marks, start = {}, time.process_time()
    optimizer.zero_grad(set_to_none=True)
    loss = side.loss(feats_BTC, targets)
    marks["forward"] = time.process_time() - start
    loss.backward()
    marks["backward"] = time.process_time() - start
    torch.nn.utils.clip_grad_norm_(side.model.parameters(), side.clip)
    optimizer.step()
    ema.update(side.model)
    marks["step"] = time.process_time() - start
    return marks


def seconds(function: Callable[..., Any], *inputs: Any) -> float:
    """Return CPU seconds of one call."""
    start = time.process_time()
    function(*inputs)
    return time.process_time() - start


Taken = dict[str, dict[str, list[float]]]


def times(sides: dict[str, Any], repeats: int) -> Taken:
    """Return seconds by case and side. The sides alternate, as does the order; one warm-up step each is not counted."""
    feats_BTC, targets = batch()
    taken: Taken = {case: {side: [] for side in sides} for case in CASES}
    tools = {side: (it.make_optimizer(), it.make_ema()) for side, it in sides.items()}
    for repeat in range(repeats + 1):
        for side in list(sides)[:: 1 if repeat % 2 else -1]:
            it = sides[side]
            marks = train_step(it, *tools[side], feats_BTC, targets)
            if not it.compiled:  # detect runs the network without compiling it
                it.model.eval()
                marks["detect"] = seconds(it.detect, feats_BTC[:1])
            if repeat:
                for case, value in marks.items():
                    taken[case][side].append(value)
    return taken


def rows_of(name: str, taken: Taken) -> str:
    """Return lines of the table: each of our sides compared with the published one."""
    rows = []
    for case, by_side in taken.items():
        old = by_side["published"]
        for side, values in by_side.items():
            if side == "published" or not values:
                continue
            ratio = statistics.median(old) / statistics.median(values)
            target = TARGETS.get((name, side, case), 1.0 if side == "float32" else None)
            bar = "" if target is None else f"{target} x: {'reached' if ratio >= target else 'missed'}"
            shown = [f"{statistics.median(v):.2f} ({min(v):.2f} to {max(v):.2f})" for v in (old, values)]
            rows.append(f"| {name} | {CASES[case]} | {side} | {shown[0]} | {shown[1]} | {ratio:.2f} x | {bar} |")
    return "\n".join(rows)


def peak() -> float:
    """Return the peak resident memory of this process so far, in GiB (Linux only; otherwise nan)."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((int(line.split()[1]) / 2**20 for line in lines if line.startswith("VmHWM")), float("nan"))


def side_of(name: str, side: str, folder: Path) -> Any:
    """Build one side by name."""
    if side == "published":
        return Published(name, folder)
    return ours_of(name, half=side != "float32", compiled=side == COMPILED)


def both(name: str, folder: Path) -> dict[str, Any]:
    """Build the published detector and ours with the same weights, in float32."""
    ours = ours_of(name)
    return {"published": published_of(name, folder, ours), "float32": ours}


def alone(name: str, side: str, folder: Path) -> None:
    """Print peak memory and CPU seconds (including compilers) of two steps in this fresh process."""
    feats_BTC, targets = batch()
    it = side_of(name, side, folder)
    optimizer, ema, taken = it.make_optimizer(), it.make_ema(), []
    for _ in range(2):
        start = sum(os.times()[:4])
        train_step(it, optimizer, ema, feats_BTC, targets)
        taken.append(sum(os.times()[:4]) - start)
    sys.stdout.write(f"{peak()} {taken[0]} {taken[1]}\n")


def in_process(name: str, side: str, folder: Path) -> list[float]:
    """Run the function `alone` in a process of its own and return its output."""
    one = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}  # compilers run as child processes that are waited for
    command = [sys.executable, __file__, "--alone", name, side, f"--{name}", str(folder)]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | one).stdout
    return [float(value) for value in out.splitlines()[-1].split()]


def memory(name: str, folder: Path) -> str:
    """Return lines of the table: peak memory of training."""
    old = in_process(name, "published", folder)[0]
    rows = []
    for side in ("float32", HALF):
        new = in_process(name, side, folder)[0]
        bar = f"at most {MEMORY}: {'reached' if new <= MEMORY * old else 'missed'}"
        rows.append(
            f"| {name} | peak memory of training, GiB | {side} | {old:.2f} | {new:.2f} | {new / old:.2f} | {bar} |"
        )
    return "\n".join(rows)


def speed(name: str, folder: Path, repeats: int) -> str:
    """Return lines of the table: float32 and bfloat16."""
    sides = both(name, folder)
    sides[HALF] = side_of(name, HALF, folder)
    return rows_of(name, times(sides, repeats))


def compiled(name: str, folder: Path, repeats: int) -> str:
    """Return lines of the table: the compiled network, and the compilation time without cached graphs."""
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", scratch)
        first, again = (in_process(name, COMPILED, folder)[1:] for _ in range(2))
        sides = {"published": side_of(name, "published", folder), COMPILED: side_of(name, COMPILED, folder)}
        rows = rows_of(name, times(sides, repeats))
    return (
        f"{rows}\n| {name} | first compiled step: graphs made, graphs found | {COMPILED} | |"
        f" {first[0]:.0f}, {again[0]:.0f} | | the step after it: {again[1]:.1f} |"
    )


def products(repeats: int) -> str:
    """Return a table of the speed of float32 matrix products: by torch's default (MKL), and by oneDNN."""
    lines = ["| rows x inputs x outputs | torch, GFLOP/s | oneDNN, GFLOP/s |", "| --- | ---: | ---: |"]
    for rows, inputs, outputs_ in PRODUCTS:
        x, weight, bias = torch.randn(rows, inputs), torch.randn(outputs_, inputs), torch.randn(outputs_)
        ways = (torch.nn.functional.linear, lambda *given: torch.ops.mkldnn._linear_pointwise(*given, "none", [], ""))
        cells = []
        for way in ways:
            way(x, weight, bias)
            taken = min(seconds(way, x, weight, bias) for _ in range(repeats))
            cells.append(f"{2e-9 * rows * inputs * outputs_ / taken:.0f}")
        lines.append(f"| {rows} x {inputs} x {outputs_} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Compare and time both implementations, and print each result at once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in DETECTORS:
        parser.add_argument(f"--{name}", type=Path, help="checkout of the published code")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--products", action="store_true", help="only the speed of matrix products; needs no checkout")
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="equal outputs alone: does it still run?")
    arguments = parser.parse_args()
    arguments.parts = ["outputs"] if arguments.quick else arguments.parts
    torch.set_num_threads(1)
    if arguments.alone:
        alone(*arguments.alone, getattr(arguments, arguments.alone[0]))
        return
    if arguments.products:
        print(products(arguments.repeats))
        return
    sys.stdout.write(
        f"torch {torch.__version__}, numpy {np.__version__}, Python {platform.python_version()}, {platform.machine()}, "
        f"one thread; batch {BATCH} x {LENGTH} x {CHANNELS}; CPU s, median of {arguments.repeats} (least to most)\n\n"
        "| detector | case | ours in | published | ours | ratio | target |\n"
        "| --- | --- | --- | ---: | ---: | ---: | --- |\n"
    )
    for name in DETECTORS:
        folder = getattr(arguments, name)
        for part in arguments.parts if folder else ():
            settings = {"repeats": arguments.repeats} if part in ("speed", "compiled") else {}
            sys.stdout.write(PARTS[part](name, folder, **settings) + "\n")
            sys.stdout.flush()


PARTS: dict[str, Callable[..., str]] = {
    "outputs": outputs, "speed": speed, "memory": memory, "exact": exact, "compiled": compiled,
}  # fmt: skip

if __name__ == "__main__":
    main()
