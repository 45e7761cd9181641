"""What the rules ask for: GPUs that the default profile can ration, and rules that all leave a log and a benchmark."""

import re
from pathlib import Path

import pytest
import yaml

from tad.workflow import Workflow

ROOT = Path(__file__).parents[1]
VALUES = yaml.safe_load((ROOT / "config.yaml").read_text())


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
        assert asks == (name in {"pretrain", "extract", "train", "classify", "detect", "suppress"}), name
