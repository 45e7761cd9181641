"""Engines: what they take over, how near they come to torch in float32, and what each refuses."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tad.backbones._contract import BackboneBase
from tad.core.errors import TadError
from tad.extraction.engines import OpenVino, prepare, version
from tad.layers.i3d.inception import same_padding  # the plug-ins' own modules are loaded by name below
from tad.settings import plugins
from tad.settings.config import Config
from tad.settings.stages import NetworkSpec

CPU = torch.device("cpu")
OPENVINO = NetworkSpec(engine="openvino")


@torch.inference_mode(mode=False)
def build(name: str, **changes: Any) -> nn.Module:
    torch.manual_seed(0)
    settings = plugins.defaults("backbones", name) | changes
    model: nn.Module = plugins.build("backbones", name, settings).eval()
    for module in model.modules():  # statistics of a network that has seen something
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def clips(count: int, length: int, size: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, length, *size, 3), dtype=torch.uint8, generator=generator)


def apart(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / (wanted.max() - wanted.min()))


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


CASES = [
    ("r2plus1d_small", {}, 16, (36, 64)),
    pytest.param("tsp", {"depth": 18}, 16, (128, 171), marks=[pytest.mark.slow, pytest.mark.wide]),
    pytest.param("i3d", {"streams": "rgb"}, 16, (256, 300), marks=pytest.mark.slow),
    pytest.param("slowfast", {}, 32, (256, 300), marks=[pytest.mark.slow, pytest.mark.wide]),
]


@pytest.mark.parametrize(("name", "changes", "length", "size"), CASES)
def test_openvino_equals_torch(name: str, changes: dict[str, Any], length: int, size: tuple[int, int]) -> None:
    pytest.importorskip("openvino")
    batch = clips(1, length, size)
    with torch.inference_mode():
        wanted = build(name, **changes)(batch)
        model = prepare(build(name, **changes), OPENVINO, name=name, device=CPU)
        found = model(batch)
        assert found.dtype == torch.float32
        assert 0 < apart(found, wanted) <= 1e-5
        assert torch.equal(model(batch), found)
        other = clips(1, length, size).flip(1)
        assert not torch.equal(model(other), found)  # what it gave is not overwritten by the next input
        assert 0 < apart(found, wanted) <= 1e-5


def test_openvino_compiled_before_gives_the_same_bits(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    batch = clips(2, 16, (36, 64))
    with torch.inference_mode():
        first = prepare(build("r2plus1d_small"), OPENVINO, name="x", device=CPU)(batch)
        kept = sorted(path.name for path in (tmp_path / "tad/openvino").rglob("*.blob"))
        assert kept
        again = prepare(build("r2plus1d_small"), OPENVINO, name="x", device=CPU)(batch)
        assert sorted(path.name for path in (tmp_path / "tad/openvino").rglob("*.blob")) == kept
    assert torch.equal(first, again)


@pytest.mark.parametrize(
    "network",
    [
        NetworkSpec(channels_last=True),
        NetworkSpec(precision="bfloat16", channels_last=True),
        NetworkSpec(engine="openvino", precision="bfloat16"),
    ],
)
def test_settings_of_the_network_change_its_bits_and_little_else(network: NetworkSpec) -> None:
    if network.engine == "openvino":
        openvino = pytest.importorskip("openvino")
        if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            pytest.skip("this CPU does not compute in bfloat16")
    batch = clips(1, 16, (36, 64))
    with torch.inference_mode():
        wanted = build("r2plus1d_small")(batch)
        found = prepare(build("r2plus1d_small"), network, name="x", device=CPU)(batch)
    assert found.dtype == torch.float32
    if network.precision == "bfloat16":
        assert 1e-5 < apart(found, wanted) < 0.05
    else:
        assert apart(found, wanted) <= 1e-5


@pytest.mark.slow
def test_compiled_network_equals_the_plain_one() -> None:
    batch = clips(1, 16, (36, 64))
    with torch.inference_mode():
        wanted = build("r2plus1d_small")(batch)
        found = prepare(build("r2plus1d_small"), NetworkSpec(compile=True), name="x", device=CPU)(batch)
    assert apart(found, wanted) <= 1e-5


def test_default_leaves_the_backbone_alone() -> None:
    model = build("r2plus1d_small")
    assert prepare(model, NetworkSpec(), name="x", device=CPU) is model
    assert "features" not in vars(model)


def test_what_an_engine_takes_over() -> None:
    small, both = build("r2plus1d_small"), build("i3d")
    assert small.networks() == [small]
    assert both.networks() == [both.rgb, both.flow]
    assert same_padding(7, 3, 2) == (1, 1)


class Random(BackboneBase):
    """A network that gives something else each time."""

    def networks(self) -> list[nn.Module]:
        return [self]

    def features(self, x_BCTHW: Tensor) -> Tensor:
        return x_BCTHW.flatten(2).mean(2) + torch.rand(1, 3)


class Branches(BackboneBase):
    """A network that decides by its input's values."""

    def networks(self) -> list[nn.Module]:
        return [self]

    def features(self, x_BCTHW: Tensor) -> Tensor:
        rows = x_BCTHW.flatten(2).mean(2)
        return rows if float(x_BCTHW.sum()) > 0 else rows * 2


class Plain(BackboneBase):
    """Has nothing that an engine could take over."""


def test_what_engines_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TadError, match="backbone plain: does not support other engines"):
        prepare(Plain(), NetworkSpec(channels_last=True), name="plain", device=CPU)
    with pytest.raises(ValueError, match="need engine torch"):
        NetworkSpec(engine="openvino", compile=True)
    pytest.importorskip("openvino")
    with pytest.raises(TadError, match="openvino runs on a CPU; set device: cpu"):
        OpenVino(Plain(), OPENVINO, name="x", device=torch.device("cuda", 0))
    for model, told in ((Random(), "OpenVINO's features differ from"), (Branches(), "OpenVINO cannot convert it")):
        with pytest.raises(TadError, match=rf"backbone own: {told} .*; set network.engine: torch"):
            prepare(model, OPENVINO, name="own", device=CPU).features(torch.ones(1, 3, 4, 5, 6))
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(TadError, match=r"not installed; pip install openvino"):
        version(OPENVINO)


def test_the_engine_is_part_of_the_recipe() -> None:
    def recipe(**row: Any) -> dict[str, Any]:
        values = {
            "datasets": {"demo": {}}, "features": {"clips": {"backbone": "r2plus1d_small", **row}},
            "runs": {"demo": {"dataset": "demo", "features": "clips", "detector": "mse"}},
        }  # fmt: skip
        return Config(values).recipe("clips", "demo")

    assert recipe()["network"] == NetworkSpec().model_dump()
    assert recipe(network={"engine": "openvino"})["network"]["engine"] == "openvino"
    with pytest.raises(TadError, match=r"features.clips.network.engin: unknown key 'engin'.*engine"):
        recipe(network={"engin": "openvino"})


def test_rows_do_not_depend_on_their_company() -> None:
    """What lets batches mix videos: with a fixed size, a row is the same in every place and beside any others."""
    batch = clips(4, 16, (36, 64))
    with torch.inference_mode():
        model = build("r2plus1d_small")
        rows: Sequence[Tensor] = model(batch)
        assert torch.equal(model(batch[[2, 0, 3, 1]]), rows[[2, 0, 3, 1]])
        assert torch.equal(model(batch[[1, 1, 1, 1]])[3], rows[1])
