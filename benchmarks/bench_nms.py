"""Suppression: the numba engine beside the definition (`tad.nms.reference`), on candidates like THUMOS14's → Markdown.

    python benchmarks/bench_nms.py

Both run in turn in one process; times are process CPU time, median of the repeats. The outputs are compared first.
"""

import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from tad.nms import suppress_segments

CANDIDATES, CLASSES, REPEATS, VIDEOS = 8000, 20, 5, 212


def video(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Candidates clustered around 60 actions, with scores as steep as a trained detector's."""
    rng = np.random.default_rng(seed)
    centre, length = rng.random(60) * 2300, rng.lognormal(2.5, 0.8, 60)
    near = rng.integers(0, 60, CANDIDATES)
    middle = centre[near] + rng.normal(0, 0.4, CANDIDATES) * length[near]
    half = 0.5 * length[near] * rng.lognormal(0, 0.5, CANDIDATES)
    labels = np.where(rng.random(CANDIDATES) < 0.4, near % CLASSES, rng.integers(0, CLASSES, CANDIDATES))
    scores = rng.beta(0.25, 6, CANDIDATES) + 0.001
    return np.stack([middle - half, middle + half], 1).astype(np.float32), scores.astype(np.float32), labels


def seconds(function: Callable[..., Any], *inputs: Any, **settings: Any) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    function(*inputs, **settings)
    return time.process_time() - start


def main() -> None:
    """Compare, time, print."""
    rule: dict[str, Any] = {"sigma": 0.5, "tiou": 0.1, "min_score": 0.001, "voting_weight": "score"}
    cases: dict[str, dict[str, Any]] = {
        "gaussian, per class, top 200": {"method": "gaussian", "per_class": True, "topk": 200, "voting": 0.0},
        "gaussian, per class, top 2000": {"method": "gaussian", "per_class": True, "topk": 2000, "voting": 0.0},
        "gaussian, one class, voting, top 100": {"method": "gaussian", "per_class": False, "topk": 100, "voting": 0.9},
        "hard, per class, top 200": {"method": "hard", "per_class": True, "topk": 200, "voting": 0.0},
    }
    sys.stdout.write(
        f"numba {numba.__version__}, numpy {np.__version__}, Python {platform.python_version()}, {platform.machine()}, "
        f"one thread; {CANDIDATES} candidates, {CLASSES} classes, CPU ms per video, median of {REPEATS}\n\n"
        f"| case | definition | numba | ratio | {VIDEOS} videos in one call, s |\n| --- | ---: | ---: | ---: | ---: |\n"
    )
    parts = [video(seed) for seed in range(VIDEOS)]
    every = [np.concatenate(column) for column in zip(*parts, strict=True)]
    offsets = np.arange(VIDEOS + 1) * CANDIDATES
    for name, case in cases.items():
        settings = rule | case
        one = [
            suppress_segments(*parts[0], **settings, engine=engine).index.tolist() for engine in ("reference", "numba")
        ]
        assert one[0] == one[1], f"{name}: the engines disagree"
        times: dict[str, list[float]] = {"reference": [], "numba": []}
        for repeat in range(REPEATS):
            for engine in times:
                times[engine].append(seconds(suppress_segments, *parts[repeat], **settings, engine=engine))
        slow, fast = (1000 * statistics.median(times[engine]) for engine in ("reference", "numba"))
        whole = seconds(suppress_segments, *every, offsets=offsets, **settings)
        sys.stdout.write(f"| {name} | {slow:.1f} | {fast:.2f} | {slow / fast:.0f} x | {whole:.3f} |\n")


if __name__ == "__main__":
    main()
