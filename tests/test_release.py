"""Released runs: what they hold, and what is refused; tests/test_apply.py applies one."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from tad.commands.apply import trained
from tad.commands.release import EXTRAS, FILE, Released, export
from tad.core.errors import TadError
from tad.core.files import read_json, write_json
from tad.core.formats import mark
from tad.provenance.stamps import stamp
from tad.settings import plugins
from tad.settings.config import Config

ROWS: dict[str, Any] = {
    "datasets": {"toy": {"format": "csv", "videos": "/data/toy", "annotations": "/data/toy.csv"}},
    "features": {
        "f": {"source": "/data/features", "dim": 4, "clip": {"length": 16, "stride": 4, "policy": "native", "rate": 0}}
    },
    "runs": {"toy": {"dataset": "toy", "features": "f", "detector": "mse", "seeds": 2, "nms": {"sigma": 0.4}}},
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A run with a model, of which only the header is looked at."""
    path = write_json(tmp_path / "home" / "config.yaml", ROWS, seal=False)
    detector = Config.read(path).detector("toy/seed-0")
    made = stamp("train", {"dataset": "toy", "features": "f", "detector": detector}, {})
    made["tad_format"] = "model 1"  # without checksums
    head = {"tad_stamp": json.dumps(made), "labels": '["a", "b"]', "feature_dim": "4", "detector": "{}"}
    model = tmp_path / "home/results/toy/seed-0/model.safetensors"
    model.parent.mkdir(parents=True)
    save_file({"w": np.zeros(2, np.float32)}, model, head)
    return path


def test_a_release_names_no_path_and_holds_what_apply_reads(config: Path, tmp_path: Path) -> None:
    lines = list(export("toy", out=tmp_path / "out", onnx=False, config=config))
    assert lines[0].startswith(f"{tmp_path / 'out'}: 3 files, 0.0 MB")
    assert "cannot be applied to videos" in lines[1]
    assert "/data" not in "".join(path.read_text() for path in (tmp_path / "out").glob("*.*"))
    assert str(tmp_path) not in (tmp_path / "out" / FILE).read_text()
    released = Released(tmp_path / "out")
    assert (released.run, Config.read(released.config).spec("suppress", run="toy").nms.sigma) == ("toy", 0.4)  # type: ignore[attr-defined]
    with pytest.raises(TadError, match="the run had no scored held-out videos when it was released"):
        released.held_out.with_precision(precision=0.9, confidence=0.9)
    with pytest.raises(TadError, match="imported features; apply a run that extracts its own"):
        trained(str(tmp_path / "out"), Path("nowhere.yaml"), "cpu")
    assert list(export("toy", out=tmp_path / "out", onnx=False, config=config)) == lines  # replaced


def test_what_cannot_be_released_is_said(config: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").touch()
    with pytest.raises(TadError, match="mine: exists and is no released run"):
        list(export("toy", out=tmp_path / "mine", onnx=False, config=config))
    rows = yaml.safe_load(config.read_text())
    rows["features"] |= {"pictures": {"frames": {"rate": 5.0, "height": 24, "width": 40}}, "again": {"run": "adapted"}}
    rows["features"]["vit"] = {"backbone": {"name": "vit_tiny", "crop": 16, "patch": 8}, "weights": "vit.safetensors"}
    rows["runs"]["scored"] = {**rows["runs"]["toy"], "external": {"source": "own"}}
    rows["runs"]["fused"] = {**rows["runs"]["toy"], "detect": {"fuse": "toy"}}
    adapters = {"adapters": {"encoder": "vit"}, "train": {"max_length": 32}, "detect": {"window_stride": 16}}
    rows["runs"]["adapted"] = {**rows["runs"]["toy"], "features": "pictures", **adapters}
    rows["runs"]["encoded"] = {**rows["runs"]["toy"], "features": "again"}
    rows["runs"]["new"] = {**rows["runs"]["toy"]}
    write_json(config, rows, seal=False)
    for run, why in {
        "scored": r"needs scores of whole videos \(`external`\); export a run without `external`",
        "fused": r"averages its network's outputs with those of 'toy' \(`fuse`\); export a run without `fuse`",
        "encoded": "its features come from the encoder of run 'adapted'; export a run on other features",
    }.items():
        with pytest.raises(TadError, match=rf"^runs\.{run}: {why}$"):
            list(export(run, out=tmp_path / "out", onnx=False, config=config))
        assert not (tmp_path / "out").exists()
    with pytest.raises(
        TadError, match=r"new/seed-0/model\.safetensors: no such file; train it with `cd \S+ && tad run"
    ):
        list(export("new", out=tmp_path / "out", onnx=False, config=config))


def test_the_extras_of_a_release_are_those_that_its_encoder_imports() -> None:
    """Of every backbone: the packages that its modules import, and the packages that hold its weights."""
    folder, calls = Path(plugins.__file__).parents[1] / "backbones", {"transformers_model": "modern"}
    calls |= {"timm_package": "images"}
    for name in plugins.names("backbones"):
        seen, todo = set(), {name}
        while todo:
            module = todo.pop()
            seen.add(module)
            text = (folder / f"{module}.py").read_text()
            todo |= set(re.findall(r"from tad\.backbones\.(\w+) import", text)) - seen
        texts = "".join((folder / f"{module}.py").read_text() for module in seen)
        found = {extra for call, extra in calls.items() if f"{call}(" in texts}
        weights = (folder / f"{name}.yaml").read_text()
        found |= {"encoders"} if "package: " in weights and "mediapipe" not in weights else set()
        assert found == ({EXTRAS[name]} if name in EXTRAS else set()), name


@pytest.mark.parametrize("harm", ["removed", "changed", "older", "newer", "foreign", "unlisted"])
def test_a_harmed_release_is_refused(config: Path, tmp_path: Path, harm: str) -> None:
    out = tmp_path / "out"
    list(export("toy", out=out, onnx=False, config=config))
    document = read_json(out / FILE)
    if harm == "removed":
        (out / "README.md").unlink()
    elif harm == "changed":
        (out / "config.yaml").write_text((out / "config.yaml").read_text().replace("0.4", "0.5"))
    elif harm == "older":
        document["settings"]["suppress"]["nms"]["sigma"] = 0.3
    elif harm == "newer":
        document |= {"tad_format": mark("release")["tad_format"].replace(" 1", " 9").replace(" 2", " 9")}
    elif harm == "foreign":
        del document["held_out"]
    else:
        del document["files"]["config.yaml"]
    write_json(out / FILE, document)
    said = {
        "removed": "README.md: missing in the released run; copy the whole folder again",
        "changed": "config.yaml: does not match its checksum in release.json; copy the folder again",
        "older": "with settings.suppress.nms.sigma 0.3, but this version has 0.4; install temporal-action-detection==",
        "newer": "released run of format 9, but this version reads",
        "foreign": "release.json: not written by tad export",
        "unlisted": "release.json: not written by tad export",
    }
    with pytest.raises(TadError, match=said[harm].replace(".", r"\.")):
        Released(out)
