"""Whole trainings: bit-equal repetition and resuming, selection of the epoch; bad input is one line."""

import json
import logging
import math
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import checksum_tools
import numpy as np
import pytest
import torch
import training_tools as tools
from safetensors.torch import load_file
from training_tools import Tiny, run, train_spec, videos_of, windows_of, write_inputs

from tad.annotations.table import Instance, Video
from tad.core.device import reproducible
from tad.core.errors import TadError
from tad.features.store import FeatureReader, ShardWriter
from tad.provenance.stamps import read_stamp, stamp
from tad.settings import plugins
from tad.stages.train import train
from tad.training.data.windows import Batch, Windows
from tad.training.io import tensors as checkpoint


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "build", tools.use_tiny)
    monkeypatch.setattr(Tiny, "calls", 0)
    monkeypatch.setattr(Tiny, "nan_at", -1)
    monkeypatch.setattr(Tiny, "worsens", False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_inputs(tmp_path, videos_of(np.random.default_rng(0)))
    return tmp_path


# -- whole trainings ---------------------------------------------------------------------------------------------------


def test_two_trainings_give_equal_bytes(folder: Path) -> None:
    first = run(folder, train_spec()).read_bytes()
    calls = Tiny.calls
    assert calls == 3 * 4
    other = folder / "other"
    write_inputs(other, videos_of(np.random.default_rng(0)))
    assert run(other, train_spec(), seconds=1000).read_bytes() == first
    assert run(folder, train_spec(seed=4)).read_bytes() != first
    made = read_stamp(folder / "out" / "model.safetensors")
    assert made["epoch_rule"] == "last epoch"
    assert (made["seed"], made["epoch"], made["steps"], made["device"]) == (4, 4, 12, "cpu")
    assert list((folder / "out" / "logs" / "tensorboard").iterdir())


def test_the_model_is_the_average_not_the_last_weights(folder: Path) -> None:
    slow = load_file(run(folder, train_spec(ema_decay=0.999)))
    fast = load_file(run(folder, train_spec(ema_decay=0.0)))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        start = Tiny(feature_dim=6, num_classes=2, max_length=16).state_dict()
    assert (slow["heads.weight"] - start["heads.weight"]).abs().max() < 1e-3
    assert (fast["heads.weight"] - start["heads.weight"]).abs().max() > 1e-3
    assert set(slow) == set(start)


@pytest.mark.parametrize("settings", [{}, {"selection": "held-out"}])
def test_killed_at_ten_random_steps_it_ends_in_equal_bits(folder: Path, settings: dict[str, object]) -> None:
    settings = {"epochs": 14, **settings}
    spec = train_spec(**settings)
    total = 15 * (2 if "selection" in settings else 3)
    write_inputs(folder / "whole", videos_of(np.random.default_rng(0)))
    wanted = run(folder / "whole", spec, seconds=1000).read_bytes()
    draw = random.Random(repr(settings))
    kills = [("loss", draw.randint(1, 4)) if draw.random() < 0.6 else ("fsync", draw.randint(1, 8)) for _ in range(10)]
    command = [sys.executable, tools.__file__, str(folder), json.dumps(settings), json.dumps(kills)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    steps = [int(line) for line in done.stdout.split()]
    assert len(steps) == 10
    assert steps == sorted(steps)
    assert len(set(steps)) >= 7
    assert 10 < steps[-1] < total
    before = Tiny.calls
    assert run(folder, spec).read_bytes() == wanted
    assert Tiny.calls - before == total - steps[-1]
    assert not list((folder / "kept").glob("*.state.safetensors"))


def test_a_state_of_other_settings_is_not_resumed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tiny, "nan_at", 6)
    with pytest.raises(TadError, match="not finite"):
        run(folder, train_spec())
    monkeypatch.setattr(Tiny, "nan_at", -1)
    before = Tiny.calls
    run(folder, train_spec(lr=0.02))
    assert Tiny.calls - before == 12


def test_a_broken_state_costs_time_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = run(folder, train_spec()).read_bytes()
    (kept,) = (folder / "kept").iterdir()
    kept.unlink()
    (folder / "kept" / f"{kept.stem}.state.safetensors").write_bytes(b"\x80\x04 not a state")
    assert run(folder, train_spec()).read_bytes() == wanted


def test_weights_are_republished_when_nothing_that_training_reads_changed(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first = load_file(run(folder, train_spec()))
    identity = read_stamp(folder / "out" / "model.safetensors")["identity"]
    videos = videos_of(np.random.default_rng(0))
    rng = np.random.default_rng(1)
    videos["test_new"] = (Video("test", 20.5, (Instance(1, 4, "run"),)), rng.normal(size=(20, 6)).astype(np.float16))
    write_inputs(folder, videos)
    before, warned = Tiny.calls, "initial weights will still make up"
    caplog.clear()
    again = load_file(run(folder, train_spec()))
    assert Tiny.calls == before
    assert "republished" in caplog.text
    assert warned in caplog.text  # a warning about the weights does not depend on the attempt that trained them
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert read_stamp(folder / "out" / "model.safetensors")["identity"] != identity
    changed = videos["train_0"][0].instances[0]
    moved = Instance(changed.start + 0.4, changed.end + 0.4, changed.label)
    videos["train_0"] = (Video("train", videos["train_0"][0].duration, (moved,)), videos["train_0"][1])
    write_inputs(folder, videos)
    run(folder, train_spec())
    assert Tiny.calls == before + 12


def test_selection_by_held_out_videos_never_sees_the_test_split(folder: Path) -> None:
    held = run(folder, train_spec(selection="held-out", epochs=6))
    made = read_stamp(held)
    assert made["epoch_rule"] == "lowest loss on held-out train videos"
    assert made["videos"] == {"train": 5, "judged": 2}
    assert 4 <= made["epoch"] <= 7  # from half of the epochs on
    first = held.read_bytes()
    videos = videos_of(np.random.default_rng(0))
    for name in ("test_7", "test_8", "test_9"):
        videos[name] = (videos[name][0], videos[name][1] * 2)
    write_inputs(folder / "other", videos)
    assert run(folder / "other", train_spec(selection="held-out", epochs=6)).read_bytes() == first


def test_the_best_epoch_so_far_survives_an_interruption(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tiny, "worsens", True)  # the first judged epoch, 4 of 7, stays the best
    spec = train_spec(selection="held-out", epochs=6)
    write_inputs(folder / "whole", videos_of(np.random.default_rng(0)))
    whole = run(folder / "whole", spec)
    assert read_stamp(whole)["epoch"] == 4
    monkeypatch.setattr(Tiny, "nan_at", Tiny.calls + 13)
    with pytest.raises(TadError, match="epoch 7"):
        run(folder, spec)
    assert run(folder, spec).read_bytes() == whole.read_bytes()


def test_selection_on_the_test_split_says_so(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = read_stamp(run(folder, train_spec(selection="test")))
    assert made["epoch_rule"] == "lowest loss on the test split (peeked)"
    assert "chosen on the test split" in caplog.text


def test_held_out_without_a_share_is_refused(folder: Path) -> None:
    with pytest.raises(TadError, match="hold_out"):
        run(folder, train_spec(selection="held-out", hold_out=0.0))


def test_training_learns(folder: Path) -> None:

    spec = train_spec(epochs=60, lr=0.05)
    weights = load_file(run(folder, spec, seconds=1000))
    with FeatureReader(folder / "f.h5") as reader:
        batch = windows_of(folder, reader).training_batch(0, 0)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        tiny = Tiny(feature_dim=6, num_classes=2, max_length=16).eval()
    before = tiny.loss(batch.feats_BTC, batch.lengths_B, batch.targets)["cls"].item()
    tiny.load_state_dict(weights)
    after = tiny.loss(batch.feats_BTC, batch.lengths_B, batch.targets)["cls"].item()
    assert after < 0.5 * before


@pytest.mark.slow
def test_compiled_training_agrees(folder: Path) -> None:
    compiled = load_file(run(folder, train_spec(compile=True)))
    plain = load_file(run(folder, train_spec()))
    assert set(compiled) == set(plain)
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["mse", "actionformer"])
def test_real_detectors_continue_with_equal_bits(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.undo()
    spec = tools.real_spec(name)
    write_inputs(folder / "whole", videos_of(np.random.default_rng(0)))
    whole = run(folder / "whole", spec, seconds=1000)
    make = Windows.training_batch

    def interrupted(self: Windows, epoch: int, k: int, *share: Callable[[int], range]) -> Batch:
        if (epoch, k) == (2, 1):
            raise KeyboardInterrupt
        return make(self, epoch, k, *share)

    monkeypatch.setattr(Windows, "training_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(folder, spec)
    monkeypatch.undo()
    (state,) = (folder / "kept").glob("*.state.safetensors")
    tensors, metadata = checkpoint.read_tensors(state)
    assert json.loads(metadata["state"])["step"] == 7
    assert tensors["normaliser.loss_norm"] != spec.detector.settings["init_loss_norm"]
    assert run(folder, spec).read_bytes() == whole.read_bytes()


def test_an_average_that_cannot_move_is_warned_of(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(folder, train_spec(ema_decay=0.999), seconds=1000)
    assert "initial weights will still make up 99 % of the averaged weights after 12 steps" in caplog.text


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_at_once_and_keeps_the_last_good_state(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tiny, "nan_at", 6)
    said = r"training step 5 \(epoch 2, videos train_\d, train_\d\): not finite: cls nan"
    with pytest.raises(TadError, match=said) as caught:
        run(folder, train_spec())
    assert Tiny.calls == 6
    assert "\n" not in str(caught.value)
    (state,) = (folder / "kept").glob("*.state.safetensors")
    assert str(state) in str(caught.value)
    tensors, metadata = checkpoint.read_tensors(state)
    assert json.loads(metadata["state"])["step"] == 5
    assert all(value.isfinite().all() for value in tensors.values() if value.is_floating_point())
    assert not (folder / "out" / "model.safetensors").exists()
    monkeypatch.setattr(Tiny, "nan_at", -1)
    resumed = run(folder, train_spec()).read_bytes()
    assert Tiny.calls == 6 + 7
    write_inputs(folder / "whole", videos_of(np.random.default_rng(0)))
    assert run(folder / "whole", train_spec()).read_bytes() == resumed


def spoil(folder: Path, video_id: str, value: float) -> None:

    from tad.features.store import checksum

    with checksum_tools.edit_h5(folder / "f.h5") as file:
        file[video_id]["feats"][2, 3] = value
        file[video_id].attrs["checksum"] = checksum(file[video_id]["feats"][:])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_features_that_are_not_finite_are_named(folder: Path, value: float) -> None:
    spoil(folder, "train_2", value)
    with pytest.raises(TadError, match=r"f\.h5: features of 'train_2' contain NaN or infinity"):
        run(folder, train_spec())


def test_damaged_features_are_named(folder: Path) -> None:

    with checksum_tools.edit_h5(folder / "f.h5") as file:
        file["train_1"]["feats"][0, 0] += 1
    with pytest.raises(TadError, match="'train_1' do not match their checksum"):
        run(folder, train_spec())


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    videos = {name: value for name, value in videos_of(np.random.default_rng(0)).items() if "test" in name}
    write_inputs(tmp_path, videos)
    with pytest.raises(TadError, match=r"split 'train' of toy has no video to use \(0 annotated"):
        run(tmp_path, train_spec())


def test_a_data_set_without_test_videos_is_refused_before_training(tmp_path: Path) -> None:
    videos = videos_of(np.random.default_rng(0))
    write_inputs(tmp_path, {name: value for name, value in videos.items() if "test" not in name})
    with pytest.raises(TadError, match=r"split 'test' of toy has no video to use \(0 annotated"):
        run(tmp_path, train_spec())
    write_inputs(tmp_path, videos, without=("test_8",))
    with pytest.raises(TadError, match="no features of video 'test_8' of split test; extract it, or exclude it"):
        run(tmp_path, train_spec())
    assert Tiny.calls == 0


def test_a_damaged_index_costs_no_weights(folder: Path) -> None:
    """Snakemake removes the model before it starts the job; the weights survive beside it."""
    model = run(folder, train_spec())
    wanted, index, calls = model.read_bytes(), (folder / "f.h5").read_bytes(), Tiny.calls
    for damaged in (index[: len(index) // 2], b"", b"<html>404 Not Found</html>"):
        model.unlink(missing_ok=True)
        (folder / "f.h5").write_bytes(damaged)
        with pytest.raises(TadError, match=r"f\.h5: ") as caught:
            run(folder, train_spec())
        assert "\n" not in str(caught.value)
    (folder / "f.h5").write_bytes(index)
    assert run(folder, train_spec()).read_bytes() == wanted
    assert Tiny.calls == calls


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens where there is no GPU")
@pytest.mark.parametrize("device", ["auto", "cuda:0"])
def test_more_devices_than_there_are_is_an_error(folder: Path, device: str) -> None:
    paths = folder / "f.h5", folder / "toy.json", folder / "model.safetensors"
    said = r"--devices 2: .* 0 CUDA devices are usable" if device == "auto" else "is requested, but 0 CUDA devices"
    with pytest.raises(TadError, match=said):
        train(*paths, spec=train_spec(), cache=folder / "kept", device=device, devices=2)


def test_a_split_without_any_instance_is_refused(tmp_path: Path) -> None:
    videos = videos_of(np.random.default_rng(0))
    videos = {name: (Video(v.split, v.duration), feats) for name, (v, feats) in videos.items()}
    write_inputs(tmp_path, videos)
    with pytest.raises(TadError, match="none of the 7 videos of split 'train' has an instance"):
        run(tmp_path, train_spec())


def test_missing_features_are_refused_unless_excluded(tmp_path: Path) -> None:
    videos = videos_of(np.random.default_rng(0))
    write_inputs(tmp_path, videos, without=("train_3",))
    with pytest.raises(TadError, match="no features of video 'train_3' of split train; extract it, or exclude it"):
        run(tmp_path, train_spec())
    made = read_stamp(run(tmp_path, train_spec(exclude={"train_3": "lost"})))
    assert made["videos"]["train"] == 6
    write_inputs(tmp_path, videos, without=("train_3",), excluded={"train_3": "damaged"})
    made = read_stamp(run(tmp_path, train_spec()))
    assert made["videos"]["train"] == 6
    assert made["excluded"] == {"train_3": "damaged"}
    with pytest.raises(TadError, match="no video is called 'trian_3'; did you mean 'train_3'"):
        run(tmp_path, train_spec(exclude={"trian_3": "typo"}))


def test_an_end_beyond_the_video_is_found_when_the_annotations_state_no_duration(tmp_path: Path) -> None:
    videos = videos_of(np.random.default_rng(0))
    video, feats = videos["train_2"]
    late = Instance(1.0, float(video.duration or 0) + 5, video.instances[0].label)
    videos["train_2"] = (Video("train", None, (*video.instances, late)), feats)
    write_inputs(tmp_path, videos)
    with pytest.raises(TadError, match=r"video 'train_2', instance \d.*beyond the video.*correct it, or exclude"):
        run(tmp_path, train_spec())


def test_videos_of_another_width_are_named(tmp_path: Path) -> None:
    videos = videos_of(np.random.default_rng(0))
    videos["train_2"] = (videos["train_2"][0], videos["train_2"][1][:, :4])
    write_inputs(tmp_path, videos)
    with pytest.raises(TadError, match="features of 'train_2' have 4 channels, those of other videos 6"):
        run(tmp_path, train_spec())


def test_features_of_another_set_are_refused(folder: Path) -> None:
    with ShardWriter(folder / "f.h5", stamp("merge", {"dataset": "toy", "features": "other"}, {})):
        pass
    with pytest.raises(TadError, match="made with features='other', expected features='f'"):
        run(folder, train_spec())


def test_fewer_videos_than_a_batch_still_train(tmp_path: Path) -> None:
    write_inputs(tmp_path, videos_of(np.random.default_rng(0), train=3))
    assert read_stamp(run(tmp_path, train_spec(batch_size=8)))["steps"] == 4


def test_training_leaves_torch_as_it_was(folder: Path) -> None:
    before = torch.random.get_rng_state(), torch.are_deterministic_algorithms_enabled()
    with reproducible(torch.device("cpu")):
        assert torch.are_deterministic_algorithms_enabled()
    run(folder, train_spec())
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert torch.are_deterministic_algorithms_enabled() == before[1]
