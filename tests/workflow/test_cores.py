"""The bytes of a training do not depend on `--cores`: its threads are a setting, not the machine's."""

import shutil
from pathlib import Path

import pytest
from scratch import Checkout

MADE = ("model.safetensors", "candidates.h5", "detections.json", "map.json")


@pytest.mark.wide
def test_a_run_has_the_same_bytes_with_any_number_of_cores(finished: Checkout, tmp_path: Path) -> None:
    checkout = finished.copy(tmp_path / "tad")
    results = checkout.folder / "results/b"
    for cores in ("1", "2", "8"):
        shutil.rmtree(results)
        done = checkout.run("snakemake", "--cores", cores, "--nocolor", "--", "results/b/map.json")
        assert done.returncode == 0, done.stderr[-3000:]
        for name in MADE:
            assert (results / name).read_bytes() == (finished.folder / "results/b" / name).read_bytes(), (cores, name)
