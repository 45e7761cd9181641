"""Windows that slide over videos: training, resuming, detection and thinned features, with AFSD as the detector."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import training_tools as tools
from test_convert import DURATIONS, RATE, STRIDE, annotated, arrays, folder_of, spec_of
from training_tools import train_spec, videos_of, windows_of, write_inputs

from tad.core.errors import TadError
from tad.features.store import FeatureReader
from tad.layers.types import Candidates
from tad.settings import plugins
from tad.settings.stages import DetectStageSpec, Plugin, TrainStageSpec
from tad.stages.convert import convert
from tad.stages.detect import detect
from tad.training.data.windows import Batch, Windows
from tad.training.io import tensors as checkpoint
from tad.training.loop.optim import adamw, learning_rate

RANGES = [[0, 100000], [0, 100000]]
SLIDING = {"window_stride": 4, "max_length": 8, "optimizer": "adam", "ema_decay": 0.0}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_inputs(tmp_path, videos_of(np.random.default_rng(0)))
    return tmp_path


def afsd_spec(**changes: object) -> TrainStageSpec:
    settings = plugins.defaults("detectors", "afsd")
    settings |= {"embed_dim": 64, "upsample": 2, "strides": [1.0, 2.0], "regression_ranges": RANGES}
    short = {"epochs": 1, "warmup_epochs": 0, "batch_size": 4}
    spec = train_spec(**SLIDING | short | changes)
    return spec.model_copy(update={"detector": Plugin(name="afsd", settings=settings)})


def detect_spec(stride: int, **changes: object) -> DetectStageSpec:
    spec = tools.detect_spec(window_stride=stride, **changes)
    return spec.model_copy(update={"detector": afsd_spec().detector})


def run_detect(folder: Path, spec: DetectStageSpec, name: str = "c.h5") -> Path:
    return detect(folder / "f.h5", folder / "out/model.safetensors", folder / "toy.json", folder / name, spec=spec)


def test_windows_of_all_videos_are_seen_once_an_epoch(folder: Path) -> None:
    with FeatureReader(folder / "f.h5") as reader:
        windows = windows_of(folder, reader, batch_size=1, **SLIDING)
        seen = [windows.training_batch(0, k) for k in range(len(windows))]
        again = [windows.training_batch(1, k) for k in range(len(windows))]
        assert len(windows.positions) == len(windows) > 15
        assert {v for batch in seen for v in batch.video_ids} == {f"train_{k}" for k in range(6)}  # the last has none
        assert [b.video_ids for b in seen] != [b.video_ids for b in again]
        assert sorted(b.feats_BTC.sum().item() for b in seen) == sorted(b.feats_BTC.sum().item() for b in again)
        for batch in seen:
            (target,) = batch.targets
            assert len(target.labels_N) > 0
            lengths = target.segments_N2[:, 1] - target.segments_N2[:, 0]
            assert 2.5 <= target.shortest <= float(lengths.min()) + 1e-5  # half of an instance of 5 snippets is seen
        fixed = [b.video_ids[0] for b in windows.fixed_batches()]
        assert fixed == [windows.items[place.video].video_id for place in windows.positions]


def test_windows_without_any_instance_are_one_line(folder: Path) -> None:
    with (
        FeatureReader(folder / "f.h5") as reader,
        pytest.raises(TadError, match=r"no window of 4 snippets contains an instance \(train\.window_rule whole\)"),
    ):
        windows_of(folder, reader, window_stride=2, max_length=4, window_rule="whole")


def test_afsd_continues_with_equal_bits_and_detects(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = afsd_spec()
    write_inputs(folder / "whole", videos_of(np.random.default_rng(0)))
    whole = tools.run(folder / "whole", spec, seconds=1000)
    make = Windows.training_batch

    def interrupted(self: Windows, epoch: int, k: int, *share: Callable[[int], range]) -> Batch:
        if (epoch, k) == (0, 3):
            raise KeyboardInterrupt
        return make(self, epoch, k, *share)

    monkeypatch.setattr(Windows, "training_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tools.run(folder, spec)
    monkeypatch.undo()
    (state,) = (folder / "kept").glob("*.state.safetensors")
    assert json.loads(checkpoint.read_tensors(state)[1]["state"])["step"] == 3
    assert tools.run(folder, spec).read_bytes() == whole.read_bytes()
    with pytest.raises(TadError, match=r"test_.*detect\.window_stride"):
        run_detect(folder, detect_spec(0))
    few = run_detect(folder, detect_spec(8, score_threshold=0.01)).read_bytes()
    assert run_detect(folder, detect_spec(8, score_threshold=0.01)).read_bytes() == few
    with h5py.File(run_detect(folder, detect_spec(4, score_threshold=0.01, batch_size=3))) as file:
        lengths = file["grids"][:, 2]
        offsets = file["offsets"][:]
        for k, length in enumerate(lengths):
            ends = file["segments"][offsets[k] : offsets[k + 1], 1]
            assert length - 4 < ends.max() <= length - 0.5


def test_candidates_of_windows_lie_where_the_windows_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "build", tools.use_tiny)
    tools.run(folder, train_spec(epochs=1), seconds=1000)
    seen: list[list[int]] = []

    def one_each(self: tools.Tiny, feats_BTC: torch.Tensor, lengths_B: torch.Tensor, **_: object) -> list[Candidates]:
        seen.append(lengths_B.tolist())
        segments_N2 = torch.tensor([[0.0, 2.0]])
        return [Candidates(segments_N2, torch.tensor([0.5]), torch.tensor([0])) for _ in lengths_B]

    monkeypatch.setattr(tools.Tiny, "candidates", one_each)
    spec = tools.detect_spec(window_stride=10, batch_size=2)
    with h5py.File(run_detect(folder, spec)) as file:
        lengths, offsets = file["grids"][:, 2].astype(int).tolist(), file["offsets"][:].tolist()
        starts = [file["segments"][a:b, 0].tolist() for a, b in pairwise(offsets)]
    assert max(lengths) > 16
    assert starts == [sorted({*range(0, max(n - 16, 0) + 1, 10), max(n - 16, 0)}) for n in lengths]
    assert max(len(batch) for batch in seen) == 2
    assert sum(len(batch) for batch in seen) == sum(len(s) for s in starts)


def test_thinned_features_keep_their_times(tmp_path: Path) -> None:
    out = convert(folder_of(tmp_path), annotated(tmp_path), tmp_path / "f.h5", spec=spec_of(every=3))
    with FeatureReader(out) as reader:
        for video_id, feats_TC in arrays().items():
            assert np.array_equal(reader.stored(video_id), feats_TC[::3])
            grid = reader.grid(video_id)
            assert (grid.step, grid.duration) == (pytest.approx(3 * STRIDE / RATE), DURATIONS[video_id])
            assert grid.length == len(feats_TC[::3])
            assert reader.attrs(video_id)["stride"] == 3 * STRIDE


def test_steps_of_the_learning_rate_and_adams_own_weight_decay() -> None:
    shape = {"base": 1.0, "eta_min": 0.0, "warmup": 4, "total": 20, "milestones": [10, 15]}
    assert [learning_rate(k, **shape) for k in (0, 3, 4, 9)] == [0, 1, 1, 1]
    assert [learning_rate(k, **shape) for k in (10, 14, 15, 19)] == pytest.approx([0.1, 0.1, 0.01, 0.01])
    tiny = tools.Tiny(feature_dim=2, num_classes=1, max_length=4)
    assert type(adamw(tiny, lr=0.1, weight_decay=0.1)) is torch.optim.AdamW
    assert type(adamw(tiny, lr=0.1, weight_decay=0.1, method="adam")) is torch.optim.Adam
