"""Published features become an index that train and detect take; nothing in a feature file is ever run."""

import io
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from config_tools import all_rows
from harm import Harm
from table_tools import read_as
from training_tools import train_spec, use_tiny

from tad.annotations.table import Instance, Table, Video, write_table
from tad.core.errors import TadError
from tad.core.unpickle import unpickle
from tad.features.foreign import FeatureFiles
from tad.features.store import FeatureReader
from tad.provenance.stamps import expect, stamp
from tad.settings import plugins
from tad.settings.config import Config
from tad.settings.stages import ConvertSpec
from tad.stages.convert import convert
from tad.stages.train import train
from tad.training.data.inputs import recipe_of
from tad.workflow.missing import missing
from tad.workflow.rules import Workflow

ROOT = Path(__file__).parents[1]
DIM, RATE, STRIDE, LENGTH = 6, 30.0, 4, 16
DURATIONS = {"a": 20.0, "b": 9.5, "c": 31.25}


def spec_of(**changes: Any) -> ConvertSpec:
    clip = {"length": LENGTH, "stride": STRIDE, "policy": "native", "rate": 0.0}
    values = {"dataset": "toy", "features": "f", "clip": clip, "dim": DIM, "dtype": "float32"}
    return ConvertSpec.model_validate(values | changes)


def fixed(rate: float, *, stride: int = STRIDE) -> dict[str, Any]:
    return {"length": LENGTH, "stride": stride, "policy": "resample", "rate": rate}


def rows_of(duration: float) -> int:
    return int((duration * RATE - LENGTH) // STRIDE)  # the published THUMOS14 features have one less than fit


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {v: rng.normal(size=(rows_of(d), DIM)).astype(np.float32) for v, d in DURATIONS.items()}


def annotated(folder: Path, *, rate: float | None = RATE, without: tuple[str, ...] = ()) -> Path:
    split = {"a": "train", "b": "train", "c": "test"}
    videos = {
        v: Video(split[v], d, (Instance(1.0, 4.0, "jump"), Instance(5.0, 8.0, "run")), (), rate)
        for v, d in DURATIONS.items()
        if v not in without
    }
    return write_table(
        Table("toy", ("jump", "run"), videos), folder / "toy.json", stamp("annotate", {"dataset": "toy"}, {})
    )


def save(path: Path, feats_TC: np.ndarray) -> None:
    """One file in the format that its suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, feats_TC)
    elif path.suffix == ".npz":
        np.savez(path, feats=feats_TC)
    elif path.suffix == ".pt":
        torch.save(torch.from_numpy(feats_TC), path)
    else:
        whole_1CT = torch.from_numpy(feats_TC.T.copy())[None]
        streams = {"slow_feature": whole_1CT[:, :4].clone(), "fast_feature": whole_1CT[:, 4:].clone()}
        path.write_bytes(pickle.dumps(streams, protocol=2))


def folder_of(folder: Path, *, suffix: str = ".npy", prefix: str = "", feats: Any = None) -> Path:
    for video_id, feats_TC in (feats or arrays()).items():
        save(folder / "feats" / f"{prefix}{video_id}{suffix}", feats_TC)
    return folder / "feats"


def stored(path: Path) -> dict[str, np.ndarray]:
    with FeatureReader(path) as reader:
        return {v: reader.stored(v) for v in reader.video_ids}


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt", ".pkl", ".h5"])
def test_every_published_kind_of_file_gives_the_same_features(tmp_path: Path, suffix: str) -> None:
    if suffix == ".h5":
        source = tmp_path / "all.h5"
        with h5py.File(source, "w") as file:
            for video_id, feats_TC in arrays().items():
                file[f"v_{video_id}_6b"] = feats_TC
            file["v_a"] = arrays()["b"]  # of another network
    else:
        source = folder_of(tmp_path, suffix=f"_6b{suffix}", prefix="v_")
        save(source / f"v_a{suffix}", arrays()["b"])  # of another network
    layout = "CT" if suffix == ".pkl" else "TC"
    out = convert(
        source, annotated(tmp_path), tmp_path / "f.h5", spec=spec_of(prefix="v_", suffix="_6b", layout=layout)
    )
    found = stored(out)
    for video_id, feats_TC in arrays().items():
        assert np.array_equal(found[video_id], feats_TC)
    with FeatureReader(out) as reader:
        grid = reader.grid("a")
    assert (grid.start, grid.step, grid.duration) == (LENGTH / 2 / RATE, STRIDE / RATE, DURATIONS["a"])


def test_subfolders_orientation_half_precision_and_equal_bytes(tmp_path: Path) -> None:
    feats = {v: a.T for v, a in arrays().items()}
    for k, (video_id, feats_CT) in enumerate(feats.items()):
        save(tmp_path / "feats" / str(k % 2) / f"{video_id}.npy", feats_CT)
    spec = spec_of(layout="CT", dtype="float16")
    one = convert(tmp_path / "feats", annotated(tmp_path), tmp_path / "f.h5", spec=spec)
    other = convert(tmp_path / "feats", annotated(tmp_path), tmp_path / "g.h5", spec=spec)
    assert one.read_bytes() == other.read_bytes()
    assert np.array_equal(stored(one)["a"], arrays()["a"].astype(np.float16))


def test_train_takes_the_index_and_the_recipe_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "build", use_tiny)
    table = annotated(tmp_path)
    out = convert(folder_of(tmp_path), table, tmp_path / "f.h5", spec=spec_of())
    made = expect(out, stage=("merge", "convert"), dataset="toy", features="f")
    assert len(recipe_of(made)) == 12
    model = train(
        out, table, tmp_path / "run" / "model.safetensors", spec=train_spec(), cache=tmp_path / "k", threads=1
    )
    assert model.is_file()
    with pytest.raises(TadError, match="made by stage convert, expected one made by merge; remove"):
        expect(out, stage="merge")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"clip": fixed(RATE, stride=8)},
            ["3 of 3 videos", "clip.stride 4 at 30 frames", "clip.rate of about 59.2 with stride 8"],
        ),
        ({"clip": fixed(15.0)}, ["clip.stride 2 at 15 frames", "or clip.rate of about 30"]),
        ({"dim": 7}, ["has 6 channels", "expected dim 7", "set dim: 6"]),
        ({"layout": "CT"}, ["layout: TC would fit"]),
        ({"prefix": "v_"}, ["no features of 3 of 3 videos", "'v_a'", "set prefix"]),
        ({"suffix": "_6b"}, ["no features of 3 of 3 videos", "'a_6b'", "set prefix and suffix"]),
    ],
)
def test_settings_that_do_not_fit_come_with_those_that_would(
    tmp_path: Path, changes: dict[str, Any], said: list[str]
) -> None:
    with pytest.raises(TadError) as caught:
        convert(folder_of(tmp_path), annotated(tmp_path), tmp_path / "f.h5", spec=spec_of(**changes))
    for part in said:
        assert part in str(caught.value), str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "f.h5").exists()


def test_native_clips_need_the_rate_of_each_video(tmp_path: Path) -> None:
    source = folder_of(tmp_path)
    with pytest.raises(TadError, match=r"'a'.*annotations state none.*clip\.policy: resample"):
        convert(source, annotated(tmp_path, rate=None), tmp_path / "f.h5", spec=spec_of())
    convert(source, annotated(tmp_path, rate=None), tmp_path / "f.h5", spec=spec_of(clip=fixed(RATE)))


def test_a_missing_video_is_refused_unless_somebody_excludes_it(tmp_path: Path) -> None:
    source = folder_of(tmp_path)
    (source / "b.npy").unlink()
    with pytest.raises(TadError, match="no features of 1 of 3 videos of toy, first 'b'"):
        convert(source, annotated(tmp_path), tmp_path / "f.h5", spec=spec_of())
    out = convert(source, annotated(tmp_path), tmp_path / "f.h5", spec=spec_of(may_miss=("b",)))
    assert set(stored(out)) == {"a", "c"}
    out = convert(source, annotated(tmp_path, without=("b",)), tmp_path / "g.h5", spec=spec_of())
    assert set(stored(out)) == {"a", "c"}


@pytest.mark.parametrize(
    ("feats", "said"),
    [
        (np.full((146, DIM), np.nan, np.float32), r"contains NaN or infinity \(876 values\)"),
        (np.full((146, DIM), 1e6, np.float32), "has values too large for float16; set dtype: float32"),
        (np.zeros((0, DIM), np.float32), "has no row"),
        (np.zeros(DIM, np.float32), r"shape \(6,\)"),
        (np.array([["x"] * DIM]), "not an array of numbers"),
        (np.zeros((146, DIM), np.complex64), "not an array of numbers"),
    ],
)
def test_values_that_cannot_be_features(tmp_path: Path, feats: np.ndarray, said: str) -> None:
    source = folder_of(tmp_path, feats={**arrays(), "a": feats})
    with pytest.raises(TadError, match=said) as caught:
        convert(source, annotated(tmp_path), tmp_path / "f.h5", spec=spec_of(dtype="float16"))
    assert "a.npy" in str(caught.value)


def test_two_files_of_one_video_and_foreign_sources(tmp_path: Path) -> None:
    source = folder_of(tmp_path)
    save(source / "more" / "a.npz", arrays()["a"])
    with pytest.raises(TadError, match="belongs to the same video; remove one"):
        FeatureFiles(source)
    (tmp_path / "x.h5").write_text("no")
    for path, said in ((tmp_path / "x.h5", "HDF5"), (tmp_path / "none", "no such folder"), (ROOT / "README.md", "not")):
        with pytest.raises(TadError, match=said):
            FeatureFiles(path)
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file["a"] = h5py.ExternalLink("all.h5", "/a")
        file.create_group("b")
    for video_id in ("a", "b"):
        with pytest.raises(TadError, match="not a dataset of its own file"):
            FeatureFiles(tmp_path / "y.h5").read(video_id)


def hostile(mark: Path) -> dict[str, Any]:
    command = f"touch {mark}"
    return {
        "system": Harm(os.system, command),
        "nested": {"slow_feature": [OrderedDict(a=(Harm(os.system, command),))], "fast_feature": 1},
        "eval": Harm(eval, f"open({str(mark)!r}, 'w')"),
        "exec": Harm(exec, f"open({str(mark)!r}, 'w')"),
        "open": Harm(open, str(mark), "w"),
        "import": Harm(__import__, "antigravity"),
        "getattr": Harm(getattr, os, "system"),
        "numpy load": Harm(np.load, str(mark), None, True),
        "torch load": Harm(torch.load, str(mark)),
        "mkdir": Harm(os.mkdir, str(mark)),
        "storage": Harm(torch.storage._load_from_bytes, pickle.dumps(Harm(os.system, command))),
        "class": Harm,
    }


@pytest.mark.parametrize("name", sorted(hostile(Path("x"))))
@pytest.mark.parametrize("suffix", [".pkl", ".npy", ".pt", ".npz"])
def test_code_in_feature_files_is_never_run(tmp_path: Path, name: str, suffix: str) -> None:
    mark, folder = tmp_path / "ran", tmp_path / "feats"
    folder.mkdir()
    path = folder / f"a{suffix}"
    value = hostile(mark)[name]
    if name == "getattr":
        path.write_bytes(b"cos\nsystem\n(S'touch " + str(mark).encode() + b"'\ntR.")
    elif suffix == ".pkl":
        path.write_bytes(pickle.dumps(value))
    elif suffix == ".npy":
        np.save(path, np.array([value, None], dtype=object), allow_pickle=True)
    elif suffix == ".npz":
        np.savez(path, feats=np.array([value, None], dtype=object))
    else:
        torch.save(value, path)
    with pytest.raises(TadError, match="no code from it was run") as caught:
        FeatureFiles(folder).read("a")
    assert "\n" not in str(caught.value)
    assert not mark.exists()


def test_pickles_of_plain_arrays_and_tensors_are_read() -> None:
    values: list[Any] = [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.ones((3, 2), "f4")), np.float64(0.5)]
    values += [torch.arange(6).reshape(2, 3), torch.ones(2, 3).half().T, {"a": [1, "x", None, b"y"]}]
    for protocol in range(2, 6):
        for value in values:
            found = unpickle(io.BytesIO(pickle.dumps(value, protocol=protocol)))
            assert type(found) is type(value)
            same = torch.equal(found, value) if isinstance(value, torch.Tensor) else np.array_equal(found, value)
            assert same


def test_object_arrays_inside_a_pickle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(np.array([[1.0, None]], dtype=object)))
    with pytest.raises(TadError, match="object"):
        FeatureFiles(tmp_path).read("a")


def imported_config(**changes: Any) -> dict[str, Any]:
    row = {"source": "published", "dim": 6, "clip": fixed(30.0), "published": "https://example.org/features"} | changes
    return {
        "datasets": {"mine": {"format": "csv", "annotations": "a.csv"}},
        "features": {"theirs": {k: v for k, v in row.items() if v is not None}, "own": {"backbone": "r2plus1d_small"}},
        "runs": {
            "one": {"dataset": "mine", "features": "theirs", "detector": "mse", "exclude": {"b": "cut"}},
            "two": {"dataset": "mine", "features": "own", "detector": "mse"},
        },
    }


def test_imported_features_ask_for_neither_videos_nor_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flow = Workflow(imported_config(), ROOT)
    needs = missing(flow.config, "mine", "theirs")
    assert len(needs) == 2
    assert needs[1] == "put the features theirs at published (https://example.org/features)"
    assert "videos" in " ".join(missing(flow.config, "mine", "own"))
    (tmp_path / "published").mkdir()
    (tmp_path / "a.csv").write_text("")
    assert flow.ready_runs() == ["one"]
    assert (flow.pattern("imported"), flow.pattern("extracted")) == ("theirs", "own")
    spec = flow.config.spec("convert", dataset="mine", features="theirs")
    assert spec.model_dump()["may_miss"] == ("b",)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"source": None, "dim": None, "published": None}, "needs exactly one of `backbone`"),
        ({"backbone": "i3d"}, "needs exactly one of `backbone`"),
        ({"dim": None}, "needs `dim`"),
        ({"clip": None}, "needs `dim` (channels) and `clip`"),
        ({"weights": "w.pt"}, "weights needs `backbone`"),
        ({"clip": {"length": 16, "stride": 4, "policy": "native"}}, "clip.rate: Field required"),
        ({"clip": {**fixed(30.0), "strid": 4}}, "clip"),
        ({"layout": "TCC"}, "layout"),
    ],
)
def test_rows_of_imported_features_that_cannot_be_right(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(TadError) as caught:
        Config(imported_config(**changes))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_shipped_salads_convert(shared: Path, tmp_path: Path) -> None:
    from tad.settings.stages import AnnotateSpec
    from tad.stages.annotate import annotate

    config = Config(all_rows())
    folder = shared / "data" / "features" / "50salads"
    spec = config.spec("annotate", dataset="salads")
    assert isinstance(spec, AnnotateSpec)
    table = annotate(folder / "annotations.json", tmp_path / "salads.json", spec=spec)
    made = config.spec("convert", dataset="salads", features="salads_scores")
    assert isinstance(made, ConvertSpec)
    found = stored(convert(folder, table, tmp_path / "f.h5", spec=made))
    assert len(found) == 50
    assert np.array_equal(found["salad_1_01"], np.load(folder / "salad_1_01.npy"))


def test_rates_are_those_of_the_published_annotations(shared: Path) -> None:
    folder = shared / "data" / "annotations"
    stated = {v: video.rate for v, video in read_as("thumos14", folder / "thumos14.json").videos.items()}
    assert set(stated.values()) == {30.0, 29.97, 25.0, 24.0}
    counted = {
        v: video.rate for v, video in read_as("thumos14", folder / "thumos14_opentad.json", variant=211).videos.items()
    }
    assert all(counted[v] == pytest.approx(stated[v], rel=0.02) for v in counted)


def test_channels_that_are_taken_are_the_first_to_the_last(tmp_path: Path) -> None:
    out = convert(folder_of(tmp_path), annotated(tmp_path), tmp_path / "f.h5", spec=spec_of(channels=(1, 3)))
    with FeatureReader(out) as reader:
        assert reader.dim == 2
        for video_id, feats_TC in arrays().items():
            assert np.array_equal(reader.stored(video_id), feats_TC[:, 1:3])
        assert reader.stamp["recipe"]["channels"] == [1, 3]
