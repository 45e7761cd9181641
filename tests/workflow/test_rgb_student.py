"""A student that sees RGB alone: where it is used, no optical flow and no teacher is in the plan."""

import json
from pathlib import Path

import torch
import yaml
from scratch import Checkout, copy_workflow

from tad.provenance.stamps import stamp
from tad.training.io.tensors import write_tensors

ROW = {"dataset": "small", "detector": "actionformer"}
LESSON = {"teachers": {"modal": "two"}, "terms": [{"teacher": "modal", "target": "logits", "weight": 1.0}]}
CONFIG = {
    "device": "cpu",
    "datasets": {"small": {"format": "activitynet", "videos": "videos", "annotations": "a.json", "shards": 1}},
    "features": {
        "both": {"recipe": "thumos14-i3d-center_crop", "weights": "weights"},
        "rgb": {"recipe": {"name": "thumos14-i3d-center_crop", "streams": "rgb"}, "weights": "weights"},
    },
    "runs": {"two": {**ROW, "features": "both"}, "one": {**ROW, "features": "rgb", "distill": LESSON}},
}


def write_model(checkout: Checkout, run: str, spec: dict[str, object]) -> None:
    model = checkout.folder / "results" / run / "model.safetensors"
    write_tensors(model, {"w": torch.zeros(1)}, {"tad_stamp": stamp("train", spec, {})})


def test_no_flow_where_an_rgb_student_is_used(tmp_path: Path) -> None:
    checkout = copy_workflow(tmp_path / "tad")
    for name, content in {
        "config.yaml": yaml.safe_dump(CONFIG),
        "a.json": json.dumps({"version": "1", "database": {}}),
        "videos/v.mp4": "",
        "weights/rgb_imagenet.pt": "",
    }.items():
        checkout.write(name, content.encode())
    write_model(checkout, "one", {})
    done = checkout.run("snakemake", "--dry-run", "--nocolor", "results/one/map.json")
    assert done.returncode == 0, done.stdout + done.stderr
    plan = done.stdout + done.stderr
    assert "results/features/small/rgb/00-of-01.h5" in plan
    assert "rule detect" in plan
    for absent in ("rule train", "features/small/both", "results/two", "flow_imagenet"):
        assert absent not in plan, absent
