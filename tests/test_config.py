"""Four layers of settings, closed at each; every shipped YAML is checked, every mistake is one named line."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tad import plugins
from tad.config import Config
from tad.errors import TadError
from tad.specs import DetectSpec, EvalSpec, NmsSpec, TrainSpec

ROOT = Path(__file__).parents[1]


def values() -> dict[str, Any]:
    return {
        "datasets": {"demo": {}, "mine": {"format": "csv", "videos": "v", "annotations": "a.csv"}},
        "features": {"clips": {"backbone": "r2plus1d_small", "clip": {"stride": 8}}},
        "runs": {
            "one": {
                "dataset": "demo",
                "features": "clips",
                "detector": {"name": "mse", "num_heads": 8},
                "nms": {"sigma": 0.4},
            }
        },
    }


def set_path(tree: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *parents, last = path.split("/")
    node = tree
    for key in parents:
        node = node.setdefault(key, {})
    node[last] = value
    return tree


def test_four_layers_and_where_each_value_is_from() -> None:
    config = Config(values())
    run = config.resolve_run("one")
    assert run.sections["settings"]["num_heads"] == 8
    assert run.origin["settings.num_heads"] == "config.yaml runs.one"
    assert run.sections["settings"]["face"] == "corrected"  # `for: demo` of mse.yaml, over its default parity
    assert run.origin["settings.face"] == "tad/detectors/mse.yaml for demo"
    assert run.sections["nms"]["sigma"] == 0.4
    assert run.origin["nms.min_score"] == "tad/detectors/mse.yaml"
    features = config.resolve_features("clips", "demo")
    assert features.sections["clip"]["stride"] == 8
    assert config.spec("extract", dataset="demo", features="clips").model_dump()["pretrained_on"] == "demo"


@pytest.mark.parametrize(
    ("path", "value", "named", "hint"),
    [
        ("runs/one/nmss", {}, "runs.one.nmss", "did you mean 'nms'?"),
        ("runs/one/nms/sgima", 0.3, "config.yaml runs.one: nms has no setting 'sgima'", "did you mean 'sigma'?"),
        ("runs/one/nms/sigma", "1e-4", "nms.sigma is a float", "write 1.0e-4"),
        ("runs/one/nms/sigma", -1.0, "nms.sigma", "greater than 0"),
        ("runs/one/nms/sigma", float("nan"), "nms.sigma", "nan"),
        ("runs/one/nms/method", "gausian", "nms.method", "gaussian"),
        ("runs/one/detector/n_heads", 8, "no setting 'n_heads'", "did you mean 'num_heads'?"),
        ("runs/one/detector", "msee", "no detector is called 'msee'", "did you mean 'mse'?"),
        ("runs/one/detector", "msee", "config.yaml: runs.one.detector: no detector", "known:"),
        ("runs/one", {"datset": "demo", "features": "clips", "detector": "mse"}, "key 'datset'", "mean 'dataset'?"),
        ("datasets/mine/format", "cvs", "config.yaml: datasets.mine.format: no dataset is called 'cvs'", "'csv'"),
        ("runs/one/detector", {"name": "mse", "embed_dim": 0}, "runs.one.detector.embed_dim: 0", "at least 1"),
        ("runs/one/detector", {"embed_dim": 64}, "runs.one.detector", "needs a `name`"),
        ("runs/one/dataset", "dmeo", "datasets has no 'dmeo'", "did you mean 'demo'?"),
        ("runs/one/features", "clip", "features has no 'clip'", "did you mean 'clips'?"),
        ("runs/one/train/epochs", True, "train.epochs is a int", "True"),
        ("runs/one/train/epochs", 0, "train.epochs", "greater than or equal to 1"),
        ("runs/one/eval/tiou", [0.5, 1.5], "eval.tiou", "less than or equal to 1"),
        ("runs/one/seed", -1, "runs.one.seed", "greater than or equal to 0"),
        ("features/clips/clip/strid", 4, "clip has no setting 'strid'", "did you mean 'stride'?"),
        ("features/clips/clip/stride", 0, "clip.stride", "greater than or equal to 1"),
        ("features/clips/clip/stride", 1000, "clip.stride 1000", "unseen"),
        ("features/clips/clip/policy", "native", "clip", "rate must be 0"),
        ("features/clips/backbone", "i4d", "no backbone is called 'i4d'", "known:"),
        ("features/clips/wieghts", "x", "features.clips.wieghts", "did you mean 'weights'?"),
        ("datasets/demo/shards", 0, "datasets.demo.shards", "greater than or equal to 1"),
        ("datasets/demo/video", "x", "datasets.demo.video", "did you mean 'videos'?"),
        ("datasets/mine/format", "cvs", "no dataset is called 'cvs'", "did you mean 'csv'?"),
        ("datasets/demo/render/vidoes", 4, "render has no setting 'vidoes'", "did you mean 'videos'?"),
        ("device", "gpu", "device", "auto|cpu|cuda"),
        ("runz", {}, "runz", "did you mean 'runs'?"),
        ("runs/features", values()["runs"]["one"], "runs.features", "a name is letters"),
        ("runs/a b", values()["runs"]["one"], "runs.a b", "a name is letters"),
    ],
)
def test_a_mistake_names_key_file_and_remedy(path: str, value: Any, named: str, hint: str) -> None:
    tree = set_path(values(), path, value)
    if path.startswith("datasets/mine"):
        tree["runs"]["two"] = {**tree["runs"]["one"], "dataset": "mine"}
    with pytest.raises(TadError) as caught:
        Config(tree)
    message = str(caught.value)
    assert named in message
    assert hint in message
    assert "\n" not in message
    assert message.startswith("config.yaml") or "no " in message


@pytest.mark.parametrize("text", ["runs: [", "- a\n- b", "!!python/object/apply:os.system ['true']", ""])
def test_yaml_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(TadError) as caught:
        Config.read(path)
    assert str(path) in str(caught.value)


def test_a_row_that_is_there_twice_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("device: cpu\nruns:\n  demo: {dataset: demo}\n  demo: {dataset: mine}\n")
    with pytest.raises(TadError, match=r"config\.yaml: line 4: 'demo' is there twice"):
        Config.read(path)


def test_loading_twice_changes_no_default() -> None:
    before = plugins.document("detectors", "mse")
    Config(values())
    changed = plugins.document("detectors", "mse")
    changed["nms"]["sigma"] = 99.0
    assert plugins.document("detectors", "mse") == before


def test_the_shipped_config_resolves_and_its_rows_say_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = Config.read(ROOT / "config.yaml")
    assert {"demo", "thumos", "anet", "hacs"} <= set(config.file.runs)
    assert config.missing("demo", "demo_clips") == []
    for run in ("thumos", "anet", "hacs"):
        row = config.run(run)
        text = "; ".join(config.missing(row.dataset, row.features))
        assert config.dataset(row.dataset).videos in text
        assert config.dataset(row.dataset).annotations in text
        assert config.file.features[row.features].weights in text
        assert text.count("http") >= 3, text  # where each is published


def shipped() -> list[tuple[str, str]]:
    return [(kind, name) for kind in ("datasets", "backbones", "detectors") for name in plugins.names(kind)]


@pytest.mark.parametrize(("kind", "name"), shipped())
def test_every_shipped_yaml_is_whole(kind: str, name: str) -> None:
    document = plugins.document(kind, name)
    text = (ROOT / "tad" / kind / f"{name}.yaml").read_text()
    assert text.lstrip().startswith("#")
    for section, changes in [(s, c) for v in document.get("for", {}).values() for s, c in v.items()]:
        plugins.override(section, document[section], changes, name)
    if kind == "detectors":
        for section, model in (("train", TrainSpec), ("detect", DetectSpec), ("nms", NmsSpec)):
            assert set(document[section]) == set(model.model_fields), section
            model.model_validate(document[section])
    if kind == "datasets":
        EvalSpec.model_validate(document["eval"])
        assert set(document["published"]) == {"videos", "annotations"}


@pytest.mark.parametrize(("kind", "name"), [pair for pair in shipped() if pair[0] != "datasets"])
def test_yaml_settings_are_the_constructors_arguments(kind: str, name: str) -> None:
    import inspect

    component = plugins.load(kind, name)
    arguments = set(inspect.signature(component.__init__).parameters) - {"self"}
    assert arguments - {"feature_dim", "num_classes", "max_length"} == set(plugins.document(kind, name)["settings"])
    assert all(p.default is p.empty for n, p in inspect.signature(component.__init__).parameters.items() if n != "self")


def test_no_yaml_holds_a_null() -> None:
    def nulls(value: Any) -> bool:
        if isinstance(value, dict):
            return any(nulls(v) for v in value.values())
        return value is None or (isinstance(value, list) and any(nulls(v) for v in value))

    files = [ROOT / "config.yaml", *sorted((ROOT / "tad").rglob("*.yaml"))]
    assert len(files) > 8
    assert [f.name for f in files if nulls(yaml.safe_load(f.read_text()))] == []


@pytest.mark.parametrize(
    ("detector", "changes", "train", "said"),
    [
        ("mse", {"num_heads": 5}, {}, "runs.one.detector.embed_dim: 128: must be a multiple of 5 (num_heads)"),
        ("mse", {"num_heads": 0}, {}, "runs.one.detector.num_heads: 0: must be at least 1"),
        ("tridet", {"embed_dim": 40}, {}, "runs.one.detector.embed_dim: 40: must be a multiple of 16"),
        ("tridet", {"kernel": 4}, {}, "runs.one.detector.kernel: 4: must be odd"),
        ("tridet", {"face": "fixed"}, {}, "runs.one.detector.face: 'fixed': choose parity or corrected"),
        ("mse", {"corrections": ["live"]}, {}, "corrections: 'live': choose masked or living or detached"),
        ("afsd", {"strides": [1.0]}, {}, "strides: [1.0]: needs one entry per level of regression_ranges (6)"),
        ("mse", {}, {"max_length": 100}, "runs.one.train.max_length: 100: must be a multiple of 32 (last_stride)"),
        (
            "actionformer",
            {"windows": [9, 9]},
            {},
            "windows: [9, 9]: needs one entry per level of regression_ranges (6)",
        ),
        ("actionformer", {"windows": [9, 9, 9, 9, 9, 8]}, {}, "windows: [9, 9, 9, 9, 9, 8]: must be odd"),
    ],
)
def test_settings_that_no_detector_can_have_stop_a_dry_run(
    detector: str, changes: dict[str, Any], train: dict[str, Any], said: str
) -> None:
    tree = values()
    tree["runs"]["one"] |= {"detector": {"name": detector, **changes}, "train": train}
    with pytest.raises(TadError) as caught:
        Config(tree)
    assert said in str(caught.value)
