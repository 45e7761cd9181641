"""Processes that train one detector together: each computes its videos of every batch, and all add up their gradients.

Launched by torch.multiprocessing, which ends all processes when one dies; joined by torch.distributed (NCCL between
GPUs, gloo between CPU processes). `DistributedDataParallel` itself does not fit: it adds up inside backward, where a
process that runs out of memory could not tell the others, and it waits for a gradient of every parameter, which some
published detectors never have.
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

from tad.errors import TadError
from tad.progress import setup_logging

log = logging.getLogger(__name__)
PATIENCE = timedelta(hours=6)  # for a process that judges or saves; one that dies is noticed at once


class Ranks:
    """The processes of a training as one of them sees them. The first one writes, logs and judges for all.

    Args:
        index: of this process.
        count: of all; 1: nothing is exchanged.
    """

    def __init__(self, index: int = 0, count: int = 1) -> None:
        self.index, self.count = index, count
        self._flat: Tensor | None = None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.index == 0

    def share(self, videos: int) -> range:
        """The rows of a batch that this process computes; sizes differ by one at most."""
        return range(videos * self.index // self.count, videos * (self.index + 1) // self.count)

    def all(self, holds: bool, device: torch.device) -> bool:
        """Whether something holds in all processes."""
        if self.count == 1:
            return holds
        failed = torch.tensor(int(not holds), device=device)
        dist.all_reduce(failed)
        return not failed.item()

    def add(self, values: Tensor) -> Tensor:
        """The sum of a tensor over the processes, in place."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def wait(self) -> None:
        """Until all processes have come here."""
        if self.count > 1:
            dist.barrier()

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its sum over the processes; the result has the same bits in all of them.

        Parameters without a gradient anywhere keep none, so that the optimiser leaves them alone as it does in a single
        process.
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
    index: int, work: Callable[[Ranks], None], count: int, backend: str, store: str, said: Any, verbose: bool
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # sent when the parent dies: even inside a collective it ends this one
    setup_logging(verbose=verbose)
    logging.disable(logging.NOTSET if index == 0 else logging.WARNING)
    if backend == "nccl":
        torch.cuda.set_device(index)
    try:
        dist.init_process_group(backend, init_method=f"file://{store}", rank=index, world_size=count, timeout=PATIENCE)
        work(Ranks(index, count))
        dist.destroy_process_group()
    except TadError as error:
        said.put(str(error))
        raise


def launch(work: Callable[[Ranks], None], *, count: int, backend: str) -> None:
    """Run `work` (picklable) in `count` processes and wait for all of them; one that fails ends the others.

    Raises:
        TadError: what a process said, or that it was killed from outside.
    """
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all on this machine, whatever its name resolves to
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # that it ends the others is no news
    said = multiprocessing.get_context("spawn").SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="tad-ranks-") as folder:
        arguments = (work, count, backend, f"{folder}/store", said, log.isEnabledFor(logging.DEBUG))
        processes = start_processes(  # type: ignore[no-untyped-call]
            _run, arguments, nprocs=count, join=False, daemon=True, start_method="spawn"
        )
        assert processes is not None
        try:
            while not processes.join():
                pass
        except (ProcessExitedException, ProcessRaisedException) as error:
            if not said.empty():
                raise TadError(said.get()) from None
            codes = [process.exitcode or 0 for process in processes.processes]
            killed = [k for k, code in enumerate(codes) if code < 0 and code != -signal.SIGTERM]
            if not killed and isinstance(error, ProcessRaisedException):
                raise
            index = killed[0] if killed else error.error_index
            name = signal.Signals(-codes[index]).name if codes[index] < 0 else f"exit status {codes[index]}"
            raise TadError(
                f"process {index} of the {count} that train together was ended by {name}, by hand or because the"
                " machine's memory did not suffice; the same command goes on from the last saved state"
            ) from None
