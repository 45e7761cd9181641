"""Learning from other runs: the terms, the student's parts, the stage with its teachers, and what does not fit."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import training_tools as tools
from torch import Tensor
from torch.nn import functional as F

from tad.core.errors import TadError
from tad.detectors._points.conv_block import ConvBlock, SeparableConv1d
from tad.detectors._points.excitation import ExcitedNorms, TemporalExcitation
from tad.detectors._points.hallucination import FlowHallucinator
from tad.features.store import FeatureReader, ShardWriter
from tad.layers.masked import MaskedConv1d
from tad.layers.types import Part, Targets
from tad.provenance.fingerprint import code
from tad.provenance.stamps import read_stamp, stamp
from tad.settings import plugins
from tad.settings.distill import TermSpec
from tad.settings.stages import DistillSpec, Plugin, TrainStageSpec
from tad.stages.evaluate import _made_by
from tad.stages.train import train
from tad.training.data.in_memory import SideBySide
from tad.training.data.windows import Batch, Windows
from tad.training.io import tensors as checkpoint
from tad.training.methods.distillation import Distiller, Teacher, difference, divergence, reduced

TERMS = [{"teacher": "t", "target": target, "weight": 0.5} for target in ("input", "stem", "logits", "offsets")]
RGB = tools.DIM // 2


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def detector_of(name: str = "actionformer", *, dim: int = tools.DIM, **changes: Any) -> Any:
    settings = plugins.defaults("detectors", name)
    settings |= {key: value for key, value in tools.REAL.items() if key in settings} | changes
    return plugins.build("detectors", name, settings, feature_dim=dim, num_classes=2, max_length=16)


def batch(dim: int = tools.DIM) -> tuple[Tensor, Tensor, list[Targets]]:
    generator = torch.Generator().manual_seed(1)
    feats_BTC = torch.randn(3, 16, dim, generator=generator)
    lengths_B = torch.tensor([16, 9, 12])
    for row, length in enumerate(lengths_B.tolist()):
        feats_BTC[row, length:] = 0
    instances = Targets(torch.tensor([[2.0, 7.0]]), torch.tensor([1]))
    nothing = Targets(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    return feats_BTC, lengths_B, [instances, nothing, instances]


def distiller(teacher: Any, terms: list[dict[str, Any]] = TERMS, *, dim: int = tools.DIM, **changes: Any) -> Distiller:
    taught = {"name": "t", "run": "one", "features": "f", "detector": Plugin(name="actionformer"), "resize": 0}
    lesson = DistillSpec.model_validate({"teachers": [taught], "terms": terms, **changes})
    found = Teacher("t", "one", teacher.eval(), slice(0, tools.DIM))
    return Distiller(lesson, [found], run="two", columns=slice(0, dim))


# -- parts of the student ----------------------------------------------------------------------------------------------


def test_parameters_are_those_of_the_reference_to_the_unit() -> None:
    with torch.device("meta"):
        assert count(FlowHallucinator(1024, masked=False)) == 6_293_504
        assert count(ExcitedNorms(512, lengths=[2304 >> k for k in range(6)], masked=False).seblocks) == 1_769_040


def test_gates_follow_the_definition() -> None:
    gate, x_BCT = TemporalExcitation(8, masked=False), torch.randn(2, 3, 8)
    down, up = gate.fc[0].weight, gate.fc[2].weight
    assert (down.shape, up.shape) == ((1, 8), (8, 1))
    everything = torch.ones(2, 1, 8, dtype=torch.bool)
    expected_BT = torch.sigmoid(torch.relu(x_BCT.mean(1) @ down.T) @ up.T)
    torch.testing.assert_close(gate(x_BCT, everything), x_BCT * expected_BT[:, None])
    twice_BCT = x_BCT.repeat_interleave(2, dim=2)  # longer than the gate is made for: thinned to it, and spread again
    longer = gate(twice_BCT, torch.ones(2, 1, 16, dtype=torch.bool))
    torch.testing.assert_close(longer, (x_BCT * expected_BT[:, None]).repeat_interleave(2, dim=2))


def test_masked_gates_know_no_padding() -> None:
    published, masked = (TemporalExcitation(8, masked=m) for m in (False, True))
    masked.load_state_dict(published.state_dict())
    x_BCT, mask_B1T = torch.randn(1, 3, 8), torch.ones(1, 1, 8, dtype=torch.bool)
    torch.testing.assert_close(masked(x_BCT, mask_B1T), published(x_BCT, mask_B1T))
    for length in (1, 3, 5, 12):
        x_BCT = torch.randn(1, 3, length)
        alone_BCT = masked(x_BCT, torch.ones(1, 1, length, dtype=torch.bool))
        padded_BCT = F.pad(x_BCT, (0, 6), value=9.0)
        mask_B1T = torch.arange(length + 6)[None, None] < length
        assert torch.equal(masked(padded_BCT, mask_B1T)[..., :length], alone_BCT)
        assert not masked(padded_BCT, mask_B1T)[..., length:].any()


def test_hallucinated_flow_is_two_convolutions_and_a_relu() -> None:
    made, mask_B1T = FlowHallucinator(4, masked=False), torch.arange(7)[None, None] < 5
    rgb_BCT = torch.randn(1, 4, 7) * mask_B1T
    (first, second) = made.extractor
    first.conv.bias.data.fill_(0.5)
    flow_BCT = rgb_BCT
    for conv in (first.conv, second.conv):
        flow_BCT = F.conv1d(flow_BCT, conv.weight, conv.bias, padding=1)
    torch.testing.assert_close(made(rgb_BCT, mask_B1T), torch.cat([rgb_BCT, flow_BCT.relu()], dim=1))
    assert made(rgb_BCT, mask_B1T)[..., 5:].any()  # as published
    made.masked = True
    assert not made(rgb_BCT, mask_B1T)[..., 5:].any()


@pytest.mark.parametrize("halves", [False, True])
def test_convolution_blocks_follow_the_definition(halves: bool) -> None:
    mask_B1T, step = torch.arange(8)[None, None] < 6, 2 if halves else 1
    x_BCT, out_B1T = torch.randn(1, 4, 8) * mask_B1T, mask_B1T[..., ::step]
    for conv in (MaskedConv1d, SeparableConv1d):
        block = ConvBlock(4, conv=conv, halves=halves)

        def apply(layer: Any, x: Tensor, stride: int, mask: Tensor) -> Tensor:
            conv = layer.conv
            if isinstance(conv, torch.nn.Conv1d):
                return F.conv1d(x, conv.weight, conv.bias, stride, conv.weight.shape[2] // 2) * mask
            depth, point = conv.depth_conv, conv.point_conv
            x = F.conv1d(x, depth.weight, depth.bias, stride, depth.weight.shape[2] // 2, groups=x.shape[1])
            return F.conv1d(x, point.weight, point.bias) * mask

        inner = apply(block.conv2, apply(block.conv1, x_BCT, step, out_B1T).relu(), 1, out_B1T)
        shortcut = apply(block.downsample, x_BCT, 2, out_B1T) if halves else x_BCT
        found, mask = block(x_BCT, mask_B1T)
        torch.testing.assert_close(found, (inner + shortcut).relu())
        assert torch.equal(mask, out_B1T)


@pytest.mark.parametrize("encoder", ["conv", "conv_dw"])
def test_a_convolutional_student_learns(encoder: str) -> None:
    torch.manual_seed(0)
    detector = detector_of(dim=RGB, encoder=encoder, temporal_se="masked", hallucinate="masked", input_noise=0.0)
    feats_BTC, lengths_B, targets = batch(RGB)
    optimizer = torch.optim.Adam(detector.parameters(), lr=0.01)
    losses = []
    for _ in range(20):
        total = detector.loss(feats_BTC, lengths_B, targets)["total"]
        losses.append(float(total.detach()))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
    assert all(p.grad is not None for p in detector.hallucinator.parameters())


# -- terms -------------------------------------------------------------------------------------------------------------


def test_the_batch_mean_of_the_divergence_is_the_time_mean_times_the_length() -> None:
    ours, theirs = torch.randn(1, 20, 2304), torch.randn(1, 20, 2304)
    mask = torch.ones(1, 1, 2304, dtype=torch.bool)
    value_BT = divergence(ours / 2, theirs / 2, classes="softmax")
    by = {how: reduced(value_BT, mask, how, videos=1) for how in ("batch", "padded", "masked")}
    assert by["batch"] / by["padded"] == pytest.approx(2304)
    assert by["masked"] == pytest.approx(float(by["padded"]))
    published = F.kl_div((ours / 2).log_softmax(1), (theirs / 2).softmax(1), reduction="batchmean")
    assert by["batch"] == pytest.approx(float(published), rel=1e-5)


def test_the_binary_divergence_is_that_of_each_class() -> None:
    ours, theirs = 3 * torch.randn(2, 5, 7), 3 * torch.randn(2, 5, 7)
    found_BT = divergence(ours, theirs, classes="sigmoid")
    pairs = [torch.stack([x, torch.zeros_like(x)]).log_softmax(0) for x in (ours, theirs)]
    torch.testing.assert_close(found_BT, F.kl_div(pairs[0], pairs[1], log_target=True, reduction="none").sum((0, 2)))
    extreme = divergence(torch.full((1, 1, 1), 400.0), torch.full((1, 1, 1), -400.0), classes="sigmoid")
    assert float(extreme) == pytest.approx(400)


def test_the_temperature_is_that_of_both() -> None:
    term = TermSpec.model_validate({"teacher": "t", "target": "logits", "weight": 1.0, "temperature": 4.0})
    logits_BKT = torch.randn(2, 3, 5)
    assert difference(logits_BKT, logits_BKT, term).abs().max() < 1e-6


def test_squares_are_means_over_channels_and_padding_is_no_difference() -> None:
    ours, theirs = torch.zeros(2, 3, 4), torch.full((2, 3, 6), 2.0)  # padded to another length
    term = TermSpec.model_validate(TERMS[0])
    value_BT = difference(ours, theirs, term)
    assert value_BT.tolist() == [[4.0] * 4] * 2
    mask_B1T = torch.tensor([[[1, 1, 1, 1]], [[1, 0, 0, 0]]], dtype=torch.bool)
    assert reduced(value_BT, mask_B1T, "masked", videos=2) == 4
    assert reduced(value_BT, mask_B1T, "padded", videos=2) == (16 / 4 + 4 / 4) / 2
    assert reduced(value_BT, mask_B1T, "batch", videos=2) == (16 + 4) / 2


@pytest.mark.parametrize("name", ["actionformer", "tridet"])
def test_who_equals_the_teacher_has_nothing_to_learn(name: str) -> None:
    teacher, student = detector_of(name), detector_of(name, input_noise=0.0, droppath=0.0)
    student.load_state_dict(teacher.state_dict())
    for module in student.modules():
        if hasattr(module, "probability"):
            module.probability = 0.0
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    losses = distiller(teacher, hard=0.0).loss(student.train(), *batch(), None)
    assert {"cls", "reg", "input of t", "stem of t", "logits of t", "offsets of t", "total"} == set(losses)
    assert float(losses["cls"].detach()) > 0
    assert float(losses["total"].detach()) == pytest.approx(0, abs=1e-9)
    other = detector_of(name)
    found = distiller(teacher, hard=0.4, soft=0.6).loss(other.train(), *batch(), None)
    soft = sum(0.5 * found[f"{term['target']} of t"] for term in TERMS)
    hard = found["cls"] + found["reg"]
    assert found["total"].item() == pytest.approx((0.4 * hard + 0.6 * soft).item(), rel=1e-5)
    found["total"].backward()
    assert not teacher.training
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())


def test_a_judged_student_has_its_own_loss() -> None:
    student = detector_of(dim=RGB, hallucinate="masked").eval()
    feats_BTC, lengths_B, targets = batch()
    found = distiller(detector_of(), dim=RGB).loss(student, feats_BTC[..., :RGB], lengths_B, targets, None)
    assert found["total"] == student.loss(feats_BTC[..., :RGB], lengths_B, targets)["total"]


@pytest.mark.parametrize("reduction", ["masked", "padded", "batch"])
@pytest.mark.parametrize("face", ["parity", "corrected"])
def test_losses_and_gradients_of_parts_add_up(reduction: str, face: str) -> None:
    torch.manual_seed(0)
    teacher, student = (detector_of("mse", face=face) for _ in range(2))
    strategy = distiller(teacher, [term | {"reduction": reduction} for term in TERMS])
    feats_BTC, lengths_B, targets = batch()
    sums = []
    for rows in ([range(3)], [range(2), range(2, 3)]):
        student.zero_grad()
        total = 0.0
        for row in rows:
            torch.manual_seed(7)
            part = Part(3, row.start, 16)
            at = slice(row.start, row.stop)
            loss = strategy.loss(student.train(), feats_BTC[at], lengths_B[at], targets[at], part)["total"]
            loss.backward()
            total += float(loss.detach())
        sums.append((total, [p.grad.clone() for p in student.parameters() if p.grad is not None]))
    assert sums[0][0] == pytest.approx(sums[1][0], rel=1e-5)
    for whole, added in zip(sums[0][1], sums[1][1], strict=True):
        torch.testing.assert_close(whole, added, rtol=1e-3, atol=1e-6)


def test_what_cannot_be_compared_is_one_line() -> None:
    narrow = detector_of(embed_dim=8)
    said = r"run two: distill: stem has 1 level of 8 channels .* 1 level of 16 channels in teacher t \(run one\)"
    with pytest.raises(TadError, match=said):
        distiller(detector_of(), TERMS[1:2]).loss(narrow.train(), *batch(), None)
    with pytest.raises(TadError, match=r"offsets has 2 levels of 2 channels .* 2 levels of 4 channels"):
        distiller(detector_of("tridet"), TERMS[3:]).loss(detector_of().train(), *batch(), None)
    levels = detector_of(regression_ranges=[[0, 4], [4, 8], [8, 99]], windows=[3, 3, 3])
    with pytest.raises(TadError, match=r"logits has 3 levels of 2 channels .* 2 levels of 2 channels"):
        distiller(detector_of(), TERMS[2:3]).loss(levels.train(), *batch(), None)


# -- the stage ---------------------------------------------------------------------------------------------------------


def write_rgb(folder: Path, *, shift: float = 0.0, last: int = RGB) -> Path:
    """The first channels of f.h5 as an index of their own."""
    made = stamp("merge", {"dataset": "toy", "features": "rgb"}, {}, recipe=tools.RECIPE)
    with FeatureReader(folder / "f.h5") as reader, ShardWriter(folder / "rgb.h5", made) as writer:
        for video_id in reader.video_ids:
            grid = reader.grid(video_id)
            grid = type(grid)(grid.start + shift, grid.step, grid.length, grid.duration + shift)
            writer.add(video_id, reader.stored(video_id)[:, :last], grid=grid, attrs={})
        writer.attribute("excluded", {})
    return folder / "rgb.h5"


TEACHER = tools.real_spec("actionformer", epochs=1, warmup_epochs=0)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with features of two streams, those of one, and a teacher trained on the former."""
    folder = tmp_path_factory.mktemp("taught")
    tools.write_inputs(folder, tools.videos_of(np.random.default_rng(0)))
    write_rgb(folder)
    tools.run(folder, TEACHER, seconds=1000)
    return folder


def student_spec(**changes: Any) -> TrainStageSpec:
    spec = tools.real_spec("actionformer", epochs=1, warmup_epochs=1)
    settings = spec.detector.settings | {"encoder": "conv_dw", "hallucinate": "masked"}
    teacher = {"name": "t", "run": "one", "features": "f", "detector": TEACHER.detector, "resize": 0}
    lesson = DistillSpec.model_validate({"teachers": [teacher], "terms": TERMS, "start": "t"} | changes)
    named = Plugin(name="actionformer", settings=settings)
    return spec.model_copy(update={"run": "two", "features": "rgb", "detector": named, "distill": lesson})


def learn(folder: Path, out: Path, spec: TrainStageSpec, *, seconds: float = 1000, **changes: Any) -> Path:
    given = {"teachers": [folder / "out/model.safetensors"], "teacher_features": [folder / "f.h5"]} | changes
    paths = folder / "rgb.h5", folder / "toy.json", out / "model.safetensors"
    return train(*paths, spec=spec, cache=out / "kept", threads=1, checkpoint_seconds=seconds, **given)


def test_a_student_of_one_stream_continues_with_equal_bits(
    taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = student_spec()
    whole = learn(taught, tmp_path / "whole", spec)
    make = Windows.training_batch

    def interrupted(self: Windows, epoch: int, k: int, *share: Callable[[int], range]) -> Batch:
        if (epoch, k) == (1, 1):
            raise KeyboardInterrupt
        return make(self, epoch, k, *share)

    monkeypatch.setattr(Windows, "training_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        learn(taught, tmp_path / "cut", spec, seconds=0)
    monkeypatch.undo()
    (state,) = (tmp_path / "cut/kept").glob("*.state.safetensors")
    assert json.loads(checkpoint.read_tensors(state)[1]["state"])["step"] == 4
    assert learn(taught, tmp_path / "cut", spec).read_bytes() == whole.read_bytes()
    tensors, _ = checkpoint.read_tensors(whole)
    assert tensors["backbone.embd.0.conv.depth_conv.weight"].shape[0] == 2 * RGB
    made = read_stamp(whole)
    identity = read_stamp(taught / "out/model.safetensors")["identity"]
    assert made["inputs"]["teacher t"] == identity
    assert _made_by(made, {}, made)["teachers"] == {"t": {"run": "one", "model": identity}}
    assert _made_by(read_stamp(taught / "out/model.safetensors"), {}, made)["teachers"] == {}
    assert not [name for name in tensors if "teacher" in name]


def test_the_teacher_counts_by_content(taught: Path, tmp_path: Path) -> None:
    spec = student_spec(start="")
    first = read_stamp(learn(taught, tmp_path, spec))["training"]
    other = tools.real_spec("actionformer", epochs=1, warmup_epochs=0, seed=9)
    (tmp_path / "other").mkdir()
    for name in ("f.h5", "toy.json"):
        (tmp_path / "other" / name).symlink_to(taught / name)
    model = tools.run(tmp_path / "other", other, seconds=1000)
    student = read_stamp(learn(taught, tmp_path, spec, teachers=[model]))
    assert student["training"] != first
    assert "tad.training.methods.distillation" in student["modules"]
    assert "tad.training.methods.distillation" not in read_stamp(model)["modules"]  # it has no teacher
    foreign = spec.model_dump(mode="json")
    foreign["distill"]["teachers"][0]["detector"]["name"] = "tridet"
    assert code("train", foreign) != code("train", spec.model_dump(mode="json"))


def test_features_lie_side_by_side(taught: Path) -> None:
    with FeatureReader(taught / "rgb.h5") as rgb, FeatureReader(taught / "f.h5") as both:
        windows = tools.windows_of(taught, rgb)
        beside = SideBySide([windows.features])
        assert beside.columns(both, resize_to=0) == slice(RGB, RGB + tools.DIM)
        assert beside.columns(rgb, resize_to=0) == slice(0, RGB)
        assert beside.dim == RGB + tools.DIM
        out_TC = beside.batch_buffer(5, beside.dim)
        beside.read_into(out_TC, "train_0", 3)
        assert np.array_equal(out_TC[:, RGB:], both.read("train_0", 3, 8))
        assert torch.equal(out_TC[:, :RGB], out_TC[:, RGB : 2 * RGB])
        assert not beside.release_gpu()


def refusals(folder: Path) -> Iterator[tuple[str, TrainStageSpec, dict[str, Any], str]]:
    """What is wrong, the settings, what is given, and what the message says."""
    spec = student_spec()
    yield "no teacher", spec, {"teachers": []}, r"run two: 0 models and 1 feature indices for 1 teachers.*\(one\)"
    yield (
        "features", spec, {"teacher_features": [folder / "rgb.h5"]},
        r"run two: teacher t \(run one\): .*rgb\.h5: made with features='rgb', expected features='f'",
    )  # fmt: skip
    tridet = tools.real_spec("tridet").detector
    other = student_spec(teachers=[{**spec.distill.teachers[0].model_dump(), "detector": tridet}])  # type: ignore[union-attr]
    yield "detector", other, {}, r"run two: teacher t \(run one\): .*model\.safetensors: made with detector\.name="
    agnostic = spec.model_copy(update={"train": spec.train.model_copy(update={"class_agnostic": True})})
    yield "classes", agnostic, {}, r"teacher t \(run one\) has 2 classes \(jump, run\), but run two has 1 \(action\)"
    softmax = student_spec(terms=[{**TERMS[2], "target": "input"}])
    plain = spec.detector.settings | {"hallucinate": "none"}
    wide = softmax.model_copy(update={"detector": Plugin(name="actionformer", settings=plain)})
    yield "width", wide, {}, rf"input has 1 level of {RGB} channels .* {tools.DIM} channels in teacher t \(run one\)"


def test_teachers_that_do_not_fit_are_named(taught: Path, tmp_path: Path) -> None:
    for what, spec, given, message in refusals(taught):
        with pytest.raises(TadError, match=message) as caught:
            learn(taught, tmp_path / what, spec, **given)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / what / "model.safetensors").exists()


def test_another_grid_is_named(taught: Path, tmp_path: Path) -> None:
    for name in ("f.h5", "toy.json", "out"):
        (tmp_path / name).symlink_to(taught / name)
    write_rgb(tmp_path, shift=0.25)
    with pytest.raises(TadError, match=r"teacher t \(run one\): .*video 'train_0' has .* from 0\.5 s, .* from 0\.75 s"):
        learn(tmp_path, tmp_path / "two", student_spec())
