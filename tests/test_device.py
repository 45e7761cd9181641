"""Leases of devices: real processes never share one, a killed holder frees its own, a CPU needs none."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from tad.core import device, leases
from tad.core.errors import TadError
from tad.core.memory import keep_freed_memory

HOLD = """
import fcntl, os, sys, time
from pathlib import Path
from tad.core import leases
leases.RETRY_SECONDS = 0.01
folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
with leases.lease(sys.argv[3:]) as name:
    try:
        os.close(os.open(folder / name, os.O_CREAT | os.O_EXCL))  # fails where somebody else is
    except FileExistsError:
        (folder / "shared").touch()
    print(name, flush=True)
    time.sleep(seconds)
    (folder / name).unlink()
"""
DEVICES = ["fake-0", "fake-1"]


def hold(folder: Path, seconds: float, *names: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", HOLD, str(folder), str(seconds), *names]
    environment = os.environ | {"TAD_LEASES": str(folder / "leases"), "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def said(child: "subprocess.Popen[str]") -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def test_twelve_jobs_on_two_devices_never_share_one(tmp_path: Path) -> None:
    jobs = [hold(tmp_path, 0.05, *names) for names in [DEVICES] * 8 + [DEVICES[:1]] * 2 + [DEVICES[1:]] * 2]
    held = [said(job) for job in jobs]
    assert [job.wait() for job in jobs] == [0] * 12
    assert not (tmp_path / "shared").exists()
    assert set(held) == set(DEVICES)
    assert held[8:] == ["fake-0"] * 2 + ["fake-1"] * 2


def test_a_killed_holder_frees_its_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("TAD_LEASES", str(tmp_path / "leases"))
    monkeypatch.setattr(leases, "RETRY_SECONDS", 0.01)
    child = hold(tmp_path, 600, "fake-0")
    assert said(child) == "fake-0"
    with leases.lease(["fake-0", "fake-1"]) as name:  # the other one is free
        assert name == "fake-1"
    taken: list[float] = []

    def wait_for_it() -> None:
        with leases.lease(["fake-0"]):
            taken.append(time.monotonic())

    waiting = threading.Thread(target=wait_for_it)
    waiting.start()
    time.sleep(0.3)
    assert not taken
    assert "all of fake-0 are in use by other jobs; waiting for one" in caplog.text
    child.send_signal(signal.SIGKILL)
    child.wait()
    waiting.join()
    assert taken
    assert "leased fake-0 after" in caplog.text


def test_cpu_needs_no_lease_and_absent_devices_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAD_LEASES", str(tmp_path / "leases"))
    with device.leased("cpu") as first, device.leased("cpu") as second:
        assert first == second == torch.device("cpu")
    assert not (tmp_path / "leases").exists()
    with pytest.raises(TadError, match="'cuda:99' is requested"), device.leased("cuda:99"):
        pass


def test_somebody_elses_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    monkeypatch.setenv("TAD_LEASES", str(tmp_path / "link"))
    with pytest.raises(TadError, match="belongs to another user; set TAD_LEASES"), leases.lease(["fake-0"]):
        pass


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_is_any_free_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAD_LEASES", str(tmp_path / "leases"))
    with device.leased("cuda") as target:
        assert (target.type, target.index) == ("cuda", torch.cuda.current_device())
        assert len(list((tmp_path / "leases").iterdir())) == torch.cuda.device_count()


def test_freed_memory_is_used_again() -> None:
    """Without the setting each array of 64 MiB is mapped anew, with 16,384 page faults or, with huge pages, 32."""
    if not keep_freed_memory():
        pytest.skip("this C library has no mallopt")
    program = (
        "import resource, sys, numpy\n"
        "from tad.core.memory import keep_freed_memory\n"
        "if sys.argv[1] == 'keep': keep_freed_memory()\n"
        "def faults():\n"
        "    numpy.full(8_000_000, 1.0)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "first = faults()\n"
        "print([faults() for _ in range(20)][-1] - first)\n"
    )
    faults = {
        mode: int(subprocess.run([sys.executable, "-c", program, mode], capture_output=True, check=True).stdout)
        for mode in ("keep", "default")
    }
    assert faults["keep"] < faults["default"] / 10


COMPILER = """
import sys
import torch
from tad.core.device import prepare_compilation, reproducible
with reproducible(torch.device("cpu")):
    assert torch.are_deterministic_algorithms_enabled()
assert not torch.are_deterministic_algorithms_enabled()
print(sorted({"torch._dynamo", "torch._inductor"} & set(sys.modules)))
with reproducible(torch.device("cpu")):
    prepare_compilation()
    print(torch._inductor.config.deterministic)
print(torch._inductor.config.deterministic)
with reproducible(torch.device("cpu")):
    print(torch._inductor.config.deterministic)
"""


def test_deterministic_kernels_import_no_compiler_and_compiled_ones_are_deterministic_too() -> None:
    done = subprocess.run([sys.executable, "-c", COMPILER], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["[]", "True", "False", "True"], done.stderr
