"""The walk-throughs of docs/extending.md, executed on a copy of the checkout."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import video_tools as vt
import yaml

from tad.annotations.table import read_table
from tad.features.store import FeatureReader
from tad.provenance.stamps import read_stamp

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "extending.md"
BLOCK = re.compile(
    r"^(?:New file|At the end of|In) `(?P<file>[^`]+)`(?:, above the line `(?P<line>[^`]+)`)?:\n\n"
    r"```\w*\n(?P<code>.*?)^```$",
    re.M | re.S,
)
PARTS = ("Snakefile", "rules", "envs", "tad", "workflow_scripts", "tests", "pyproject.toml", "docs", "CITATION.cff",
         "LICENSE")  # fmt: skip
DIM, SECONDS = 6, 24
# tests of the whole checkout, which must ask for nothing more when a component is added
UNTOUCHED = ("tests/test_repo.py::test_the_citation_names_every_method_of_a_paper", "tests/test_structure.py",
             "tests/test_backbones.py::test_names_are_the_public_modules")  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A piece of code of the page, the file that it belongs to, and the line that it goes above, if any."""

    file: str
    line: str | None
    code: str


def blocks(section: str) -> list[Block]:
    """The blocks of code of one section of the page."""
    body = body_of(section)
    found = [Block(m["file"], m["line"], m["code"]) for m in BLOCK.finditer(body)]
    assert len(found) == len(re.findall(r"^```(?!yaml)\w+$", body, re.M)), "a block of code says no file"
    return found


def body_of(section: str) -> str:
    """The text of one section of the page."""
    text = PAGE.read_text()
    assert f"\n## {section}\n" in text
    return text.split(f"\n## {section}\n")[1].split("\n## ")[0]


def row_of(section: str) -> dict[str, Any]:
    """The row of config.yaml that a section shows."""
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", body_of(section), re.M | re.S)
    row: dict[str, Any] = yaml.safe_load(text)
    return row


def apply(block: Block, checkout: Path) -> None:
    """Write a block where it belongs."""
    path = checkout / block.file
    if block.line is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_text() if path.exists() else ""
        path.write_text(before + block.code)
        return
    before, line, after = path.read_text().partition(f"\n{block.line}\n")
    assert line, f"{block.file} has no line {block.line}"
    path.write_text(f"{before}\n{block.code.rstrip()}{line}{after}")


def hashes(checkout: Path) -> dict[str, str]:
    """The hash of every file that a person writes."""
    paths = [path for path in checkout.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {str(p.relative_to(checkout)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the checkout without configuration and data."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__", ".pytest_cache"))
        else:
            shutil.copy(source, folder / part)
    return folder


def extend(checkout: Path, section: str) -> set[str]:
    """Follow a section of the page; the files that were touched."""
    before = hashes(checkout)
    for block in blocks(section):
        apply(block, checkout)
    after = hashes(checkout)
    return {name for name, content in after.items() if before.get(name) != content}


def attempt(path: list[Path], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a Python module with these folders at the beginning of Python's path."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True, check=False)


def run(checkout: Path, folder: Path, *arguments: str, others: tuple[Path, ...] = ()) -> str:
    """Run a Python module with the package of the copy, and with other folders of packages; what it printed."""
    done = attempt([checkout, *others], folder, *arguments)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return done.stdout + done.stderr


def make(checkout: Path, folder: Path, target: str, *, others: tuple[Path, ...] = ()) -> Path:
    """Make a target with the workflow of the copy."""
    threads = ("--cores", "1", "--set-threads", "train=1", "detect=1")
    run(
        checkout, folder, "snakemake", "--snakefile", str(checkout / "Snakefile"), *threads, "--", target, others=others
    )
    return folder / target


def behaviour(checkout: Path, name: str, *files: str) -> int:
    """Run the tests of the copy that pick a plug-in up by its name, and `UNTOUCHED`; how many the former are."""
    own = {test.partition("::")[0] for test in UNTOUCHED}
    words = [name, *(test.rpartition("::")[2].removeprefix("tests/") for test in UNTOUCHED)]
    tests = sorted({f"tests/{file}" for file in files} | own)
    options = ("-v", "-n", "0", "-p", "no:cacheprovider", "-k", " or ".join(words))
    said = run(checkout, checkout, "pytest", *options, *tests)
    assert "SKIPPED" not in said
    passed = re.findall(r"^(\S+) PASSED", said, re.M)
    for test in UNTOUCHED:
        assert any(found.startswith(test) for found in passed), test
    return sum(name in found for found in passed)


def write_config(folder: Path, *rows: dict[str, Any]) -> None:
    """A config.yaml of several rows."""
    config: dict[str, Any] = {"device": "cpu"}
    for row in rows:
        for kind, named in row.items():
            config.setdefault(kind, {}).update(named)
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def write_annotations(path: Path, videos: dict[str, list[tuple[float, float, str]]], *, test: str) -> None:
    """An annotation file in ActivityNet's layout; `test` is the video of the test split."""
    database = {}
    for video, instances in videos.items():
        annotations = [{"label": label, "segment": [start, end]} for start, end, label in instances]
        subset = "testing" if video == test else "training"
        database[video] = {"subset": subset, "duration": float(SECONDS), "annotations": annotations}
    path.write_text(json.dumps({"database": database}))


OWN = {"format": "activitynet", "annotations": "annotations.json", "videos": "videos"}


def write_features(folder: Path) -> dict[str, Any]:
    """Features of five videos, one row a second, in which two actions show; their rows of config.yaml."""
    rng = np.random.default_rng(0)
    (folder / "published").mkdir(parents=True)
    videos = {}
    for k in range(5):
        feats_TC = rng.normal(size=(SECONDS, DIM)).astype(np.float32)
        videos[f"v{k}"] = [(2.0 + k, 7.0 + k, "jump"), (14.0, 20.0, "run")]
        for n, (start, end, _) in enumerate(videos[f"v{k}"]):
            feats_TC[int(start) : int(end), n] += 4
        np.save(folder / "published" / f"v{k}.npy", feats_TC)
    write_annotations(folder / "annotations.json", videos, test="v4")
    clip = {"length": 1, "stride": 1, "policy": "resample", "rate": 1.0}
    features = {"own": {"source": "published", "dim": DIM, "dtype": "float32", "clip": clip}}
    return {"datasets": {"own": OWN}, "features": features}


def short(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a run that is trained for one epoch."""
    train = {"epochs": 1, "max_length": 32, "batch_size": 2, "lr": 0.01, "ema_decay": 0.0}
    return {"runs": {name: {**values, "train": train} for name, values in row["runs"].items()}}


def test_a_detector(checkout: Path, tmp_path: Path) -> None:
    """Two files and a row; then a run trains, detects and is scored, and the tests of detectors include it."""
    assert extend(checkout, "Add a detector") == {"tad/detectors/toy.py", "tad/detectors/toy_settings.py"}
    work = tmp_path / "work"
    write_config(work, write_features(work), short(row_of("Add a detector")))
    score = json.loads(make(checkout, work, "results/mine/map.json").read_text())
    assert score["instances"] == 2
    assert score["detections"]["scored"] > 0
    assert 0 <= score["average_mAP"] <= 1
    stamp = read_stamp(work / "results/mine/model.safetensors")
    assert stamp["spec"]["detector"] == {"name": "toy", "settings": {"width": 32, "kernel": 9}}
    assert "tad.detectors.toy" in stamp["modules"]
    shown = run(checkout, work, "tad", "show", "mine")
    assert re.search(r"settings\.width +32 +config\.yaml runs\.mine", shown)
    assert behaviour(checkout, "toy", "test_contract.py", "test_mask_distillation.py") == 5


def test_a_backbone(checkout: Path, tmp_path: Path) -> None:
    """Two files and a row; then it is trained and features of two videos are extracted, and the tests include it."""
    assert extend(checkout, "Add a backbone") == {"tad/backbones/toy.py", "tad/backbones/toy_settings.py"}
    work = tmp_path / "work"
    write_config(work, {"datasets": {"own": OWN}}, row_of("Add a backbone"))
    for video in ("a", "b"):
        vt.encode(work / "videos" / f"{video}.mp4", 100)
    write_annotations(work / "annotations.json", {v: [(0.5, 1.5, "jump"), (2.0, 3.0, "run")] for v in "ab"}, test="b")
    with FeatureReader(make(checkout, work, "results/features/own/toyclips.h5")) as reader:
        assert set(reader.video_ids) == {"a", "b"}
        assert all(reader.stored(video).shape[1] == 16 for video in "ab")
        assert all(np.isfinite(reader.stored(video)).all() for video in "ab")
    assert behaviour(checkout, "toy", "test_backbones.py", "test_alignment.py", "test_weights.py") >= 4


def test_an_annotation_format(checkout: Path, tmp_path: Path) -> None:
    """Two files and a row; then a file is annotated, a mistake in it is named, and the tests of formats include it."""
    section = "Add an annotation format"
    assert extend(checkout, section) == {"tad/datasets/toy.py", "tad/datasets/toy_settings.py"}
    work = tmp_path / "work"
    write_config(work, row_of(section))
    (work / "videos").mkdir()
    (work / "lines.txt").write_text("a;train;0;2;jump\na;train;3;4.5;run\nb;test;1;2;jump\n")
    table = read_table(make(checkout, work, "results/annotations/lines.json"))
    assert table.labels == ("jump", "run")
    assert {video: len(table.videos[video].instances) for video in table.videos} == {"a": 2, "b": 1}
    (work / "lines.txt").write_text("a;train;0;2\n")
    command = ("tad", "annotate", "lines.txt", "--out", "x.json", "--spec")
    spec = {"dataset": "lines", "format": {"name": "toy", "settings": {"separator": ";"}}}
    done = attempt([checkout], work, *command, json.dumps(spec))
    assert done.returncode == 1
    assert "lines.txt: line 1: 'a;train;0;2' is not video;split;start;end;label" in done.stderr
    assert behaviour(checkout, "toy", "test_datasets.py") >= 1


def test_a_stage(checkout: Path, tmp_path: Path) -> None:
    """Four files; then the rule, the command, its help, `tad why` and the tests of the checkout work."""
    touched = extend(checkout, "Add a stage")
    assert touched == {
        "tad/stages/tally.py",
        "tad/settings/stages/tally.py",
        "tad/settings/stage_table.py",
        "rules/videos.smk",
    }
    work = tmp_path / "work"
    work.mkdir()
    row = {"format": "activitynet", "videos": "videos", "annotations": "annotations.json"}
    (work / "config.yaml").write_text(yaml.safe_dump({"device": "cpu", "datasets": {"tiny": row}}))
    segments = [("jump", [0.0, 2.0]), ("run", [3.0, 4.0]), ("jump", [5.0, 6.0])]
    annotations = [{"label": label, "segment": segment} for label, segment in segments]
    video = {"subset": "training", "duration": 9.0, "annotations": annotations}
    (work / "annotations.json").write_text(json.dumps({"database": {"v": video}}))
    target = "results/tallies/tiny.json"
    run(checkout, work, "snakemake", "--snakefile", str(checkout / "Snakefile"), "--cores", "1", "--", target)
    made = json.loads((work / target).read_text())
    assert made["instances"] == {"jump": 2, "run": 1}
    assert (made["stamp"]["stage"], made["stamp"]["spec"]) == ("tally", {"dataset": "tiny", "shortest": 0.0})
    assert "tally" in run(checkout, work, "tad", "--help")
    assert "table made by annotate" in run(checkout, work, "tad", "tally", "--help")
    assert "up to date, nothing would run" in run(checkout, work, "tad", "why", target)
    edit = (checkout / "tad/settings/stages/tally.py").read_text().replace("default=0.0", "default=1.5")
    (checkout / "tad/settings/stages/tally.py").write_text(edit)
    assert "because setting shortest: 0.0 → 1.5" in run(checkout, work, "tad", "why", target)
    own = ["test_cli.py::test_rule_is_command_is_module_is_function_is_log", "test_cli.py::test_rules_are_thin"]
    own += ["test_cli.py::test_a_stage_is_called_with_its_arguments", "test_paths.py"]
    run(checkout, checkout, "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *(f"tests/{test}" for test in own))
