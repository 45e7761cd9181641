"""Training in bfloat16, and the choice by what the device can do."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_tools import run, train_spec, use_tiny, videos_of, write_inputs

from tad.core import device
from tad.provenance.stamps import read_stamp
from tad.settings import plugins


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(plugins, "build", use_tiny)
    write_inputs(tmp_path, videos_of(np.random.default_rng(0)))
    return tmp_path


def test_bfloat16_trains_and_differs(folder: Path) -> None:
    low = load_file(run(folder, train_spec(precision="bfloat16")))
    full = load_file(run(folder, train_spec()))
    assert all(value.isfinite().all() for value in low.values())
    assert low["heads.weight"].dtype == torch.float32
    assert not torch.equal(low["heads.weight"], full["heads.weight"])
    torch.testing.assert_close(low["heads.weight"], full["heads.weight"], rtol=0.2, atol=0.02)


@pytest.mark.parametrize(("able", "chosen"), [(True, "bfloat16"), (False, "float32")])
def test_automatic_precision_is_that_of_the_device(
    folder: Path, monkeypatch: pytest.MonkeyPatch, able: bool, chosen: str
) -> None:
    monkeypatch.setattr(device, "has_bfloat16", lambda _: able)
    automatic = run(folder, train_spec(precision="auto"))
    facts = read_stamp(automatic)
    assert facts["precision"] == chosen
    assert facts["spec"]["train"]["precision"] == "auto"
    weights = load_file(automatic)
    named = load_file(run(folder, train_spec(precision=chosen)))
    assert all(torch.equal(weights[name], value) for name, value in named.items())


def test_bfloat16_on_a_device_without_it_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(device, "has_bfloat16", lambda _: False)
    with caplog.at_level("WARNING"):
        assert device.arithmetic("bfloat16", torch.device("cpu")) == "bfloat16"
    assert re.search(r"takes \d+\.\d times as long as in float32; set train.precision", caplog.text)
