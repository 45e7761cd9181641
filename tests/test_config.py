"""Four layers of settings, closed at each; every shipped YAML is checked, every mistake is one named line."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tad.core.errors import TadError
from tad.settings import plugins
from tad.settings.config import Config
from tad.settings.resolved import component_sections
from tad.settings.stages import Spec
from tad.workflow.missing import missing

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
    assert run.origin["detect.min_length"] == "tad/detectors/mse.yaml"
    assert run.origin["nms.min_score"] == "tad/settings/sections.py"
    assert run.origin["settings.num_bins"] == "tad/detectors/mse_settings.py"
    features = config.resolve_features("clips", "demo")
    assert features.sections["clip"]["stride"] == 8
    assert config.spec("extract", dataset="demo", features="clips").model_dump()["pretrained_on"] == "demo"


def test_a_group_in_a_row_changes_only_what_it_names() -> None:
    plain = Config(set_path(values(), "runs/one/detector", "gaf")).resolve_run("one").sections["settings"]
    row = {"name": "gaf", "gate_settings": {"hidden": 96}}
    changed = Config(set_path(values(), "runs/one/detector", row)).resolve_run("one").sections["settings"]
    assert plain["gate_settings"]["background_weight"] == 8.0  # of gaf.yaml for demo, not the default
    assert changed["gate_settings"] == plain["gate_settings"] | {"hidden": 96}


@pytest.mark.parametrize(
    ("path", "value", "named", "hint"),
    [
        ("runs/one/nmss", {}, "runs.one.nmss", "did you mean 'nms'?"),
        ("runs/one/nms/sgima", 0.3, "config.yaml runs.one: nms has no setting 'sgima'", "did you mean 'sigma'?"),
        ("runs/one/nms/sigma", "1e-4", "config.yaml: runs.one.nms.sigma must be a number", "write 1.0e-4"),
        ("runs/one/nms/sigma", -1.0, "nms.sigma", "greater than 0"),
        ("runs/one/nms/sigma", float("nan"), "nms.sigma", "nan"),
        ("runs/one/nms/method", "gausian", "nms.method", "gaussian"),
        ("runs/one/detector/n_heads", 8, "no setting 'n_heads'", "did you mean 'num_heads'?"),
        ("runs/one/detector", "msee", "no detector is called 'msee'", "did you mean 'mse'?"),
        ("runs/one/detector", "msee", "config.yaml: runs.one.detector: no detector", "known:"),
        ("runs/one", {"datset": "demo", "features": "clips", "detector": "mse"}, "key 'datset'", "mean 'dataset'?"),
        ("datasets/mine/format", "cvs", "config.yaml: datasets.mine.format: no dataset is called 'cvs'", "'csv'"),
        ("runs/one/detector", {"name": "mse", "embed_dim": 0}, "runs.one.detector.embed_dim: Input", "to 1 (got 0)"),
        ("runs/one/detector", {"embed_dim": 64}, "runs.one.detector", "needs a `name`"),
        ("runs/one/dataset", "dmeo", "datasets has no 'dmeo'", "did you mean 'demo'?"),
        ("runs/one/features", "clip", "features has no 'clip'", "did you mean 'clips'?"),
        ("runs/one/train/epochs", True, "train.epochs must be a whole number", "True"),
        ("runs/one/train/epochs", 0, "train.epochs", "greater than or equal to 1"),
        ("runs/one/eval/tiou", [0.5, 1.5], "eval.tiou", "less than or equal to 1"),
        ("runs/one/seed", -1, "runs.one.seed", "greater than or equal to 0"),
        ("features/clips/clip/strid", 4, "clip has no setting 'strid'", "did you mean 'stride'?"),
        ("features/clips/clip/stride", 0, "clip.stride", "greater than or equal to 1"),
        ("features/clips/clip/stride", 1000, "clip.stride 1000", "skips most frames"),
        ("features/clips/clip/policy", "native", "clip", "rate must be 0"),
        ("features/clips/backbone", "i4d", "no backbone is called 'i4d'", "known:"),
        ("features/clips/wieghts", "x", "features.clips.wieghts", "did you mean 'weights'?"),
        ("datasets/demo/shards", 0, "datasets.demo.shards", "greater than or equal to 1"),
        ("datasets/demo/video", "x", "datasets.demo.video", "did you mean 'videos'?"),
        ("datasets/mine/format", "cvs", "no dataset is called 'cvs'", "did you mean 'csv'?"),
        ("datasets/demo/render/vidoes", 4, "render has no setting 'vidoes'", "did you mean 'videos'?"),
        ("device", "gpu", "device", "auto|cpu|cuda"),
        ("runz", {}, "runz", "did you mean 'runs'?"),
        ("runs/features", values()["runs"]["one"], "runs.features", "'features' is a folder of all runs"),
        ("runs/a b", values()["runs"]["one"], "runs.a b", "the name 'a b' has other characters"),
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
    with pytest.raises(TadError, match=r"config\.yaml: line 4: duplicate key 'demo'"):
        Config.read(path)


def test_defaults_cannot_be_changed() -> None:
    before = json.dumps(plugins.defaults("detectors", "mse"))
    config = Config(values())
    config.detector("one")["settings"]["gate_settings"]["lr"] = 99.0
    plugins.defaults("detectors", "mse")["num_heads"] = 99
    assert json.dumps(plugins.defaults("detectors", "mse")) == before
    with pytest.raises(TypeError):
        plugins.document("detectors", "mse")["nms"] = {}  # type: ignore[index]


def test_the_shipped_config_resolves_and_its_rows_say_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = Config.read(ROOT / "config.yaml")
    assert {"demo", "thumos", "anet", "hacs"} <= set(config.file.runs)
    assert missing(config, "demo", "demo_clips") == []
    for run in ("thumos", "anet", "hacs"):
        row = config.run(run)
        text = "; ".join(missing(config, row.dataset, row.features))
        assert config.dataset(row.dataset).videos in text
        assert config.dataset(row.dataset).annotations in text
        assert config.file.features[row.features].weights in text
        assert text.count("http") >= 3, text  # where each is published


def shipped() -> list[tuple[str, str]]:
    return [(kind, name) for kind in ("datasets", "backbones", "detectors") for name in plugins.names(kind)]


@pytest.mark.parametrize(("kind", "name"), shipped())
def test_every_component_is_whole_for_every_variant(kind: str, name: str) -> None:
    document, models = plugins.document(kind, name), plugins.sections(kind, name)
    path = ROOT / "tad" / kind / f"{name}.yaml"  # a component whose defaults are those of its settings has none
    assert not path.exists() or path.read_text().lstrip().startswith("#")
    for variant in ["", *document.get("for", {})]:
        layers = [layer for layer in dict.fromkeys((variant.partition("-")[0], variant)) if layer]
        sections = component_sections(kind, name, *layers)
        assert set(sections) == set(models)
        for section, model in models.items():
            always = {key for key, field in model.model_fields.items() if field.exclude_if is None}
            assert always <= set(sections[section]) <= set(model.model_fields)
    if kind == "datasets":
        assert set(document["published"]) == {"videos", "annotations"}


def all_specs(model: type[Spec]) -> set[type[Spec]]:
    inner = [field.annotation for field in model.model_fields.values()]
    groups = {one for one in inner if isinstance(one, type) and issubclass(one, Spec)}
    return {model}.union(*map(all_specs, groups))


@pytest.mark.parametrize(("kind", "name"), shipped())
def test_every_field_of_a_component_has_a_default_and_its_bounds_admit_it(kind: str, name: str) -> None:
    model = plugins.settings_class(kind, name)
    assert not [key for key, field in model.model_fields.items() if field.is_required()]
    assert model.model_validate(plugins.defaults(kind, name)) == model()
    told = {key for one in all_specs(model) for key, field in one.model_fields.items() if not field.description}
    assert told <= {
        "attention_dropout",
        "gate_settings",
        "splits",
        "known",
        "training",
        "train",
        "validation",
        "val",
        "test",
    }


@pytest.mark.parametrize(("kind", "name"), shipped())
def test_data_in_a_yaml_changes_a_default(kind: str, name: str) -> None:
    """A value that the common defaults have already is no data; it would hide a later change of the default."""
    for section, model in plugins.sections(kind, name).items():
        common = plugins.defaults_of(model)
        own = plugins.document(kind, name).get(section, {})
        same = {key for key, value in own.items() if key in common and common[key] == value}
        assert not same - {"protocol", "tiou"}, section


def test_settings_modules_and_the_configuration_import_no_torch() -> None:
    names = [f"tad.{kind}.{name}_settings" for kind, name in shipped()]
    program = "import sys, importlib\nfor name in sys.argv[1:]: importlib.import_module(name)\n"
    program += "print(sorted({'torch', 'torchvision', 'numpy'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program, *names, "tad.settings.config"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_no_yaml_holds_a_null() -> None:
    def nulls(value: Any) -> bool:
        if isinstance(value, dict):
            return any(nulls(v) for v in value.values())
        return value is None or (isinstance(value, list) and any(nulls(v) for v in value))

    files = [ROOT / "config.yaml", *sorted((ROOT / "zoo").glob("*.yaml")), *sorted((ROOT / "tad").rglob("*.yaml"))]
    assert len(files) > 8
    assert [f.name for f in files if nulls(yaml.safe_load(f.read_text()))] == []


@pytest.mark.parametrize(
    ("detector", "changes", "train", "said"),
    [
        ("mse", {"num_heads": 5}, {}, "runs.one.detector.embed_dim: 128: must be a multiple of num_heads (5)"),
        (
            "mse",
            {"num_heads": 0},
            {},
            "runs.one.detector.num_heads: Input should be greater than or equal to 1",
        ),
        ("tridet", {"embed_dim": 40}, {}, "runs.one.detector.embed_dim: Input should be a multiple of 16 (got 40)"),
        ("tridet", {"kernel": 4}, {}, "runs.one.detector.kernel: must be odd (got 4)"),
        (
            "tridet",
            {"face": "fixed"},
            {},
            "detector.face: Input should be 'parity' or 'corrected' (got 'fixed')",
        ),
        (
            "mse",
            {"corrections": ["live"]},
            {},
            "corrections.0: Input should be 'masked', 'living' or 'detached' (got 'live'",
        ),
        ("afsd", {"strides": [1.0]}, {}, "strides: [1.0]: needs one entry per level of regression_ranges (6)"),
        (
            "mse",
            {},
            {"max_length": 100},
            "runs.one.train.max_length: 100: must be a multiple of 32, the stride",
        ),
        (
            "actionformer",
            {"windows": [9, 9]},
            {},
            "windows: [9, 9]: needs one entry per level of regression_ranges (6)",
        ),
        ("actionformer", {"windows": [9, 9, 9, 9, 9, 8]}, {}, "windows.5: must be odd (got 8)"),
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


@pytest.fixture
def edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Puts a text in the place of tridet.yaml, for the whole package."""
    for kind in plugins.SYMBOLS:
        shutil.copytree(ROOT / "tad" / kind, tmp_path / kind)
    caches = (plugins.document, plugins.settings_class, plugins._names, plugins._own_names, plugins.sections)

    def edit(text: str) -> None:
        (tmp_path / "detectors/tridet.yaml").write_text(text)
        monkeypatch.setattr(plugins, "PACKAGE", tmp_path)
        for cached in caches:
            cached.cache_clear()

    yield edit
    for cached in caches:
        cached.cache_clear()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("trian: {epochs: 3}", "tridet.yaml: no section 'trian'; did you mean 'train'?"),
        ("settings: {embed_dim: 64}", "tridet.yaml: no section 'settings'; its fields and defaults belong in"),
        ("train: 3", "tridet.yaml: train: expected settings (key: value), found 3"),
        ("train: [", "tridet.yaml: line 1"),
        ("train: {epochs: 3}\ntrain: {epochs: 4}", "tridet.yaml: line 2: duplicate key 'train'"),
        ("train: {epoch: 3}", "tad/detectors/tridet.yaml: train has no setting 'epoch'; did you mean 'epochs'?"),
        ("train: {epochs: many}", "tad/detectors/tridet.yaml: train.epochs must be a whole number, not 'many'"),
        (
            "nms: {min_score: -1.0}",
            "tad/detectors/tridet.yaml: nms.min_score: Input should be greater than",
        ),
        ("for: {demo: {settings: {kernel: 2}}}", "tridet.yaml for demo: detector.kernel: must be odd (got 2)"),
        ("for: {demo: {settings: {kernal: 2}}}", "tridet.yaml for demo: detector has no setting 'kernal'"),
        ("for: {demo: {setting: {kernel: 3}}}", "tridet.yaml for demo: no section 'setting'; did you mean 'settings'?"),
        ("for: {demo: 3}", "tridet.yaml: for.demo must be sections of settings, not 3"),
        ("- 3", "tridet.yaml: expected settings (key: value), found a list"),
    ],
)
def test_a_mistake_in_a_components_yaml_names_it_and_stops_no_other_run(
    edited: Callable[[str], None], text: str, named: str
) -> None:
    edited(text)
    assert Config(values()).spec("train", run="one")
    tree = set_path(values(), "runs/one/detector", "tridet")
    with pytest.raises(TadError) as caught:
        Config(tree)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_component_needs_no_yaml(edited: Callable[[str], None], tmp_path: Path) -> None:
    edited("")
    (tmp_path / "detectors/tridet.yaml").unlink()
    config = Config(set_path(values(), "runs/one/detector", "tridet"))
    assert config.resolve_run("one").sections["train"]["epochs"] == 30
    assert config.resolve_run("one").sections["settings"]["num_bins"] == 16
