"""config.schema.json: up to date, accepts the shipped configuration, and refuses what the configuration refuses."""

import copy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from test_config import set_path

from tad.commands.cli import main
from tad.core.errors import TadError
from tad.core.files import read_json
from tad.settings import plugins
from tad.settings.config import Config
from tad.settings.schema import config_schema, schema_text

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "config.yaml", *sorted((ROOT / "zoo").glob("*.yaml"))]
VALIDATOR = jsonschema.Draft202012Validator(config_schema())


def values() -> dict[str, Any]:
    return {
        "datasets": {"demo": {}, "mine": {"format": "csv", "videos": "v", "annotations": "a.csv"}},
        "features": {"clips": {"backbone": "r2plus1d_small"}},
        "runs": {"one": {"dataset": "demo", "features": "clips", "detector": {"name": "mse", "num_heads": 8}}},
    }


def errors(document: Any) -> list[str]:
    return [error.message for error in VALIDATOR.iter_errors(document)]


def test_the_committed_schema_is_the_one_that_is_generated() -> None:
    """Else: `tad schema --out config.schema.json`."""
    assert (ROOT / "config.schema.json").read_text(encoding="utf-8") == schema_text(plugins.own_names)
    jsonschema.Draft202012Validator.check_schema(config_schema())


def test_the_command_prints_and_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == schema_text()
    assert main(["schema", "--out", str(tmp_path / "s.json")]) == 0
    assert read_json(tmp_path / "s.json") == config_schema()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_shipped_rows_fit(path: Path) -> None:
    assert errors(yaml.safe_load(path.read_text())) == []


def test_editors_find_it() -> None:
    first = (ROOT / "config.yaml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=config.schema.json"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("runs/one/detector", "mse"),
        ("runs/one/detector/gate_settings", {"lr": 0.01}),
        ("runs/one/detector/regression_ranges", [[0, 4], [4, 10000]]),
        ("runs/one/train", {"epochs": 3, "crop_ratio": [0.9, 1.0]}),
        ("runs/one/labels", "10%"),
        ("runs/one/labels", 0.1),
        ("runs/one/labels", {"share": "10%", "seed": 1}),
        ("runs/one/external", {"source": "own"}),
        ("features/clips/clip", {"stride": 8}),
        ("features/clips/pretrain", {"epochs": 3}),
        ("features/clips/backbone", {"name": "r2plus1d_small", "height": 24}),
        ("datasets/mine/settings", {"columns": {"video": "Filename"}}),
        ("datasets/demo/render", {"videos": 12}),
        ("datasets/mine/eval", {"tiou": [0.5]}),
    ],
)
def test_what_can_be_written_fits(path: str, value: Any) -> None:
    tree = set_path(values(), path, value)
    assert errors(tree) == []
    Config(copy.deepcopy(tree))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("rnus", {}),
        ("runs/one/nmss", {}),
        ("runs/one/nms", {"sgima": 0.3}),
        ("runs/one/nms", {"sigma": -1.0}),
        ("runs/one/nms", {"sigma": "wide"}),
        ("runs/one/nms", {"method": "gausian"}),
        ("runs/one/train", {"epochs": 0}),
        ("runs/one/detector", "msee"),
        ("runs/one/detector", {"num_heads": 8}),
        ("runs/one/detector", {"name": "msee"}),
        ("runs/one/detector/n_heads", 8),
        ("runs/one/detector/windows", [9]),  # of actionformer, not of mse
        ("runs/one/detector/face", "fixed"),
        ("runs/one/detector/gate_settings", {"lrr": 0.1}),
        ("runs/one/labels", "a tenth"),
        ("runs/one/labels", {"shere": 0.1}),
        ("features/clips/wieghts", "x"),
        ("features/clips/backbone", "i4d"),
        ("features/clips/backbone", {"name": "r2plus1d_small", "hieght": 24}),
        ("features/clips/clip", {"strid": 4}),
        ("features/clips/pretrain", {"epoch": 4}),
        ("datasets/demo/format", "cvs"),
        ("datasets/demo/render", {"vidoes": 4}),
        ("datasets/demo/settings", {"prefix": "v_"}),
        ("device", "gpu"),
    ],
)
def test_mistakes_do_not_fit_either(path: str, value: Any) -> None:
    tree = set_path(values(), path, value)
    assert errors(tree)
    with pytest.raises(TadError):
        Config(copy.deepcopy(tree))


@pytest.mark.parametrize("kind", ["detectors", "backbones"])
def test_every_field_of_every_component_is_in_it(kind: str) -> None:
    definitions = config_schema()["$defs"]
    for name in plugins.names(kind):
        fields = plugins.settings_class(kind, name).model_fields
        assert set(definitions[f"{kind}.{name}"]["properties"]) == {"name", *fields}
        assert definitions[f"{kind}.{name}"]["additionalProperties"] is False
