"""What the rules ask for: GPUs that the default profile can ration, and rules that all leave a log and a benchmark."""

import os
import re
from pathlib import Path

import pytest
import yaml
from config_tools import all_rows

from tad.core import notices
from tad.workflow import warnings
from tad.workflow.rules import Workflow

ROOT = Path(__file__).parents[1]
VALUES = all_rows()


@pytest.mark.parametrize(("device", "gpus"), [("cpu", 0), ("cuda", 1), ("cuda:1", 1)])
def test_a_job_takes_one_gpu_where_one_is_asked_for(device: str, gpus: int, tmp_path: Path) -> None:
    assert Workflow(VALUES | {"device": device}, tmp_path, tmp_path / "hashes.json").gpus == gpus


def test_hidden_gpus_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert Workflow(VALUES | {"device": "auto"}, tmp_path, tmp_path / "hashes.json").gpus == 0


def test_the_default_profile_holds_what_suits_a_workstation() -> None:
    profile = yaml.safe_load((ROOT / "profiles/default/profile.yaml").read_text())
    assert profile["scheduler"] == "greedy"
    assert profile["rerun-incomplete"] is profile["keep-going"] is True
    assert profile["resources"] == ["gpu=1"]


def test_every_rule_says_what_it_needs_and_leaves() -> None:
    text = "\n".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))
    rules = re.split(r"^rule (\w+):", text, flags=re.M)[1:]
    found = dict(zip(rules[::2], rules[1::2], strict=True))
    assert len(found) >= 13
    for name, body in found.items():
        for part in ("output", "log", "benchmark", "conda", "resources", "params", "shell"):
            assert re.search(rf"^    {part}:", body, re.M), (name, part)
        for need in ("mem_mb", "runtime", "code="):
            assert need in body, (name, need)
        asks = "gpu=flow.gpus" in body
        assert asks == (name in {"pretrain", "extract", "encode", "train", "classify", "detect", "suppress"}), name


def test_warnings_of_earlier_runs_are_not_shown_again(tmp_path: Path) -> None:
    for name, age in (("old", -10), ("new", 10)):
        artefact = tmp_path / f"{name}.h5"
        artefact.write_bytes(b"features")
        notices.store(artefact, [f"a video is {name}"], [])
        (stored,) = (tmp_path / notices.FOLDER).glob(f"{name}*")
        os.utime(stored, (1000 + age, 1000 + age))
    shown = list(warnings.since(1000, tmp_path))
    assert shown[0] == warnings.TITLE
    assert len(shown) == 2
    assert "a video is new" in shown[1]
    assert list(warnings.since(1011, tmp_path)) == []


def test_a_warning_that_was_passed_on_ends_with_its_cause(tmp_path: Path) -> None:
    """Features outlive the labels they were extracted with; the warnings of those labels do not."""
    labels, features = tmp_path / "labels.json", tmp_path / "features.h5"
    labels.write_bytes(b"odd")
    features.write_bytes(b"features")
    notices.store(labels, ["an odd column", "an odd unit"], [])
    notices.store(features, ["a short video"], [labels])
    assert notices.read(features) == {
        str(labels): ["an odd column", "an odd unit"], str(features): ["a short video"]
    }  # fmt: skip
    labels.write_bytes(b"better")
    notices.store(labels, ["an odd unit", "another column"], [])
    assert notices.read(features)[str(labels)] == ["an odd unit"]
    notices.store(labels, [], [])
    assert notices.read(features) == {str(features): ["a short video"]}
    labels.unlink()
    assert set(notices.read(features)) == {str(labels), str(features)}  # without the file, what it had is passed on
