"""The paths that only CUDA takes, run on a CPU with a stand-in for the device; results are those of the CPU."""

import ctypes
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from component_tools import laid
from cuda_tools import stand_in
from safetensors.torch import load_file
from training_tools import real_spec, run, videos_of, windows_of, write_inputs

from tad.core import device as devices
from tad.core import leases
from tad.core.errors import TadError
from tad.core.lanes import INLINE
from tad.extraction.batches import BATCH_GPU, Encoder, Preparer
from tad.features.store import FeatureReader
from tad.provenance.stamps import read_stamp
from tad.settings import plugins
from tad.settings.stages import ExtractSpec
from tad.stages import suppress
from tad.stages.train import train
from tad.training.data.in_memory import Features
from tad.training.data.windows import Windows
from tad.training.loop import parallel

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
SMALL = {"widths": [4, 4, 4, 8], "height": 24, "width": 32}
CLIP = {"length": 8, "stride": 2, "policy": "resample", "rate": 12.5}


def rows_of(device: torch.device, frames: np.ndarray, **network: object) -> np.ndarray:
    """Extract the features of one video from frames (N, H, W, 3), in chunks of seven."""
    torch.manual_seed(0)
    settings = component_settings()
    backbone = plugins.build("backbones", "r2plus1d_small", settings).eval()
    spec = ExtractSpec.model_validate(
        {"dataset": "d", "backbone": {"name": "r2plus1d_small", "settings": settings}, "clip": CLIP, "dtype": "float32"}
    )
    with torch.inference_mode():
        prepare, encoder = Preparer(backbone, device), Encoder(backbone, spec=spec, device=device, batch=4)
        encoder.begin("v", frames=len(frames))
        done = []
        for k in range(0, len(frames), 7):
            encoder.push("v", prepare(frames[k : k + 7].copy()))
            done += encoder.finished()
        encoder.end("v")
        done += encoder.finished(last=True)
    return done[0].rows.features()


def component_settings() -> dict[str, object]:
    """The settings of a tiny encoder."""
    return laid("backbones", "r2plus1d_small", SMALL)


def test_extraction_waits_for_its_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (60, 24, 32, 3), dtype=np.uint8)
    expected = rows_of(CPU, frames)
    with stand_in(monkeypatch) as machine:
        found = rows_of(CUDA, frames)
    assert np.isfinite(found).all()
    assert np.array_equal(found, expected)
    assert machine.calls.count("pin_memory") == machine.calls.count("to device") == -(-60 // 7)
    batches = machine.calls.count("to host")
    assert batches == machine.calls.count("record") == machine.calls.count("synchronize") > 5
    first_wait = machine.calls.index("synchronize")
    assert machine.calls[:first_wait].count("to host") == 2  # a batch is fetched while the next one is computed
    assert not machine.late


def test_stand_in_catches_a_read_that_is_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    with stand_in(monkeypatch):
        copy = torch.ones(3, device=CUDA).to("cpu", non_blocking=True)
        assert copy.isnan().all()
        event = torch.cuda.Event()
        event.record()
        event.synchronize()
        assert copy.tolist() == [1, 1, 1]


def test_batches_are_larger_on_a_gpu() -> None:
    backbone = SimpleNamespace(lanes=INLINE)
    spec = SimpleNamespace(dtype="float16")
    assert Encoder(backbone, spec=spec, device=CUDA).batch == BATCH_GPU  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_inputs(tmp_path, videos_of(np.random.default_rng(0)))
    return tmp_path


def test_features_are_cached_on_the_gpu_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FeatureReader(folder / "f.h5") as reader:
        plain = windows_of(folder, reader)
        with stand_in(monkeypatch):
            features = Features(reader, device=CUDA)
            assert list(features._left) == [CUDA, CPU]
            assert features._left[CUDA] == 1_000_000  # a quarter of the free memory
            resident = Windows(plain.items, features, spec=plain.spec, seed=5, dim=6)
            for _ in range(2):
                batch = resident.training_batch(1, 0)
                assert torch.equal(batch.feats_BTC, plain.training_batch(1, 0).feats_BTC)
            assert features._left[CUDA] < 1_000_000
            features.release_gpu()
            assert list(features._left) == [CPU]
            assert torch.equal(resident.training_batch(1, 1).feats_BTC, plain.training_batch(1, 1).feats_BTC)


def test_training_on_a_gpu_takes_the_same_steps(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = real_spec("mse", "corrected")
    expected = load_file(run(folder, spec))
    monkeypatch.setenv("TAD_LEASES", str(folder / "leases"))
    other = folder / "cuda"
    write_inputs(other, videos_of(np.random.default_rng(0)))
    with stand_in(monkeypatch):
        paths = other / "f.h5", other / "toy.json", other / "model.safetensors"
        model = train(*paths, spec=spec, cache=other / "kept", device="cuda", threads=1)
    assert read_stamp(model)["device"] == "Stand-in"
    found = load_file(model)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_device_is_leased_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAD_LEASES", str(tmp_path / "leases"))
    monkeypatch.setattr(leases, "RETRY_SECONDS", 0.01)
    with stand_in(monkeypatch) as machine:
        assert devices.resolve("auto").type == "cuda"
        assert devices.name_of(CUDA) == "Stand-in"
        assert devices.arithmetic("auto", CUDA) == "bfloat16"
        with devices.leased("cuda") as first, devices.leased("cuda") as second:
            assert {first.index, second.index} == {0, 1}
            assert machine.current == second.index
        with devices.leased("cuda:1") as named:
            assert named.index == 1
        assert machine.current == 0
        with pytest.raises(TadError, match="2 CUDA devices are usable"):
            devices.resolve("cuda:2")


def test_each_process_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[tuple[str, int]] = []
    monkeypatch.setattr(parallel, "end_with_parent_process", lambda: None)
    monkeypatch.setattr(parallel.signal, "signal", lambda *_: None)
    monkeypatch.setattr(parallel.logging, "disable", lambda *_: None)
    monkeypatch.setattr(parallel.dist, "init_process_group", lambda backend, **_: started.append((backend, 1)))
    monkeypatch.setattr(parallel.dist, "destroy_process_group", lambda: None)
    with stand_in(monkeypatch) as machine:
        seen: list[int] = []
        work = lambda ranks: seen.append(machine.current)  # noqa: E731
        parallel._run(1, work, 2, "nccl", str(tmp_path / "store"), None, False)
    assert seen == [1]
    assert started == [("nccl", 1)]


@pytest.mark.parametrize("there", [0, 1])
def test_suppression_asks_the_driver(monkeypatch: pytest.MonkeyPatch, there: int) -> None:
    def count(pointer: object) -> int:
        pointer._obj.value = there  # type: ignore[attr-defined]
        return 0

    driver = SimpleNamespace(cuInit=lambda _: 0, cuDeviceGetCount=count)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with stand_in(monkeypatch):
        engine, device = suppress.engine_of("auto")
    assert (engine, device.partition(":")[0]) == (("triton", "cuda") if there else ("numba", "cpu"))
