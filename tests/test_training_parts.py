"""Parts of training: windows, schedule, averages, tensor files, devices."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from training_tools import DIM, Tiny, real_spec, videos_of, windows_of, write_inputs

from tad.annotations.table import Instance
from tad.core.device import resolve
from tad.core.errors import TadError
from tad.core.grid import Grid
from tad.core.prefetch import prefetch
from tad.features.store import FeatureReader
from tad.stages.train import build
from tad.training.data.in_memory import Features, resize
from tad.training.data.windows import Windows, clean, truncate
from tad.training.io import tensors as checkpoint
from tad.training.loop.dead_outputs import dead_offsets
from tad.training.loop.judge import Judge
from tad.training.loop.optim import Ema, adamw, clip_gradients, learning_rate


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_inputs(tmp_path, videos_of(np.random.default_rng(0)))
    return tmp_path


# -- schedule, averages, clipping --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "eta_min", "iterations", "warmup", "epochs", "last"),
    [
        (1e-4, 1e-8, 100, 20, 30, 1.0e-8),
        (1e-3, 5e-5, 624, 10, 5, 5.0e-5),
        (1e-3, 5e-4, 2350, 7, 4, 5.0e-4),
    ],
)
def test_learning_rate_has_the_published_end_points(
    base: float, eta_min: float, iterations: int, warmup: int, epochs: int, last: float
) -> None:
    shape = {"base": base, "eta_min": eta_min, "warmup": warmup * iterations, "total": (warmup + epochs) * iterations}
    assert learning_rate(0, **shape) == 0
    assert learning_rate(1, **shape) == pytest.approx(base / (warmup * iterations - 1))
    if base == 1e-4:
        assert learning_rate(1, **shape) == pytest.approx(5.0025e-8, rel=1e-4)
    assert learning_rate(shape["warmup"] - 1, **shape) == learning_rate(shape["warmup"], **shape) == base
    middle = (shape["warmup"] + shape["total"]) // 2
    assert learning_rate(middle, **shape) == pytest.approx((base + eta_min) / 2, rel=1e-3)
    assert learning_rate(shape["total"] - 1, **shape) == pytest.approx(last, rel=5e-3)


def test_learning_rate_without_warmup_starts_at_the_base() -> None:
    assert learning_rate(0, base=0.5, eta_min=0.1, warmup=0, total=4) == 0.5
    assert learning_rate(0, base=0.5, eta_min=0.1, warmup=1, total=4) == 0


def test_ema_averages_every_value_of_the_state() -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    ema = Ema(module, 0.9)
    expected = {name: value.clone() for name, value in module.state_dict().items()}
    for _ in range(4):
        module(torch.randn(5, 3))
        with torch.no_grad():
            module[0].weight.add_(1)
        ema.update(module)
        for name, value in module.state_dict().items():
            floating = value.is_floating_point()
            expected[name] = 0.9 * expected[name] + 0.1 * value if floating else value.clone()
    assert set(ema.values) == set(expected)
    assert "1.running_mean" in expected
    for name, value in expected.items():
        torch.testing.assert_close(ema.values[name], value)
    assert ema.values["1.num_batches_tracked"] == 4


def test_clipping_is_by_the_global_norm() -> None:
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    assert clip_gradients(parameters, 0) == 5
    assert parameters[1].grad == 4
    assert clip_gradients(parameters, 1.0) == 5
    norm = math.hypot(*parameters[0].grad.tolist(), *parameters[1].grad.tolist())
    assert norm == pytest.approx(1, rel=1e-5)


def test_adamw_has_every_parameter_once() -> None:
    tiny = Tiny(feature_dim=4, num_classes=2, max_length=8)
    optimizer = adamw(tiny, lr=0.1, weight_decay=0.5)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0]
    tiny.parameter_groups = lambda weight_decay: [{"params": [tiny.unused]}]  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="in no group"):
        adamw(tiny, lr=0.1, weight_decay=0.5)


# -- windows -----------------------------------------------------------------------------------------------------------


def test_truncation_of_a_long_video_keeps_an_instance_and_shifts_it() -> None:
    segments = np.array([[100.0, 110.0], [400.0, 402.0], [700.25, 900.0]])
    firsts = set()
    for k in range(200):
        first, last, cut, kept = truncate(
            segments, length=1000, max_length=96, crop_ratio=(0.9, 1.0), threshold=0.5, margin=0.0,
            rng=np.random.default_rng(k),
        )  # fmt: skip
        assert 0 <= first <= last - 96 == first <= 904
        assert set(kept) <= {0, 1}  # of the third, 199.75 long, a window of 96 never holds half
        assert len(kept) >= 1
        for (start, end), index in zip(cut, kept, strict=True):
            inside = min(segments[index, 1], last) - max(segments[index, 0], first)
            assert end - start == pytest.approx(inside)
            assert inside >= 0.5 * (segments[index, 1] - segments[index, 0])
            assert start == max(segments[index, 0], first) - first
        firsts.add(first)
    assert len(firsts) > 50


def test_truncation_of_a_short_video_crops_within_the_ratio() -> None:
    lengths = set()
    for k in range(300):
        first, last, cut, kept = truncate(
            np.array([[0.0, 100.0]]), length=100, max_length=128, crop_ratio=(0.9, 1.0), threshold=0.5, margin=0.0,
            rng=np.random.default_rng(k),
        )  # fmt: skip
        lengths.add(last - first)
        assert cut.tolist() == [[0.0, last - first]]
        assert kept.tolist() == [0]
    assert lengths == set(range(90, 101))


def test_truncation_margin_widens_the_window() -> None:
    settings = {"length": 8, "max_length": 4, "crop_ratio": (1.0, 1.0), "threshold": 0.5}
    borders = {0.0: set(), 2.0: set()}
    for margin, found in borders.items():
        for k in range(60):
            first, _, cut, _ = truncate(np.array([[0.0, 8.0]]), margin=margin, rng=np.random.default_rng(k), **settings)
            found.add((first, *cut[0]))
    assert (4, 0.0, 4.0) in borders[0.0]
    assert (4, -2.0, 4.0) in borders[2.0]  # the video's own end needs no margin
    assert (2, -2.0, 6.0) in borders[2.0]


def test_truncation_without_instances_is_a_window_of_background() -> None:
    none = np.zeros((0, 2))
    settings = {"length": 50, "max_length": 16, "crop_ratio": (1.0, 1.0), "threshold": 0.5, "margin": 0.0}
    first, last, cut, kept = truncate(none, rng=np.random.default_rng(0), **settings)
    assert last - first == 16
    assert cut.shape == (0, 2)
    assert kept.shape == (0,)
    far = np.array([[200.0, 201.0]])  # never in a window: gives up after its tries
    assert truncate(far, rng=np.random.default_rng(0), **settings)[2].shape == (0, 2)


def test_clean_drops_duplicates_and_what_lies_outside() -> None:
    grid = Grid(start=1.0, step=2.0, length=10, duration=20.0)  # covers 10.5 snippets: up to 22 s
    instances = [
        Instance(3.0, 5.0, "a"), Instance(3.0005, 5.0, "a"), Instance(3.0, 5.0, "b"), Instance(0.0, 2.0, "a"),
        Instance(20.0, 24.0, "a"), Instance(20.0, 24.5, "a"), Instance(22.0, 23.0, "b"),
    ]  # fmt: skip
    segments, labels = clean(instances, {"a": 0, "b": 1}, grid, threshold=0.5)
    assert segments.tolist() == [[1.0, 2.0], [1.0, 2.0], [-0.5, 0.5], [9.5, 10.5]]
    assert labels.tolist() == [0, 1, 0, 0]
    segments, labels = clean(instances, {"a": 0, "b": 0}, grid, threshold=0.5)
    assert len(segments) == 3
    assert labels.tolist() == [0, 0, 0]


def test_resizing_follows_actionformer() -> None:
    feats = np.random.default_rng(0).normal(size=(37, 3)).astype(np.float32)
    assert resize(feats, 37) is feats
    wanted = torch.nn.functional.interpolate(torch.from_numpy(feats.T)[None], 16, mode="linear", align_corners=False)
    np.testing.assert_array_equal(resize(feats, 16), wanted[0].T.numpy())
    grid = Grid.of_clips(clip_length=16, stride=8, rate=25.0, length=37, duration=13.0).spread(16)
    stride = (36 * 8 + 16) / 16  # frames
    assert grid.step == pytest.approx(stride / 25)
    assert grid.start == pytest.approx(0.5 * stride / 25)
    assert grid.length == 16


def test_batches_depend_on_nothing_but_their_place(folder: Path) -> None:
    with FeatureReader(folder / "f.h5") as reader:
        windows = windows_of(folder, reader)
        assert len(windows) == 3  # 7 videos in pairs, the last dropped
        late = windows.training_batch(2, 1)
        for epoch in range(3):
            names = [n for k in range(3) for n in windows.training_batch(epoch, k).video_ids]
            assert len(set(names)) == 6
        again = next(prefetch(lambda: (windows_of(folder, reader).training_batch(2, k) for k in range(1, 3))))
        starved = Windows(windows.items, Features(reader, memory=0), spec=windows.spec, seed=5, dim=6)
        for other in (again, starved.training_batch(2, 1)):
            assert other.video_ids == late.video_ids
            torch.testing.assert_close(other.feats_BTC, late.feats_BTC, rtol=0, atol=0)
            for a, b in zip(other.targets, late.targets, strict=True):
                assert torch.equal(a.segments_N2, b.segments_N2)
        for row, length in enumerate(late.lengths_B.tolist()):
            assert late.feats_BTC.shape == (2, 16, 6)
            assert late.feats_BTC[row, length:].abs().sum() == 0
            assert late.feats_BTC[row, length - 1].abs().sum() > 0


def test_every_epoch_cuts_other_windows(folder: Path) -> None:
    with FeatureReader(folder / "f.h5") as reader:
        windows = windows_of(folder, reader, crop_ratio=(0.5, 1.0))

        def cut(epoch: int) -> list[tuple[int, int]]:
            found = [windows._window(position, epoch, augmented=True) for position in windows.positions]
            return [(window.first, window.last) for window in found]

        cuts = [cut(epoch) for epoch in range(4)]
        assert cuts == [cut(epoch) for epoch in range(4)]
    assert len({tuple(rows) for rows in cuts}) == 4


def test_memory_of_batches_is_used_again_when_nothing_refers_to_it(folder: Path) -> None:
    with FeatureReader(folder / "f.h5") as reader:
        features = Features(reader, memory=0)
        held = features.batch_buffer(2, 16, 6)
        view, place = held[1, 3:], held.data_ptr()
        assert features.batch_buffer(2, 16, 6).data_ptr() != place
        del held
        assert features.batch_buffer(2, 16, 6).data_ptr() != place
        del view
        assert features.batch_buffer(2, 16, 6).data_ptr() == place
        weight = torch.ones(6, requires_grad=True)
        used = features.batch_buffer(2, 16, 6).fill_(2.0)
        loss, place = (used * weight).sum(), used.data_ptr()
        del used
        features.batch_buffer(2, 16, 6).fill_(0.0)
        loss.backward()
        assert weight.grad is not None
        assert weight.grad.tolist() == [64.0] * 6  # what backward needs was still there


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_features_on_the_gpu_give_the_same_batches(folder: Path) -> None:
    with FeatureReader(folder / "f.h5") as reader:
        plain = windows_of(folder, reader)
        features = Features(reader, device=torch.device("cuda"))
        resident = Windows(plain.items, features, spec=plain.spec, seed=5, dim=6)
        for leaves in (False, True):
            for k in (0, 0, 1):
                batch = resident.training_batch(1, k)
                assert batch.feats_BTC.device.type == "cuda"
                assert torch.equal(batch.feats_BTC.cpu(), plain.training_batch(1, k).feats_BTC)
            assert leaves or features.release_gpu()


def test_features_that_fit_are_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    stored = FeatureReader.stored
    monkeypatch.setattr(FeatureReader, "stored", lambda self, video_id: read.append(video_id) or stored(self, video_id))
    with FeatureReader(folder / "f.h5") as reader:
        windows = windows_of(folder, reader)
        for epoch in range(3):
            for k in range(3):
                windows.training_batch(epoch, k)
        assert len(read) == len(set(read)) == 7
        assert not windows.features.release_gpu()


def test_a_window_shows_the_features_of_its_instances(folder: Path) -> None:
    """The labels point at the snippets that the data marks with +3, whatever was cut."""
    with FeatureReader(folder / "f.h5") as reader:
        windows = windows_of(folder, reader)
        checked = 0
        for epoch in range(5):
            for k in range(3):
                batch = windows.training_batch(epoch, k)
                for row, target in enumerate(batch.targets):
                    for (start, end), label in zip(target.segments_N2.tolist(), target.labels_N.tolist(), strict=True):
                        inside = batch.feats_BTC[row, max(round(start), 0) : round(end), label]
                        assert inside.mean() > 1.5
                        checked += 1
    assert checked > 20


def test_resized_windows_have_one_length(folder: Path) -> None:
    with FeatureReader(folder / "f.h5") as reader:
        windows = windows_of(folder, reader, resize=16, crop_ratio=(1.0, 1.0))
        assert windows.training_batch(0, 0).lengths_B.tolist() == [16, 16]


# -- files and devices -------------------------------------------------------------------------------------------------


def test_tensor_files_are_whole_and_readable_by_the_library(tmp_path: Path) -> None:
    tensors = {
        "b": torch.arange(6, dtype=torch.int64).reshape(2, 3), "a": torch.randn(3, 5)[:, ::2], "n": torch.tensor(True),
        "h": torch.randn(3).half(), "e": torch.zeros(0, 4), "s": torch.tensor(2.5), "w": torch.randn(5).bfloat16(),
    }  # fmt: skip
    path = checkpoint.write_tensors(tmp_path / "x.safetensors", tensors, {"facts": {"b": 1, "a": [0.1]}, "text": "é"})
    ours, metadata = checkpoint.read_tensors(path)
    assert metadata == {"facts": '{"a":[0.1],"b":1}', "text": "é"}
    for found in (ours, load_file(path)):
        assert set(found) == set(tensors)
        for name, value in tensors.items():
            assert torch.equal(found[name], value)
            assert found[name].dtype == value.dtype
    first = path.read_bytes()
    checkpoint.write_tensors(path, dict(reversed(tensors.items())), {"text": "é", "facts": {"a": [0.1], "b": 1}})
    assert path.read_bytes() == first
    path.write_bytes(first[:-3])
    with pytest.raises(TadError, match="does not match its checksum"):
        checkpoint.read_tensors(path)


def test_devices() -> None:
    assert resolve("cpu") == torch.device("cpu")
    assert resolve("auto").type in ("cpu", "cuda")
    for name in ("gpu", "cuda:x", "cpu:1", ""):
        with pytest.raises(TadError, match="choose auto, cpu, cuda"):
            resolve(name)
    with pytest.raises(TadError, match="CUDA devices are usable"):
        resolve("cuda:99")


@pytest.mark.parametrize("dead", [[], ["end"], ["start", "end"]])
def test_a_dead_offset_head_is_noticed(folder: Path, dead: list[str]) -> None:
    spec = real_spec("actionformer")
    torch.manual_seed(0)
    detector = build("actionformer", spec.detector.settings, feature_dim=DIM, num_classes=2, max_length=16)
    weights = {name: value.clone() for name, value in detector.state_dict().items()}
    (bias,) = (name for name, value in weights.items() if name.startswith("reg_head.") and value.shape == (2,))
    weights[bias] += torch.tensor([-1e3 if side in dead else 1e3 for side in ("start", "end")])
    with FeatureReader(folder / "f.h5") as reader:
        assert dead_offsets(detector, weights, windows_of(folder, reader), torch.device("cpu")) == dead
    assert dead_offsets(Tiny(feature_dim=3, num_classes=1, max_length=4), {}, None, torch.device("cpu")) == []  # type: ignore[arg-type]


def test_the_judged_loss_is_the_mean_over_videos(folder: Path) -> None:
    """The last batch is smaller; each video counts once all the same."""
    with FeatureReader(folder / "f.h5") as reader:
        windows = windows_of(folder, reader)
        sizes = [len(batch.video_ids) for batch in windows.fixed_batches()]
        assert len(set(sizes)) > 1, sizes
        judge = Judge(Tiny(feature_dim=DIM, num_classes=2, max_length=16), windows, epochs=1)
        judge.evaluate(0, judge.detector.state_dict(), lambda detector, batch, purpose, k: float(k))
    each = [k for k, size in enumerate(sizes) for _ in range(size)]
    assert judge.loss == pytest.approx(sum(each) / len(each))
    assert judge.epoch == 1
