"""The detectors beside the published code at THUMOS14's size: training step, inference, peak memory → Markdown.

    OMP_NUM_THREADS=1 python benchmarks/bench_detectors.py --compile --mse FOLDER --tridet FOLDER --actionformer FOLDER

The folders are checkouts (see published_detectors.py). All sides get the same weights and batch and are compared before
anything is timed: in float64, where rounding hides nothing, loss and every gradient; in float32 loss and candidates.
Then they take turns in one process: the published code in float32; ours in float32, in bfloat16 (as train.precision
does) and, with --compile, in bfloat16 compiled (as train.compile does). Times are process CPU time of one thread,
median of the repeats. Peak memory is of two training steps in a process of its own for each side.
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

DETECTORS, REPEATS = ("mse", "tridet", "actionformer"), 3
CASES = {
    "forward": "(a) forward, training mode",
    "backward": "(b) forward + backward",
    "step": "(c) full step: (b) + clip + AdamW + EMA",
    "detect": "(d) inference: forward + candidates, B = 1",
}
HALF, COMPILED = "bfloat16", "bfloat16 compiled"
# how many times as fast; all others of float32: 1
TARGETS = {
    ("mse", "float32", "forward"): 1.5, ("mse", "float32", "step"): 1.2,
    **{(name, side, case): bar for name in DETECTORS
       for side, case, bar in ((HALF, "forward", 2.5), (HALF, "step", 2.5), (COMPILED, "step", 3.5))},
}  # fmt: skip
MEMORY = 0.7  # of the published peak
EXACT, TOLERANCE, RANKS = 1e-9, 1e-5, 3


def gradients(side: Any, feats_BTC: Tensor, targets: list[Targets]) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of one batch without random numbers."""
    side.model.train().zero_grad(set_to_none=True)
    with still(side.model):
        loss = side.loss(feats_BTC, targets)
    loss.backward()
    found = {name: p.grad for name, p in side.model.named_parameters() if p.grad is not None}
    side.model.zero_grad(set_to_none=True)
    side.reset()
    return loss.item(), found


def whole(gradient: dict[str, Tensor]) -> Tensor:
    """All gradients as one float64 vector."""
    return torch.cat([gradient[name].flatten().double() for name in sorted(gradient)])


def check_exact(name: str, folder: Path, feats_BTC: Tensor, targets: list[Targets]) -> tuple[str, Tensor]:
    """Loss and every gradient in float64; what to say, and the gradient.

    Raises:
        SystemExit: they differ.
    """
    ours = ours_of(name)
    feats_BTC, targets = feats_BTC.double(), [Targets(t.segments_N2.double(), t.labels_N) for t in targets]
    ours.model.double()
    loss, found = gradients(ours, feats_BTC, targets)
    with wide():
        published = published_of(name, folder, ours)
        published.model.double()
        del ours
        loss2, found2 = gradients(published, feats_BTC, targets)
    size = float(whole(found2).norm())
    # relative to the larger of a tensor's norm and a millionth of the whole, as some exact gradients are zero
    errors = {n: float((found[n] - g).norm()) / max(float(g.norm()), 1e-6 * size) for n, g in found2.items()}
    worst = max(errors, key=lambda n: errors[n])
    apart = abs(loss / loss2 - 1)
    said = f"float64: loss {loss:.9f}, relative difference {apart:.0e}; gradients of {len(errors)} tensors, relative"
    said += f" differences up to {errors[worst]:.0e} ({worst})"
    if found.keys() != found2.keys() or max(apart, errors[worst]) > EXACT:
        raise SystemExit(f"{name}: the sides differ: {said}")
    return said, whole(found2)


def check(sides: dict[str, Any], feats_BTC: Tensor, targets: list[Targets], exact: Tensor) -> str:
    """Loss and candidates in float32, and how far rounding takes each side's gradient from the exact one.

    Raises:
        SystemExit: the sides differ, or ours rounds worse than the published one.
    """
    loss, off, found = {}, {}, {}
    for side, it in sides.items():
        loss[side], gradient = gradients(it, feats_BTC, targets)
        off[side] = float((whole(gradient) - exact).norm() / exact.norm())
        it.model.eval()
        found[side] = it.detect(feats_BTC[:1])
    counts = {side: len(scores) for side, (_, scores, _) in found.items()}
    if counts["float32"] != counts["published"]:
        raise SystemExit(f"the sides differ: candidates {counts}")
    errors = {"loss": abs(loss["float32"] / loss["published"] - 1)}
    ranked = [[part[it[1].argsort(stable=True)] for part in it] for it in found.values()]
    (segments, scores, labels), (segments2, scores2, labels2) = ranked
    errors["scores"] = float((scores / scores2 - 1).abs().max())
    # neighbours in the ranking whose scores differ by rounding only may have changed places
    same = torch.zeros_like(labels, dtype=torch.bool)
    for shift in range(-RANKS, RANKS + 1):
        near = (segments - segments2.roll(shift, 0)).abs().amax(1) < 0.01
        same |= near & (labels == labels2.roll(shift))
    share = float(same.float().mean())
    said = f"float32: loss {loss['float32']:.6f} and {loss['published']:.6f}; relative differences: "
    said += ", ".join(f"{what} {error:.0e}" for what, error in errors.items())
    said += f"; {counts['float32']} candidates, {share:.1%} with the same segment and label within {RANKS} ranks;"
    said += f" gradient off the exact one by {off['float32']:.0e} of its norm (published {off['published']:.0e})"
    if max(errors.values()) > TOLERANCE or share < 0.99 or off["float32"] > 3 * off["published"] + TOLERANCE:
        raise SystemExit(f"the sides differ: {said}")
    return said


def train_step(side: Any, optimizer: Any, ema: Any, feats_BTC: Tensor, targets: list[Targets]) -> dict[str, float]:
    """CPU seconds from the start of one step to the end of each of its parts."""
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
    """CPU seconds of one call."""
    start = time.process_time()
    function(*inputs)
    return time.process_time() - start


Taken = dict[str, dict[str, list[float]]]


def times(sides: dict[str, Any], feats_BTC: Tensor, targets: list[Targets], repeats: int) -> Taken:
    """Seconds by case and side; the sides take turns, and which is first does too. One step each before is not kept."""
    taken: Taken = {case: {side: [] for side in sides} for case in CASES}
    tools = {side: (it.make_optimizer(), it.make_ema()) for side, it in sides.items()}
    for repeat in range(repeats + 1):
        for side in list(sides)[:: 1 if repeat % 2 else -1]:
            it = sides[side]
            marks = train_step(it, *tools[side], feats_BTC, targets)
            if not it.compiled:  # detect runs a network as it is
                it.model.eval()
                marks["detect"] = seconds(it.detect, feats_BTC[:1])
            if repeat:
                for case, value in marks.items():
                    taken[case][side].append(value)
    return taken


def rows_of(name: str, taken: Taken) -> list[str]:
    """Lines of the table: each of our sides beside the published one."""
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
    return rows


def peak() -> float:
    """Peak resident memory of this process so far, GiB (Linux; elsewhere nan)."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((int(line.split()[1]) / 2**20 for line in lines if line.startswith("VmHWM")), float("nan"))


def side_of(name: str, side: str, folder: Path) -> Any:
    """One side by its name."""
    if side == "published":
        return Published(name, folder)
    return ours_of(name, half=side != "float32", compiled=side == COMPILED)


def alone(name: str, side: str, folder: Path) -> None:
    """Print the peak before the first of two steps and after them, and wall seconds of both, in this fresh process."""
    feats_BTC, targets = batch()
    it = side_of(name, side, folder)
    optimizer, ema, wall, before = it.make_optimizer(), it.make_ema(), [], peak()
    for _ in range(2):
        start = time.perf_counter()
        train_step(it, optimizer, ema, feats_BTC, targets)
        wall.append(time.perf_counter() - start)
    sys.stdout.write(f"{before} {peak()} {wall[0]} {wall[1]}\n")


def in_process(name: str, side: str, folder: Path) -> list[float]:
    """What `alone` prints in a process of its own."""
    command = [sys.executable, __file__, "--alone", name, side, f"--{name}", str(folder)]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [float(value) for value in out.splitlines()[-1].split()]


def memory(name: str, folder: Path) -> list[str]:
    """Lines of the table: peaks of training."""
    old = in_process(name, "published", folder)[1]
    rows = []
    for side in ("float32", HALF):
        new = in_process(name, side, folder)[1]
        bar = f"at most {MEMORY}: {'reached' if new <= MEMORY * old else 'missed'}"
        rows.append(
            f"| {name} | peak memory of training, GiB | {side} | {old:.2f} | {new:.2f} | {new / old:.2f} | {bar} |"
        )
    return rows


def compare(name: str, folder: Path, *, compiled: bool, repeats: int) -> list[str]:
    """Compare and time one detector; lines of the table."""
    feats_BTC, targets = batch()
    said, exact = check_exact(name, folder, feats_BTC, targets)
    sys.stdout.write(f"- {name}, {said}\n")
    ours = ours_of(name)
    sides = {"published": published_of(name, folder, ours), "float32": ours}
    sys.stdout.write(f"- {name}, {check(sides, feats_BTC, targets, exact)}\n")
    del exact
    rows = memory(name, folder)
    sides[HALF] = side_of(name, HALF, folder)
    if compiled:
        first, again = (in_process(name, COMPILED, folder)[2:] for _ in range(2))
        sys.stdout.write(
            f"- {name}, compiled: first step {first[0]:.0f} s on the wall, {again[0]:.0f} s in the next process, which"
            f" finds the graphs kept; the step after it {again[1]:.1f} s\n"
        )
        sides[COMPILED] = side_of(name, COMPILED, folder)
    sys.stdout.flush()
    return rows_of(name, times(sides, feats_BTC, targets, repeats)) + rows


def main() -> None:
    """Compare, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in DETECTORS:
        parser.add_argument(f"--{name}", type=Path, help="checkout of the published code")
    parser.add_argument("--compile", action="store_true", help="ours compiled too; minutes for each detector")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.alone:
        alone(*arguments.alone, getattr(arguments, arguments.alone[0]))
        return
    sys.stdout.write(
        f"torch {torch.__version__}, numpy {np.__version__}, Python {platform.python_version()}, {platform.machine()}, "
        f"one thread; batch {BATCH} x {LENGTH} x {CHANNELS}; CPU s, median of {arguments.repeats} (least to most)\n\n"
    )
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = scratch  # compiled anew, as by a user for the first time
        for name in DETECTORS:
            if folder := getattr(arguments, name):
                rows += compare(name, folder, compiled=arguments.compile, repeats=arguments.repeats)
    head = [
        "",
        "| detector | case | ours in | published | ours | ratio | target |",
        "| --- " * 3 + "| ---: " * 3 + "| --- |",
    ]
    sys.stdout.write("\n".join(head + rows) + "\n")


if __name__ == "__main__":
    main()
