"""Detection: what candidates.h5 holds, and models and features that do not belong together."""

import json
import pickle
from pathlib import Path

import checksum_tools
import h5py
import numpy as np
import pytest
import torch
import training_tools as tools
from training_tools import detect_spec, train_spec, videos_of, write_inputs

from tad.annotations.table import Video
from tad.core.errors import TadError
from tad.detectors._points.detector import PointDetector
from tad.provenance.stamps import expect
from tad.settings import plugins
from tad.settings.stages import DetectStageSpec
from tad.stages.detect import detect
from tad.training.io import tensors as checkpoint


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "build", tools.use_tiny)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_inputs(tmp_path, videos_of(np.random.default_rng(0)))
    tools.run(tmp_path, train_spec(epochs=1), seconds=1000)
    return tmp_path


def run(folder: Path, spec: DetectStageSpec, *, name: str = "candidates.h5") -> Path:
    paths = folder / "f.h5", folder / "out" / "model.safetensors", folder / "toy.json", folder / name
    return detect(*paths, spec=spec, threads=1)


def test_candidates_of_every_video_of_the_split(folder: Path) -> None:
    path = run(folder, detect_spec())
    made = expect(path, stage="detect", run="r", split="test")
    assert set(made["inputs"]) == {"features", "annotations", "model"}
    videos = videos_of(np.random.default_rng(0))
    with h5py.File(path) as file:
        ids = [v.decode() for v in file["video_ids"][:]]
        assert ids == ["test_7", "test_8", "test_9"]
        offsets = file["offsets"][:]
        assert offsets.dtype == np.int64
        assert offsets[0] == 0
        assert offsets[-1] == len(file["scores"]) > 10
        assert file["segments"].shape == (offsets[-1], 2)
        assert (file["segments"].dtype, file["scores"].dtype) == (np.float32, np.float32)
        assert file["labels"].dtype == np.int32
        assert set(file["labels"][:]) <= {0, 1}
        lengths = [len(videos[v][1]) for v in ids]
        assert file["grids"][:].tolist() == [[0.5, 1.0, n, n + 0.5] for n in lengths]
        for k, length in enumerate(lengths):
            assert file["segments"][offsets[k] : offsets[k + 1]].max() <= length
        assert json.loads(file.attrs["labels"]) == ["jump", "run"]
        assert json.loads(file.attrs["excluded"]) == {}


def arrays(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {name: file[name][:] for name in file}


def test_equal_runs_give_equal_bytes_and_batches_change_nothing(folder: Path) -> None:
    first = run(folder, detect_spec()).read_bytes()
    assert run(folder, detect_spec()).read_bytes() == first
    one, many = arrays(folder / "candidates.h5"), arrays(run(folder, detect_spec(batch_size=4), name="many.h5"))
    for name, value in one.items():
        if value.dtype.kind == "f":
            np.testing.assert_allclose(many[name], value, atol=1e-5)
        else:
            np.testing.assert_array_equal(many[name], value)


def test_a_video_without_candidates_has_an_empty_row(folder: Path) -> None:
    found = arrays(run(folder, detect_spec(score_threshold=0.9999)))
    assert found["offsets"].tolist() == [0, 0, 0, 0]
    assert found["segments"].shape == (0, 2)
    assert len(found["video_ids"]) == 3


def test_excluded_videos_are_listed_with_their_reason(folder: Path) -> None:
    videos = videos_of(np.random.default_rng(0))
    reasons = {"test_8": "damaged: no frame", "train_1": "damaged"}
    write_inputs(folder, videos, without=("test_8", "train_1"), excluded=reasons)
    path = run(folder, detect_spec(exclude={"test_9": "other sport"}))
    with h5py.File(path) as file:
        assert [v.decode() for v in file["video_ids"][:]] == ["test_7"]
        assert json.loads(file.attrs["excluded"]) == {"test_8": "damaged: no frame", "test_9": "other sport"}


def test_a_missing_video_is_refused(folder: Path) -> None:
    write_inputs(folder, videos_of(np.random.default_rng(0)), without=("test_8",))
    with pytest.raises(TadError, match="no features of video 'test_8' of split test"):
        run(folder, detect_spec())


def test_an_empty_split_is_refused(folder: Path) -> None:
    spec = detect_spec().model_copy(update={"split": "val"})
    with pytest.raises(TadError, match="split 'val' of toy has no video to use"):
        run(folder, spec)


def test_resized_features_use_the_spread_grid(tmp_path: Path) -> None:
    write_inputs(tmp_path, videos_of(np.random.default_rng(0)))
    tools.run(tmp_path, train_spec(epochs=1, resize=16), seconds=1000)
    with pytest.raises(TadError, match=r"trained with train\.resize 16, but the settings use 0"):
        run(tmp_path, detect_spec())
    grids = arrays(run(tmp_path, detect_spec(resize=16)))["grids"]
    length = len(videos_of(np.random.default_rng(0))["test_7"][1])
    assert grids[0].tolist() == pytest.approx([length / 32, length / 16, 16, length + 0.5])


def test_a_model_that_only_proposes_names_its_one_class(tmp_path: Path) -> None:
    write_inputs(tmp_path, videos_of(np.random.default_rng(0)))
    tools.run(tmp_path, train_spec(epochs=1, class_agnostic=True), seconds=1000)
    with h5py.File(run(tmp_path, detect_spec())) as file:
        assert json.loads(file.attrs["labels"]) == ["action"]
        assert set(file["labels"][:]) == {0}


# -- what does not belong together -------------------------------------------------------------------------------------


def test_features_of_another_width_are_refused(folder: Path) -> None:
    videos = {name: (video, feats[:, :4]) for name, (video, feats) in videos_of(np.random.default_rng(0)).items()}
    write_inputs(folder, videos)
    with pytest.raises(TadError, match=r"model\.safetensors: trained on features with 6 channels, but these have 4"):
        run(folder, detect_spec())


def test_features_of_another_recipe_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "RECIPE", {"backbone": {"name": "other", "settings": {}}, "dataset": "toy"})
    write_inputs(folder, videos_of(np.random.default_rng(0)))
    with pytest.raises(TadError, match=r"trained on features of recipe \w+, but these have recipe \w+; run train"):
        run(folder, detect_spec())


def test_another_detector_is_refused(folder: Path) -> None:
    spec = detect_spec()
    other = spec.detector.model_copy(update={"settings": {"width": 9}})
    with pytest.raises(TadError, match=r"made with detector\.settings\.width=8, expected detector\.settings\.width=9"):
        run(folder, spec.model_copy(update={"detector": other}))


def rewrite(folder: Path, change: object) -> None:
    path = folder / "out" / "model.safetensors"
    tensors, metadata = checkpoint.read_tensors(path)
    change(tensors, metadata)  # type: ignore[operator]
    checkpoint.write_tensors(path, tensors, metadata)


def test_weights_that_do_not_fit_are_one_line(folder: Path) -> None:
    rewrite(folder, lambda tensors, _: tensors.update({"heads.weight": torch.zeros(2, 2)}))
    with pytest.raises(TadError, match=r"weights do not fit detector tiny .*heads\.weight") as caught:
        run(folder, detect_spec())
    assert "\n" not in str(caught.value)
    rewrite(folder, lambda tensors, _: tensors.pop("heads.weight"))
    with pytest.raises(TadError, match="weights do not fit detector tiny"):
        run(folder, detect_spec())


def test_weights_that_are_not_finite_are_refused(folder: Path) -> None:
    rewrite(folder, lambda tensors, _: tensors["heads.bias"].fill_(float("nan")))
    with pytest.raises(TadError, match=r"weight 'heads\.bias' is not finite"):
        run(folder, detect_spec())


class Trap:
    """Runs a command where pickles are trusted."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


def test_a_hostile_checkpoint_is_refused_and_runs_nothing(folder: Path) -> None:
    path, mark = folder / "out" / "model.safetensors", folder / "ran"
    whole = path.read_bytes()
    bad = {
        "pickle": pickle.dumps(Trap(mark)),
        "empty": b"",
        "huge header": b"\xff" * 64,
        "truncated": whole[: len(whole) // 2],
        "not JSON": (8).to_bytes(8, "little") + b"notjson!",
        "list": (8).to_bytes(8, "little") + b"[1,2,3] ",
    }
    for name, content in bad.items():
        path.write_bytes(content)
        with pytest.raises(TadError, match=r"model\.safetensors: ") as caught:
            run(folder, detect_spec())
        assert "\n" not in str(caught.value), name
    torch.save({"state_dict": {"a": torch.zeros(2)}, "trap": Trap(mark)}, path)
    with pytest.raises(TadError, match="not a readable safetensors file"):
        run(folder, detect_spec())
    assert not mark.exists()
    assert not (folder / "candidates.h5").exists()


def test_a_foreign_safetensors_file_is_refused(folder: Path) -> None:
    path = folder / "out" / "model.safetensors"
    tensors, metadata = checkpoint.read_tensors(path)
    checkpoint.write_tensors(path, tensors, {})
    with pytest.raises(TadError, match="contains no 'tad_stamp', so it was not made by tad train"):
        run(folder, detect_spec())
    for key, value in (("tad_stamp", "{"), ("labels", "{}"), ("detector", "7"), ("tad_stamp", "{}")):
        checkpoint.write_tensors(path, tensors, metadata | {key: value})
        with pytest.raises(TadError, match=r"model\.safetensors: "):
            run(folder, detect_spec())


def test_features_that_are_not_finite_are_named(folder: Path) -> None:
    with checksum_tools.edit_h5(folder / "f.h5") as file:
        file["test_8"]["feats"][1, 1] = np.nan
    with pytest.raises(TadError, match=r"f\.h5: features of 'test_8' contain NaN"):
        run(folder, detect_spec())


def test_a_table_with_other_classes_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "LABELS", ("fall", "jump", "run"))
    videos = {n: (Video(v.split, v.duration), feats) for n, (v, feats) in videos_of(np.random.default_rng(0)).items()}
    write_inputs(folder, videos)
    with pytest.raises(TadError, match="its classes differ from those of"):
        run(folder, detect_spec())


def test_a_test_video_that_is_too_long_is_said_before_training(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By train, and by detect (of an imported model) before any video is computed."""
    lengths = {name: len(feats) for name, (_, feats) in videos_of(np.random.default_rng(0)).items()}
    tested = sorted((n for name, n in lengths.items() if name.startswith("test")), reverse=True)
    longest = next(name for name, n in lengths.items() if n == tested[0] and name.startswith("test"))
    model = folder / "out" / "model.safetensors"
    monkeypatch.setattr(tools.Tiny, "longest", tested[1] - 1)
    before = tools.Tiny.calls
    wanted = rf"f\.h5: video '{longest}' of split test, the longest of 2 videos that are too long: features: "
    with pytest.raises(TadError, match=wanted):
        tools.run(folder, train_spec(seed=4))
    paths = folder / "f.h5", model, folder / "toy.json", folder / "c.h5"
    with pytest.raises(TadError, match=wanted):
        detect(*paths, spec=detect_spec(), threads=1)
    assert tools.Tiny.calls == before
    monkeypatch.setattr(tools.Tiny, "longest", tested[0])
    tools.run(folder, train_spec(seed=4))


@pytest.mark.parametrize(("name", "face"), [("actionformer", ""), ("mse", "parity"), ("mse", "corrected")])
def test_the_published_buffers_are_such_a_limit(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, face: str
) -> None:
    monkeypatch.undo()
    videos = videos_of(np.random.default_rng(0))
    video, feats = videos["test_7"]
    long = np.concatenate([feats] * (200 // len(feats) + 1))[:120]
    videos["test_7"] = (Video(video.split, 120.5, video.instances), long)
    write_inputs(folder, videos)
    spec = tools.real_spec(name, face, epochs=1, warmup_epochs=0)
    if face == "corrected":
        assert tools.run(folder, spec, seconds=1000).is_file()
        return
    with pytest.raises(TadError, match=r"video 'test_7' .* 120 snippets: .* at most 96; raise settings.buffer_factor"):
        tools.run(folder, spec)
    assert len(list((folder / "kept").iterdir())) == 1  # of the fixture


def test_new_videos_may_be_longer_than_the_published_code_accepts(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`tad apply` cannot wait for a training with another setting; the detections are those without a limit."""
    monkeypatch.undo()
    videos = videos_of(np.random.default_rng(0))
    spec = tools.real_spec("actionformer", "", epochs=1, warmup_epochs=0)
    model = tools.run(folder, spec)
    video, feats = videos["test_7"]
    videos["test_7"] = (Video(video.split, 120.5, video.instances), np.resize(feats, (120, feats.shape[1])))
    write_inputs(folder, videos)
    plan = detect_spec().model_copy(update={"detector": spec.detector})
    given = folder / "f.h5", model, folder / "toy.json"
    with pytest.raises(TadError, match=r"120 snippets: .* at most 96"):
        detect(*given, folder / "short.h5", spec=plan, threads=1)
    detect(*given, folder / "long.h5", spec=plan, threads=1, any_length=True)
    said = "1 video is longer than the 96 snippets that the published code accepts"
    assert sum(said in record.getMessage() for record in caplog.records if record.levelname == "WARNING") == 1
    monkeypatch.setattr(PointDetector, "limit", property(lambda self: 0, lambda self, value: None), raising=False)
    detect(*given, folder / "unlimited.h5", spec=plan, threads=1)
    assert (folder / "long.h5").read_bytes() == (folder / "unlimited.h5").read_bytes()
