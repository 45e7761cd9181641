"""Training of clip encoders: clips, augmentation, losses, schedule, determinism, and the stage on small videos."""

import math
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import video_tools as vt

from tad.annotations.label_draw import draw_labelled
from tad.backbones._weights import load_weights
from tad.core.errors import TadError
from tad.core.files import read_json, sha256, write_json
from tad.core.formats import mark, of_stage
from tad.provenance.stamps import read_stamp
from tad.settings.plugins import build, defaults
from tad.settings.resolved import component_sections
from tad.settings.stages import PretrainSpec
from tad.stages.pretrain import _train_videos, pretrain
from tad.training.tsp import clips as tsp_clips
from tad.training.tsp import trainer as tsp

SETTINGS = {
    "height": 16, "width": 24, "widths": [8, 16, 32], "time_strides": [2, 2], "subtract": "clip_mean",
    "pool": "mean", "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25],
    "modality": "rgb", "flow_method": "dis", "flow_bound": 4.0,
}  # fmt: skip
CLIP = {"length": 8, "stride": 4, "policy": "resample", "rate": 10.0}
RATE, SECONDS = 20, 12
SEGMENTS_IN_ALL = 15  # of three videos: two actions each, and three gaps
SEGMENTS = [[1.0, 4.0, "right"], [6.0, 9.0, "down"]]


def make_spec(**changes: Any) -> PretrainSpec:
    values = {
        "epochs": 4, "warmup_epochs": 0.5, "milestones": (3,), "decay": 0.2, "batch_size": 8, "clips_per_segment": 6,
        "lr_backbone": 0.05, "lr_stem": 0.05, "lr_heads": 0.05, "global_feature": "max", "flip": 0.0, "seed": 3,
    }  # fmt: skip
    fixed = {"backbone": {"name": "r2plus1d_small", "settings": SETTINGS}, "clip": CLIP}
    return PretrainSpec.model_validate(fixed | values | changes)


def draw(seed: int) -> np.ndarray:
    """A square that goes right, down, or rests, on a still background of its own: (F, 36, 48, 3)."""
    rng = np.random.default_rng(seed)
    frames = np.repeat(rng.integers(0, 80, (1, 36, 48, 3), dtype=np.uint8), RATE * SECONDS, axis=0)
    x, y = int(rng.integers(40)), int(rng.integers(28))
    for k in range(len(frames)):
        doing = next((label for start, end, label in SEGMENTS if start <= k / RATE < end), "")
        x, y = x + 2 * (doing == "right"), y + 2 * (doing == "down")
        frames[k, y % 28 : y % 28 + 8, x % 40 : x % 40 + 8] = 230
    return frames


def write_video(path: Path, frames: np.ndarray) -> None:
    with av.open(str(path), "w", options={"use_editlist": "0"}) as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "18", "bf": "0", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_dataset(tmp_path_factory.mktemp("squares"))


def write_dataset(folder: Path) -> dict[str, Any]:
    """Annotations, manifest and videos of squares: what `pretrain` is called with."""
    folder.mkdir(exist_ok=True)
    videos, probed = {}, {}
    for k in range(4):
        path = folder / f"v{k}.mp4"
        write_video(path, draw(k))
        split = "train" if k < 3 else "test"
        videos[f"v{k}"] = {"split": split, "duration": SECONDS, "instances": SEGMENTS, "ambiguous": []}
        probed[f"v{k}"] = vt.probed(path.name, frames=RATE * SECONDS, rate=RATE, sha256=sha256(path))
    spec = {"dataset": "squares"}
    stamps = {
        stage: {"stage": stage, "identity": stage, "spec": spec, **mark(of_stage(stage))}
        for stage in ("annotate", "probe")
    }
    table = {"stamp": stamps["annotate"], "dataset": "squares", "labels": ["down", "right"], "videos": videos}
    annotations = write_json(folder / "annotations.json", table)
    manifest = write_json(folder / "00-of-01.json", {"stamp": stamps["probe"], "videos": probed})
    return {"annotations": annotations, "manifests": [manifest], "videos_folder": folder}


@pytest.fixture(scope="module")
def trained(dataset: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("trained")
    out = folder / "backbone.safetensors"
    pretrain(**dataset, out=out, spec=make_spec(), cache=folder / "kept", device="cpu")
    return {"out": out, "kept": folder / "kept"}


def test_gaps_are_the_rest_of_the_video() -> None:
    assert tsp_clips.gaps([(2, 4), (3, 5), (7, 8)], 10) == [(0.0, 2), (5, 7), (8, 10)]
    assert tsp_clips.gaps([(0, 10)], 10) == []
    assert tsp_clips.gaps([(1, 8), (2, 4)], 10) == [(0.0, 1), (8, 10)]  # a short one within a long one
    assert tsp_clips.gaps([], 10) == [(0.0, 10)]


def test_motion_to_the_right_is_motion_to_the_left_in_a_mirror() -> None:
    clip_THWC = np.random.default_rng(0).integers(0, 256, (3, 6, 8, 2), dtype=np.uint8)
    augment = tsp_clips.Augment((6, 8), flip=1.0, shift=0)
    mirrored_THWC = augment(clip_THWC, np.random.default_rng(0))
    np.testing.assert_array_equal(mirrored_THWC[..., 0], 255 - clip_THWC[:, :, ::-1, 0])
    np.testing.assert_array_equal(mirrored_THWC[..., 1], clip_THWC[:, :, ::-1, 1])


def test_segment_table_follows_tsp() -> None:
    video = {"instances": [[2.0, 5.0, "a"], [7.0, 7.5, "b"]], "ambiguous": [[8.0, 9.0]]}
    rows = {"videos": [video], "durations": [12.0], "labels": {"a": 0, "b": 1}, "clip_seconds": [1.0]}
    table = tsp_clips.segment_table(**rows, short="drop")
    assert table.labels_S.tolist() == [-1, 0, -1, -1]  # [0, 2], a, [5, 7], [9, 12]
    np.testing.assert_allclose(table.bounds_S2, [[0, 1], [2, 4], [5, 6], [9, 11]])
    assert table.dropped == 2  # b, and the gap [7.5, 8]
    wide = tsp_clips.segment_table(**rows, short="drop", shortest_gap=2.5)
    assert wide.labels_S.tolist() == [0, -1]  # a, [9, 12]: gaps alone are held to it
    extended = tsp_clips.segment_table(**rows, short="extend")
    assert extended.labels_S.tolist() == [-1, 0, -1, 1, -1]
    np.testing.assert_allclose(extended.bounds_S2[3], [6.5, 7.0])  # every such clip contains b


def test_clips_lie_in_their_segments_and_repeat_with_the_seed() -> None:
    table = tsp_clips.SegmentTable(np.array([0, 0]), np.array([[0.0, 1.0], [5.0, 5.0]]), np.array([-1, 0]), 0)
    rows, starts = tsp_clips.random_clips(table, 50, np.random.default_rng([0, 1]))
    again = tsp_clips.random_clips(table, 50, np.random.default_rng([0, 1]))
    np.testing.assert_array_equal(starts, again[1])
    assert (starts[rows == 1] == 5).all()
    assert starts[rows == 0].min() >= 0
    assert starts[rows == 0].max() <= 1
    assert len(set(starts[rows == 0])) == 50
    np.testing.assert_allclose(tsp_clips.even_clips(table, 3)[1], [0, 0.5, 1, 5, 5, 5])


def test_a_short_video_gives_a_padded_clip() -> None:
    frames = tsp_clips.Frames(np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1), [0, 4], [4, 6], [2.0, 2.0])
    assert frames.clip(0, 0.0, 6).reshape(-1).tolist() == [0, 1, 2, 3, 3, 3]
    assert frames.clip(1, 1.0, 3).reshape(-1).tolist() == [6, 7, 8]
    assert frames.clip(1, 99.0, 3).reshape(-1).tolist() == [7, 8, 9]


def test_augmentation_crops_shifts_and_mirrors() -> None:
    clip = np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3)
    centre = tsp_clips.Augment((2, 4), 1.0, 0)
    np.testing.assert_array_equal(centre(clip, None), clip[:, 1:3, 1:5])
    whole = tsp_clips.Augment((4, 6), 1.0, 0)
    np.testing.assert_array_equal(whole(clip, np.random.default_rng(0)), clip[:, :, ::-1])
    moved = tsp_clips.Augment((4, 6), 0.0, 2)(clip, np.random.default_rng(1))
    assert moved.shape == clip.shape
    assert np.isin(moved, clip).all()


def test_a_batch_of_background_has_a_finite_loss() -> None:
    action, region = torch.randn(4, 3, requires_grad=True), torch.randn(4, 2, requires_grad=True)
    loss = tsp.tsp_loss(action, region, torch.full((4,), -1))
    loss.backward()
    expected = torch.nn.functional.cross_entropy(region, torch.ones(4, dtype=torch.long))
    assert math.isclose(loss.item(), expected.item(), rel_tol=1e-6)
    assert action.grad is not None
    assert not action.grad.any()


def test_learning_rate_warms_up_and_falls() -> None:
    def factor(step: int) -> float:
        return tsp.learning_rate_factor(step, steps_per_epoch=10, warmup_epochs=2.0, milestones=(4, 6), decay=0.01)

    assert factor(0) == pytest.approx(1e-5)
    assert factor(10) == pytest.approx(0.5, rel=1e-3)
    assert factor(20) == factor(39) == 1
    assert factor(40) == pytest.approx(0.01)
    assert factor(60) == pytest.approx(1e-4)


def test_the_loss_falls_and_the_file_says_where_it_is_from(trained: dict[str, Any]) -> None:
    epochs = read_json(trained["kept"] / "epochs.json")["epochs"]
    assert epochs[-1]["loss"] < 0.6 * epochs[0]["loss"]
    found = read_stamp(trained["out"])
    assert (found["stage"], found["epoch"], found["labels"]) == ("pretrain", 4, ["down", "right"])
    backbone = load_weights(trained["out"], build("backbones", "r2plus1d_small", SETTINGS))
    assert not backbone.training


def test_equal_runs_give_equal_bytes(dataset: dict[str, Any], trained: dict[str, Any], tmp_path: Path) -> None:
    out = pretrain(**dataset, out=tmp_path / "b.safetensors", spec=make_spec(), cache=tmp_path / "kept", device="cpu")
    assert out.read_bytes() == trained["out"].read_bytes()
    published = sha256(out)
    out.unlink()
    before = (tmp_path / "kept" / "epochs.json").stat().st_mtime_ns
    pretrain(**dataset, out=out, spec=make_spec(), cache=tmp_path / "kept", device="cpu")
    assert sha256(out) == published
    assert (tmp_path / "kept" / "epochs.json").stat().st_mtime_ns == before  # nothing was trained again


def test_clips_decoded_on_demand_are_those_that_are_kept(
    dataset: dict[str, Any], trained: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """To the last byte of the encoder that they train."""
    caplog.set_level("INFO")
    out, kept = tmp_path / "b.safetensors", tmp_path / "kept"
    pretrain(**dataset, out=out, spec=make_spec(), cache=kept, device="cpu", max_cached=0)
    assert "clips are decoded on demand" in caplog.text
    assert out.read_bytes() == trained["out"].read_bytes()


def test_an_encoder_of_flow_is_the_same_either_way(dataset: dict[str, Any], tmp_path: Path) -> None:
    flow = {"name": "r2plus1d_small", "settings": {**SETTINGS, "modality": "flow", "subtract": "none"}}
    spec, found = make_spec(backbone=flow, epochs=2, milestones=(1,), flip=0.5, shift=1, global_feature="none"), []
    for most in (None, 0):
        out, kept = tmp_path / f"{most}.safetensors", tmp_path / f"kept_{most}"
        pretrain(**dataset, out=out, spec=spec, cache=kept, device="cpu", max_cached=most)
        found.append(out.read_bytes())
    assert found[0] == found[1]
    epochs = read_json(tmp_path / "kept_0/epochs.json")["epochs"]
    assert epochs[1]["loss"] < epochs[0]["loss"]


class Killed(BaseException):
    """Ends a training as a signal does."""


@pytest.mark.parametrize("stops", [(1, 5), (9, 2, 11, 20)])
def test_a_training_goes_on_where_it_was_killed(
    dataset: dict[str, Any], trained: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    stops: tuple[int, ...],
) -> None:  # fmt: skip
    """After so many steps each time, within epochs and across their ends; no step is made twice."""
    step, made, left = tsp.Trainer._step, [0], [0]

    def counted(*arguments: Any) -> float:
        if not left[0]:
            raise Killed
        made[0], left[0] = made[0] + 1, left[0] - 1
        return step(*arguments)

    def run() -> Path:
        out, kept = tmp_path / "b.safetensors", tmp_path / "kept"
        return pretrain(**dataset, out=out, spec=make_spec(), cache=kept, device="cpu", every_seconds=0)

    monkeypatch.setattr(tsp.Trainer, "_step", counted)
    for stop in stops:
        left[0] = stop
        with pytest.raises(Killed):
            run()
    left[0] = 10**6
    assert run().read_bytes() == trained["out"].read_bytes()
    assert made[0] == 4 * math.ceil(SEGMENTS_IN_ALL * 6 / 8)
    assert not (tmp_path / "kept/state.safetensors").exists()


def test_adamw_goes_on_where_it_was_killed(
    dataset: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {"lr_backbone": 1e-3, "lr_stem": 1e-3, "lr_heads": 2e-3, "global_feature": "none"}
    spec, step, left = make_spec(optimizer="adamw", epochs=1, milestones=(), **rates), tsp.Trainer._step, [10**6]

    def counted(*arguments: Any) -> float:
        if not left[0]:
            raise Killed
        left[0] -= 1
        return step(*arguments)

    def run(name: str) -> bytes:
        out, kept = tmp_path / f"{name}.safetensors", tmp_path / name
        return pretrain(**dataset, out=out, spec=spec, cache=kept, device="cpu", every_seconds=0).read_bytes()

    monkeypatch.setattr(tsp.Trainer, "_step", counted)
    wanted = run("once")
    left[0] = 5
    with pytest.raises(Killed):
        run("twice")
    left[0] = 10**6
    assert run("twice") == wanted


def test_labels_that_are_not_drawn_stay_unseen(dataset: dict[str, Any]) -> None:
    table, spec = read_json(dataset["annotations"]), make_spec(share=0.3, share_seed=1)
    seen = _train_videos(table, dataset["manifests"], spec)
    everybody = _train_videos(table, dataset["manifests"], make_spec())
    assert list(everybody) == ["v0", "v1", "v2"]
    assert set(seen) == draw_labelled(dict.fromkeys(everybody, "right"), share=0.3, seed=1)
    assert len(seen) == 1


def test_an_epoch_is_selected_on_videos_held_out(dataset: dict[str, Any], tmp_path: Path) -> None:
    spec = make_spec(epochs=2, hold_out=0.34, global_feature="none", short_segments="extend")
    out = pretrain(**dataset, out=tmp_path / "b.safetensors", spec=spec, cache=tmp_path / "kept", device="cpu")
    epochs = read_json(tmp_path / "kept" / "epochs.json")["epochs"]
    best = max(epochs, key=lambda row: (row["action"] + row["region"], -row["epoch"]))
    assert read_stamp(out)["epoch"] == best["epoch"]


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_weights(dataset: dict[str, Any], tmp_path: Path) -> None:
    spec = make_spec(lr_heads=1e30, lr_backbone=1e30, warmup_epochs=0)
    with pytest.raises(TadError, match=r"loss (nan|inf).*lower lr_backbone"):
        pretrain(**dataset, out=tmp_path / "b.safetensors", spec=spec, cache=tmp_path / "kept", device="cpu")
    assert not (tmp_path / "b.safetensors").exists()


def test_a_backbone_that_cannot_be_trained_is_refused(dataset: dict[str, Any], tmp_path: Path) -> None:
    spec = make_spec(backbone={"name": "i3d", "settings": defaults("backbones", "i3d")})
    with pytest.raises(TadError, match="i3d: cannot be trained here"):
        pretrain(**dataset, out=tmp_path / "b.safetensors", spec=spec, cache=tmp_path / "kept", device="cpu")


def test_weights_that_are_not_the_published_ones_are_refused(dataset: dict[str, Any], tmp_path: Path) -> None:
    spec = make_spec(backbone={"name": "tsp", "settings": defaults("backbones", "tsp")})
    weights = tmp_path / "r2plus1d_34-tac_on_kinetics-0547130e.pth"
    weights.write_bytes(b"PK of another file")
    with pytest.raises(TadError, match=r"0547130e\.pth: has sha256 \w+, published is one that begins with 0547130e"):
        pretrain(**dataset, out=tmp_path / "b", spec=spec, cache=tmp_path / "kept", device="cpu", weights=weights)


def test_manifests_of_another_data_set_are_refused(tmp_path: Path) -> None:
    stamps = {
        stage: {"stage": stage, "identity": stage, "spec": {"dataset": dataset}, **mark(of_stage(stage))}
        for stage, dataset in (("annotate", "squares"), ("probe", "circles"))
    }
    table = write_json(tmp_path / "table.json", {"stamp": stamps["annotate"], "labels": [], "videos": {}})
    manifest = write_json(tmp_path / "00-of-01.json", {"stamp": stamps["probe"], "videos": {}})
    with pytest.raises(TadError, match="dataset='circles', expected dataset='squares'"):
        pretrain(table, [manifest], tmp_path, tmp_path / "b.safetensors", spec=make_spec(), cache=tmp_path / "kept")


def test_no_clip_of_an_action_is_an_error(dataset: dict[str, Any], tmp_path: Path) -> None:
    spec = make_spec(clip={**CLIP, "length": 40})
    with pytest.raises(TadError, match="short_segments: extend"):
        pretrain(**dataset, out=tmp_path / "b.safetensors", spec=spec, cache=tmp_path / "kept", device="cpu")


def test_a_recipe_has_every_field_of_a_pretraining() -> None:
    fields = set(PretrainSpec.model_fields) - {"backbone", "clip"}
    for name in ("r2plus1d_small", "tsp"):
        assert set(component_sections("backbones", name)["pretrain"]) == fields
