"""AFSD's training windows on THUMOS14: the product's own path against the rule of the published loader."""

import csv
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tad.annotations.table import Instance
from tad.core.errors import TadError
from tad.core.grid import Grid
from tad.datasets import thumos14
from tad.detectors._afsd.consistency import width_of
from tad.settings.resolved import component_sections
from tad.settings.stages import TrainSpec
from tad.training.data.windows import Item, Windows, clean

CLASSES = {label: k for k, label in enumerate(thumos14.LABELS)}
PUBLISHED = 7842  # windows of the published loader on its own files, counted with its code (commit ed86a0d)
FROM_SECONDS = 7865  # the same rule on the official times; see the test for the cause
Segments = list[tuple[float, float]]


def spec(dataset: str = "thumos14") -> TrainSpec:
    """The settings that config.yaml's rows on frames get for a dataset."""
    return TrainSpec.model_validate(component_sections("detectors", "afsd_frames", dataset)["train"])


def product(video: str, frames: int, instances: list[Instance]) -> tuple[set[int], int]:
    """First frames of the product's windows of a video at ten frames a second, and the width that is cut into it."""
    grid = Grid(0.05, 0.1, frames, frames / 10)
    settings = spec()
    segments_N2, labels_N = clean(instances, CLASSES, grid, threshold=settings.trunc_threshold)
    try:
        windows = Windows([Item(video, grid, segments_N2, labels_N, "")], None, spec=settings, seed=0, dim=1)  # type: ignore[arg-type]
    except TadError:  # a video none of whose windows holds an instance
        return set(), 0
    return {place.first for place in windows.positions if place.first is not None}, width_of(windows.shortest[0], 1.0)


def published(frames: int, segments: Segments, *, length: int = 256, stride: int = 30) -> tuple[set[int], int]:
    """The rule of `split_videos` in the published loader, written from its definition.

    A window at frame f reaches from f + 1 to f + 256. It is used if it holds an instance from start to end. Instances
    of which half lies in a window are cut to it; the shortest of them, rounded up, is the width of the augmentation.
    """
    last = max(frames - length, 0)
    starts = {*range(0, last + 1, stride), last}
    shortest = min(length, *(end - start for start, end in segments)) if frames <= length else length
    used = set()
    for first in starts:
        low, high = first + 1, first + length
        for start, end in segments:
            inside = min(high, end) - max(low, start)
            if inside / (end - start) >= 1:
                used.add(first)
            if inside / (end - start) >= 0.5:
                shortest = min(shortest, min(end - first, length) - max(start - first, 1))
    return used, math.ceil(shortest)


@pytest.fixture(scope="module")
def facts(shared: Path) -> dict[str, dict[str, str]]:
    """Frame counts of the published loader by video."""
    with open(shared / "data/annotations/afsd_thumos14/val_video_info.csv", encoding="utf-8") as file:
        return {row["video"]: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def by_frames(shared: Path, facts: dict[str, dict[str, str]]) -> dict[str, list[tuple[float, float, str]]]:
    """Segments in frames as the published loader places them: the file's frame numbers, by kept frames of all."""
    found: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    with open(shared / "data/annotations/afsd_thumos14/val_Annotation_ours.csv", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            scale = float(facts[row["video"]]["sample_count"]) / float(facts[row["video"]]["count"])
            found[row["video"]].append((int(row["startFrame"]) * scale, int(row["endFrame"]) * scale, row["type"]))
    return found


def test_windows_are_those_of_the_published_loader(
    facts: dict[str, dict[str, str]], by_frames: dict[str, list[tuple[float, float, str]]]
) -> None:
    total = 0
    for video, segments in by_frames.items():
        frames = int(facts[video]["sample_count"])
        instances = [Instance(start / 10, end / 10, label) for start, end, label in segments]
        ours, width = product(video, frames, instances)
        theirs, their_width = published(frames, [(start, end) for start, end, _ in segments])
        assert ours == theirs, video
        assert width == their_width or not ours, video
        total += len(ours)
    assert (len(by_frames), total) == (200, PUBLISHED)


def test_official_times_move_the_windows_of_videos_with_other_rates(
    shared: Path, facts: dict[str, dict[str, str]], by_frames: dict[str, list[tuple[float, float, str]]]
) -> None:
    """The published file counts 30 frames a second in nearly all videos, whatever their rate; we take the seconds."""
    table = thumos14.read_folder(shared / "data/annotations/thumos14_official_val")
    total, moved = 0, {}
    for video, segments in by_frames.items():
        frames = int(facts[video]["sample_count"])
        instances = list(table.videos[video].instances)
        ours, _ = product(video, frames, instances)
        assert ours == published(frames, [(round(10 * i.start, 6), round(10 * i.end, 6)) for i in instances])[0]
        theirs, _ = published(frames, [(start, end) for start, end, _ in segments])
        total += len(ours)
        if ours != theirs:
            moved[video] = len(ours ^ theirs)
    assert total == FROM_SECONDS
    assert max(moved, key=lambda video: moved[video]) == "video_validation_0000666"  # 25 frames a second, counted as 30
    exact = {video for video in moved if float(facts[video]["fps"]) == 30}
    assert all(moved[video] == 1 for video in exact)  # frame counts that 3 does not divide: a border moves by < 1 frame
    assert (len(moved), len(exact)) == (13, 3)


@given(
    st.integers(1, 900),
    st.lists(st.tuples(st.integers(0, 899), st.integers(2, 300)), min_size=1, max_size=6, unique_by=lambda x: x),
)
def test_any_video_gives_the_windows_of_the_published_rule(frames: int, drawn: list[tuple[int, int]]) -> None:
    segments = [(start % frames, min(start % frames + length, frames)) for start, length in drawn]
    segments = sorted({(start, end) for start, end in segments if end > start})
    labels = iter([*thumos14.LABELS])
    ours, width = product("v", frames, [Instance(s / 10, e / 10, next(labels)) for s, e in segments])
    theirs, their_width = published(frames, [(float(s), float(e)) for s, e in segments])
    if frames >= 256:  # shorter videos are padded to a window there; here a window is as long as the video
        assert ours == theirs
        assert width == their_width or not ours


def test_only_thumos14_measures_windows_as_published() -> None:
    assert spec().trunc_margin == -1.0
    assert spec("demo").trunc_margin == 0.0
    assert np.isclose(Grid(0.05, 0.1, 10, 1.0).start / 0.1, 0.5)  # half a clip of one frame: half a frame at each end
