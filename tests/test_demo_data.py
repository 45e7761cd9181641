"""The rendered demo: files as promised, the same bytes again, and labels that only motion tells."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import decord
import numpy as np
import pytest

from tad.annotations.table import Table
from tad.core.files import content_key, read_json, sha256
from tad.settings import plugins
from tad.settings.resolved import component_sections

SCRIPTS = Path(__file__).parents[1] / "workflow_scripts"
sys.path.insert(0, str(SCRIPTS))

import demo_scene  # noqa: E402
import render_demo  # noqa: E402

VIDEOS, SEED = 6, 233  # a seed with short videos
TRAITS = ["plain", "rotated", "ntsc", "audio", "vfr", "plain"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small demo written by the command, as the workflow writes it."""
    out = tmp_path_factory.mktemp("demo")
    arguments = ["--out", out, "--videos", VIDEOS, "--seed", SEED, "--jobs", 2]
    command = [sys.executable, str(SCRIPTS / "render_demo.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return out


@pytest.fixture(scope="module")
def receipt(demo: Path) -> dict[str, Any]:
    return dict(read_json(demo / "dataset.json")["videos"])


def scene(index: int) -> demo_scene.Scene:
    return demo_scene.make_scene(index, videos=VIDEOS, seed=SEED)


def test_receipt_names_every_file_and_hash(demo: Path, receipt: dict[str, Any]) -> None:
    assert list(receipt) == [f"demo_{k:02d}" for k in range(VIDEOS)]
    assert sorted(p.name for p in (demo / "videos").iterdir()) == [f"{name}.mp4" for name in receipt]
    assert [facts["trait"] for facts in receipt.values()] == TRAITS
    assert [facts["subset"] for facts in receipt.values()] == ["training"] * 4 + ["testing"] * 2
    for facts in receipt.values():
        assert sha256(demo / facts["file"]) == facts["sha256"]
        assert content_key(demo / facts["file"]) == facts["content_key"]


@pytest.mark.parametrize("index", range(VIDEOS))
def test_both_readers_see_all_frames_at_their_times(demo: Path, receipt: dict[str, Any], index: int) -> None:
    facts, truth = receipt[f"demo_{index:02d}"], scene(index)
    path = demo / facts["file"]
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        times = [float(frame.pts * frame.time_base) for frame in container.decode(stream)]
        assert stream.start_time == 0
        assert not stream.codec_context.has_b_frames
        assert float(stream.duration * stream.time_base) == pytest.approx(truth.duration, abs=1e-4)
        assert bool(container.streams.audio) == (facts["trait"] == "audio")
        assert (stream.codec_context.width, stream.codec_context.height) == (
            (180, 320) if facts["trait"] == "rotated" else (320, 180)
        )
    assert len(times) == facts["frames"] == len(truth.times_F)
    np.testing.assert_allclose(times, truth.times_F, atol=1e-4)
    reader = decord.VideoReader(str(path))
    assert len(reader) == facts["frames"]
    np.testing.assert_allclose(reader.get_frame_timestamp(range(len(reader)))[:, 0], times, atol=1e-3)
    assert b"elst" not in path.read_bytes()  # an edit list makes decord's times wrong


def test_rate_varies_in_one_video_only(receipt: dict[str, Any]) -> None:
    steps = [np.unique(np.diff(scene(k).pts_F)) for k in range(VIDEOS)]
    assert [len(s) > 3 for s in steps] == [facts["trait"] == "vfr" for facts in receipt.values()]
    assert scene(2).times_F[1] == pytest.approx(1001 / 30000)


def test_rotation_is_tagged_and_displays_upright(demo: Path) -> None:
    """Both readers must know of the rotation: PyAV reports it, decord applies it; the result is the picture drawn."""
    path = str(demo / "videos" / "demo_01.mp4")
    drawn = demo_scene.picture(scene(1), 40).astype(float)
    with av.open(path) as container:
        frame = next(f for k, f in enumerate(container.decode(video=0)) if k == 40)
    assert frame.rotation % 360 == 90
    upright = np.rot90(frame.to_ndarray(format="rgb24"), 1)
    shown = decord.VideoReader(path)[40].asnumpy()
    for seen in (upright, shown):
        assert seen.shape == drawn.shape
        assert np.abs(seen - drawn).mean() < 6 < np.abs(seen[::-1, ::-1] - drawn).mean()


def test_same_bytes_again(demo: Path, receipt: dict[str, Any], tmp_path: Path) -> None:
    shortest = min(range(VIDEOS), key=lambda k: receipt[f"demo_{k:02d}"]["frames"])
    name, _, facts = render_demo.render(shortest, tmp_path, videos=VIDEOS, seed=SEED)
    assert facts == receipt[name]
    other = demo_scene.make_scene(shortest, videos=VIDEOS, seed=SEED + 1)
    assert not np.array_equal(other.canvas_HW3, scene(shortest).canvas_HW3)


def test_annotations_are_true_and_apart(demo: Path) -> None:
    table: Table = plugins.read_annotations("demo", demo / "annotations.json", {})
    assert table.labels == demo_scene.LABELS
    assert [v.split for v in table.videos.values()] == ["train"] * 4 + ["test"] * 2
    for index, video in enumerate(table.videos.values()):
        truth = scene(index)
        edges = np.append(truth.times_F, truth.duration)
        assert video.duration == pytest.approx(truth.duration)
        assert 3 <= len(video.instances) <= 8
        ends = np.array([(i.start, i.end) for i in video.instances])
        assert np.abs(ends[..., None] - edges).min(-1).max() < 1e-5
        assert (ends[:, 1] - ends[:, 0] >= 1).all()
        assert (ends[:, 1] - ends[:, 0] <= 10).all()
        assert (np.append(ends[1:, 0], truth.duration) - ends[:, 1] >= 1).all()
        assert ends[0, 0] >= 1


def test_settings_are_the_renderers() -> None:
    document = component_sections("datasets", "demo")
    assert document["render"] == {"videos": 30, "seed": 0}
    assert document["eval"]["tiou"] == [0.3, 0.4, 0.5, 0.6, 0.7]
    subsets = [k < demo_scene.subset_size(30) for k in range(30)]
    assert sum(subsets) == 20
    assert {demo_scene.trait_of(k, 30) for k in range(20, 30)} == {"plain", "vfr"}


# ── does the motion tell, and nothing else? ──


def ridge_accuracy(
    train_NC: np.ndarray, train_labels: np.ndarray, test_NC: np.ndarray, test_labels: np.ndarray
) -> float:
    """Mean over classes of the accuracy of a linear classifier (ridge, classes weighted equally)."""
    mean, scale = train_NC.mean(0), train_NC.std(0) + 1e-6

    def design(rows: np.ndarray) -> np.ndarray:
        return np.column_stack([(rows - mean) / scale, np.ones(len(rows))])

    weight = (1 / np.bincount(train_labels, minlength=5))[train_labels]
    x, y = design(train_NC), np.eye(5)[train_labels]
    gram = (x * weight[:, None]).T @ x + 0.05 * np.eye(x.shape[1])
    guess = (design(test_NC) @ np.linalg.solve(gram, (x * weight[:, None]).T @ y)).argmax(1)
    return float(np.mean([(guess[test_labels == k] == k).mean() for k in range(5)]))


def poses_and_pictures(index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Every 0.16 s inside an instance: pose now, motion of 1.2 s around it, 32x18 grey picture, class."""
    truth = demo_scene.make_scene(index, videos=30, seed=0)
    now, motion, grey, labels = [], [], [], []
    for start, end, label in truth.segments:
        for t in np.arange(start + 0.3, end - 0.3, 0.16):
            k = int(np.searchsorted(truth.times_F, t))
            left, right, depth = truth.pose_F3[k]
            pose = np.array([np.sin(left), np.cos(left), np.sin(right), np.cos(right), depth])
            now.append(np.concatenate([pose, np.outer(pose, pose)[np.triu_indices(5)]]))
            inside = (truth.times_F >= max(start, t - 0.6)) & (truth.times_F < min(end, t + 0.6))
            speed = np.gradient(truth.pose_F3[inside], truth.times_F[inside], axis=0)
            turn, there = speed[:, :2].mean(0), np.abs(speed[:, :2]).mean(0)
            up, down = np.minimum(speed[:, 2], 0), np.maximum(speed[:, 2], 0)
            motion.append([*sorted(turn), *sorted(there), np.abs(turn).max(), (down**2).mean(), (up**2).mean()])
            grey.append(demo_scene.picture(truth, k)[..., 1].reshape(18, 10, 32, 10).mean((1, 3)).ravel())
            labels.append(demo_scene.LABELS.index(label))
    return np.array(now), np.array(motion), np.array(grey), np.array(labels)


def samples(videos: range) -> list[np.ndarray]:
    """`poses_and_pictures` of several videos, one after the other."""
    return [np.concatenate(part) for part in zip(*map(poses_and_pictures, videos), strict=True)]


def test_one_pose_or_picture_does_not_tell_the_class_but_motion_does() -> None:
    """Five classes: chance is 0.2. The classifiers see the test videos only when they are scored."""
    train, test = samples(range(20)), samples(range(20, 30))
    pose, motion, picture = (ridge_accuracy(train[k], train[3], test[k], test[3]) for k in range(3))
    assert pose < 0.3, (pose, motion, picture)
    assert picture < 0.3, (pose, motion, picture)
    assert motion > 0.85, (pose, motion, picture)
