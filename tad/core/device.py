"""Resolve and lease devices, and make computations on them reproducible."""

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tad.core.errors import TadError
from tad.core.leases import lease
from tad.core.memory import keep_freed_memory

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


def resolve(device: str = "auto", *, threads: int = 0) -> "torch.device":
    """Return the torch device of a name, and limit the CPU threads of this process if `threads` > 0.

    Args:
        device: "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:<index>".
        threads: CPU threads; 0 leaves torch's choice, which follows OMP_NUM_THREADS. CPU results are bit-equal only
            between runs with the same number.

    Raises:
        TadError: an unknown name, or a CUDA device that does not exist; there is no silent fallback.
    """
    import torch

    if threads > 0:
        torch.set_num_threads(threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()) or (kind == "cpu" and index):
        raise TadError(f"device: {device!r}: choose auto, cpu, cuda or cuda:<index>")
    if kind == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(index or 0) >= count:
        raise TadError(f"device: {device!r} is requested, but {count} CUDA devices are usable; choose cpu or auto")
    return torch.device("cuda", int(index or 0))


@contextmanager
def leased(device: str = "auto", *, threads: int = 0) -> Iterator["torch.device"]:
    """Lease the torch device of a name for this process while the block lasts.

    "cuda" (and "auto" where there is CUDA) means any free device, "cuda:<index>" that one. If none is free, the job
    logs it and waits. The CPU is shared by all jobs; there, freed memory stays with the process.

    Args:
        device: see `resolve`.
        threads: see `resolve`.

    Raises:
        TadError: see `resolve`; the lease's folder belongs to another user.
    """
    import torch

    target = resolve(device, threads=threads)
    if target.type == "cpu":
        keep_freed_memory()
        yield target
        return
    indices = [target.index] if ":" in device else range(torch.cuda.device_count())
    # by UUID: what is cuda:0 differs with CUDA_VISIBLE_DEVICES
    names = {f"cuda-{torch.cuda.get_device_properties(index).uuid}": index for index in indices}
    with lease(list(names)) as name:
        log.info("on cuda:%d (%s)", names[name], name)
        with torch.cuda.device(names[name]):
            yield torch.device("cuda", names[name])


@contextmanager
def threads_of_network(device: "torch.device", threads: int) -> Iterator[None]:
    """Limit the CPU threads inside the block if `device` is the CPU, whose results depend on their number."""
    import torch

    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def name_of(device: "torch.device") -> str:
    """Return the device's name for stamps: "cpu", or the GPU's product name."""
    import torch

    return str(torch.cuda.get_device_name(device)) if device.type == "cuda" else "cpu"


def has_bfloat16(device: "torch.device") -> bool:
    """Return whether the device multiplies bfloat16 matrices itself (CPU: AMX or AVX-512 BF16; CUDA: from 8.0 on)."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities()
    return any(bool(able.get(name)) for name in ("amx_bf16", "avx512_bf16", "bf16"))  # the last one is ARM's name


def arithmetic(precision: str, device: "torch.device") -> str:
    """Return the precision to compute in, float32 or bfloat16, and log what was chosen or what is slow.

    Args:
        precision: float32, bfloat16, or auto: bfloat16 on a device that multiplies it itself, else float32.
        device: where the network runs.
    """
    if precision == "auto":
        chosen = "bfloat16" if has_bfloat16(device) else "float32"
        log.info("precision auto: %s on this device (%s)", chosen, name_of(device))
        return chosen
    if precision == "bfloat16" and not has_bfloat16(device):
        log.warning(
            "precision bfloat16: this device (%s) does not support it; a matrix product takes %.1f times as long as in"
            " float32; set train.precision: auto or float32", name_of(device), bfloat16_cost(device),
        )  # fmt: skip
    return precision


def bfloat16_cost(device: "torch.device", *, size: int = 384, repeats: int = 5) -> float:
    """Return the time of a product of two square matrices in bfloat16 over that in float32: the least of `repeats`."""
    import torch

    seconds = {}
    for kind in (torch.float32, torch.bfloat16):
        matrix = torch.ones(size, size, device=device, dtype=kind)
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            (matrix @ matrix)[0, 0].item()  # reading a value waits for a GPU
            times.append(time.perf_counter() - start)
        seconds[kind] = min(times)
    return seconds[torch.bfloat16] / seconds[torch.float32]


def compile_cache(kind: str) -> Path | None:
    """Return the cache folder for compiled networks of a kind in `$XDG_CACHE_HOME/tad`; None if it is not writable."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tad" / kind
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        log.info("%s: compiled networks are not cached (%s)", folder, error.strerror)
        return None
    return folder


def prepare_compilation() -> None:
    """Make torch.compile deterministic inside `reproducible`, and make it cache its graphs for later processes.

    The cache is `$TORCHINDUCTOR_CACHE_DIR` or a folder in our cache folder.
    """
    import torch
    import torch._inductor.config

    torch._inductor.config.deterministic = torch.are_deterministic_algorithms_enabled()
    folder = compile_cache("inductor")
    if folder is not None:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


def _set_deterministic(mode: int | str) -> None:
    """Choose deterministic kernels, as `torch.use_deterministic_algorithms` does, which takes seconds: it imports the
    compiler only to pass the choice on to it (see `prepare_compilation`).
    """
    import torch

    torch.set_deterministic_debug_mode(mode)
    compiler: Any = sys.modules.get("torch._inductor.config")
    if compiler is not None:
        compiler.deterministic = torch.are_deterministic_algorithms_enabled()


@contextmanager
def reproducible(device: "torch.device") -> Iterator[None]:
    """Use deterministic kernels inside the block, and restore torch's settings and random generators after it.

    On CUDA an operation without a deterministic kernel warns once instead of failing.
    """
    import torch
    import torch.utils.deterministic

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts; torch requires it
    before = torch.get_deterministic_debug_mode()
    memory: Any = torch.utils.deterministic
    benchmark, fills = torch.backends.cudnn.benchmark, memory.fill_uninitialized_memory
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        _set_deterministic("warn" if device.type == "cuda" else "error")
        torch.backends.cudnn.benchmark = False
        memory.fill_uninitialized_memory = False  # filling with NaN costs time and only reveals reads before writes
        try:
            yield
        finally:
            _set_deterministic(before)
            torch.backends.cudnn.benchmark, memory.fill_uninitialized_memory = benchmark, fills
