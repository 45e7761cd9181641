"""`train.stretch`: windows as if the video were slower or faster; labels and features stay at the same places."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from training_tools import real_spec, windows_of, write_inputs

from tad.annotations.table import Instance, Video
from tad.features.store import FeatureReader
from tad.settings import plugins
from tad.settings.stages import DetectSpec, TrainSpec, TrainStageSpec
from tad.training.data.windows import Windows

MOST = 16  # snippets of a training window


def ramps(rng: np.random.Generator) -> dict[str, tuple[Video, np.ndarray]]:
    """Videos whose features say their own time: value t at snippet t, in every channel; one longer than a window."""
    videos = {}
    for name, length in (("a", 9), ("b", 13), ("c", 40), ("d", 2)):
        times_TC = np.repeat(np.arange(length, dtype=np.float32)[:, None], 6, axis=1)
        starts = rng.uniform(0, length - 1, 3)
        instances = tuple(Instance(float(s), float(min(s + rng.uniform(0.3, 6), length)), "run") for s in starts)
        videos[name] = Video("train", length + 0.5, instances), times_TC
    return videos


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ramps")
    write_inputs(path, ramps(np.random.default_rng(0)))
    return path


def check_borders(folder: Path, stretch: float, epoch: int, seed: int) -> int:
    """Compare the features at all borders of an epoch with their times in the videos; return how many there were."""
    checked = 0
    with FeatureReader(folder / "f.h5") as reader:
        given_to = windows_of(folder, reader, stretch=stretch, crop_ratio=(0.5, 1.0))
        windows = Windows(given_to.items, given_to.features, spec=given_to.spec, seed=seed, dim=6)
        for batch in (windows.training_batch(epoch, k) for k in range(len(windows))):
            for row, video_id in enumerate(batch.video_ids):
                place = [item.video_id for item in windows.items].index(video_id)
                window = windows._window(windows.positions[place], epoch, augmented=True)
                length = int(batch.lengths_B[row])
                assert 1 <= length == window.length <= MOST
                assert (batch.feats_BTC[row, length:] == 0).all()
                values_T = batch.feats_BTC[row, :length, 0].double().numpy()
                borders = batch.targets[row].segments_N2.flatten().tolist()
                for border, time in zip(borders, window.segments_M2.flatten(), strict=True):
                    sampled = (np.floor([border, border + 1]) + 0.5) / window.factor - 0.5
                    if sampled[0] >= 0 and sampled[1] <= window.last - window.first - 1:  # else values are repeated
                        said = np.interp(border, np.arange(length), values_T)
                        assert abs(said - (window.first + time)) < 1e-3
                        checked += 1
    return checked


def test_segments_stay_where_their_features_are(folder: Path) -> None:
    """In the stretched window, the features at a border say the time of that border in the video."""
    checked = []

    @settings(max_examples=40, deadline=None)
    @given(st.floats(1.05, 4.0), st.integers(0, 50), st.integers(0, 2**20))
    def each(stretch: float, epoch: int, seed: int) -> None:
        checked.append(check_borders(folder, stretch, epoch, seed))

    each()
    assert sum(checked) > 100


def test_factors_are_drawn_anew_in_every_epoch_and_cover_their_range(folder: Path) -> None:
    with FeatureReader(folder / "f.h5") as reader:
        windows = windows_of(folder, reader, stretch=2.0)
        drawn = np.array([[windows._stretch(epoch, video) for video in range(4)] for epoch in range(200)])
        assert len(np.unique(drawn)) == drawn.size
        assert 0.5 < drawn.min() < 0.52
        assert 1.95 < drawn.max() < 2
        assert abs(np.median(np.log2(drawn))) < 0.1  # as often slower as faster
        assert windows._stretch(3, 1) == windows_of(folder, reader, stretch=2.0)._stretch(3, 1)


def test_windows_without_augmentation_are_not_stretched(folder: Path) -> None:
    with FeatureReader(folder / "f.h5") as reader:
        plain, stretched = windows_of(folder, reader), windows_of(folder, reader, stretch=3.0)
        for one, other in zip(plain.fixed_batches(), stretched.fixed_batches(), strict=True):
            assert torch.equal(one.feats_BTC, other.feats_BTC)
            assert torch.equal(one.lengths_B, other.lengths_B)
        assert "stretch" not in plain.spec.model_dump()  # older trainings keep their settings


def with_train(spec: TrainStageSpec, **changes: Any) -> TrainStageSpec:
    document = spec.model_dump(mode="json")
    return TrainStageSpec.model_validate({**document, **changes, "train": document["train"] | {"stretch": 1.5}})


def test_where_it_cannot_be_it_is_refused_in_one_line() -> None:
    with pytest.raises(ValidationError, match=r"stretch: 1\.5: sliding windows have a fixed length; set window_stride"):
        TrainSpec.model_validate({"stretch": 1.5, "window_stride": 8})
    with pytest.raises(ValidationError, match=r"train\.stretch: 1\.5: features can be interpolated in time, frames"):
        with_train(real_spec("actionformer"), frames="rgb")
    detect = DetectSpec()
    with pytest.raises(ValueError, match=r"train\.stretch: 1\.5: this detector's windows have one length"):
        plugins.detector_class("spot")().check(train=TrainSpec(stretch=1.5), detect=detect)
    plugins.detector_class("tad")().check(train=TrainSpec(stretch=1.5), detect=detect)
