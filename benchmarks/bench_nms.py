"""Compare `tad.nms` with ActionFormer's compiled `batched_nms` on the same settings and candidates → Markdown.

    python benchmarks/bench_nms.py --actionformer FOLDER [--cuda]

FOLDER contains ActionFormer's libs/utils/nms.py and csrc/nms_cpu.cpp (with or without these folders). The extension is
compiled in a temporary folder (torch.utils.cpp_extension, needs ninja and a C++ compiler), which is deleted. Both sides
run on one thread, alternating, in this process; times are its CPU time. The outputs are compared first. For the whole
set, the peer loops over some of the videos, and its time is scaled to all. The bound is the time to read the candidates
once.
"""

import argparse
import importlib.util
import operator
import platform
import shutil
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch

from tad.nms import suppress_segments

CLASSES, REPEATS, CHECKED, READ_GBPS = 20, 3, 24, 10.0  # READ_GBPS: read bandwidth of one core, measured separately
Video = tuple[np.ndarray, np.ndarray, np.ndarray]


def video(seed: int, candidates: int) -> Video:
    """Return candidates clustered around 60 actions, 60 % of two classes, with scores as steep as a detector's."""
    rng = np.random.default_rng(seed)
    centre, length = rng.random(60) * 2300, rng.lognormal(2.5, 0.8, 60)
    near = rng.integers(0, 60, candidates)
    middle = centre[near] + rng.normal(0, 0.4, candidates) * length[near]
    half = 0.5 * length[near] * rng.lognormal(0, 0.5, candidates)
    own = rng.integers(0, CLASSES, 2)[(rng.random(candidates) < 0.3).astype(int)]
    labels = np.where(rng.random(candidates) < 0.6, own, rng.integers(0, CLASSES, candidates))
    scores = rng.beta(0.25, 6, candidates) + 0.001
    return np.stack([middle - half, middle + half], 1).astype(np.float32), scores.astype(np.float32), labels


def load_actionformer(folder: Path) -> Any:
    """Load its module `nms`, with the extension compiled next to a copy."""
    from torch.utils.cpp_extension import load

    utils = folder / "libs" / "utils" if (folder / "libs").is_dir() else folder
    scratch = Path(tempfile.mkdtemp(prefix="nms-"))
    shutil.copy(utils / "csrc" / "nms_cpu.cpp", scratch)
    flags = ["-O3", "-fopenmp"]
    load("nms_1d_cpu", [str(scratch / "nms_cpu.cpp")], build_directory=str(scratch), extra_cflags=flags)
    sys.path.insert(0, str(scratch))  # where `import nms_1d_cpu` finds it
    spec = importlib.util.spec_from_file_location("actionformer_nms", utils / "nms.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ours(one: Any, offsets: Any = None, **rule: Any) -> Any:
    """Suppress with ActionFormer's settings."""
    settings: dict[str, Any] = {"method": "gaussian", "sigma": 0.5, "tiou": 0.1, "min_score": 0.001, "voting": 0.0}
    settings |= {"voting_weight": "score*tiou", "threads": 1} | rule
    return suppress_segments(*one, offsets=offsets, **settings)


def theirs(peer: Any, one: Video, **rule: Any) -> tuple[np.ndarray, ...]:
    """Suppress with ActionFormer; return segments, scores, labels."""
    tensors = [torch.from_numpy(values) for values in one]
    found = peer.batched_nms(
        *tensors, 0.1, 0.001, rule["topk"], use_soft_nms=True, multiclass=rule["per_class"],
        sigma=rule.get("sigma", 0.5), voting_thresh=rule["voting"],
    )  # fmt: skip
    return tuple(part.numpy() for part in found)


def unmatched(kept: Any, found: tuple[np.ndarray, ...]) -> int:
    """Return their detections without a match of ours (same label, times within 1e-3, score within 1e-6)."""
    segments, scores, labels = found
    if len(scores) != len(kept.scores):
        return abs(len(scores) - len(kept.scores))
    free = np.ones(len(scores), bool)
    left = 0
    for k in range(len(scores)):
        near = free & (kept.labels == labels[k]) & (np.abs(kept.scores - scores[k]) <= 1e-6)
        near &= np.abs(kept.segments - segments[k]).max(1) <= 1e-3
        if near.any():
            free[np.flatnonzero(near)[0]] = False
        else:
            left += 1
    return left


def cpu_seconds(function: Any, *inputs: Any, **settings: Any) -> float:
    start = time.process_time()
    function(*inputs, **settings)
    return time.process_time() - start


def compare(name: str, peer: Any, videos: int, candidates: int, rule: dict[str, Any]) -> None:
    """Measure one row: alternating calls per video, first and best; then all videos, one call of ours against their
    loop.
    """
    parts = [video(seed, candidates) for seed in range(videos)]
    every = [np.concatenate(column) for column in zip(*parts, strict=True)]
    offsets = np.arange(videos + 1) * candidates
    kept = ours(every, offsets, **rule)
    checked = min(videos, CHECKED)
    bits = missed = 0
    for v in range(checked):
        one, found = ours(parts[v], **rule), theirs(peer, parts[v], **rule)
        a, b = kept.offsets[v : v + 2]
        assert np.array_equal(one.scores, kept.scores[a:b])
        bits += int(np.array_equal(one.scores, found[1]) and np.array_equal(one.labels, found[2]))
        missed += unmatched(one, found)
    calls = {"peer": partial(theirs, peer), "tad": ours}
    single: dict[str, list[list[float]]] = {who: [] for who in calls}
    for one in parts[:checked]:
        for who, call_of in calls.items():  # the first call finds the other side's data in the caches
            single[who].append([cpu_seconds(call_of, one, **rule) for _ in range(REPEATS)])
    cold, warm = (
        [1000 * statistics.median(pick(times) for times in single[who]) for who in calls]
        for pick in (operator.itemgetter(0), min)
    )
    loop, call = [], []
    for _ in range(REPEATS):
        loop.append(sum(cpu_seconds(theirs, peer, one, **rule) for one in parts[:checked]) * videos / checked)
        call.append(cpu_seconds(ours, every, offsets, **rule))
    whole, quick = statistics.median(loop), statistics.median(call)
    bound = sum(values.nbytes for values in every) / READ_GBPS / 1e9
    sys.stdout.write(
        f"| {name} | {cold[0]:.2f} | {cold[1]:.2f} | {cold[0] / cold[1]:.0f} x | {warm[0]:.2f} | {warm[1]:.2f} | "
        f"{warm[0] / warm[1]:.0f} x | {whole:.2f} | {quick:.3f} | **{whole / quick:.1f} x** | {quick / bound:.0f} x | "
        f"{bits} of {checked} | {missed} |\n"
    )
    sys.stdout.flush()


def threads(videos: int, candidates: int) -> None:
    """Measure wall time by number of threads, up to the number of free cores."""
    parts = [video(seed, candidates) for seed in range(videos)]
    every = [np.concatenate(column) for column in zip(*parts, strict=True)]
    offsets = np.arange(videos + 1) * candidates
    best: dict[int, float] = {}
    for _ in range(9):
        for count in (1, 2):
            start = time.perf_counter()
            ours(every, offsets, per_class=True, topk=2000, threads=count)
            best[count] = min(best.get(count, np.inf), time.perf_counter() - start)
    one, two = best[1], best[2]
    sys.stdout.write(f"\n{videos} videos, top 2000, wall s, least of 9: 1 thread {one:.3f}, 2 threads {two:.3f}\n")


def on_cuda() -> None:
    """Time ActivityNet validation, 4728 × 2000, and THUMOS14 test, 212 × 8000: one call, tensors on the device."""
    from tad.nms.cuda import suppress_tensors

    rule: dict[str, Any] = {"method": "gaussian", "tiou": 0.1, "min_score": 0.001, "voting_weight": "score*tiou"}
    cases = {
        "ActivityNet, one class, voting, top 100": (
            4728, 2000, rule | {"sigma": 0.75, "per_class": False, "topk": 100, "voting": 0.9},
        ),
        "THUMOS14, per class, top 2000": (
            212, 8000, rule | {"sigma": 0.5, "per_class": True, "topk": 2000, "voting": 0.0},
        ),
    }  # fmt: skip
    for name, (videos, candidates, chosen) in cases.items():
        parts = [video(seed, candidates) for seed in range(videos)]
        every = [np.concatenate(column) for column in zip(*parts, strict=True)]
        offsets = np.arange(videos + 1) * candidates
        tensors = [torch.from_numpy(values).cuda() for values in (*every, offsets)]
        times = []
        for _ in range(10):
            torch.cuda.synchronize()
            start = time.perf_counter()
            kept = suppress_tensors(*tensors, classes=CLASSES, **chosen)
            torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        expected = ours(every, offsets, **chosen)
        equal = np.array_equal(kept.index[: len(expected.index)].cpu().numpy(), expected.index)
        sys.stdout.write(
            f"{torch.cuda.get_device_name()}: {name}: {1000 * statistics.median(times[1:]):.1f} ms (first, with "
            f"compilation: {times[0]:.1f} s); equal to numba: {equal}\n"
        )


def main() -> None:
    """Compile the peer, compare, time and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--actionformer", type=Path, required=True, help="folder with ActionFormer's suppression")
    parser.add_argument("--share", type=float, default=1.0, help="of the videos of THUMOS14 test and ActivityNet")
    parser.add_argument("--cuda", action="store_true", help="the Triton engine too")
    parser.add_argument("--quick", action="store_true", help="as few videos as are compared: does it still run?")
    arguments = parser.parse_args()
    arguments.share = 0.0 if arguments.quick else arguments.share
    torch.set_num_threads(1)
    peer = load_actionformer(arguments.actionformer)
    sys.stdout.write(
        f"numba {numba.__version__}, numpy {np.__version__}, torch {torch.__version__}, Python "
        f"{platform.python_version()}, {platform.machine()}; one thread; CPU time\n\n"
        "| case | a video, cold: peer, ms | tad, ms | ratio | warm: peer, ms | tad, ms | ratio | set: peer, s "
        f"| tad, one call, s | ratio | to the bound | same bits | unmatched |\n| --- |{' ---: |' * 12}\n"
    )
    per_class, agnostic = {"per_class": True, "voting": 0.0}, {"per_class": False, "topk": 100, "sigma": 0.75}
    thumos, anet = (max(round(count * arguments.share), CHECKED) for count in (212, 4728))
    compare(f"THUMOS14, {thumos} × 8000, 20 classes, top 200", peer, thumos, 8000, per_class | {"topk": 200})
    compare("the same, top 2000", peer, thumos, 8000, per_class | {"topk": 2000})
    compare(f"ActivityNet, {anet} × 378, one class, top 100", peer, anet, 378, agnostic | {"voting": 0.0})
    compare("the same, voting 0.9", peer, anet, 378, agnostic | {"voting": 0.9})
    compare(f"{anet} × 2000, one class, top 100, voting 0.9", peer, anet, 2000, agnostic | {"voting": 0.9})
    threads(thumos, 8000)
    if arguments.cuda:
        on_cuda()


if __name__ == "__main__":
    main()
