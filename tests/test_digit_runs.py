"""Trainings of DiGIT: resumed, in micro-batches, in half precision."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from component_tools import laid
from safetensors.torch import load_file
from test_detectors import targets
from training_tools import run, train_spec, videos_of, write_inputs

from tad.layers.types import Part
from tad.settings import plugins
from tad.settings.stages import Plugin, TrainStageSpec
from tad.training.data.windows import Windows

SMALL: dict[str, Any] = {
    "embed_dim": 16, "mlp_dim": 16, "heads": 2, "levels": 3, "encoder_layers": 1, "decoder_layers": 2, "dropout": 0.1,
    "input_noise": 0.1,
}  # fmt: skip


def spec_of(**changes: Any) -> TrainStageSpec:
    detector = Plugin(name="digit", settings=laid("detectors", "digit", SMALL))
    return train_spec(**changes).model_copy(update={"detector": detector})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_inputs(tmp_path / "a", videos_of(np.random.default_rng(0)))
    write_inputs(tmp_path / "b", videos_of(np.random.default_rng(0)))
    return tmp_path


def test_a_resumed_training_is_equal_to_the_byte(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, make = run(folder / "a", spec_of()).read_bytes(), Windows.training_batch

    def interrupted(self: Windows, epoch: int, k: int, *share: Any) -> Any:
        if (epoch, k) == (2, 1):
            raise KeyboardInterrupt
        return make(self, epoch, k, *share)

    with monkeypatch.context() as patch:
        patch.setattr(Windows, "training_batch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(folder / "b", spec_of())
    assert run(folder / "b", spec_of()).read_bytes() == whole


def test_micro_batches_add_up_to_the_batch() -> None:
    """Also their dropout and noise, and the mean number of queries of videos of several lengths."""
    torch.manual_seed(0)
    sizes = {"feature_dim": 8, "num_classes": 2, "max_length": 64}
    detector = plugins.build("detectors", "digit", laid("detectors", "digit", SMALL), **sizes).train()
    lengths, wanted = (60, 41, 22), [targets((5, 20, 0), (30, 44, 1)), targets(), targets((8, 19, 1))]
    x_BTC, lengths_B = torch.randn(3, 60, 8), torch.tensor(lengths)
    losses, gradients = [], []
    for size in (3, 2, 1):
        detector.zero_grad()
        detector.normalise(detector.positives(lengths_B, wanted))
        total = 0.0
        for first in range(0, 3, size):
            rows = slice(first, first + size)
            torch.manual_seed(5)
            part = detector.loss(x_BTC[rows], lengths_B[rows], wanted[rows], Part(3, first, 60, lengths))["total"]
            part.backward()
            total += part.item()
        losses.append(total)
        gradients.append(torch.cat([p.grad.flatten() for p in detector.parameters()]))
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-5)
    for gradient in gradients[1:]:
        assert float((gradient - gradients[0]).norm() / gradients[0].norm()) < 1e-4


def test_half_precision_and_held_out_selection_train(folder: Path) -> None:
    made = load_file(run(folder / "a", spec_of(precision="bfloat16", selection="held-out")))
    assert all(bool(value.isfinite().all()) for value in made.values())
