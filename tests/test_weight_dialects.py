"""Every published key layout of the backbones' weights loads, and nothing in a weight file is ever run."""

import io
import json
import os
import pickle
import zipfile
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harm import Harm
from safetensors.torch import save_file
from torch import Tensor, nn

from tad.backbones._weights import load_weights, read_weights
from tad.core.errors import TadError
from tad.settings import plugins
from tad.settings.stages import Plugin

Shapes = dict[str, tuple[int, ...]]
BN = ("weight", "bias", "running_mean", "running_var")
# published widths of I3D's blocks: input, then b0, b1a, b1b, b2a, b2b, b3b
WIDTHS = {
    "3b": (192, 64, 96, 128, 16, 32, 32), "3c": (256, 128, 128, 192, 32, 96, 64), "4b": (480, 192, 96, 208, 16, 48, 64),
    "4c": (512, 160, 112, 224, 24, 64, 64), "4d": (512, 128, 128, 256, 24, 64, 64),
    "4e": (512, 112, 144, 288, 32, 64, 64), "4f": (528, 256, 160, 320, 32, 128, 128),
    "5b": (832, 256, 160, 320, 32, 128, 128), "5c": (832, 384, 192, 384, 48, 128, 128),
}  # fmt: skip


@cache
def _built(name: str, **changes: Any) -> nn.Module:
    settings = plugins.defaults("backbones", name) | changes
    model: nn.Module = plugins.build("backbones", name, settings)
    return model


def build(name: str, **changes: Any) -> nn.Module:
    """A backbone whose numbers are all 0."""
    model = _built(name, **changes)
    for tensor in model.state_dict().values():
        tensor.zero_()
    return model


def unit(prefix: str, norm: str, c_in: int, c_out: int, k: int) -> Shapes:
    named = {f"{prefix}.{norm}.{field}": (c_out,) for field in BN}
    return {f"{prefix}.conv3d.weight": (c_out, c_in, k, k, k), **named}


def i3d_file(channels: int, *, lower: bool, classes: int = 400) -> Shapes:
    """Keys and shapes of `rgb_imagenet.pt` and `flow_imagenet.pt`; `lower`: of hassony2's and video_features' files."""
    norm = "batch3d" if lower else "bn"
    names = ("branch_0", "branch_1.0", "branch_1.1", "branch_2.0", "branch_2.1", "branch_3.1")
    names = names if lower else ("b0", "b1a", "b1b", "b2a", "b2b", "b3b")
    found: Shapes = {}
    for stem, c_in, c_out, k in (("1a_7x7", channels, 64, 7), ("2b_1x1", 64, 64, 1), ("2c_3x3", 64, 192, 3)):
        found |= unit(f"{'conv3d' if lower else 'Conv3d'}_{stem}", norm, c_in, c_out, k)
    for block, (c_in, b0, b1a, b1b, b2a, b2b, b3b) in WIDTHS.items():
        shapes = ((c_in, b0, 1), (c_in, b1a, 1), (b1a, b1b, 3), (c_in, b2a, 1), (b2a, b2b, 3), (c_in, b3b, 1))
        for name, (a, b, k) in zip(names, shapes, strict=True):
            found |= unit(f"{'mixed' if lower else 'Mixed'}_{block}.{name}", norm, a, b, k)
    head = "conv3d_0c_1x1" if lower else "logits"
    return found | {f"{head}.conv3d.weight": (classes, 1024, 1, 1, 1), f"{head}.conv3d.bias": (classes,)}


def r2plus1d_file(depth: int) -> Shapes:
    """Keys and shapes of the encoder in TSP's checkpoints (torchvision's names), with step counters."""
    found: Shapes = {}

    def norm(prefix: str, width: int) -> None:
        found.update({f"{prefix}.{field}": (width,) for field in BN} | {f"{prefix}.num_batches_tracked": ()})

    def pair(prefix: str, a: int, middle: int, b: int) -> None:
        found[f"{prefix}.0.weight"], found[f"{prefix}.3.weight"] = (middle, a, 1, 3, 3), (b, middle, 3, 1, 1)
        norm(f"{prefix}.1", middle)

    found["stem.0.weight"], found["stem.3.weight"] = (45, 3, 1, 7, 7), (64, 45, 3, 1, 1)
    norm("stem.1", 45)
    norm("stem.4", 64)
    a, first = 64, {2: 230, 3: 460, 4: 921}
    counts = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}[depth]
    for layer, (blocks, b) in enumerate(zip(counts, (64, 128, 256, 512), strict=True), 1):
        full = {64: 144, 128: 288, 256: 576, 512: 1152}[b]
        for block in range(blocks):
            name = f"layer{layer}.{block}"
            narrow = first.get(layer, full) if block == 0 else full
            pair(f"{name}.conv1.0", a, narrow, b)
            pair(f"{name}.conv2.0", b, narrow if depth == 18 else full, b)
            norm(f"{name}.conv1.1", b)
            norm(f"{name}.conv2.1", b)
            if a != b:
                found[f"{name}.downsample.0.weight"] = (b, a, 1, 1, 1)
                norm(f"{name}.downsample.1", b)
            a = b
    return found


def filled(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """A number of its own for every key; stored as one element each, so that files of real shapes stay small."""
    state: dict[str, Tensor] = OrderedDict()
    for k, (key, shape) in enumerate(shapes.items()):
        kind = torch.int64 if key.endswith("num_batches_tracked") else torch.float32
        state[key] = torch.tensor(k + 1, dtype=kind).expand(shape).contiguous()
    return state


def without_counters(shapes: Mapping[str, tuple[int, ...]]) -> Shapes:
    return {key: shape for key, shape in shapes.items() if not key.endswith("num_batches_tracked")}


def prefixed(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def save(value: Any, path: Path, *, legacy: bool) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    assert zipfile.is_zipfile(path) != legacy
    return path


WRAPPED: dict[str, Callable[[Mapping[str, Tensor]], Any]] = {
    "bare": dict,
    "data parallel": lambda state: prefixed(state, "module."),
    "model_state": lambda state: {"model_state": dict(state)},
    "module": lambda state: {"module": dict(state), "epoch": 3},
    "state_dict, data parallel": lambda state: {"epoch": 3, "state_dict": prefixed(state, "module.")},
    "model, features.": lambda state: {"model": prefixed(state, "features.")},
}


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("lower", [False, True], ids=["piergiaj", "hassony2"])
@pytest.mark.parametrize("stream", ["rgb", "flow"])
def test_i3d_files_load(tmp_path: Path, stream: str, lower: bool, legacy: bool) -> None:
    channels = {"rgb": 3, "flow": 2}[stream]
    shapes = i3d_file(channels, lower=lower)
    assert len(shapes) == 287
    state = filled(shapes)
    path = save(state, tmp_path / "x.pt", legacy=legacy)
    loaded = load_weights(path, build("i3d", streams=stream)).state_dict()
    names = i3d_file(channels, lower=False)  # the same order in both dialects
    for name, value in zip(names, state.values(), strict=True):
        assert torch.equal(loaded[f"{stream}.{name}"], value), name


@pytest.mark.parametrize("wrapper", [name for name in WRAPPED if "features" not in name])
def test_i3d_wrappers_load(tmp_path: Path, wrapper: str) -> None:
    state = filled(i3d_file(3, lower=True, classes=157))
    path = save(WRAPPED[wrapper](state), tmp_path / "x.pt", legacy=True)
    loaded = load_weights(path, build("i3d", streams="rgb", classes=157)).state_dict()
    assert torch.equal(loaded["rgb.logits.conv3d.bias"], state["conv3d_0c_1x1.conv3d.bias"])


def test_i3d_streams_of_two_dialects_load_from_one_folder(tmp_path: Path) -> None:
    save(filled(i3d_file(3, lower=False)), tmp_path / "rgb_imagenet.pt", legacy=True)
    flow = filled(i3d_file(2, lower=True))
    save(flow, tmp_path / "model_flow.pth", legacy=False)
    loaded = load_weights(tmp_path, build("i3d")).state_dict()
    assert torch.equal(loaded["flow.Mixed_5b.b2b.bn.running_var"], flow["mixed_5b.branch_2.1.batch3d.running_var"])
    save(flow, tmp_path / "flow_imagenet.pt", legacy=True)
    with pytest.raises(TadError, match=r"flow_imagenet\.pt and model_flow\.pth both contain flow\..*name one file"):
        load_weights(tmp_path, build("i3d"))


def test_files_of_other_settings_in_the_folder_stay_out(tmp_path: Path) -> None:
    for channels, name in ((3, "rgb_imagenet.pt"), (2, "flow_imagenet.pt")):
        save(filled(i3d_file(channels, lower=False)), tmp_path / name, legacy=True)
    settings = plugins.defaults("backbones", "i3d") | {"streams": "flow"}
    load_weights(tmp_path, build("i3d", streams="flow"), Plugin(name="i3d", settings=settings))
    with pytest.raises(TadError, match="unknown: rgb"):
        load_weights(tmp_path, build("i3d", streams="flow"))


@pytest.mark.parametrize("counters", [True, False])
@pytest.mark.parametrize("wrapper", list(WRAPPED))
@pytest.mark.parametrize("depth", [18, 34])
def test_tsp_files_load(tmp_path: Path, depth: int, wrapper: str, counters: bool) -> None:
    shapes = r2plus1d_file(depth)
    if depth == 34:
        assert len(shapes) + 2 == 416  # with the classifier's weight and bias
    state = filled(shapes if counters else without_counters(shapes))
    value = WRAPPED[wrapper](state)
    if "model" in value:
        heads = filled({"fc1.weight": (200, 512), "fc1.bias": (200,), "fc2.weight": (2, 1024), "fc2.bias": (2,)})
        value["model"] |= heads
        value |= {"args": Namespace(lr=0.1, backbone=None), "epoch": 5, "optimizer": {"state": {0: {"a": heads}}}}
    else:
        (value.get("model_state") or value.get("state_dict") or value)["fc.weight"] = torch.zeros(400, 512)
    loaded = load_weights(save(value, tmp_path / "x.pth", legacy=counters), build("tsp", depth=depth)).state_dict()
    assert set(loaded) == set(shapes)
    assert all(torch.equal(loaded[key], tensor) for key, tensor in state.items())


@pytest.mark.parametrize(("wrapper", "legacy"), [("model_state", False), ("data parallel", True), ("bare", True)])
def test_slowfast_files_load(tmp_path: Path, wrapper: str, legacy: bool) -> None:
    net = build("slowfast")
    shapes = {key: tuple(tensor.shape) for key, tensor in net.state_dict().items()}
    assert len(shapes) == 662
    state = filled(without_counters(shapes) if legacy else shapes)
    path = save(WRAPPED[wrapper](state), tmp_path / "x.pyth", legacy=legacy)
    loaded = load_weights(path, build("slowfast")).state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in state.items())


def test_a_file_of_another_depth_is_named(tmp_path: Path) -> None:
    path = save(filled(r2plus1d_file(18)), tmp_path / "x.pth", legacy=False)
    with pytest.raises(TadError, match=r"missing: layer1\.2.*of another shape.*check the backbone's settings"):
        load_weights(path, build("tsp", depth=34))


# ── files made to harm ──


class State:
    """Sets the state of a tensor when it is unpickled."""

    def __reduce__(self) -> Any:
        return torch._utils._rebuild_tensor_v2, (torch.zeros(1).untyped_storage(), 0, (1,), (1,), False, {}), {"x": 1}


def pickled(mark: Path) -> dict[str, Any]:
    command = f"touch {mark}"
    return {
        "system": Harm(os.system, command),
        "nested": {"model": {"a": [OrderedDict(b=(Harm(os.system, command),))]}},
        "beside tensors": {"state_dict": {"a": torch.zeros(2)}, "epoch": Harm(os.system, command)},
        "as a key": {Harm(os.system, command): torch.zeros(2)},
        "eval": Harm(eval, f"open({str(mark)!r}, 'w')"),
        "exec": Harm(exec, f"open({str(mark)!r}, 'w')"),
        "open": Harm(open, str(mark), "w"),
        "import": Harm(__import__, "antigravity"),
        "getattr": Harm(getattr, "text", "upper"),
        "mkdir": Harm(os.mkdir, str(mark)),
        "torch load": Harm(torch.load, str(mark)),
        "torch hub": Harm(torch.hub.load, "a/b", "c"),
        "numpy load": Harm(np.load, str(mark), None, True),
        "objects": {"a": np.array([Harm(os.system, command)], dtype=object)},
        "storage": Harm(torch.storage._load_from_bytes, pickle.dumps(Harm(os.system, command))),
        "class": Harm,
        "state": State(),
    }


def archive(change: Callable[[str, bytes], bytes], *, compressed: bool = False) -> bytes:
    """A checkpoint of one tensor with its records changed."""
    plain, made = io.BytesIO(), io.BytesIO()
    torch.save({"a": torch.zeros(1_000_000)}, plain)
    method = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(made, "w", method) as target:
        for record in source.infolist():
            target.writestr(record.filename, change(record.filename, source.read(record)))
    return made.getvalue()


def raw(mark: Path) -> dict[str, bytes]:
    text = f"touch {mark}".encode()
    whole = archive(lambda _, data: data)
    header = json.dumps({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    return {
        "system by hand.pt": b"\x80\x02cos\nsystem\n(S'" + text + b"'\ntR.",
        "setitem.pt": b"\x80\x02ctorch\nTensor\nK\x00K\x01s.",
        "bomb.pt": archive(lambda _, data: data, compressed=True),
        "storage too short.pt": archive(lambda name, data: data[:100] if name.endswith("/data/0") else data),
        "no pickle.pt": archive(lambda name, data: b"" if name.endswith("data.pkl") else data),
        "cut.pt": whole[: len(whole) // 2],
        "head.pt": whole[:30],
        "empty.pt": b"",
        "page.pth": b"<!DOCTYPE html><html>quota</html>",
        "marks.pt": b"\x80\x02" + b"(" * 100_000 + b".",
        "list.pyth": pickle.dumps([1, 2, 3], protocol=2),
        "header lies.safetensors": len(header).to_bytes(8, "little") + header,
        "long header.safetensors": (1 << 62).to_bytes(8, "little") + b"{}",
        "pickle.safetensors": pickle.dumps(Harm(os.system, text.decode())),
    }


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("name", sorted(pickled(Path("x"))))
def test_code_in_a_weight_file_is_never_run(tmp_path: Path, name: str, legacy: bool) -> None:
    mark = tmp_path / "ran"
    path = save(pickled(mark)[name], tmp_path / "x.pth", legacy=legacy)
    with pytest.raises(TadError, match=r"x\.pth: .*; (fetch it again|use the published checkpoint)") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)
    assert not mark.exists()


@pytest.mark.parametrize("name", sorted(raw(Path("x"))))
def test_damaged_and_forged_files_are_one_line(tmp_path: Path, name: str) -> None:
    mark, path = tmp_path / "ran", tmp_path / name
    path.write_bytes(raw(mark)[name])
    with pytest.raises(TadError) as caught:
        read_weights(path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not mark.exists()


def test_a_bomb_is_refused_by_its_size(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(raw(tmp_path)["bomb.pt"])
    with pytest.raises(TadError, match=r"an archive of \d+ bytes that unpacks to 4\d{6}"):
        read_weights(tmp_path / "x.pt")


def test_our_own_and_plain_files_are_read(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "x.safetensors")
    assert torch.equal(read_weights(tmp_path / "x.safetensors")["a"], torch.ones(2))
    save({"model": {"module.a": torch.ones(2)}}, tmp_path / "x.pt", legacy=False)
    assert torch.equal(read_weights(tmp_path / "x.pt")["a"], torch.ones(2))
