"""Compiled graphs: the same function as the plain network, kept on disk."""

import os
from pathlib import Path

import pytest
import torch
from golden_tools import still
from torch import Tensor, nn
from torch._dynamo.utils import counters
from training_tools import real_spec

from tad.core.device import compile_cache, prepare_compilation
from tad.core.errors import TadError
from tad.layers.masked import ChannelNorm
from tad.layers.types import Targets
from tad.settings import plugins
from tad.training.loop.compile import compile_networks

CPU = torch.device("cpu")


def narrow(name: str) -> nn.Module:
    """A detector of the package, corrected where there are two faces, without random numbers."""
    spec = real_spec(name, "corrected" if name != "actionformer" else "")
    torch.manual_seed(0)
    settings = spec.detector.settings | {"input_noise": 0.0, "dropout": 0.0}
    settings = {key: value for key, value in settings.items() if key in spec.detector.settings}
    detector: nn.Module = plugins.build("detectors", name, settings, feature_dim=6, num_classes=2, max_length=32)
    still(detector.train())
    return detector


def gradients(detector: nn.Module, length: int) -> Tensor:
    """All gradients of a batch whose longest video has `length` snippets, as one vector."""
    torch.manual_seed(1)
    feats_BTC = torch.randn(2, 32, 6)
    target = Targets(torch.tensor([[2.0, 9.0], [11.0, 16.0]]), torch.tensor([0, 1]))
    detector.zero_grad(set_to_none=True)
    detector.load_training_state({"loss_norm": torch.tensor(10.0)})
    detector.loss(feats_BTC, torch.tensor([length, 18]), [target, target])["total"].backward()
    return torch.cat([p.grad.flatten() for p in detector.parameters() if p.grad is not None])


@pytest.mark.parametrize("name", ["mse", pytest.param("actionformer", marks=pytest.mark.wide)])
def test_graphs_of_the_detectors_equal_the_plain_ones(name: str) -> None:
    """Their operations, as compiled graphs have them; what is made of these is tested on less, below."""
    detector = narrow(name)
    plain = [gradients(detector, length) for length in (32, 20)]
    compile_networks(detector, CPU, backend="aot_eager")
    for length, expected in zip((32, 20), plain, strict=True):
        torch.testing.assert_close(gradients(detector, length), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_compiled_equals_plain_and_graphs_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    torch.manual_seed(0)
    net = nn.Sequential(ChannelNorm(16))
    x_BCT = torch.randn(2, 16, 24, requires_grad=True)

    def run() -> Tensor:
        net.zero_grad(set_to_none=True)
        net(x_BCT).square().sum().backward()
        return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])

    plain = run()
    found = []
    for _ in range(2):
        torch.compiler.reset()
        counters.clear()
        compile_networks(net, CPU)
        torch.testing.assert_close(run(), plain)
        found.append({name: counters["inductor"][f"fxgraph_cache_{name}"] for name in ("hit", "miss")})
    assert found[0]["miss"] > 0
    assert (found[1]["miss"], found[1]["hit"]) == (0, found[0]["miss"])
    assert any((tmp_path / "tad" / "inductor").iterdir())


def test_whole_windows_change_nothing() -> None:
    detector = narrow("mse")
    short = gradients(detector, 20)
    detector.whole_windows = True  # type: ignore[assignment]
    torch.testing.assert_close(gradients(detector, 20), short, rtol=1e-4, atol=1e-5)


def test_a_missing_compiler_is_said_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(TadError, match=r"train\.compile: no C\+\+ compiler \(no-such-compiler\)"):
        compile_networks(narrow("mse"), CPU)


def test_where_graphs_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "chosen")
    prepare_compilation()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "chosen"
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    prepare_compilation()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "tad" / "inductor")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert compile_cache("inductor") is None
