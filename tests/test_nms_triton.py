"""The Triton engine: equal to the bit to the others, in Triton's interpreter on a CPU and compiled on CUDA."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nms_tools import METHODS, PLAIN, assert_equal, crowd, published_rule, random_set, random_settings

from tad.nms import Kept, suppress_segments

pytest.importorskip("triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # read by triton when it is imported, hence another process


@pytest.fixture
def device() -> str:
    """CUDA where there is some, else the CPU of a process in which Triton interprets its kernels."""
    if not torch.cuda.is_available() and not INTERPRETED:
        pytest.skip("no CUDA; test_in_the_interpreter runs it")
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def cuda() -> str:
    """CUDA only."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return "cuda"


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *command], env=inherited | environment, capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(INTERPRETED or torch.cuda.is_available(), reason="this process runs the kernels itself")
def test_in_the_interpreter() -> None:
    done = run("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", __file__, TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stdout[-3000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None, done.stdout
    assert int(passed[1]) >= 18  # one more where the oracles are there


def both(*candidates: np.ndarray, device: str, oracle: Any = "reference", **chosen: Any) -> Kept:
    """The result of the Triton engine, after comparison with that of another one."""
    expected = suppress_segments(*candidates[:3], offsets=candidates[3], engine=oracle, **chosen)
    found = suppress_segments(*candidates[:3], offsets=candidates[3], engine="triton", device=device, **chosen)
    assert_equal(expected, found)
    return found


def one_video(segments: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, ...]:
    return segments, scores, labels, np.array([0, len(scores)])


def test_random_sets(device: str) -> None:
    methods = set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        chosen = random_settings(rng)
        both(*random_set(rng, 20), device=device, **chosen)
        methods.add(chosen["method"])
    assert methods == set(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_corners(method: str, device: str) -> None:
    chosen = PLAIN | {"method": method, "min_score": 0.0, "voting": 0.5, "topk": 3}
    nothing = one_video(np.zeros((0, 2)), np.zeros(0), np.zeros(0, int))
    assert both(*nothing, device=device, **chosen).offsets.tolist() == [0, 0]
    both(*nothing[:3], np.zeros(4, int), device=device, **chosen)
    segments = np.array([[3, 3], [0, 4], [0, 4], [0, 4], [2, 2], [5, 9.0]])
    scores, labels = np.array([0.5, 0.5, 0.5, -0.0, 0.0, 0.5]), np.array([7, 0, 0, 0, 7, 0])
    for offsets in ([0, 6], [0, 0, 1, 1, 6, 6], [0, 1, 2, 3, 4, 5, 6]):  # videos with 0 and 1 candidates
        kept = both(segments, scores, labels, np.array(offsets), device=device, **chosen)
        assert (np.diff(kept.offsets) <= 3).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_group_of_several_blocks(method: str, device: str) -> None:
    segments, scores, _ = crowd(3, 2500)
    chosen = PLAIN | {"method": method, "topk": 12, "per_class": False, "tiou": 0.3}
    if method.startswith("matrix"):
        segments, scores = segments[:400], scores[:400]
    assert len(both(*one_video(segments, scores, np.zeros(len(scores), int)), device=device, **chosen).index) == 12


@pytest.mark.parametrize("method", ["gaussian", "hard"])
def test_20000_segments(method: str, device: str) -> None:
    segments, scores, labels = crowd(4, 20_000)
    topk = 2000 if device == "cuda" else 3  # the interpreter takes seconds for a hundred picks
    chosen = PLAIN | {"method": method, "topk": topk, "per_class": False}
    kept = both(*one_video(segments, scores, labels), device=device, oracle="numba", **chosen)
    assert len(kept.index) == topk


def test_published_outputs(shared: Path, device: str) -> None:
    arrays = np.load(shared / "golden/nms.npz")
    cases = json.loads((shared / "golden/nms.json").read_text())
    names = list(cases) if device == "cuda" else ["soft_tiny/0", "soft_tiny/1"]
    for case in names:
        published = cases[case]
        columns = [arrays[f"{case}/in_{name}"] for name in ("segments", "scores", "labels")]
        kept = suppress_segments(
            *columns,
            **published_rule(published),
            engine="triton",
            device=device,
        )
        assert np.array_equal(kept.labels, arrays[f"{case}/labels"]), case
        assert np.abs(kept.segments - arrays[f"{case}/segments"]).max(initial=0) <= 1e-3, case
        assert np.abs(kept.scores - arrays[f"{case}/scores"]).max(initial=0) <= 1e-6, case


def test_the_tensors_need_no_arrays(device: str) -> None:
    """`suppress_tensors` on its own: rows beyond the last offset hold nothing, all else is as in `Kept`."""
    from tad.nms.cuda import suppress_tensors

    segments, scores, labels, offsets = random_set(np.random.default_rng(12), 20)
    assert len(scores) > 0
    tensors = [torch.from_numpy(values).to(device) for values in (segments, scores, labels, offsets)]
    kept = suppress_tensors(*tensors, classes=6, **(PLAIN | {"topk": 4}))
    expected = suppress_segments(segments, scores, labels, offsets=offsets, **(PLAIN | {"topk": 4}))
    count = int(kept.offsets[-1])
    assert kept.offsets.tolist() == expected.offsets.tolist()
    assert kept.index[:count].tolist() == expected.index.tolist()
    assert np.array_equal(kept.scores[:count].cpu().numpy(), expected.scores)
    assert len(kept.index) == min(len(scores), 4 * (len(offsets) - 1))


COMPILE = """
import re, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from tad.nms import cuda
from tad.nms import triton_kernels as kernels

F, I, L = "*fp32", "*i32", "*i64"
GROUP = [F, F, F, L]
cases = [(kernels.pick_groups, [*GROUP, I, F, I, "i32", *["fp32"] * 3], {"METHOD": m, "BLOCK": 1024}) for m in range(4)]
cases += [(kernels.decay_groups, [*GROUP, F, F, "fp32"], {"METHOD": m, "ROWS": 16, "BLOCK": 128}) for m in (4, 5)]
cases += [(kernels.vote_videos, [*GROUP, L, L, L, F, "fp32"], {"TIMES_TIOU": t, "BLOCK": 128}) for t in (False, True)]
for kernel, types, constants in cases:
    names = kernel.arg_names
    signature = dict(zip(names, types)) | dict.fromkeys(constants, "constexpr")
    values = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=values)
    built = triton.compile(source, target=GPUTarget("cuda", int(sys.argv[1]), 32), options=cuda.EXACT)
    ptx = built.asm["ptx"]
    inexact = re.findall(r"\\b(?:fma|mad|div\\.full|div\\.approx|ex2|rcp)\\.\\S+f(?:32|64)|\\S+\\.ftz\\S*", ptx)
    assert not inexact, (kernel.__name__, constants, inexact)
    assert ".f32" in ptx
    assert len(built.asm["cubin"]) > 1000
    print(kernel.__name__)
"""


@pytest.mark.skipif(INTERPRETED, reason="compiled in the process that does not interpret")
def test_compiles_for_data_centre_gpus_to_exact_arithmetic() -> None:
    """Ahead of time, without a GPU: no instruction whose result differs from that of IEEE float32 or float64 steps."""
    done = run("-c", COMPILE, "90")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 8


@pytest.mark.gpu
def test_10000_random_sets_on_cuda(cuda: str) -> None:
    for seed in range(10_000):
        rng = np.random.default_rng(seed)
        chosen = random_settings(rng)
        both(*random_set(rng), device=cuda, oracle="numba", **chosen)


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
def test_20000_segments_on_cuda(method: str, cuda: str) -> None:
    segments, scores, labels = crowd(7, 20_000)
    for per_class in (True, False):
        chosen = PLAIN | {"method": method, "topk": 2000, "tiou": 0.3, "voting": 0.7, "per_class": per_class}
        both(*one_video(segments, scores, labels), device=cuda, oracle="numba", **chosen)


@pytest.mark.gpu
def test_nothing_waits_for_the_device(cuda: str) -> None:
    from tad.nms.cuda import suppress_tensors

    columns = crowd(1, 5000)
    tensors = [torch.from_numpy(values).to(cuda) for values in (*columns, np.array([0, 1000, 1000, 5000]))]
    for method in METHODS:
        for per_class in (True, False):
            chosen = PLAIN | {"method": method, "per_class": per_class, "voting": 0.8}
            expected = suppress_tensors(*tensors, classes=20, **chosen)  # compiles
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")
            try:
                kept = suppress_tensors(*tensors, classes=20, **chosen)
                with pytest.raises(RuntimeError, match="synchroni"):
                    tensors[1][0].item()  # the mode does notice a wait
            finally:
                torch.cuda.set_sync_debug_mode("default")
            assert torch.equal(kept.offsets, expected.offsets)
            assert int(kept.offsets[-1]) > 0


@pytest.mark.gpu
def test_activitynet_validation_in_one_call(cuda: str) -> None:
    videos, each = 4728, 2000
    segments, scores, labels = crowd(2, videos * each, classes=1)
    segments %= np.float32(500)
    segments.sort(axis=1)
    chosen = PLAIN | {"per_class": False, "sigma": 0.75, "topk": 100, "voting": 0.9}
    both(segments, scores, labels, np.arange(videos + 1) * each, device=cuda, oracle="numba", **chosen)
