"""What a stage executes is in its fingerprint, and what it does not execute is not: every rule, on a whole workflow.

Each process of the workflow notes the modules of `tad` that it imports; the settings that it was given say which of
them its fingerprint has.
"""

import importlib.util
import json
from typing import Any

import pytest
import torch
import yaml
from component_tools import laid
from scratch import CONFIG, TINY, TRAIN, Checkout, make_checkout
from test_from_features import write_data

from tad.layers.i3d.inception import Inception
from tad.provenance import conditions, fingerprint
from tad.provenance.sources import Sources
from tad.settings import plugins
from tad.settings.stage_table import STAGES
from tad.training.io.tensors import write_tensors

pytestmark = [
    pytest.mark.slow,
    pytest.mark.wide,  # test_reruns edits the sources for fewer kinds of runs
    pytest.mark.skipif(importlib.util.find_spec("cv2") is None, reason="the extra `flow` is not installed"),
]
# Python imports a module of this name in every process; what a child process imports counts as its parent's.
NOTES = """
import os, sys

def note(event, arguments):
    if event == "import" and arguments[0].startswith("tad."):
        with open(os.environ["TAD_NOTES"], "a") as file:
            file.write(arguments[0] + "\\n")

arguments = sys.orig_argv  # python -P -c CODE CHECKOUT command …: see rules/common.smk
if len(arguments) > 4 and "tad.commands.cli" in arguments[3]:
    import json
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "notes")
    os.makedirs(folder, exist_ok=True)
    os.environ["TAD_NOTES"] = os.path.join(folder, str(os.getpid()))
    with open(os.environ["TAD_NOTES"], "a") as file:
        file.write(json.dumps(arguments[5:]) + "\\n")
if "TAD_NOTES" in os.environ:
    sys.addaudithook(note)
"""
PUBLISHED = {"source": "features", "dim": 6, "dtype": "float32",
             "clip": {"length": 1, "stride": 1, "policy": "resample", "rate": 1.0}}  # fmt: skip
PICKED = {"rate": 5.0, "height": 24, "width": 40}
I3D = {"name": "afsd_frames", "height": 24, "width": 40, "crop": 16, "embed_dim": 64, "strides": [1.0, 2.0],
       "regression_ranges": [[0, 100000], [0, 100000]], "taps": ["Mixed_5c"]}  # fmt: skip
WINDOWS = {"epochs": 1, "warmup_epochs": 0, "max_length": 16, "window_stride": 12, "batch_size": 4, "ema_decay": 0.0}
VIT = {"name": "vit_tiny", "crop": 16, "patch": 8, "dim": 12, "layers": 2, "heads": 2}
UNTRIED = {"texts"}  # needs the weights of CLIP or SigLIP; test_prompt runs these stages with a smaller network
ON = {"dataset": "toys", "features": "ours", "detector": {"name": "mse", **TINY}, "train": TRAIN}
LESSON = {"teachers": {"t": "plain"}, "terms": [{"teacher": "t", "target": "logits", "weight": 1.0}]}
SPOT = {"epochs": 2, "warmup_epochs": 0, "pretext_epochs": 1, "max_length": 16, "resize": 16, "ema_decay": 0.5}


def frames_row(features: str, **changes: Any) -> dict[str, Any]:
    row = {"dataset": "small", "features": features, "detector": I3D, "train": WINDOWS, "detect": {"window_stride": 8}}
    return row | changes


def settings() -> dict[str, Any]:
    """Every kind of stage and every condition, at toy size."""
    clips = CONFIG["features"]["clips"]
    own = {**clips, "weights": "pretrain", "pretrain": {"epochs": 1, "share": 0.5, "short_segments": "extend"}}
    features = {
        "clips": clips, "own": own, "both": {"join": ["clips", "own"]}, "ours": PUBLISHED,
        "rgb": {"frames": PICKED}, "begun": {"frames": PICKED, "weights": "rgb_imagenet.safetensors"},
        "flow": {"frames": {**PICKED, "modality": "flow", "flow_method": "dis"}},
        "vit": {"backbone": VIT, "clip": {"rate": 5.0}, "weights": "vit.safetensors"},
        "pictures": {"frames": {"rate": 5.0, "height": 18, "width": 18}},
        "again": {"run": "adapted"},
    }  # fmt: skip
    runs = {
        "plain": ON,
        "few": {**ON, "labels": 0.5},
        "unused": {**ON, "labels": {"share": 0.5, "others": "unused"}},
        "taught": {**ON, "distill": LESSON},
        "spot": {**ON, "detector": {"name": "spot", "heads": 2}, "train": SPOT},
        "scored": {**ON, "external": {"source": "own", "topk": 1}},
        "seeds": {**ON, "seeds": 2},
        "joined": {**ON, "dataset": "small", "features": "both"},
        "rgb": frames_row("rgb"),
        "begun": frames_row("begun"),
        "flow": frames_row("flow"),
        "streams": frames_row("rgb", detect={"window_stride": 8, "fuse": "flow"}),
        "adapted": {**ON, "dataset": "small", "features": "pictures", "adapters": {"encoder": "vit"},
                    "train": {**TRAIN, "max_length": 32, "ema_decay": 0.0}, "detect": {"window_stride": 16}},
        "encoded": {**ON, "dataset": "small", "features": "again"},
    }  # fmt: skip
    toys = {"format": "activitynet", "annotations": "toys.json"}
    datasets = {"small": CONFIG["datasets"]["small"], "toys": toys}
    return {"device": "cpu", "datasets": datasets, "features": features, "runs": runs}


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout in which all of it has run."""
    checkout = make_checkout(tmp_path_factory.mktemp("conditions") / "tad")
    folder = checkout.folder
    small = (folder / "annotations.json").read_bytes()
    write_data(folder)
    (folder / "annotations.json").rename(folder / "toys.json")
    (folder / "annotations.json").write_bytes(small)
    torch.manual_seed(8)
    write_tensors(folder / "rgb_imagenet.safetensors", Inception(channels=3, num_classes=4).state_dict(), {})
    vit = plugins.build("backbones", "vit_tiny", laid("backbones", "vit_tiny", {k: VIT[k] for k in VIT if k != "name"}))
    write_tensors(folder / "vit.safetensors", vit.state_dict(), {})
    (folder / "config.yaml").write_text(yaml.safe_dump(settings()))
    (folder / "sitecustomize.py").write_text(NOTES)
    runs = list(settings()["runs"])
    for k in range(0, len(runs), 3):  # each within the time that a command may take
        checkout.make(*(f"results/{run}/map.json" for run in runs[k : k + 3]))
    checkout.make("results/plain/page")
    checkout.make()
    return checkout


def processes(checkout: Checkout) -> list[tuple[str, dict[str, Any], set[str]]]:
    """The stage, the settings and the imported modules of each process."""
    found, package = [], Sources(fingerprint.ROOT)
    for path in sorted((checkout.folder / "notes").iterdir()):
        first, *names = path.read_text().splitlines()
        arguments = json.loads(first)
        spec = json.loads(arguments[arguments.index("--spec") + 1])
        found.append((arguments[0], spec, {name for name in names if package.path(name)}))
    return found


def test_what_a_stage_imports_is_in_its_fingerprint_or_has_no_effect(everything: Checkout) -> None:
    ran = processes(everything)
    assert {stage for stage, _, _ in ran} == set(STAGES)
    for stage, spec, imported in ran:
        counted = set(fingerprint.stage_modules(stage, spec))
        hidden = {name for name in imported - counted if not fingerprint.transparent(name)}
        assert not hidden, (stage, spec.get("run"), sorted(hidden))
    held = {name for _, spec, _ in ran for name in conditions.holding(spec)}
    assert held == set(conditions.CONDITIONS) - UNTRIED


def test_what_stands_behind_a_condition_is_imported_where_it_holds_and_nowhere_else(everything: Checkout) -> None:
    users = {
        "tad.training.methods.pseudo": {"few"},
        "tad.training.data.label_split": {"few", "unused"},
        "tad.training.methods.distillation": {"taught"},
        "tad.training.methods.pretext": {"spot"},
        "tad.backbones.i3d": {"begun"},
        "tad.training.data.frames": {"rgb", "begun", "flow", "streams", "adapted"},
        "tad.backbones._flow": {"flow", "begun"},  # of I3D's two streams
        "tad.video.seeking": {"rgb", "begun", "flow", "streams", "adapted"},
        "tad.training.adapted": {"adapted"},
    }
    trained = [(spec["run"], imported) for stage, spec, imported in processes(everything) if stage == "train"]
    for module, expected in users.items():
        assert {run for run, imported in trained if module in imported} == expected, module


CODE = "\n\nUNUSED = 1\n"
TABLE = [
    ("backbones/i3d.py", {"begun"}),
    ("layers/i3d/inception.py", {"rgb", "begun", "flow", "streams"}),
    ("backbones/_flow.py", {"joined", "begun", "flow"}),
    ("video/reader.py", {"joined", "rgb", "begun", "flow", "streams", "adapted", "encoded"}),
    ("backbones/vit_tiny.py", {"adapted", "encoded"}),
    ("stages/encode.py", {"encoded"}),
    ("training/methods/pseudo.py", {"few"}),
    ("training/methods/distillation.py", {"taught"}),
    ("training/methods/pretext.py", {"spot"}),
    ("training/data/label_split.py", {"few", "unused"}),
    ("layers/fusion.py", set()),
    (
        "detectors/mse.py",
        {"plain", "few", "unused", "taught", "scored", "seeds/seed-0", "seeds/seed-1", "joined", "adapted", "encoded"},
    ),
    ("training/loop/engine.py", {*settings()["runs"], "seeds/seed-0", "seeds/seed-1"} - {"seeds"}),
]


@pytest.mark.parametrize(("module", "expected"), TABLE, ids=[row[0] for row in TABLE])
def test_an_edit_retrains_the_runs_that_use_it(everything: Checkout, module: str, expected: set[str]) -> None:
    everything.edit(f"tad/{module}", r"\Z", CODE)
    try:
        plan = everything.plan()
    finally:
        everything.restore()
    assert {job.removeprefix("train:") for job in plan if job.startswith("train:")} == expected


def test_nothing_is_to_do_and_why_names_the_module(everything: Checkout) -> None:
    assert everything.plan() == set()
    everything.edit("tad/training/methods/pseudo.py", r"\Z", CODE)
    try:
        said = everything.run("tad", "why", "results/few/map.json", "results/plain/map.json").stdout
    finally:
        everything.restore()
    assert "train would run for results/few/model.safetensors" in said
    assert "because code of tad.training.methods.pseudo changed" in said
    assert "plain" not in said
