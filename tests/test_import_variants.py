"""`tad import-checkpoint FILE --detector D --for VARIANT` at real size, for every published recipe."""

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from test_published_sizes import full_size

from tad.annotations.table import Instance, Table, Video, write_table
from tad.commands.cli import main
from tad.commands.import_checkpoint import published_spec
from tad.provenance.stamps import read_stamp, stamp
from tad.training.io.tensors import read_tensors

WINDOWS = {
    "thumos14": 2304,
    "activitynet13": 768,
    "hacs": 960,
    "hacs-i3d_hacs": 512,
    "epic_verb": 2304,
    "epic_noun": 2304,
    "ego4d": 1024,
    "ego4d-omnivore": 1024,
}
VARIANTS = [
    *((method, "thumos14", 2048, 20) for method in ("mse", "tridet", "actionformer")),
    *((method, "activitynet13", 512, 1) for method in ("mse", "tridet", "actionformer")),
    ("actionformer", "activitynet13", 2048, 1),
    ("mse", "hacs", 2304, 200),
    ("tridet", "hacs", 2304, 200),
    ("tridet", "hacs-i3d_hacs", 2048, 200),
    *((method, "epic_verb", 2304, 97) for method in ("tridet", "actionformer")),
    *((method, "epic_noun", 2304, 300) for method in ("tridet", "actionformer")),
    ("actionformer", "ego4d", 2304, 110),
    ("actionformer", "ego4d-omnivore", 1536, 110),
]  # fmt: skip


def window(method: str, variant: str) -> int:
    return 192 if (method, variant) == ("actionformer", "activitynet13") else WINDOWS[variant]


@pytest.mark.parametrize(("method", "variant", "feature_dim", "classes"), VARIANTS)
def test_every_published_recipe(
    tmp_path: Path, method: str, variant: str, feature_dim: int, classes: int, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = published_spec(method, variant, run="r", features="f")
    assert spec.train.max_length == window(method, variant)
    shapes = full_size(method, variant, feature_dim, classes, spec.train.max_length).state_dict()
    small = torch.full((), 0.25)
    weights = OrderedDict((f"module.{name}", small.expand(value.shape).contiguous()) for name, value in shapes.items())
    torch.save({"epoch": 30, "state_dict_ema": weights, "state_dict": weights}, tmp_path / "best.pth.tar")
    labels = tuple(f"class {k:03d}" for k in range(classes))
    video = Video("train", 9.0, tuple(Instance(k, k + 1, label) for k, label in enumerate(labels)))
    table = write_table(Table("d", labels, {"v": video}), tmp_path / "t.json", stamp("annotate", {}, {}))
    out = tmp_path / "model.safetensors"
    named = [] if variant in ("thumos14", "activitynet13") else ["--annotations", str(table)]
    argv = ["--detector", method, "--for", variant, "--feature-dim", str(feature_dim), "--classes", str(classes)]
    assert main(["import-checkpoint", str(tmp_path / "best.pth.tar"), "--out", str(out), *argv, *named]) == 0
    made = read_stamp(out)["spec"]
    assert made["dataset"] == variant.partition("-")[0]
    assert made["features"] == variant.partition("-")[2]
    assert made["detector"]["settings"].get("face", "parity") == "parity"
    tensors, header = read_tensors(out)
    assert {name: value.shape for name, value in tensors.items()} == {name: v.shape for name, v in shapes.items()}
    assert header["feature_dim"] == str(feature_dim)
    del tensors
    out.unlink()
    wrong = [*argv[:5], str(feature_dim + 1), *argv[6:]]
    assert main(["import-checkpoint", str(tmp_path / "best.pth.tar"), "--out", str(out), *wrong, *named]) == 1
    assert "1 of another shape: backbone.embd.0.conv.weight" in capfd.readouterr().err
    assert not out.exists()


def test_settings_that_differ_from_the_published_ones() -> None:
    changed = published_spec("mse", "thumos14", run="r", features="f", settings="{face: corrected, embed_dim: 256}")
    assert (changed.detector.settings["face"], changed.detector.settings["embed_dim"]) == ("corrected", 256)
    plain = published_spec("mse", "thumos14", run="r", features="f")
    assert {**changed.detector.settings, "face": "parity"} == {**plain.detector.settings, "embed_dim": 256}
