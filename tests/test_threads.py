"""Results on a CPU do not follow the number of cores: the threads of a stage are a setting, which reruns it."""

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from training_tools import detect_spec, real_spec, videos_of, write_inputs

from tad.settings.sections import THREADS
from tad.stages.detect import detect
from tad.stages.train import train
from tad.workflow.rules import Workflow

ROOT = Path(__file__).parents[1]
SETTING = ("pretrain", "train", "detect", "classify")  # rules whose threads are a setting
ROWS = {
    "datasets": {"own": {"format": "csv", "videos": "v", "annotations": "a.csv"}},
    "features": {"clips": {"backbone": "r2plus1d_small", "weights": "pretrain", "pretrain": {"threads": 3}}},
    "runs": {"a": {"dataset": "own", "features": "clips", "detector": "mse", "detect": {"threads": 5}}},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def both(folder: Path, machine: int, **changes: Any) -> tuple[bytes, bytes, int]:
    """A model and its candidates, made where torch would use `machine` threads; and the threads that were used."""
    folder.mkdir()
    features, table = write_inputs(folder, videos_of(np.random.default_rng(0)))
    torch.set_num_threads(machine)
    spec = real_spec("actionformer", epochs=1, **changes)
    model = train(features, table, folder / "model.safetensors", spec=spec, cache=folder / "kept")
    used = torch.get_num_threads()
    torch.set_num_threads(machine)
    plan = detect_spec().model_copy(update={"detector": spec.detector})
    candidates = detect(features, model, table, folder / "candidates.h5", spec=plan)
    assert torch.get_num_threads() == plan.detect.threads
    return model.read_bytes(), candidates.read_bytes(), used


def test_a_training_and_its_candidates_are_the_same_on_machines_of_1_2_and_8_threads(tmp_path: Path) -> None:
    made = [both(tmp_path / str(machine), machine) for machine in (1, 2, 8)]
    assert made[0] == made[1] == made[2]
    assert made[0][2] == THREADS


def test_the_setting_decides(tmp_path: Path) -> None:
    assert both(tmp_path / "a", 1, threads=3)[2] == 3


def test_rules_ask_for_the_threads_of_the_settings(tmp_path: Path) -> None:
    flow = Workflow(ROWS, tmp_path, tmp_path / "hashes.json")
    run = SimpleNamespace(run="a")
    assert [flow.threads(stage, run) for stage in ("train", "detect", "classify")] == [2, 5, 2]
    assert flow.threads("pretrain", SimpleNamespace(dataset="own", features="clips")) == 3
    rules = "".join((ROOT / f"rules/{name}.smk").read_text() for name in ("features", "detector"))
    for stage in SETTING:
        rule = re.split(r"\nrule ", rules.split(f"rule {stage}:\n")[1])[0]
        assert f'threads: threads_of("{stage}")' in rule
        assert "--threads" not in rule  # Snakemake gives a job fewer threads on a machine with fewer cores


def test_no_profile_sets_threads_that_decide_bytes() -> None:
    profiles = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "profiles").glob("*/profile.yaml"))]
    assert len(profiles) >= 2
    for profile in profiles:
        assert not set(SETTING) & set(profile.get("set-threads", {}))
