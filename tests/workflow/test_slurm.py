"""A slice of the workflow on a real one-node Slurm cluster gives the bytes of a local run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SKIPPED = 77


@pytest.mark.slow
@pytest.mark.wide  # minutes, most of them waiting for Slurm
def test_same_bytes_on_a_real_slurm() -> None:
    environment = os.environ | {"PYTHON": sys.executable}
    command = [str(ROOT / "tests/cluster/run_slurm.sh")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)
    if done.returncode == SKIPPED:
        pytest.skip(done.stdout.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "slurm: " in done.stdout
    assert "equal: results/features/small/clips.h5" in done.stdout
