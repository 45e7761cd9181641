"""A published checkpoint becomes a model that detect takes; a hostile or foreign file is one line and runs nothing."""

import io
import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml
from golden_tools import Golden
from harm import Harm
from safetensors.torch import load_file
from torch import Tensor
from training_tools import detect_spec, run, train_spec, use_tiny, videos_of, write_inputs

from tad.commands.cli import main
from tad.commands.import_checkpoint import import_model
from tad.core.errors import TadError
from tad.provenance.stamps import read_stamp, stamp
from tad.settings import plugins
from tad.stages.detect import detect
from tad.training.io.published import RULE, import_checkpoint, read_checkpoint
from tad.training.io.tensors import read_tensors, write_tensors
from tad.workflow.runs import IMPORTED
from tad.workflow.why import parse_dry_run

ROOT = Path(__file__).parents[1]


def published(state: dict[str, Tensor], **changes: Any) -> dict[str, Any]:
    """What the published drivers save."""
    named = OrderedDict((f"module.{name}", value) for name, value in state.items())
    return {
        "epoch": 39,
        "state_dict": OrderedDict((name, value * 0) for name, value in named.items()),
        "state_dict_ema": named,
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]},
        "scheduler": {"base_lrs": [1e-4], "last_epoch": 40, "_last_lr": [1e-8]},
        "mAP": np.float64(0.705),
    } | changes


@pytest.fixture(scope="module")
def golden(shared: Path) -> Golden:
    return Golden(shared, "mse_thumos")


ARGUMENTS = ["--detector", "mse", "--for", "thumos14", "--feature-dim", "2048", "--classes", "20"]


@pytest.mark.parametrize(
    ("zipped", "core"),  # an archive has a checksum, which an edited name would not fit
    [(True, b"numpy._core"), (False, b"numpy._core"), (False, b"numpy.core")],
)
def test_both_file_layouts_and_numpy_generations(tmp_path: Path, zipped: bool, core: bytes) -> None:
    path = tmp_path / "bestmodel.pth.tar"
    state = {"a.weight": torch.randn(3, 2), "a.steps": torch.tensor(3)}
    torch.save(published(state), path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes().replace(b"numpy._core", core))
    found, epoch = read_checkpoint(path)
    assert epoch == 39
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)
    plain, _ = read_checkpoint(path, weights="plain")
    assert not plain["a.weight"].any()


@pytest.mark.parametrize(
    ("saved", "epoch"), [(np.int64(12), 12), (np.int32(7), 7), (np.float64(3), -1), (True, -1), (None, -1)]
)
def test_the_epoch_may_be_a_number_of_numpy(tmp_path: Path, saved: Any, epoch: int) -> None:
    torch.save(published({"a": torch.zeros(1)}, epoch=saved), tmp_path / "x.pth.tar")
    found = read_checkpoint(tmp_path / "x.pth.tar")[1]
    assert (type(found), found) == (int, epoch)


def small_state() -> dict[str, Tensor]:
    """Shapes of the published THUMOS14 model, all zeros."""
    sizes = {"feature_dim": 2048, "num_classes": 20, "max_length": 2304}
    with torch.device("meta"):
        detector = plugins.build("detectors", "mse", {}, **sizes)
    return {name: torch.zeros(value.shape, dtype=value.dtype) for name, value in detector.state_dict().items()}


def test_the_published_thumos_model(tmp_path: Path) -> None:
    state = small_state()
    assert len(state) == 323
    state["cls_head.cls_head.conv.bias"] += torch.arange(20.0)
    torch.save(published(state), tmp_path / "best.pth.tar")
    out = tmp_path / "thumos-mse" / "model.safetensors"
    assert main(["import-checkpoint", str(tmp_path / "best.pth.tar"), *ARGUMENTS, "--out", str(out)]) == 0
    made = read_stamp(out)
    assert (made["stage"], made["epoch_rule"], made["epoch"]) == ("train", RULE, 39)
    assert (made["spec"]["run"], made["spec"]["dataset"]) == ("thumos-mse", "thumos14")
    tensors, header = read_tensors(out)
    assert torch.equal(tensors["cls_head.cls_head.conv.bias"], torch.arange(20.0))
    assert '"VolleyballSpiking"]' in header["labels"]
    assert (tensors.keys(), header["feature_dim"]) == (state.keys(), "2048")


def test_golden_weights_fit_their_detector(golden: Golden, tmp_path: Path) -> None:
    torch.save(published(golden.group("state/")), tmp_path / "x.pth.tar")
    sizes = golden.sizes
    base = train_spec(max_length=sizes["max_length"])
    detector = base.detector.model_copy(update={"name": "mse", "settings": golden.settings})
    spec = base.model_copy(update={"detector": detector})
    labels = [f"class {k}" for k in range(sizes["num_classes"])]
    out = tmp_path / "m.safetensors"
    import_checkpoint(tmp_path / "x.pth.tar", out, spec=spec, feature_dim=sizes["feature_dim"], labels=labels)
    assert all(torch.equal(value, golden.group("state/")[name]) for name, value in load_file(out).items())


def test_detect_takes_it_and_finds_what_the_trained_model_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(plugins, "build", use_tiny)
    features, table = write_inputs(tmp_path, videos_of(np.random.default_rng(0)))
    trained = run(tmp_path, train_spec())
    torch.save(published(load_file(trained)), tmp_path / "best.pth.tar")
    theirs = import_checkpoint(
        tmp_path / "best.pth.tar",
        tmp_path / "r" / "model.safetensors",
        spec=train_spec(),
        feature_dim=6,
        labels=["jump", "run"],
    )
    found = []
    for name, model in (("a", trained), ("b", theirs)):
        out = detect(features, model, table, tmp_path / f"{name}.h5", spec=detect_spec(), threads=1)
        with h5py.File(out) as file:
            found.append({key: file[key][:] for key in ("segments", "scores", "labels", "offsets")})
    assert len(found[0]["scores"])
    assert all(np.array_equal(found[0][key], found[1][key]) for key in found[0])
    assert "cannot be checked" in caplog.text


def test_nothing_trains_over_an_imported_model(tmp_path: Path) -> None:
    """Also where features and annotations are made after it; a model that was trained follows them."""
    (tmp_path / "features").mkdir()
    np.save(tmp_path / "features" / "v.npy", np.zeros((9, 4), np.float32))
    (tmp_path / "a.json").write_text('{"database": {}}')
    clip = {"length": 1, "stride": 1, "policy": "resample", "rate": 1.0}
    row = {"dataset": "toys", "features": "ours", "detector": "mse"}
    values = {
        "datasets": {"toys": {"format": "activitynet", "annotations": "a.json"}},
        "features": {"ours": {"source": "features", "dim": 4, "clip": clip}},
        "runs": {"theirs": row, "trained": row, "many": {**row, "seeds": 2}},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    for name, rule in (("theirs", RULE), ("trained", "last epoch")):
        header = {"tad_stamp": stamp("train", {"run": name}, {}, epoch_rule=rule)}
        write_tensors(tmp_path / f"results/{name}/model.safetensors", {"a": torch.zeros(1)}, header)
    targets = ["results/theirs/map.json", "results/trained/map.json"]
    command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", tmp_path, "-n"]
    done = subprocess.run([*command, *targets], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    jobs = {(job.rule, job.wildcards.get("run", "")) for job in parse_dry_run(done.stdout + done.stderr)}
    assert jobs >= {("convert", ""), ("detect", "theirs"), ("evaluate", "theirs"), ("train", "trained")}
    assert ("train", "theirs") not in jobs
    assert IMPORTED == RULE
    with pytest.raises(TadError, match=r"--run many: has 2 seeds, .* name many/seed-0"):
        import_model(tmp_path / "x", tmp_path / "m", run="many", config=tmp_path / "config.yaml")


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"cls_head.cls_head.conv.bias": None}, "1 missing: cls_head.cls_head.conv.bias)"),
        ({"extra.weight": torch.zeros(2)}, "1 unknown: extra.weight)"),
        ({"cls_head.cls_head.conv.bias": torch.zeros(200)}, "1 of another shape: cls_head.cls_head.conv.bias (200,)"),
        ({"neck.fpn_norms.0.weight": torch.full((1, 512, 1), float("nan"))}, "'neck.fpn_norms.0.weight' is not finite"),
        ({"cls_head.cls_head.conv.bias": 3}, "is a int, not a tensor"),
    ],
)
def test_weights_of_another_detector_are_named(
    tmp_path: Path, edit: dict[str, Any], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    state = {name: value for name, value in (small_state() | edit).items() if value is not None}
    torch.save(published({}, state_dict_ema=OrderedDict((f"module.{k}", v) for k, v in state.items())), tmp_path / "x")
    out = tmp_path / "m.safetensors"
    assert main(["import-checkpoint", str(tmp_path / "x"), *ARGUMENTS, "--out", str(out)]) == 1
    lines = [line for line in capfd.readouterr().err.splitlines() if line and " WARNING " not in line]
    assert len(lines) == 1
    assert said in lines[0]
    assert not out.exists()


def visible(folder: Path) -> list[str]:
    """Names of the files in a folder, without the claims of its files in `.kept`."""
    return [path.name for path in folder.iterdir() if path.name != ".kept"]


def test_all_keys_of_another_detector_are_listed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """More than a line holds: they are in a file beside the model, which goes once a checkpoint fits."""
    state = small_state()
    unknown = {f"decoder.{k}.weight": torch.zeros(1) for k in range(7)}
    missing = [name for name in state if name.startswith("cls_head.")]
    assert len(missing) > 5
    named = {name: value for name, value in state.items() if name not in missing}
    named["reg_head.offset_head.conv.bias"] = torch.zeros(3)
    torch.save(published(named | unknown), tmp_path / "x.pth.tar")
    out = tmp_path / "r" / "model.safetensors"
    assert main(["import-checkpoint", str(tmp_path / "x.pth.tar"), *ARGUMENTS, "--out", str(out)]) == 1
    listing = out.with_name("model.mismatch.txt")
    (said,) = [line for line in capfd.readouterr().err.splitlines() if line and " WARNING " not in line]
    assert f"{len(missing)} missing: {', '.join(missing[:2])} …; 7 unknown: decoder.0.weight, " in said
    assert "1 of another shape: reg_head.offset_head.conv.bias (3,) for (34,)" in said
    assert f"; all are listed in {listing.name}, beside the model)" in said
    shape = ["of another shape: reg_head.offset_head.conv.bias (3,) for (34,)"]
    wanted = [f"missing: {name}" for name in missing] + [f"unknown: {name}" for name in unknown] + shape
    assert listing.read_text().splitlines() == wanted
    assert visible(out.parent) == [listing.name]
    torch.save(published(state), tmp_path / "x.pth.tar")
    assert main(["import-checkpoint", str(tmp_path / "x.pth.tar"), *ARGUMENTS, "--out", str(out)]) == 0
    assert visible(out.parent) == [out.name]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "name a run"),
        ({"detector": "msee", "variant": "thumos14"}, "did you mean 'mse'?"),
        ({"detector": "mse", "variant": "thumos"}, "did you mean 'thumos14'?"),
        ({"detector": "mse", "variant": "thumos14"}, "--feature-dim"),
        ({"detector": "mse", "variant": "thumos14", "feature_dim": 2048, "classes": 200}, "has 20 here"),
        ({"detector": "mse", "variant": "hacs", "feature_dim": 2304}, "--annotations"),
        ({"detector": "mse", "variant": "thumos14", "settings": "{fase: parity}"}, "did you mean 'face'?"),
        ({"detector": "mse", "variant": "thumos14", "settings": "{face: odd}"}, "--settings: detector.face"),
        ({"detector": "mse", "variant": "thumos14", "settings": "face"}, "--settings: expected settings (key: value)"),
        ({"run": "one", "settings": "{face: corrected}"}, "only with --detector"),
        ({"run": "nobody", "config": Path(__file__).parents[1] / "config.yaml"}, "runs has no 'nobody'"),
        ({"detector": "mse", "variant": "thumos14", "feature_dim": 2048}, "no such file"),
    ],
)
def test_settings_that_do_not_say_enough(tmp_path: Path, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(TadError) as caught:
        import_model(tmp_path / "absent.pth.tar", tmp_path / "m.safetensors", **arguments)
    assert said in str(caught.value)


class Setter:
    """Unpickled by setting its state."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        os.system(state["command"])


def hostile(mark: Path) -> dict[str, Any]:
    command = f"touch {mark}"
    setter = Setter()
    setter.__dict__["command"] = command
    return {
        "os.system": Harm(os.system, command),
        "subprocess": Harm(subprocess.call, ["touch", str(mark)]),
        "eval": Harm(eval, f"open({str(mark)!r}, 'w')"),
        "exec": Harm(exec, f"open({str(mark)!r}, 'w')"),
        "open": Harm(open, str(mark), "w"),
        "torch.load": Harm(torch.load, str(mark)),
        "torch.hub": Harm(torch.hub.load, "a/b", "c"),
        "storage": Harm(torch.storage._load_from_bytes, pickle.dumps(Harm(os.system, command))),
        "getattr": Harm(getattr, "text", "upper"),
        "setstate": setter,
        "numpy object": np.array([Harm(os.system, command)], dtype=object),
        "numpy load": Harm(np.load, str(mark), None, True),
        "class": Setter,
    }


PLACES = ("top", "mAP", "weights", "deep")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", sorted(hostile(Path("x"))))
def test_code_in_a_checkpoint_is_never_run(tmp_path: Path, name: str, place: str, zipped: bool) -> None:
    mark, path = tmp_path / "ran", tmp_path / "best.pth.tar"
    harm = hostile(mark)[name]
    value = {
        "top": harm,
        "mAP": published({}, mAP=harm),
        "weights": published({}, state_dict_ema=OrderedDict({"module.a": harm})),
        "deep": published({}, optimizer={"state": [{"a": (1, [harm])}]}),
    }[place]
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(TadError, match="no code from it was run") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert not mark.exists()


def damaged(folder: Path) -> dict[str, bytes]:
    buffer = io.BytesIO()
    torch.save(published({"a": torch.zeros(100)}), buffer)
    whole = buffer.getvalue()
    scalar = b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O8'\ntRS'x'\ntR."
    return {
        "empty": b"",
        "text": b"<html>quota exceeded</html>",
        "cut": whole[: len(whole) // 2],
        "head": whole[:10],
        "no weights": pickle.dumps([1, 2, 3], protocol=2),
        "plain pickle": pickle.dumps({"state_dict_ema": {}}, protocol=4),
        "object scalar": b"\x80\x02" + scalar,
        "system by hand": b"\x80\x02cos\nsystem\n(S'touch " + str(folder / "ran").encode() + b"'\ntR.",
        "endless memo": b"\x80\x02" + b"(" * 100_000 + b".",
        "missing stack": b"\x80\x02tR.",
    }


@pytest.mark.parametrize("name", sorted(damaged(Path())))
def test_damaged_files_are_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / "best.pth.tar"
    path.write_bytes(damaged(tmp_path)[name])
    with pytest.raises(TadError) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "ran").exists()
