"""profiles/slurm: it plans without a cluster and names what exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROFILE = yaml.safe_load((ROOT / "profiles/slurm/profile.yaml").read_text())


def test_profile_speaks_of_rules_that_exist() -> None:
    rules = {
        name for path in (ROOT / "rules").glob("*.smk") for name in re.findall(r"^rule (\w+):", path.read_text(), re.M)
    }
    assert set(PROFILE["set-resources"]) | set(PROFILE["set-threads"]) <= rules
    assert {"pretrain", "extract", "train", "detect"} <= set(PROFILE["set-resources"])


def test_rules_leave_retries_to_profiles() -> None:
    # under the slurm executor a rule's own retries multiply with the profile's
    for path in (ROOT / "rules").glob("*.smk"):
        assert "retries" not in path.read_text()


def test_workflow_parses_without_a_number_of_cores(tmp_path: Path) -> None:
    # a cluster executor has none; a rule that asks for it breaks the profile and nothing else
    pytest.importorskip("snakemake_executor_plugin_slurm")
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "-s",
        str(ROOT / "Snakefile"),
        "--configfile",
        str(ROOT / "config.yaml"),
    ]
    command += ["-d", str(tmp_path), "--executor", "slurm", "--jobs", "4", "--dry-run", "results/demo/map.json"]
    (tmp_path / "config.yaml").write_text("{}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(r"^total +1[1-9]", done.stdout + done.stderr, re.M)
