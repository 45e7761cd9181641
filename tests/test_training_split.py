"""Batches that are computed in parts or by several processes: equal gradients, equal weights, one line when it ends."""

import json
import multiprocessing
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from training_tools import real_spec, run, videos_of, write_inputs

from tad.annotations.table import read_table
from tad.core.device import reproducible
from tad.core.errors import TadError
from tad.detectors._points.detector import PointDetector
from tad.features.store import FeatureReader
from tad.provenance.stamps import read_stamp
from tad.settings.stages import TrainStageSpec
from tad.stages.train import build, train, training_key
from tad.training.data.in_memory import Features
from tad.training.data.windows import Windows, read_items
from tad.training.io import tensors as checkpoint
from tad.training.loop.engine import Engine, Saving
from tad.training.loop.parallel import Ranks, launch

CASES = [("actionformer", ""), ("mse", "corrected"), ("tridet", "parity"), ("afsd", "parity")]
# losses divided by numbers of the whole batch, which depend on what the network says
SALIENT = {"embed_dim": 64, "upsample": 2, "strides": [1.0, 2.0], "regression_ranges": [[0, 100000]] * 2,
           "normaliser": "batch", "piou": 0.3, "corrections": []}  # fmt: skip
STEPS = 3
pytestmark = pytest.mark.usefixtures("one_thread")  # as the processes have


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_inputs(tmp_path, videos_of(np.random.default_rng(0)))
    return tmp_path


def spec_of(name: str, face: str = "", **changes: Any) -> TrainStageSpec:
    """Batches of 4; no warm-up, whose first rate is 0."""
    spec = real_spec(name, face, **{"batch_size": 4, "warmup_epochs": 0, "epochs": 9} | changes)
    spec.detector.settings.update(SALIENT if name == "afsd" else {})
    return spec


def engine_of(
    folder: Path,
    reader: FeatureReader,
    spec: TrainStageSpec,
    *,
    ranks: Ranks | None = None,
    dtype: torch.dtype = torch.float32,
) -> Engine:
    items = read_items(reader, read_table(folder / "toy.json"), "train", spec=spec.train, exclude={})
    windows = Windows(items, Features(reader), spec=spec.train, seed=5, dim=reader.dim)
    torch.manual_seed(1)
    detector = build(spec.detector.name, spec.detector.settings, feature_dim=6, num_classes=2, max_length=16)
    detector = detector.to(dtype)
    saving = Saving(folder / "state.safetensors", "key", 1000.0)
    return Engine(detector, windows, spec=spec.train, seed=5, device=torch.device("cpu"), saving=saving, ranks=ranks)


def values_of(engine: Engine) -> dict[str, Tensor]:
    """Weights and loss normaliser."""
    return {**engine.detector.state_dict(), **engine.detector.training_state()}


def steps_of(
    folder: Path, *, at_once: int = 0, ranks: Ranks | None = None, dtype: torch.dtype = torch.float32
) -> dict[str, dict[str, Tensor]]:
    """The first step's gradients, and weights after several steps, of every case."""
    found: dict[str, dict[str, Tensor]] = {}
    with FeatureReader(folder / "f.h5") as reader:
        for name, face in CASES:
            engine = engine_of(folder, reader, spec_of(name, face), ranks=ranks, dtype=dtype)
            engine.gradients.at_once = at_once or engine.gradients.at_once
            for step in range(STEPS):
                batch, positives = engine._batch(step)
                engine._train_step(replace(batch, feats_BTC=batch.feats_BTC.to(dtype)), positives)
                if step == 0:
                    learnt = {n: p.grad.clone() for n, p in engine.detector.named_parameters() if p.grad is not None}
                    found[f"{name} gradient"] = learnt
            found[f"{name} weights"] = {n: v.detach().clone() for n, v in values_of(engine).items()}
    return found


def difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """‖ours − theirs‖ / ‖theirs‖ of all values together."""
    assert ours.keys() == theirs.keys()
    both = [torch.cat([side[n].double().flatten() for n in theirs]) for side in (ours, theirs)]
    return float((both[0] - both[1]).norm() / both[1].norm())


def equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(v, theirs[n]) for n, v in ours.items())


# -- several processes -------------------------------------------------------------------------------------------------


def write_steps(ranks: Ranks, folder: Path) -> None:
    """Every process writes what it has."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for what, values in steps_of(folder, ranks=ranks).items():
        checkpoint.write_tensors(folder / str(ranks.index) / what, values, {})


def test_two_processes_compute_what_one_does(folder: Path) -> None:
    launch(partial(write_steps, folder=folder), count=2, backend="gloo")
    with reproducible(torch.device("cpu")):
        alone, halves = steps_of(folder), steps_of(folder, at_once=2)
    for what, values in alone.items():
        first, second = (checkpoint.read_tensors(folder / k / what)[0] for k in ("0", "1"))
        assert equal(first, second), what
        assert equal(first, halves[what]), what  # the same additions, so the same bits
        if "gradient" in what:
            assert difference(first, values) < 1e-6, what
        assert len(values) >= 80


def kill_one(state: Path, killed: list[int]) -> None:
    """Kill the second process once a few steps are saved."""
    while not killed:
        time.sleep(0.02)
        if state.is_file() and json.loads(checkpoint.read_tensors(state)[1]["state"])["step"] >= 3:
            victim = max(multiprocessing.active_children(), key=lambda process: process.name)
            victim.kill()
            killed.append(victim.pid or 0)


def test_a_killed_process_ends_all_and_another_number_of_them_continues(folder: Path) -> None:
    spec = spec_of("actionformer", epochs=20, batch_size=3)
    paths = folder / "f.h5", folder / "toy.json", folder / "out" / "model.safetensors"
    where = {"cache": folder / "kept", "threads": 1}
    with FeatureReader(folder / "f.h5") as reader:
        items = read_items(reader, read_table(folder / "toy.json"), "train", spec=spec.train, exclude={})
    state = folder / "kept" / f"{training_key(spec, ['jump', 'run'], {'train': items, 'judged': []})}.state.safetensors"
    killed: list[int] = []
    watcher = threading.Thread(target=kill_one, args=(state, killed), daemon=True)
    watcher.start()
    with pytest.raises(TadError, match="process 1 of 2 training processes was ended by SIGKILL") as caught:
        train(*paths, spec=spec, devices=2, checkpoint_seconds=0.0, **where)
    watcher.join(10)
    assert killed
    assert "\n" not in str(caught.value)
    assert not multiprocessing.active_children()
    reached = json.loads(checkpoint.read_tensors(state)[1]["state"])["step"]
    assert 3 <= reached < 40
    made = train(*paths, spec=spec, **where)
    assert read_stamp(made)["processes"] == 1
    write_inputs(folder / "whole", videos_of(np.random.default_rng(0)))
    whole = run(folder / "whole", spec, seconds=1000)
    assert difference(load_file(made), load_file(whole)) < 1e-6


# -- parts -------------------------------------------------------------------------------------------------------------


def test_parts_add_up_to_the_batch(folder: Path) -> None:
    """Gradients and weights are equal up to rounding.

    Weights are compared in float64: where a gradient is zero but for rounding (biases before a softmax), Adam makes a
    step of it, in float32.
    """
    for dtype, kind in ((torch.float32, "gradient"), (torch.float64, "weights")):
        whole = steps_of(folder, dtype=dtype)
        for at_once in (1, 3):
            parts = steps_of(folder, at_once=at_once, dtype=dtype)
            assert all(difference(parts[what], values) < 1e-6 for what, values in whole.items() if kind in what)


# -- memory that does not suffice --------------------------------------------------------------------------------------

GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: error code 12")


class Tight:
    """Stands in for a small memory: from a step on, more than `fits` videos at once fail amid the backward pass."""

    def __init__(self, engine: Engine, *, fits: int, error: Exception, since: int = 0) -> None:
        self.engine, self.fits, self.error, self.since, self.failed = engine, fits, error, since, 0
        self.loss = engine.detector.loss
        engine.detector.loss = self

    def __call__(self, feats_BTC: Tensor, *others: Any) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = self.loss(feats_BTC, *others)
        if len(feats_BTC) > self.fits and self.engine.step >= self.since:
            weight = self.engine.detector.backbone.embd[0].conv.weight  # the last to get its gradient
            self.hook = weight.register_hook(self.fail)
        return losses

    def fail(self, _gradient: Tensor) -> None:
        self.failed += 1
        self.hook.remove()
        raise self.error


@pytest.mark.parametrize("error", [GPU, CPU], ids=["gpu", "cpu"])
def test_out_of_memory_halves_what_is_computed_at_once_and_changes_nothing_else(
    folder: Path, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    spec = spec_of("mse", "corrected")
    with FeatureReader(folder / "f.h5") as reader:
        tight, wanted = (engine_of(folder, reader, spec) for _ in range(2))
        memory = Tight(tight, fits=1, error=error, since=2)
        for step in range(4):
            wanted.gradients.at_once = 4 if step < 2 else 1
            values = [engine._train_step(*engine._batch(step)) for engine in (tight, wanted)]
            assert values[0] == values[1]
    assert memory.failed == 2  # at 4 and at 2 videos at once
    assert equal(values_of(tight), values_of(wanted))
    assert equal(tight.ema.values, wanted.ema.values)
    moments = [checkpoint.optimizer_tensors(engine.phases.optimizers["main"]) for engine in (tight, wanted)]
    assert equal(*moments)
    warnings = [record.getMessage() for record in caplog.records if "out of memory" in record.getMessage()]
    assert "micro-batches of 2 of the batch's 4 videos" in warnings[0]
    assert "micro-batches of 1 of the batch's 4 videos" in warnings[1]


def test_memory_that_is_too_small_for_one_video_is_one_line(folder: Path) -> None:
    with FeatureReader(folder / "f.h5") as reader:
        engine = engine_of(folder, reader, spec_of("tridet", "corrected"))
        Tight(engine, fits=0, error=GPU, since=1)
        engine._train_step(*engine._batch(0))
        before = {name: value.clone() for name, value in values_of(engine).items()}
        message = r"training step 1: out of memory on cpu with a micro-batch of 1 videos"
        with pytest.raises(TadError, match=message) as caught:
            engine._train_step(*engine._batch(1))
    assert "\n" not in str(caught.value)
    assert equal(values_of(engine), before)


def test_other_errors_are_not_taken_for_memory(folder: Path) -> None:
    with FeatureReader(folder / "f.h5") as reader:
        engine = engine_of(folder, reader, spec_of("tridet", "corrected"))
        Tight(engine, fits=0, error=RuntimeError("shapes differ"))
        with pytest.raises(RuntimeError, match="shapes differ"):
            engine._train_step(*engine._batch(0))


@pytest.mark.parametrize("selection", ["last", "held-out"])
def test_a_whole_training_with_too_little_memory(folder: Path, monkeypatch: pytest.MonkeyPatch, selection: str) -> None:
    """It ends as without the error, says so in the model, and resumes with the number that fitted."""
    spec = spec_of("actionformer", selection=selection, epochs=6)
    write_inputs(folder / "plenty", videos_of(np.random.default_rng(0)))
    plenty = run(folder / "plenty", spec, seconds=1000)
    assert read_stamp(plenty)["videos_at_once"] == 4
    loss = PointDetector.loss
    tried: list[int] = []

    def tight(self: PointDetector, feats_BTC: Tensor, *others: Any) -> dict[str, Tensor]:
        tried.append(len(feats_BTC))
        if len(feats_BTC) > 2:
            raise GPU
        return loss(self, feats_BTC, *others)

    monkeypatch.setattr(PointDetector, "loss", tight)
    interrupted = Windows.training_batch

    def stops(self: Windows, epoch: int, k: int, share: Any) -> Any:
        if epoch == 2:
            raise KeyboardInterrupt
        return interrupted(self, epoch, k, share)

    with monkeypatch.context() as patch:
        patch.setattr(Windows, "training_batch", stops)
        with pytest.raises(KeyboardInterrupt):
            run(folder, spec)
    assert tried.count(4) == 1
    made = run(folder, spec)
    assert tried.count(4) == 1
    assert read_stamp(made)["videos_at_once"] == 2
    assert difference(load_file(made), load_file(plenty)) < 1e-6
    write_inputs(folder / "tight", videos_of(np.random.default_rng(0)))
    assert run(folder / "tight", spec, seconds=1000).read_bytes() == made.read_bytes()
