"""Published RGB and flow features in two folders, side by side: a run on both teaches one on RGB alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scratch import TINY, TRAIN, Checkout, copy_workflow
from test_from_features import CONFIG, DIM, write_data

from tad.features.store import FeatureReader

STREAMS = {"rgb": slice(0, DIM // 2), "flow": slice(DIM // 2, DIM)}
DETECTOR = {"name": "actionformer", "windows": [5, 5], **TINY}
ROW = {"dataset": "toys", "train": TRAIN}
TERMS = [{"teacher": "t", "target": target, "weight": 1.0} for target in ("input", "logits", "offsets")]
LESSON = {"teachers": {"t": "both"}, "start": "t", "terms": TERMS}


def settings() -> dict[str, Any]:
    theirs = CONFIG["features"]["ours"]
    features = {name: {**theirs, "source": f"features_{name}", "dim": DIM // 2} for name in STREAMS}
    student = {**ROW, "features": "rgb", "detector": {**DETECTOR, "hallucinate": "masked"}}
    return {
        **CONFIG,
        "features": {**features, "two": {"join": list(STREAMS)}},
        "runs": {
            "both": {**ROW, "features": "two", "detector": DETECTOR},
            "one": {**student, "distill": LESSON},
            "alone": student,
        },
    }


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    checkout = copy_workflow(tmp_path_factory.mktemp("join") / "tad")
    write_data(checkout.folder)
    for path in (checkout.folder / "features").glob("*.npy"):
        for name, channels in STREAMS.items():
            folder = checkout.folder / f"features_{name}"
            folder.mkdir(exist_ok=True)
            np.save(folder / path.name, np.load(path)[:, channels])
    checkout.write("config.yaml", yaml.safe_dump(settings()).encode())
    checkout.make("results/one/map.json", "results/alone/model.safetensors")
    return checkout


def test_the_rgb_half_of_the_teachers_features_is_the_students(taught: Checkout) -> None:
    folder = taught.folder / "results/features/toys"
    with FeatureReader(folder / "two.h5") as both, FeatureReader(folder / "rgb.h5") as rgb:
        assert both.video_ids == rgb.video_ids
        for video_id in rgb.video_ids:
            np.testing.assert_array_equal(both.stored(video_id)[:, STREAMS["rgb"]], rgb.stored(video_id))
            assert both.grid(video_id) == rgb.grid(video_id)
    score = json.loads((taught.folder / "results/one/map.json").read_text())
    assert score["videos"]["evaluated"] == 2
    assert "input of t" in taught.log("one/logs/train.log")


def test_what_changes_runs_again_and_nothing_else(taught: Checkout, tmp_path: Path) -> None:
    checkout = taught.copy(tmp_path / "tad")
    assert checkout.plan("results/one/map.json") == set()
    checkout.edit("tad/stages/join.py", r"^SPARE_ROWS = 2", "SPARE_ROWS = 1")
    plan = checkout.plan("results/one/map.json", "results/alone/model.safetensors")
    assert {"join", "train:both", "train:one"} <= plan
    assert not {"convert", "train:alone"} & plan
    checkout.restore()
    path = checkout.folder / "features_flow/v0.npy"
    np.save(path, np.load(path) + 1)
    assert {"convert", "join", "train:both"} <= checkout.plan("results/one/map.json")
