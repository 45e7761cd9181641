"""Published checkpoints of detectors with uncommon options become models of a row that names these options."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tad.annotations.table import Instance, Table, Video, write_table
from tad.commands.cli import main
from tad.provenance.stamps import stamp
from tad.training.io.tensors import read_tensors

C, D, K, IN = 32, 24, 3, 12  # encoder, neck, classes, features
NECK = {
    **{f"neck.lateral_convs.{k}.conv.weight": (D, C, 1) for k in range(6)},
    **{f"neck.fpn_convs.{k}.conv.weight": (D, 1, 3) for k in range(6)},
    **{f"neck.fpn_norms.{k}.{part}": (1, D, 1) for k in range(6) for part in ("weight", "bias")},
}
PROJECTIONS = {
    **{f"backbone.proj.{k}.conv.weight": shape for k, shape in enumerate([(20, 7, 1), (12, 5, 1)])},
    **{f"backbone.proj.{k}.conv.bias": (width,) for k, width in enumerate([20, 12])},
}


def embedding(inputs: int, *, normed: bool) -> dict[str, tuple[int, ...]]:
    norms = {f"backbone.embd_norm.{k}.{part}": (1, C, 1) for k in range(2) for part in ("weight", "bias")}
    biases = {f"backbone.embd.{k}.conv.bias": (C,) for k in range(2)}
    weights = {"backbone.embd.0.conv.weight": (C, inputs, 3), "backbone.embd.1.conv.weight": (C, C, 3)}
    return weights | (norms if normed else biases)


def conv_encoder() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for part in ("stem.0", "stem.1", *(f"branch.{k}" for k in range(5))):
        convs = {"conv1": (2 * C, C, 3), "conv2": (C, 2 * C, 3)}
        convs |= {"downsample": (C, C, 1)} if part.startswith("branch") else {}
        for name, shape in convs.items():
            shapes |= {f"backbone.{part}.{name}.conv.weight": shape, f"backbone.{part}.{name}.conv.bias": shape[:1]}
    return shapes


def heads(inputs: int, *, outputs: int, names: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"reg_head.scale.{k}.scale": () for k in range(6)}
    for head in names:
        last, rows = ("offset_head", outputs) if head == "reg_head" else ("cls_head", K)
        shapes |= {f"{head}.head.0.conv.weight": (C, inputs, 3), f"{head}.head.1.conv.weight": (C, C, 3)}
        shapes |= {f"{head}.norm.{k}.{part}": (1, C, 1) for k in range(2) for part in ("weight", "bias")}
        shapes |= {f"{head}.{last}.conv.weight": (rows, C, 3), f"{head}.{last}.conv.bias": (rows,)}
    return shapes


CASES: dict[str, tuple[dict[str, Any], dict[str, tuple[int, ...]]]] = {
    "plain head, fpn, conv encoder, no norm in the embedding": (
        {"name": "tridet", "encoder": "conv", "neck": "fpn", "fpn_dim": D, "trident": False, "embed_norm": False},
        embedding(IN, normed=False) | conv_encoder() | NECK | heads(D, outputs=2, names=("cls_head", "reg_head")),
    ),
    "streams, fpn, conv encoder": (
        {"name": "actionformer", "encoder": "conv", "neck": "fpn", "fpn_dim": D,
         "stream_dims": [7, 5], "stream_embed_dims": [20, 12]},
        PROJECTIONS | embedding(C, normed=True) | conv_encoder() | NECK
        | heads(D, outputs=2, names=("cls_head", "reg_head")),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", list(CASES))
def test_a_row_with_options_takes_their_checkpoint(
    case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    detector, shapes = CASES[case]
    detector = {"embed_dim": C, "head_dim": C, "mlp_dim": 48} | detector
    run = {"dataset": "demo", "features": "clips", "detector": detector, "train": {"max_length": 96}}
    config = {"datasets": {"demo": {}}, "features": {"clips": {"backbone": "r2plus1d_small"}}, "runs": {"r": run}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    generator = torch.Generator().manual_seed(0)
    weights = OrderedDict((f"module.{n}", torch.randn(s, generator=generator)) for n, s in shapes.items())
    torch.save({"epoch": 3, "state_dict_ema": weights, "state_dict": weights}, tmp_path / "best.pth.tar")
    labels = tuple(f"c{k}" for k in range(K))
    video = Video("train", 9.0, tuple(Instance(k, k + 1, label) for k, label in enumerate(labels)))
    table = write_table(Table("demo", labels, {"v": video}), tmp_path / "t.json", stamp("annotate", {}, {}))
    out = tmp_path / "model.safetensors"
    argv = ["import-checkpoint", str(tmp_path / "best.pth.tar"), "--run", "r", "--feature-dim", str(IN)]
    argv += ["--annotations", str(table), "--out", str(out), "--config", str(tmp_path / "config.yaml")]
    assert main(argv) == 0, capfd.readouterr().err
    tensors, _ = read_tensors(out)
    assert tensors.keys() == shapes.keys()
    assert all(torch.equal(value, weights[f"module.{name}"]) for name, value in tensors.items())
    out.unlink()
    del detector["neck"], detector["fpn_dim"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config | {"runs": {"r": run | {"detector": detector}}}))
    assert main(argv) == 1
    assert "unknown: neck." in capfd.readouterr().err
