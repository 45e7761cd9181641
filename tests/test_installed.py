"""Components of other installed packages: found, checked, trained with, and part of the fingerprint."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_extending import ROOT, attempt, blocks, make, row_of, run, short, write_config, write_features

from tad.core import installed
from tad.core.errors import TadError
from tad.provenance import fingerprint
from tad.provenance.stamps import read_stamp
from tad.settings import plugins
from tad.settings.resolved import component_sections
from tad.settings.schema import config_schema

SECTION = "Add a detector"
HELPER = "from torch.nn import functional as F\n"
OTHERS = {"backbones": "Add a backbone", "datasets": "Add an annotation format"}
SPEC = {"detector": {"name": "ext"}}


def write_package(folder: Path) -> Path:
    """The source of a package: the toy detector of the page, in a module that imports another of the package, and a
    second detector that cannot be imported."""
    package = folder / "tad_ext"
    package.mkdir(parents=True)
    for block in blocks(SECTION):
        text = block.code.replace("tad.detectors.toy_settings", "tad_ext.toy_settings")
        (package / Path(block.file).name).write_text(text.replace(HELPER, "from .helper import F\n"))
    (package / "__init__.py").write_text("")
    for kind, section in OTHERS.items():
        (package / kind).mkdir()
        for block in blocks(section):
            text = block.code.replace(f"tad.{kind}.toy_settings", f"tad_ext.{kind}.toy_settings")
            (package / kind / Path(block.file).name).write_text(text)
    (package / "helper.py").write_text(HELPER)
    (package / "broken.py").write_text("import a_module_that_is_not_there\n")
    (package / "broken_settings.py").write_text("import a_module_that_is_not_there\n")
    (package / "toy.yaml").write_text("train: {epochs: 2}\nfor:\n  own:\n    settings: {kernel: 3}\n")
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "tad-ext"\nversion = "1.2"\n'
        '[project.entry-points."tad.detectors"]\next = "tad_ext.toy"\nbroken = "tad_ext.broken"\n'
        'mse = "tad_ext.toy"\nlost = "tad_ext.nowhere"\n'
        '[project.entry-points."tad.backbones"]\next = "tad_ext.backbones.toy"\n'
        '[project.entry-points."tad.datasets"]\next = "tad_ext.datasets.toy"\n'
        '[tool.setuptools]\npackages = ["tad_ext", "tad_ext.backbones", "tad_ext.datasets"]\n'
        '[tool.setuptools.package-data]\n"*" = ["*.yaml"]\n'
    )
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, installed by pip into a folder of its own."""
    source = write_package(tmp_path_factory.mktemp("package"))
    target = tmp_path_factory.mktemp("site")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return target


CACHES = (
    *(plugins._names, plugins._own_names, plugins.document, plugins.settings_class, plugins.sections),
    *(installed._groups, installed.module_file),
)


@pytest.fixture
def site(built: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package on this process's path."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(built))
    for cached in CACHES:
        cached.cache_clear()
    yield built  # type: ignore[misc]
    for cached in CACHES:
        cached.cache_clear()
    for name in set(sys.modules) - before:
        if name.startswith("tad_ext"):
            del sys.modules[name]


def test_names_are_listed_without_an_import(site: Path) -> None:
    assert {"ext", "broken", "lost", "mse"} <= set(plugins.names("detectors"))
    assert "ext" not in plugins.own_names("detectors")
    assert plugins.document("detectors", "ext")["train"] == {"epochs": 2}
    assert fingerprint.code("train", SPEC)
    assert not any(name.startswith("tad_ext") for name in sys.modules)
    assert plugins.detector_class("ext").model_fields["width"].default == 64
    assert "tad_ext.toy" not in sys.modules  # the module with torch
    assert plugins.build("detectors", "ext", {}, feature_dim=3, num_classes=2, max_length=8).feature_dim == 3


def test_backbones_and_formats_too(site: Path, tmp_path: Path) -> None:
    sections = component_sections("backbones", "ext")
    assert (sections["clip"]["length"], sections["settings"]["dim"]) == (8, 16)
    assert "pretrain" in sections
    assert "tad_ext.backbones.toy" not in sys.modules
    assert plugins.build("backbones", "ext", {"dim": 4}).dim == 4
    (tmp_path / "lines.txt").write_text("a,train,0,2,jump\n")
    table = plugins.read_annotations("ext", tmp_path / "lines.txt", {"separator": ","})
    assert table.labels == ("jump",)
    for field, stage in (("backbone", "extract"), ("format", "annotate")):
        found = fingerprint.stage_modules(stage, {field: {"name": "ext"}})
        assert f"tad_ext.{fingerprint.PLUGIN_FIELDS[field]}.toy" in found
        assert found["distribution tad-ext"] == "1.2"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mse", r"detector 'mse' exists several times: tad/detectors/mse\.py and tad_ext\.toy of the package"
                r" tad-ext 1\.2; "),
        ("broken", r"detector 'broken': cannot import tad_ext\.broken_settings of the package tad-ext 1\.2"
                   r" \(ModuleNotFoundError: No module named 'a_module_that_is_not_there'\)"),
        ("lost", r"detector 'lost': there is no module tad_ext\.nowhere of the package tad-ext 1\.2"),
        ("exd", r"no detector is called 'exd'; did you mean 'ext'\? known: .*ext, "),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(site: Path, name: str, said: str) -> None:
    with pytest.raises(TadError, match=said) as caught:
        plugins.detector_class(name)
    assert "\n" not in str(caught.value)


def test_the_schema_knows_it_and_survives_a_broken_one(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    definitions = config_schema()["$defs"]
    assert "width" in definitions["detectors.ext"]["properties"]
    assert definitions["detectors.broken"]["additionalProperties"] is True
    assert "a_module_that_is_not_there" in caplog.text
    assert "detectors.ext" not in config_schema(plugins.own_names)["$defs"]


def edited(path: Path, old: str, new: str) -> bool:
    """Whether an edit changes the fingerprint of a training with the package; the edit is taken back."""
    before, text = fingerprint.code("train", SPEC), path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    installed._groups.cache_clear()
    changed = fingerprint.code("train", SPEC) != before
    path.write_text(text)
    installed._groups.cache_clear()
    return changed


def test_its_code_and_version_count(site: Path) -> None:
    package = site / "tad_ext"
    assert edited(package / "toy.py", "videos = part", "videos = 1 * part")
    assert edited(package / "helper.py", HELPER, f"{HELPER}A = 1\n")
    assert edited(package / "__init__.py", "", "A = 1\n")
    assert edited(next(site.glob("tad_ext-*.dist-info")) / "METADATA", "Version: 1.2", "Version: 1.3")
    assert not edited(package / "toy.py", '"""See toy_settings.py."""', '"""Another docstring."""')
    assert not edited(package / "broken.py", "import", "import os, ")
    assert not edited(package / "toy.yaml", "epochs: 2", "epochs: 3")  # in the settings already
    other = fingerprint.code("train", {"detector": {"name": "tridet"}})
    (package / "extra.py").write_text("A = 1\n")
    assert fingerprint.code("train", {"detector": {"name": "tridet"}}) == other
    found = fingerprint.stage_modules("train", SPEC)
    assert {"tad_ext", "tad_ext.toy", "tad_ext.helper"} <= set(found)
    assert found["distribution tad-ext"] == "1.2"
    (package / "toy.py").write_text((text := (package / "toy.py").read_text()) + "def\n")
    try:
        with pytest.raises(TadError, match=r"tad_ext/toy\.py: line \d+: not valid Python"):
            fingerprint.code("train", SPEC)
    finally:
        (package / "toy.py").write_text(text)


def test_training_with_it(built: Path, tmp_path: Path) -> None:
    """The workflow trains with the installed detector, though another one of the package cannot be imported."""
    work = tmp_path / "work"
    row = row_of(SECTION)["runs"]["mine"]
    row["detector"]["name"] = "ext"
    write_config(work, write_features(work), short({"runs": {"mine": row}}))
    score = json.loads(make(ROOT, work, "results/mine/map.json", others=(built,)).read_text())
    assert score["detections"]["scored"] > 0
    stamp = read_stamp(work / "results/mine/model.safetensors")
    assert stamp["spec"]["detector"] == {"name": "ext", "settings": {"width": 32, "kernel": 3}}
    assert stamp["modules"]["distribution tad-ext"] == "1.2"
    shown = run(ROOT, work, "tad", "show", "mine", others=(built,))
    assert str(built / "tad_ext" / "toy.yaml") in shown
    target = "results/mine/map.json"
    assert "nothing would run" in run(ROOT, work, "tad", "why", target, others=(built,))
    helper = built / "tad_ext" / "helper.py"
    helper.write_text(HELPER + "A = 1\n")
    assert "code of tad_ext.helper changed" in run(ROOT, work, "tad", "why", target, others=(built,))
    done = attempt([ROOT], work, "tad", "show", "mine")
    assert done.returncode == 1
    assert "no detector is called 'ext'" in done.stderr
