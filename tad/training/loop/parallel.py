"""Data-parallel training: each process computes its videos of every batch, and the gradients are all-reduced.

The processes are launched by torch.multiprocessing, which ends all of them when one dies, and communicate with
torch.distributed (NCCL between GPUs, gloo between CPU processes). `DistributedDataParallel` does not fit: it reduces
inside the backward pass, where a process that runs out of memory cannot tell the others, and it waits for a gradient
of every parameter, which some published detectors never have.
"""

import logging
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

from tad.core.errors import TadError
from tad.core.notices import TRANSIENT
from tad.core.processes import end_with_parent_process
from tad.core.progress import setup_logging

log = logging.getLogger(__name__)
TIMEOUT = timedelta(hours=6)  # while the first process validates or saves; a process that dies is noticed at once


def process_count(device: str, devices: int, batch: int) -> int:
    """Return the number of training processes for a batch of `batch` videos.

    Raises:
        TadError: several GPUs are requested but not available.
    """
    if devices <= 1:
        return 1
    if device != "cpu" and (":" in device or torch.cuda.device_count() < devices):
        raise TadError(
            f"--devices {devices}: device is {device!r} and {torch.cuda.device_count()} CUDA devices are usable; use"
            " --device cuda on a machine with enough GPUs, or --device cpu for processes that share the CPU"
        )
    if devices > batch:
        text = "--devices %d: a batch has %d videos, so only %d processes are used"
        log.warning(text, devices, batch, batch, extra=TRANSIENT)
    return min(devices, batch)


class Ranks:
    """One process's view of a training's processes. The first process writes, logs and validates for all.

    Args:
        index: rank of this process.
        count: number of processes; 1: no communication.
    """

    def __init__(self, index: int = 0, count: int = 1) -> None:
        self.index, self.count = index, count
        self._flat: Tensor | None = None

    @property
    def first(self) -> bool:
        """Whether this is the first process, which writes files."""
        return self.index == 0

    def share(self, videos: int) -> range:
        """Return the rows of a batch of `videos` that this process computes; shares differ by at most one row."""
        return range(videos * self.index // self.count, videos * (self.index + 1) // self.count)

    def all(self, holds: bool, device: torch.device) -> bool:
        """Return whether a condition holds in all processes."""
        if self.count == 1:
            return holds
        failed = torch.tensor(int(not holds), device=device)
        dist.all_reduce(failed)
        return not failed.item()

    def add(self, values: Tensor) -> Tensor:
        """Sum a tensor over the processes, in place, and return it."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def wait(self) -> None:
        """Wait until all processes reach this call."""
        if self.count > 1:
            dist.barrier()

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its sum over the processes; the result is bit-equal in all of them.

        A parameter without a gradient in any process gets none; the optimiser skips it, as in a single process.
        """
        if self.count == 1:
            return
        every = [p for p in parameters if p.requires_grad]
        size = sum(p.numel() for p in every)
        if self._flat is None or self._flat.numel() != size:
            self._flat = torch.zeros(size, device=every[0].device)
        used = torch.tensor([p.grad is not None for p in every], dtype=torch.int32, device=self._flat.device)
        dist.all_reduce(used, op=dist.ReduceOp.MAX)
        views = torch.split(self._flat, [p.numel() for p in every])
        for parameter, view in zip(every, views, strict=True):
            if parameter.grad is None:
                view.zero_()
            else:
                view.copy_(parameter.grad.flatten())
        dist.all_reduce(self._flat)
        for parameter, view, somewhere in zip(every, views, used.tolist(), strict=True):
            parameter.grad = view.view_as(parameter) if somewhere else None


def _run(
    index: int, work: Callable[[Ranks], None], count: int, backend: str, store: str, errors: Any, verbose: bool
) -> None:
    end_with_parent_process()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # sent when the parent dies; must end even a waiting collective
    setup_logging(verbose=verbose)
    logging.disable(logging.NOTSET if index == 0 else logging.WARNING)
    if backend == "nccl":
        torch.cuda.set_device(index)
    try:
        dist.init_process_group(backend, init_method=f"file://{store}", rank=index, world_size=count, timeout=TIMEOUT)
        work(Ranks(index, count))
        dist.destroy_process_group()
    except TadError as error:
        errors.put(str(error))
        raise


def launch(work: Callable[[Ranks], None], *, count: int, backend: str) -> None:
    """Run `work` (picklable) in `count` processes and wait for them; if one fails, the others are ended.

    Raises:
        TadError: the error of a process, or a process was killed from outside.
    """
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all processes run on this machine; do not resolve its name
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # do not log that it ends the others
    errors = multiprocessing.get_context("spawn").SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="tad-ranks-") as folder:
        arguments = (work, count, backend, f"{folder}/store", errors, log.isEnabledFor(logging.DEBUG))
        processes = start_processes(  # type: ignore[no-untyped-call]
            _run, arguments, nprocs=count, join=False, daemon=True, start_method="spawn"
        )
        assert processes is not None
        try:
            while not processes.join():
                pass
        except (ProcessExitedException, ProcessRaisedException) as error:
            if not errors.empty():
                raise TadError(errors.get()) from None
            codes = [process.exitcode or 0 for process in processes.processes]
            killed = [k for k, code in enumerate(codes) if code < 0 and code != -signal.SIGTERM]
            if not killed and isinstance(error, ProcessRaisedException):
                raise
            index = killed[0] if killed else error.error_index
            name = signal.Signals(-codes[index]).name if codes[index] < 0 else f"exit status {codes[index]}"
            raise TadError(
                f"process {index} of {count} training processes was ended by {name}, by hand or because the machine ran"
                " out of memory; the same command resumes from the last saved state"
            ) from None
