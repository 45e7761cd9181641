"""A device named in settings → a torch device that exists, leased, set up so that equal runs give equal results."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.utils.deterministic

from tad.errors import TadError
from tad.leases import lease

log = logging.getLogger(__name__)


def resolve(device: str = "auto", *, threads: int = 0) -> torch.device:
    """The torch device of a name; with `threads` > 0 also limits the CPU threads of this process.

    Args:
        device: "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:<index>".
        threads: CPU threads; 0 leaves torch's choice, which follows OMP_NUM_THREADS. CPU results are equal to the bit
            only between runs with the same number.

    Raises:
        TadError: an unknown name, or a CUDA device that is not there; never a silent fall-back.
    """
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
        raise TadError(f"device: {device!r} was asked for but {count} CUDA devices are usable; choose cpu or auto")
    return torch.device("cuda", int(index or 0))


@contextmanager
def leased(device: str = "auto", *, threads: int = 0) -> Iterator[torch.device]:
    """The torch device of a name, for this process alone while the block lasts.

    "cuda" (and "auto" where there is CUDA) means any device that is free, "cuda:<index>" that one; where none is, the
    job waits and says so. A CPU is shared by all.

    Args:
        device: see `resolve`.
        threads: see `resolve`.

    Raises:
        TadError: see `resolve`; the lease's folder belongs to somebody else.
    """
    target = resolve(device, threads=threads)
    if target.type == "cpu":
        yield target
        return
    indices = [target.index] if ":" in device else range(torch.cuda.device_count())
    # by UUID: what is cuda:0 differs with CUDA_VISIBLE_DEVICES
    names = {f"cuda-{torch.cuda.get_device_properties(index).uuid}": index for index in indices}
    with lease(list(names)) as name:
        log.info("on cuda:%d (%s)", names[name], name)
        with torch.cuda.device(names[name]):
            yield torch.device("cuda", names[name])


def name_of(device: torch.device) -> str:
    """What a stamp says about where something was computed: "cpu", or the GPU's product name."""
    return str(torch.cuda.get_device_name(device)) if device.type == "cuda" else "cpu"


def kept_folder(kind: str) -> Path | None:
    """Where compiled networks of a kind are kept: a folder of `$XDG_CACHE_HOME/tad`; None: it cannot be written."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tad" / kind
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        log.info("%s: compiled networks are not kept (%s)", folder, error.strerror)
        return None
    return folder


def keep_graphs() -> None:
    """Have torch.compile keep its graphs for later processes: in `$TORCHINDUCTOR_CACHE_DIR`, else in `kept_folder`."""
    folder = kept_folder("inductor")
    if folder is not None:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


@contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """Deterministic kernels inside the block; torch's settings and random generators are as before after it.

    On CUDA an operation without a deterministic kernel warns once instead of failing.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts; torch asks for it
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    benchmark, fills = torch.backends.cudnn.benchmark, memory.fill_uninitialized_memory
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
        torch.backends.cudnn.benchmark = False
        memory.fill_uninitialized_memory = False  # with NaN, which costs time and shows only reads of what nobody wrote
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])
            torch.backends.cudnn.benchmark, memory.fill_uninitialized_memory = benchmark, fills
