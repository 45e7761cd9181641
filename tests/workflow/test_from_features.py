"""From published features on: two runs of two seeds, their comparison, and a published checkpoint in a run's place."""

import json
import runpy
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from scratch import TINY, TRAIN, Checkout, copy_workflow

DIM, SECONDS = 6, 24
ROW = {"dataset": "toys", "features": "ours", "detector": {"name": "mse", **TINY}}
CONFIG = {
    "device": "cpu",
    "datasets": {"toys": {"format": "activitynet", "annotations": "annotations.json"}},
    "features": {"ours": {"source": "features", "dim": DIM, "dtype": "float32",
                          "clip": {"length": 1, "stride": 1, "policy": "resample", "rate": 1.0}}},
    "runs": {
        "many": {**ROW, "seeds": 2, "train": TRAIN | {"selection": "held-out", "hold_out": 0.25}},
        "peeks": {**ROW, "seeds": 2, "train": TRAIN | {"selection": "test"}},
        "theirs": {**ROW, "train": TRAIN},
    },
}  # fmt: skip
TARGETS = ("results/many/map.json", "results/peeks/map.json")


def write_data(folder: Path) -> None:
    """Six videos of 24 s, two of them for tests: an array of features a second, and their annotations."""
    rng, database = np.random.default_rng(0), {}
    (folder / "features").mkdir()
    for k in range(6):
        feats_TC = rng.normal(size=(SECONDS, DIM)).astype(np.float32)
        truth = []
        for n, label in enumerate(("jump", "run")):
            start = int(rng.integers(0, 6)) + 12 * n
            feats_TC[start : start + 5, n] += 4
            truth.append({"label": label, "segment": [start, start + 5]})
        np.save(folder / "features" / f"v{k}.npy", feats_TC)
        database[f"v{k}"] = {
            "subset": "testing" if k > 3 else "training", "duration": float(SECONDS), "annotations": truth
        }  # fmt: skip
    (folder / "annotations.json").write_text(json.dumps({"version": "1", "database": database}))
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """Both runs with their seeds, made by the workflow."""
    checkout = copy_workflow(tmp_path_factory.mktemp("features") / "tad")
    write_data(checkout.folder)
    checkout.make(*TARGETS)
    return checkout


def read(checkout: Checkout, name: str) -> Any:
    return json.loads((checkout.folder / "results" / name).read_text())


def test_two_runs_of_two_seeds_and_their_comparison(trained: Checkout) -> None:
    rules = {
        "many": "lowest loss on held-out train videos",
        "peeks": "lowest loss on the test split (peeked)",
    }
    averages = {}
    for run, rule in rules.items():
        score = read(trained, f"{run}/map.json")
        each = [read(trained, f"{run}/seed-{k}/map.json") for k in (0, 1)]
        assert [one["seed"] for one in each] == score["seeds"] == [0, 1]
        assert {one["epoch_rule"] for one in each} == {rule} == {score["epoch_rule"]}
        assert score["average_mAP"] == pytest.approx(np.mean([one["average_mAP"] for one in each]))
        assert score["std"]["average_mAP"] == pytest.approx(np.std([one["average_mAP"] for one in each], ddof=1))
        assert score["interval"]["average_mAP"][0] <= score["average_mAP"] <= score["interval"]["average_mAP"][1]
        models = [load_file(trained.folder / f"results/{run}/seed-{k}/model.safetensors") for k in (0, 1)]
        assert any(not torch.equal(models[0][name], models[1][name]) for name in models[0])
        averages[run] = 100 * score["average_mAP"]
    assert trained.plan(*TARGETS) == set()
    done = trained.run("tad", "compare", "many", "peeks")
    assert done.returncode == 0, done.stderr
    first, *seeds, _, _ = (lines := done.stdout.splitlines())[:5]
    assert first.startswith("peeks − many: toys, split test, ")
    assert seeds[:2] == ["many: seeds 0, 1", "peeks: seeds 0, 1"]
    (row,) = [line.split() for line in lines if line.startswith("average")]
    assert [float(cell) for cell in row[1:4]] == pytest.approx(
        [averages["many"], averages["peeks"], averages["peeks"] - averages["many"]], abs=0.011
    )


def test_the_readme_shows_runs_with_their_spread(trained: Checkout, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("<!-- results -->\n<!-- /results -->\n")
    where = ["--kept", str(tmp_path / "kept"), "--readme", str(tmp_path / "README.md")]
    main = runpy.run_path(str(trained.folder / "workflow_scripts/readme_table.py"))["main"]
    assert main([*where, *(str(trained.folder / target) for target in TARGETS)]) == 0
    rows = [line for line in (tmp_path / "README.md").read_text().splitlines() if line.startswith("|")]
    for run in ("many", "peeks"):
        score = read(trained, f"{run}/map.json")
        mean, deviation = (100 * part["average_mAP"] for part in (score, score["std"]))
        low, high = (100 * end for end in score["interval"]["average_mAP"])
        (row,) = [row for row in rows if row.startswith(f"| {run} |")]
        assert f"**{mean:.2f}** ± {deviation:.2f} | {low:.2f} to {high:.2f} |" in row
        assert ("peeked" in row) == (run == "peeks")


def test_a_published_checkpoint_goes_through_the_workflow(trained: Checkout) -> None:
    """The weights of a trained seed in the layout of the published drivers find what that seed finds."""
    state = load_file(trained.folder / "results/many/seed-0/model.safetensors")
    named = OrderedDict((f"module.{name}", value) for name, value in state.items())
    file = {
        "epoch": np.int64(39), "state_dict": OrderedDict((name, value * 0) for name, value in named.items()),
        "state_dict_ema": named, "optimizer": {"state": {}, "param_groups": []}, "scheduler": {"last_epoch": 40},
        "mAP": np.float64(0.705),
    }  # fmt: skip
    torch.save(file, trained.folder / "best.pth.tar")
    model, target = "results/theirs/model.safetensors", "results/theirs/map.json"
    done = trained.run("tad", "import-checkpoint", "best.pth.tar", "--run", "theirs", "--out", model)
    assert done.returncode == 0, done.stderr
    assert trained.plan(target) == {f"{rule}:theirs" for rule in ("detect", "suppress", "evaluate")}
    trained.make(target)
    score, one = read(trained, "theirs/map.json"), read(trained, "many/seed-0/map.json")
    assert (score["epoch_rule"], score["epoch"], score["seed"]) == ("published checkpoint", 39, "unknown")
    assert score["mAP"] == one["mAP"]
    results = [read(trained, f"{run}/detections.json")["results"] for run in ("theirs", "many/seed-0")]
    assert results[0] == results[1]
    assert sum(map(len, results[0].values())) > 0
    assert trained.plan(target) == set()
