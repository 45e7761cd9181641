"""The papers' detectors at their real sizes: parameters and state dicts to the unit, for every published recipe."""

import math
from typing import Any

import pytest
import torch
from test_detectors import settings

from tad.settings import plugins

Shapes = dict[str, tuple[int, ...]]

PUBLISHED = pytest.mark.parametrize(
    ("method", "dataset", "feature_dim", "classes", "length", "count", "entries"),
    [
        ("mse", "", 2048, 20, 2304, 23_400_334, 323),
        ("mse", "activitynet13", 512, 1, 768, 14_681_933, 323),
        ("mse", "hacs", 2304, 200, 960, 81_361_574, 323),
        ("tridet", "", 2048, 20, 2304, 15_989_604, 192),
        ("tridet", "activitynet13", 512, 1, 768, 12_811_555, 192),
        ("tridet", "hacs", 2304, 200, 960, 51_860_092, 192),
        ("actionformer", "", 2048, 20, 2304, 29_251_612, 229),
        ("actionformer", "activitynet13", 512, 1, 192, 6_943_497, 229),
        ("actionformer", "activitynet13", 2048, 1, 192, 8_123_145, 229),
        # counted in the published classes, made with the published configurations
        ("actionformer", "epic_verb", 2304, 97, 2304, 29_763_177, 229),
        ("actionformer", "epic_noun", 2304, 300, 2304, 30_075_188, 229),
        ("tridet", "epic_verb", 2304, 97, 2304, 18_594_123, 192),
        ("tridet", "epic_noun", 2304, 300, 2304, 19_503_532, 192),
        ("tridet", "hacs-i3d_hacs", 2048, 200, 512, 53_412_473, 215),
    ],
)


def full_size(method: str, dataset: str, feature_dim: int, classes: int, length: int) -> Any:
    """The detector of a paper, without memory for its weights."""
    with torch.device("meta"):
        return plugins.build(
            "detectors",
            method,
            settings(method, dataset),
            feature_dim=feature_dim,
            num_classes=classes,
            max_length=length,
        )


@PUBLISHED
def test_published_sizes(
    method: str, dataset: str, feature_dim: int, classes: int, length: int, count: int, entries: int
) -> None:
    detector = full_size(method, dataset, feature_dim, classes, length)
    assert sum(p.numel() for p in detector.parameters()) == count
    assert len(detector.state_dict()) == entries
    if method == "mse":
        assert [len(group["params"]) for group in detector.parameter_groups(0.1)] == [119, 204]


def attention_shapes(width: int) -> Shapes:
    shapes: Shapes = {}
    for part in ("query", "key", "value"):
        shapes[f"attn.{part}_conv.conv.weight"] = (width, 1, 3)
        shapes |= {f"attn.{part}_norm.{end}": (1, width, 1) for end in ("weight", "bias")}
    for part in ("key", "query", "value", "proj"):
        shapes |= {f"attn.{part}.weight": (width, width, 1), f"attn.{part}.bias": (width,)}
    return shapes


def block_shapes(method: str, width: int, hidden: int, kernels: tuple[int, int], *, halves: bool) -> Shapes:
    """Names and shapes of a block [the reference, 1.11, 2.1 and 2.2]; `kernels` are w and w'."""
    transforms = method == "actionformer"
    last = 3 if transforms else 2  # a dropout stands between
    shapes: Shapes = {"mlp.0.weight": (hidden, width, 1), "mlp.0.bias": (hidden,)}
    shapes |= {f"mlp.{last}.weight": (width, hidden, 1), f"mlp.{last}.bias": (width,)}
    if transforms:
        shapes |= {f"{norm}.{end}": (1, width, 1) for norm in ("ln1", "ln2") for end in ("weight", "bias")}
        return shapes | attention_shapes(width) | {f"drop_path_{x}.scale": (1, width, 1) for x in ("attn", "mlp")}
    for end in ("weight", "bias"):
        shapes |= {f"ln.{end}": (1, width, 1), f"gn.{end}": (width,)}
    sizes = {"psi": kernels[0], "convw": kernels[0], "convkw": kernels[1], "fc": 1, "global_fc": 1}
    for name, size in sizes.items():
        shapes |= {f"{name}.weight": (width, 1, size), f"{name}.bias": (width,)}
    scales = ("out", "mlp") if halves else ()
    if method == "mse":
        shapes |= attention_shapes(width) | {"dynamic_weight": (6,)}
        scales = ("out", "mlp", "attn") if halves else ()
    return shapes | {f"drop_path_{x}.scale": (1, width, 1) for x in scales}


def head_shapes(name: str, last: str, inputs: int, width: int, outputs: int, kernel: int) -> Shapes:
    shapes: Shapes = {f"{name}.head.{i}.conv.weight": (width, n, kernel) for i, n in enumerate((inputs, width))}
    shapes |= {f"{name}.norm.{i}.{end}": (1, width, 1) for i in (0, 1) for end in ("weight", "bias")}
    return shapes | {f"{name}.{last}.conv.weight": (outputs, width, kernel), f"{name}.{last}.conv.bias": (outputs,)}


def published_shapes(method: str, own: dict[str, Any], feature_dim: int, classes: int) -> Shapes:
    """The whole state dict of a paper's detector by the reference's table, for these settings."""
    width, levels = own["embed_dim"], len(own["regression_ranges"])
    shapes: Shapes = {f"backbone.embd.{i}.conv.weight": (width, n, 3) for i, n in enumerate((feature_dim, width))}
    for end in ("weight", "bias"):
        shapes |= {f"backbone.embd_norm.{i}.{end}": (1, width, 1) for i in (0, 1)}
        shapes |= {f"neck.fpn_norms.{level}.{end}": (1, width, 1) for level in range(levels)}
    for part, count in (("stem", 2), ("branch", levels - 1)):
        kernel = own.get("kernel", 1) if part == "branch" else 1
        second = round((kernel + 1) * own.get("kernel_factor", 1))
        kernels = (kernel, second + (second % 2 == 0))
        for i in range(count):
            block = block_shapes(method, width, own["mlp_dim"], kernels, halves=part == "branch")
            shapes |= {f"backbone.{part}.{i}.{name}": shape for name, shape in block.items()}
    head, kernel = own["head_dim"], own["head_kernel"]
    shapes |= head_shapes("cls_head", "cls_head", width, head, classes, kernel)
    outputs = 2
    if method != "actionformer":
        outputs = 2 * (own["num_bins"] + 1)
        for name in ("start_head", "end_head"):
            shapes |= head_shapes(name, "cls_head", width, head, classes, own["boundary_kernel"])
    shapes |= head_shapes("reg_head", "offset_head", width, head, outputs, kernel)
    return shapes | {f"reg_head.scale.{level}.scale": () for level in range(levels)}


@PUBLISHED
def test_published_state_dicts(
    method: str, dataset: str, feature_dim: int, classes: int, length: int, count: int, entries: int
) -> None:
    detector = full_size(method, dataset, feature_dim, classes, length)
    expected = published_shapes(method, settings(method, dataset), feature_dim, classes)
    assert {name: tuple(value.shape) for name, value in detector.state_dict().items()} == expected
    assert len(expected) == entries
    assert sum(math.prod(shape) for shape in expected.values()) == count
