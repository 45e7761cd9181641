"""Fingerprints count code and nothing else."""

from pathlib import Path

import pytest

from tad import provenance

FILES = {
    "stages/suppress.py": '"""Doc."""\nfrom tad.nms import run\nfrom tad import segments\nimport tad.config\n',
    "stages/__init__.py": "",
    "nms/__init__.py": "from tad.nms.reference import run\n",
    "nms/reference.py": 'def run(x):\n    """Doc."""\n    return x + 1  # why\n',
    "segments.py": "A = 1\n",
    "config.py": "B = 1\n",
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
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    return tmp_path


def test_the_closure_follows_imports_and_leaves_the_transparent_out(package: Path) -> None:
    found = provenance.modules("tad.stages.suppress")
    assert set(found) == {"tad.stages.suppress", "tad.stages", "tad.nms", "tad.nms.reference", "tad.segments"}


def test_plugins_of_the_spec_are_roots(package: Path) -> None:
    spec = {"detector": {"name": "mse", "settings": {}}, "run": "demo"}
    assert provenance.stage_roots("train", spec) == ["tad.stages.train", "tad.detectors.mse"]


@pytest.mark.parametrize(
    ("file", "old", "new", "counts"),
    [
        ("nms/reference.yaml", "a: 1", "a: 1  # why", False),
        ("nms/reference.yaml", "a: 1", "a: 2", True),
        ("detectors/mse.yaml", "a: 1", "a: 2", False),
        ("nms/reference.py", "# why", "# because", False),
        ("nms/reference.py", '"""Doc."""', '"""Another."""', False),
        ("nms/reference.py", "x + 1", "(x  +  1)", False),
        ("config.py", "1", "2", False),
        ("detectors/mse.py", "import tad.segments", "import tad.nms", False),
        ("nms/reference.py", "x + 1", "x + 2", True),
        ("segments.py", "1", "2", True),
        ("nms/__init__.py", "run\n", "run\nC = 3\n", True),
    ],
)
def test_what_counts_as_a_change(package: Path, file: str, old: str, new: str, counts: bool) -> None:
    before = provenance.code("suppress", {})
    path = package / file
    path.write_text(path.read_text().replace(old, new))
    assert (provenance.code("suppress", {}) != before) is counts


def test_real_closures_stay_small() -> None:
    """Coupling is measured in GPU hours: what a stage imports, reruns it."""
    extract = provenance.modules("tad.stages.extract", "tad.backbones.i3d")
    assert not [m for m in extract if "detectors" in m or "training" in m or ".nms" in m or "metrics" in m]
    suppress = provenance.modules("tad.stages.suppress")
    assert not [m for m in suppress if "layers" in m or m.startswith("tad.video.") or "metrics" in m]
    evaluate = provenance.modules("tad.stages.evaluate")
    assert not [m for m in evaluate if "layers" in m or "video" in m or ".nms" in m]


def test_pretrain_names_all_its_code_and_no_detector() -> None:
    spec = {"backbone": {"name": "r2plus1d_small", "settings": {}}}
    found = provenance.modules(*provenance.stage_roots("pretrain", spec))
    assert {"tad.training.tsp", "tad.training.tsp_clips", "tad.backbones.r2plus1d_small", "tad.video.reader"} <= set(
        found
    )
    assert not [module for module in found if "detectors" in module or "metrics" in module or ".nms" in module]


def test_a_script_counts_with_the_scripts_beside_it(tmp_path: Path) -> None:
    (tmp_path / "render.py").write_text("from scene import draw\n")
    (tmp_path / "scene.py").write_text("def draw():\n    return 1\n")
    before = provenance.file_fingerprint(tmp_path / "render.py")
    (tmp_path / "scene.py").write_text("def draw():\n    return 1  # why\n")
    assert provenance.file_fingerprint(tmp_path / "render.py") == before
    (tmp_path / "scene.py").write_text("def draw():\n    return 22\n")
    assert provenance.file_fingerprint(tmp_path / "render.py") != before
