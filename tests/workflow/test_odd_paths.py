"""The workflow where checkout, working folder, data and home have spaces, quotes, braces, colons and accents."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from scratch import CONFIG, TINY, TRAIN, Checkout, make_checkout

ODD = "it's {a} {b!r} 100%d 16:30 Ünï & co"


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkout, Path, Path]:
    """A checkout, a working folder and a home, all of odd names; the data lie in the home."""
    base = tmp_path_factory.mktemp("odd")
    (base / ODD).mkdir()
    checkout = make_checkout(base / ODD / "tad's {x}")
    work, home = base / ODD / "my 'work' {y} 5%", base / "home {h}'s"
    data = home / ODD
    data.mkdir(parents=True)
    work.mkdir()
    for name in ("videos", "annotations.json", "weights.safetensors", "config.yaml"):
        shutil.move(checkout.folder / name, data / name)
    for name in ("v0", "v1", "v2", "v3"):
        (data / "features of {mine}'s").mkdir(exist_ok=True)
        np.save(data / "features of {mine}'s" / f"{name}.npy", np.random.default_rng(0).random((6, 5), np.float32))
    config = json.loads(json.dumps(CONFIG))
    (data / "labels' {l}.txt").write_text("jump\nrun\n")
    config["datasets"] = {
        "small": {"format": "activitynet", "videos": f"~/{ODD}/videos", "annotations": f"~/{ODD}/annotations.json",
                  "settings": {"label_file": "labels' {l}.txt"}},
    }  # fmt: skip
    config["features"]["clips"]["weights"] = str(data / "weights.safetensors")
    clip = {"length": 1, "stride": 1, "policy": "resample", "rate": 1.0}
    config["features"]["mine"] = {"source": f"~/{ODD}/features of {{mine}}'s", "dim": 5, "clip": clip}
    row = {"dataset": "small", "detector": {"name": "mse", **TINY}, "train": TRAIN}
    config["runs"] = {"decoded": {**row, "features": "clips"}, "imported": {**row, "features": "mine"}}
    (work / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True))
    return checkout, work, home


def snakemake(checkout: Checkout, work: Path, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(checkout.folder / "Snakefile"), "--nocolor"]
    command += ["--directory", str(work), "--cores", "2", "--set-threads", "train=1", "detect=1", *arguments]
    # PYTHONPATH cannot hold a folder with a colon
    environment = {name: value for name, value in checkout.environment.items() if name != "PYTHONPATH"}
    environment |= {"HOME": str(home), "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", "")}
    return subprocess.run(
        command, cwd=work, env=environment, text=True, capture_output=True, check=False, timeout=400,
    )  # fmt: skip


def test_from_videos_and_from_features_to_scores(odd: tuple[Checkout, Path, Path]) -> None:
    checkout, work, home = odd
    targets = ["results/decoded/map.json", "results/imported/map.json"]
    done = snakemake(checkout, work, home, "--", *targets)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-5000:]
    for target in targets:
        assert json.loads((work / target).read_text())["videos"]["evaluated"] == 1
    assert {path.name for path in (work / "results/videos/small").glob("*.json")} == {"00-of-01.json"}  # 4 videos
    table = json.loads((work / "results/annotations/small.checked.json").read_text())
    assert table["labels"] == ["jump", "run"]
    again = snakemake(checkout, work, home, "--dry-run", "--", *targets)
    assert "Nothing to be done" in again.stdout + again.stderr, again.stdout[-3000:] + again.stderr[-2000:]
