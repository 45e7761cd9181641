"""Fingerprints count code and nothing else."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tad.core.errors import TadError
from tad.provenance import fingerprint, sources

FILES = {
    "stages/suppress.py": '"""Doc."""\nfrom tad.nms import run\nfrom tad import segments\nimport tad.settings.config\n',
    "stages/__init__.py": "",
    "nms/__init__.py": "from tad.nms.reference import run\n",
    "nms/reference.py": 'def run(x):\n    """Doc."""\n    return x + 1  # why\n',
    "segments.py": "A = 1\n",
    "settings/config.py": "B = 1\n",
    "detectors/__init__.py": "",
    "detectors/mse.py": "import tad.segments\n",
    "detectors/mse.yaml": "a: 1\n",
    "nms/reference.yaml": "a: 1\n",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(fingerprint, "ROOT", tmp_path)
    return tmp_path


def test_the_closure_follows_imports_and_leaves_the_transparent_out(package: Path) -> None:
    found = fingerprint.modules("tad.stages.suppress")
    assert set(found) == {"tad.stages.suppress", "tad.stages", "tad.nms", "tad.nms.reference", "tad.segments"}


def test_plugins_of_the_spec_are_roots(package: Path) -> None:
    spec = {"detector": {"name": "mse", "settings": {}}, "run": "demo"}
    assert fingerprint.stage_roots("train", spec) == ["tad.stages.train", "tad.detectors.mse"]


@pytest.mark.parametrize(
    ("file", "old", "new", "counts"),
    [
        ("nms/reference.yaml", "a: 1", "a: 1  # why", False),
        ("nms/reference.yaml", "a: 1", "a: 2", True),
        ("detectors/mse.yaml", "a: 1", "a: 2", False),
        ("nms/reference.py", "# why", "# because", False),
        ("nms/reference.py", '"""Doc."""', '"""Another."""', False),
        ("nms/reference.py", "x + 1", "(x  +  1)", False),
        ("settings/config.py", "1", "2", False),
        ("detectors/mse.py", "import tad.segments", "import tad.nms", False),
        ("nms/reference.py", "x + 1", "x + 2", True),
        ("segments.py", "1", "2", True),
        ("nms/__init__.py", "run\n", "run\nC = 3\n", True),
    ],
)
def test_what_counts_as_a_change(package: Path, file: str, old: str, new: str, counts: bool) -> None:
    before = fingerprint.code("suppress", {})
    path = package / file
    path.write_text(path.read_text().replace(old, new))
    assert (fingerprint.code("suppress", {}) != before) is counts


def test_real_closures_stay_small() -> None:
    """Coupling is measured in GPU hours: what a stage imports, reruns it."""
    extract = fingerprint.modules("tad.stages.extract", "tad.backbones.i3d")
    assert not [m for m in extract if "detectors" in m or "training" in m or ".nms" in m or "metrics" in m]
    suppress = fingerprint.modules("tad.stages.suppress")
    assert not [m for m in suppress if "layers" in m or m.startswith("tad.video.") or "metrics" in m]
    evaluate = fingerprint.modules("tad.stages.evaluate")
    assert not [m for m in evaluate if "layers" in m or "video" in m or ".nms" in m]


def test_pretrain_names_all_its_code_and_no_detector() -> None:
    spec = {"backbone": {"name": "r2plus1d_small", "settings": {}}}
    found = fingerprint.modules(*fingerprint.stage_roots("pretrain", spec))
    wanted = {"tad.training.tsp.trainer", "tad.training.tsp.clips", "tad.backbones.r2plus1d_small", "tad.video.reader"}
    assert wanted <= set(found)
    assert not [module for module in found if "detectors" in module or "metrics" in module or ".nms" in module]


def test_a_script_counts_with_the_scripts_beside_it(tmp_path: Path) -> None:
    (tmp_path / "render.py").write_text("from scene import draw\n")
    (tmp_path / "scene.py").write_text("def draw():\n    return 1\n")
    before = fingerprint.file_fingerprint(tmp_path / "render.py")
    (tmp_path / "scene.py").write_text("def draw():\n    return 1  # why\n")
    assert fingerprint.file_fingerprint(tmp_path / "render.py") == before
    (tmp_path / "scene.py").write_text("def draw():\n    return 22\n")
    assert fingerprint.file_fingerprint(tmp_path / "render.py") != before


def _rename(package: Path, old: str, new: str) -> None:
    """Rename a module of a copy of the package, in every file that names it."""
    source, target = (package.joinpath(*name.split(".")[1:]).with_suffix(".py") for name in (old, new))
    target.parent.mkdir(exist_ok=True)
    (target.parent / "__init__.py").touch()
    source.rename(target)
    for path in package.rglob("*.py"):
        text = path.read_text()
        parent, name, new_parent, new_name = *old.rpartition(".")[::2], *new.rpartition(".")[::2]
        text = re.sub(rf"^( *)from {re.escape(old)} import", rf"\1from {new} import", text, flags=re.M)
        text = re.sub(
            rf"^( *)from {re.escape(parent)} import {name}$",
            rf"\1from {new_parent} import {new_name} as {name}",
            text,
            flags=re.M,
        )
        path.write_text(text)


STAGES = ("annotate", "probe", "extract", "merge", "convert", "train", "detect", "suppress", "evaluate", "summarise")


@pytest.mark.parametrize("old", ["tad.core.grid", "tad.nms.kernels", "tad.layers.masked", "tad.metrics.evaluation"])
def test_a_pure_rename_reruns_nothing(old: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moving a module into another folder, under another name, changes the fingerprint of no stage."""
    copy = tmp_path / "tad"
    shutil.copytree(fingerprint.ROOT, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(fingerprint, "ROOT", copy)
    specs = {"detector": {"name": "mse"}, "backbone": {"name": "i3d"}, "format": {"name": "csv"}}
    before = {stage: fingerprint.code(stage, specs) for stage in STAGES}
    _rename(copy, old, "tad.elsewhere.other_name")
    assert {stage: fingerprint.code(stage, specs) for stage in STAGES} == before
    path = copy / "elsewhere" / "other_name.py"
    path.write_text(path.read_text() + "\n\nUNUSED = 1\n")
    assert {stage: fingerprint.code(stage, specs) for stage in STAGES} != before


def test_a_name_imported_from_another_module_is_a_change(package: Path) -> None:
    """Two modules define the same name, both are behind the stage: which of them is used counts."""
    (package / "nms" / "kernels.py").write_text("def run(x):\n    return x + 3\n")
    suppress = package / "stages" / "suppress.py"
    suppress.write_text(suppress.read_text() + "import tad.nms.kernels\n")
    before = fingerprint.code("suppress", {})
    init = package / "nms" / "__init__.py"
    init.write_text("from tad.nms.kernels import run\nimport tad.nms.reference\n")
    assert fingerprint.code("suppress", {}) != before


# Settings of trainings by what they ask for besides a detector → modules that count for them alone.
ASKED: dict[str, dict[str, Any]] = {
    "plain": {},
    "labels": {"labels": {"share": 0.1, "others": "pseudo"}},
    "few": {"labels": {"share": 0.1, "others": "unused"}},
    "distill": {"distill": {"teachers": [{"detector": {"name": "actionformer"}, "frames": ""}]}},
    "frames": {"frames": "rgb", "detector": {"name": "afsd_frames"}},
    "begun": {"frames": "rgb", "start": "i3d", "detector": {"name": "afsd_frames"}},
    "flow": {"frames": "flow", "detector": {"name": "afsd_frames"}},
    "pretext": {"train": {"pretext_epochs": 2}, "detector": {"name": "spot"}},
}
ON_FRAMES = {"frames", "begun", "flow"}
COUNTS_FOR = [
    ("tad.backbones.i3d", {"begun"}),
    ("tad.layers.i3d.inception", ON_FRAMES),
    ("tad.backbones._flow", {"begun", "flow"}),
    ("tad.video.reader", ON_FRAMES),
    ("tad.video.seeking", ON_FRAMES),
    ("tad.training.data.frames", ON_FRAMES),
    ("tad.training.methods.pseudo", {"labels"}),
    ("tad.training.data.unlabelled", {"labels"}),
    ("tad.training.data.label_split", {"labels", "few"}),
    ("tad.training.methods.distillation", {"distill"}),
    ("tad.training.methods.teachers", {"distill"}),
    ("tad.training.methods.pretext", {"pretext"}),
    ("tad.detectors.actionformer", {"distill"}),
    ("tad.training.loop.engine", set(ASKED)),
]


@pytest.mark.parametrize(("module", "expected"), COUNTS_FOR, ids=[row[0] for row in COUNTS_FOR])
def test_a_training_depends_on_what_its_settings_name(module: str, expected: set[str]) -> None:
    specs = {name: {"detector": {"name": "mse"}} | more for name, more in ASKED.items()}
    assert {name for name, spec in specs.items() if module in fingerprint.stage_modules("train", spec)} == expected


@pytest.mark.parametrize(
    ("stage", "spec", "absent"),
    [
        ("detect", {"detector": {"name": "mse"}}, {"tad.video.reader", "tad.backbones._flow", "tad.layers.fusion"}),
        ("index", {"frames": {"modality": "rgb"}}, {"tad.video.reader", "tad.backbones._flow"}),
        ("pretrain", {"backbone": {"name": "tsp"}, "share": 1.0}, {"tad.annotations.label_draw"}),
        ("suppress", {"external": None}, {"tad.features.class_scores", "tad.nms.fusion"}),
    ],
)
def test_other_stages_too(stage: str, spec: dict[str, Any], absent: set[str]) -> None:
    assert not absent & set(fingerprint.stage_modules(stage, spec))


def test_what_a_module_outside_the_fingerprint_imports_is_outside_too() -> None:
    """Otherwise a stage executes code that only a stage which imports it by itself counts."""
    package = sources.Sources(fingerprint.ROOT)
    modules = [f"tad.core.{path.stem}" for path in sorted((fingerprint.ROOT / "core").glob("*.py"))]
    modules += ["tad.__main__", "tad.commands.cli"]  # executed by the process of every stage
    hidden = {}
    for module in filter(fingerprint.transparent, modules):
        imported = {name for name in package.imported(module, frozenset()) if name.startswith("tad.")}
        names = {name for name in imported if package.source(name)}
        hidden[module] = sorted(name for name in names if not fingerprint.transparent(name) and name != "tad.core")
    assert {module: names for module, names in hidden.items() if names} == {}


def test_what_a_stage_is_fused_with_counts() -> None:
    spec = {"detector": {"name": "gaf"}, "fused": {"detector": {"name": "afsd_frames"}, "frames": "flow"}}
    found = set(fingerprint.stage_modules("detect", spec))
    assert {"tad.detectors.gaf", "tad.detectors.afsd_frames", "tad.layers.fusion", "tad.backbones._flow"} <= found


IMPORT = "from tad.segments import A\n"
GUARDS = [
    (f'if uses("distill", spec):\n    {IMPORT}', {"distill"}),
    (f'if uses("distill", spec) and spec:\n    {IMPORT}', {"distill"}),
    (f'if uses("distill", spec):\n    if uses("labels", spec):\n        {IMPORT}', {"distill", "labels"}),
    (f'if uses("distill", spec):\n    def late():\n        {IMPORT}', {"distill"}),
    (f'if uses("distill", spec):\n    pass\nelse:\n    {IMPORT}', set()),
    (f'if uses("distill", spec):\n    pass\nelif uses("labels", spec):\n    {IMPORT}', {"labels"}),
    (f'if uses("distill", spec) or spec:\n    {IMPORT}', set()),
    (f'if not uses("distill", spec):\n    {IMPORT}', set()),
    (f'if spec:\n    {IMPORT}', set()),
    (f'uses("distill", spec)\n{IMPORT}', set()),
    (f"if TYPE_CHECKING:\n    {IMPORT}", None),
    (f"if TYPE_CHECKING:\n    pass\nelse:\n    {IMPORT}", set()),
]  # fmt: skip


@pytest.mark.parametrize(("text", "needed"), GUARDS, ids=range(len(GUARDS)))
def test_an_import_counts_unless_a_condition_keeps_it_from_running(
    package: Path, text: str, needed: set[str] | None
) -> None:
    """`needed`: the conditions that must all hold; None: type checkers alone import it."""
    (package / "stages" / "suppress.py").write_text(text)
    specs: list[dict[str, Any]] = [
        {},
        {"distill": {"a": 1}},
        {"labels": {"a": 1}},
        {"distill": {"a": 1}, "labels": {"a": 1}},
    ]
    for spec in specs:
        before = fingerprint.code("suppress", spec)
        (package / "segments.py").write_text(f"A = {len(spec) + 7}\n")
        changed = fingerprint.code("suppress", spec) != before
        assert changed is (needed is not None and needed <= set(spec))
        (package / "segments.py").write_text("A = 1\n")


def test_an_unknown_condition_is_refused(package: Path) -> None:
    (package / "stages" / "suppress.py").write_text(f'if uses("destill", spec):\n    {IMPORT}')
    with pytest.raises(TadError, match=r"suppress\.py: line 1: uses\(\) asks for one of .*distill"):
        fingerprint.code("suppress", {})


# The cache of parsed modules: never trusted for a file that changed.


@pytest.fixture
def cached(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache file that knows the package, and a process that has read nothing yet."""
    monkeypatch.setattr(sources, "_MEMORY", sources._Remembered())
    cache = tmp_path / "cache" / "sources.json"
    first = sources.Sources(package, cache=cache)
    fingerprint.Code(first).of_stage("suppress", {})
    first.save()
    monkeypatch.setattr(sources, "_MEMORY", sources._Remembered())
    return cache


def again(package: Path, cache: Path) -> str:
    return fingerprint.Code(sources.Sources(package, cache=cache)).of_stage("suppress", {})


def test_what_is_cached_is_not_parsed_again(package: Path, cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = fingerprint.code("suppress", {})
    monkeypatch.setattr(sources, "_MEMORY", sources._Remembered())
    monkeypatch.setattr(sources, "parse", lambda path: pytest.fail(f"{path} was parsed again"))
    assert again(package, cached) == expected


def test_an_edit_of_equal_length_and_date_is_seen(package: Path, cached: Path) -> None:
    path = package / "segments.py"
    before, stat = again(package, cached), path.stat()
    path.write_text("A = 2\n")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size
    assert again(package, cached) != before


def test_a_module_that_comes_between_is_seen(package: Path, cached: Path) -> None:
    """`from tad import segments` is of the package where there is such a folder, whatever the cache says."""
    before = again(package, cached)
    (package / "segments.py").rename(package / "other.py")
    assert again(package, cached) != before


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1, "entries": {}}', "{}"])
def test_a_damaged_or_foreign_cache_is_ignored_and_replaced(
    package: Path, cached: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    expected = again(package, cached)
    monkeypatch.setattr(sources, "_MEMORY", sources._Remembered())
    cached.write_text(text)
    own = sources.Sources(package, cache=cached)
    assert fingerprint.Code(own).of_stage("suppress", {}) == expected
    own.save()
    assert json.loads(cached.read_text())["entries"]


@pytest.mark.parametrize("stored", [[], ["a"], ["a", "b c d", "e"], [1, 2, 3]])
def test_a_damaged_entry_of_the_cache_is_parsed_again(
    package: Path, cached: Path, monkeypatch: pytest.MonkeyPatch, stored: list[Any]
) -> None:
    expected = again(package, cached)
    document = json.loads(cached.read_text())
    changed = {
        name: [facts, stored if isinstance(own, list) else own] for name, (facts, own) in document["entries"].items()
    }
    cached.write_text(json.dumps(document | {"entries": changed}))
    monkeypatch.setattr(sources, "_MEMORY", sources._Remembered())
    assert again(package, cached) == expected


def test_every_module_survives_the_cache_file() -> None:
    paths = sorted(fingerprint.ROOT.rglob("*.py"))
    assert len(paths) > 200
    for path in paths[::7]:
        source = sources.parse(path)
        assert sources.Source.from_json(json.loads(json.dumps(source.as_json()))) == source
