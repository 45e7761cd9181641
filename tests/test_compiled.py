"""Compiled graphs: the same function as the plain network, kept for the next process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from golden_tools import still
from training_tools import real_spec

from tad import plugins
from tad.device import keep_graphs, kept_folder
from tad.errors import TadError
from tad.layers.types import Targets
from tad.training.compiled import compile_networks

CPU = torch.device("cpu")

STEPS = """
import json, sys
import torch
from torch._dynamo.utils import counters
from test_compiled import CPU, gradients, narrow
from tad.training.compiled import compile_networks
torch.set_num_threads(1)
detector = narrow(sys.argv[1])
with torch.autocast("cpu", torch.bfloat16, enabled=sys.argv[2] == "bfloat16"):
    plain = [gradients(detector, length) for length in (32, 20)]
    compile_networks(detector, CPU)
    compiled = [gradients(detector, length) for length in (32, 20)]
apart = [float((a - b).norm() / a.norm()) for a, b in zip(plain, compiled, strict=True)]
kept = {name: counters["inductor"]["fxgraph_cache_" + name] for name in ("hit", "miss")}
print(json.dumps({"apart": apart, "graphs": counters["stats"]["unique_graphs"], **kept}))
"""


def narrow(name: str) -> torch.nn.Module:
    """A detector of the package, corrected where there are two faces, without random numbers."""
    spec = real_spec(name, "corrected" if name != "actionformer" else "")
    torch.manual_seed(0)
    settings = spec.detector.settings | {"input_noise": 0.0, "dropout": 0.0}
    settings = {key: value for key, value in settings.items() if key in spec.detector.settings}
    make = plugins.load("detectors", name)
    detector: torch.nn.Module = make(feature_dim=6, num_classes=2, max_length=32, **settings)
    still(detector.train())
    return detector


def gradients(detector: torch.nn.Module, length: int) -> torch.Tensor:
    """All gradients of a batch whose longest video has `length` snippets, as one vector."""
    torch.manual_seed(1)
    feats_BTC = torch.randn(2, 32, 6)
    target = Targets(torch.tensor([[2.0, 9.0], [11.0, 16.0]]), torch.tensor([0, 1]))
    detector.zero_grad(set_to_none=True)
    detector.load_training_state({"loss_norm": torch.tensor(10.0)})
    detector.loss(feats_BTC, torch.tensor([length, 18]), [target, target])["total"].backward()
    return torch.cat([p.grad.flatten() for p in detector.parameters() if p.grad is not None])


@pytest.mark.parametrize(("name", "precision"), [("mse", "float32"), ("actionformer", "bfloat16")])
@pytest.mark.slow
def test_compiled_equals_plain_and_the_next_process_finds_the_graphs(tmp_path: Path, name: str, precision: str) -> None:
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": paths}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
    found = []
    for _ in range(2):
        command = [sys.executable, "-c", STEPS, name, precision]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(json.loads(done.stdout.splitlines()[-1]))
    for process in found:
        assert max(process["apart"]) < (1e-5 if precision == "float32" else 0.05)
        assert process["graphs"] == found[0]["graphs"]
    assert found[0]["miss"] > 0
    assert (found[1]["miss"], found[1]["hit"]) == (0, found[0]["miss"] + found[0]["hit"])
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
    keep_graphs()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "chosen"
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    keep_graphs()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "tad" / "inductor")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert kept_folder("inductor") is None
