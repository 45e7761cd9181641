"""A stand-in for CUDA on a CPU: code that asks for a CUDA device runs its CUDA path, and copies are as late as there.

`torch.device("cuda", k)` is a real object without a GPU, but no tensor can be put on it. Inside `stand_in`, a CUDA
device in the arguments of a torch function means the CPU, and `torch.cuda` answers like a machine with two GPUs. A copy
from the device that does not block holds NaN until an event that was recorded after it is waited for: code that reads
too early gets wrong numbers here, as it would on a GPU.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

CPU = torch.device("cpu")


def _is_cuda(value: Any) -> bool:
    if isinstance(value, torch.device):
        return value.type == "cuda"
    return isinstance(value, str) and value.partition(":")[0] == "cuda"


@dataclass
class Machine:
    """What happened: names of calls in order, and the copies whose values have not arrived yet."""

    calls: list[str] = field(default_factory=list)
    late: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    current: int = 0

    def event(self, **_: Any) -> Any:
        """Return an event, like `torch.cuda.Event`."""
        waits: list[tuple[Tensor, Tensor]] = []

        def record(stream: Any = None) -> None:
            self.calls.append("record")
            waits.extend(self.late)

        def synchronize() -> None:
            self.calls.append("synchronize")
            for target, values in waits:
                target.copy_(values)
            self.late = [copy for copy in self.late if not any(copy is waited for waited in waits)]
            waits.clear()

        return SimpleNamespace(record=record, synchronize=synchronize)


class _OnTheCpu(TorchFunctionMode):
    """Replaces CUDA devices in arguments by the CPU."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self.machine = machine

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.device or func is torch.Generator:
            return func(*args, **(kwargs or {})) if func is torch.device else func()
        name, given = getattr(func, "__name__", ""), dict(kwargs or {})
        if name == "pin_memory":
            self.machine.calls.append("pin_memory")
            return args[0].clone()
        if name == "to" and given.get("non_blocking"):
            self.machine.calls.append("to " + ("device" if _is_cuda(args[1]) else "host"))
            if not _is_cuda(args[1]):
                late = torch.full_like(args[0], float("nan"))
                self.machine.late.append((late, args[0].clone()))
                return late
        args = tuple(CPU if _is_cuda(value) else value for value in args)
        return func(*args, **{key: CPU if _is_cuda(value) else value for key, value in given.items()})


@contextmanager
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """Make this process see two GPUs, whose work the CPU does."""
    machine = Machine()

    @contextmanager
    def device(index: Any) -> Iterator[None]:
        before, machine.current = machine.current, getattr(index, "index", index)
        yield
        machine.current = before

    answers = {
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "current_device": lambda: machine.current,
        "set_device": lambda index: setattr(machine, "current", index),
        "get_device_name": lambda _=None: "Stand-in",
        "get_device_properties": lambda index: SimpleNamespace(uuid=f"stand-in-{getattr(index, 'index', index)}"),
        "is_bf16_supported": lambda including_emulation=True: True,
        "mem_get_info": lambda _=None: (4_000_000, 8_000_000),
        "empty_cache": lambda: machine.calls.append("empty_cache"),
        "synchronize": lambda _=None: None,
        "get_rng_state": lambda _=None: torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": lambda state, _=None: None,
        "manual_seed_all": lambda seed: None,
        "Event": machine.event,
        "device": device,
    }
    body = threading.Thread.run

    def run(thread: threading.Thread) -> None:  # a mode holds for one thread only
        with _OnTheCpu(machine):
            body(thread)

    with monkeypatch.context() as patch:
        for name, answer in answers.items():
            patch.setattr(torch.cuda, name, answer)
        patch.setattr(threading.Thread, "run", run)
        with _OnTheCpu(machine):
            yield machine
