"""Keypoints become features that do not depend on where the body is, on the camera's scale or on the frame rate."""

import os
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from test_convert import annotated

from tad.core.errors import TadError
from tad.features.keypoints import KeypointFiles, clip_means, keypoint_features
from tad.features.poses import Poses, read_poses
from tad.features.store import FeatureReader
from tad.settings.clips import ClipSpec
from tad.settings.config import Config
from tad.settings.keypoints import KeypointSpec
from tad.settings.stages import ConvertSpec
from tad.stages.convert import convert

POINTS = ("nose", "left", "tail")
P = len(POINTS)
SCORER = "DLC_resnet50_miceJan1shuffle1_100000"
# channels of one individual
POSTURE, SPEED, CONFIDENCE = slice(0, 2 * P), slice(2 * P, 3 * P), slice(3 * P, 4 * P)
MISSING, VELOCITY, SHARE = slice(4 * P, 5 * P), slice(5 * P, 5 * P + 2), 5 * P + 2
CLIP = ClipSpec(length=1, stride=1, policy="native", rate=0.0)


def spec_of(**changes: Any) -> KeypointSpec:
    return KeypointSpec.model_validate({"points": POINTS, **changes})


def walk(rate: float, seconds: float = 4.0) -> np.ndarray:
    """A body of length 2 that walks along x with 3 units a second and wags its tail: (T, 1, P, 2)."""
    t = np.arange(round(rate * seconds)) / rate
    nose = np.stack([1 + 3 * t, 0 * t], axis=1)
    left = np.stack([3 * t, 0.5 + 0 * t], axis=1)
    tail = np.stack([-1 + 3 * t, 0.2 * np.sin(2 * np.pi * 0.5 * t)], axis=1)
    return np.stack([nose, left, tail], axis=1)[:, None]


def poses_of(xy_TIP2: np.ndarray, confidence: float = 0.9) -> Poses:
    return Poses(xy_TIP2, np.where(np.isfinite(xy_TIP2).all(axis=-1), confidence, 0.0))


@given(
    st.floats(-1e4, 1e4), st.floats(-1e4, 1e4), st.floats(1e-2, 1e3), st.integers(0, 2**32 - 1),
    st.sampled_from([(), ("nose", "tail")]), st.sampled_from([(), ("left",)]),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_neither_place_nor_scale_changes_the_features(
    x: float, y: float, scale: float, seed: int, length: tuple[str, ...], centre: tuple[str, ...]
) -> None:
    rng = np.random.default_rng(seed)
    xy = rng.normal(size=(12, 2, P, 2)).cumsum(axis=0)
    xy[rng.random(xy.shape[:3]) < 0.2] = np.nan
    xy[0] = rng.normal(size=(2, P, 2))  # every point is seen at least once
    spec = spec_of(individuals=("a", "b"), length=length, centre=centre)
    first = keypoint_features(poses_of(xy), 25.0, spec)
    moved = keypoint_features(poses_of(xy * scale + np.array([x, y])), 25.0, spec)
    assert first.shape == (12, spec.width)
    assert np.allclose(first, moved, rtol=1e-3, atol=1e-3 * np.abs(first).max())


@pytest.mark.parametrize("rate", [10.0, 25.0, 120.0])
def test_speeds_are_body_lengths_per_second_at_any_frame_rate(rate: float) -> None:
    feats = keypoint_features(poses_of(walk(rate)), rate, spec_of(length=["nose", "tail"]))
    assert np.allclose(feats[:, VELOCITY], [1.5, 0.0], atol=0.11)  # 3 units a second, length 2; the tail wags
    assert np.allclose(feats[:, SPEED][:, :2], 1.5, atol=0.01)
    assert np.allclose(feats[:, CONFIDENCE], 0.9)
    assert not feats[:, MISSING].any()


def test_the_frame_rate_hardly_changes_the_features_of_equal_clips() -> None:
    slow = clip_means(
        keypoint_features(poses_of(walk(25.0)), 25.0, spec_of()), CLIP.model_copy(update={"length": 5, "stride": 5})
    )
    fast = clip_means(
        keypoint_features(poses_of(walk(100.0)), 100.0, spec_of()), CLIP.model_copy(update={"length": 20, "stride": 20})
    )
    assert slow.shape == fast.shape == (20, spec_of().width)
    assert np.abs(slow - fast).max() < 0.03


def test_missing_points_are_interpolated_and_flagged() -> None:
    whole = walk(25.0)
    holed = whole.copy()
    holed[30:40, 0, 0] = np.nan  # the nose moves evenly, so that interpolation finds its place
    doubtful = poses_of(whole)
    doubtful.confidence_TIP[30:40, 0, 0] = 0.1
    truth = keypoint_features(poses_of(whole), 25.0, spec_of())
    for poses, confidence in ((poses_of(holed), 0.0), (doubtful, 0.1)):
        feats = keypoint_features(poses, 25.0, spec_of())
        assert np.allclose(feats[:, POSTURE], truth[:, POSTURE], atol=1e-5)
        assert np.allclose(feats[:, SPEED], truth[:, SPEED], atol=1e-4)
        assert feats[30:40, MISSING].tolist() == [[1, 0, 0]] * 10
        assert feats[:, MISSING].sum() == 10
        assert np.allclose(feats[30:40, CONFIDENCE], [confidence, 0.9, 0.9])
        assert np.allclose(feats[30:40, SHARE], 2 / 3)
        assert feats[0, SHARE] == 1
    holed[:, 0, 0] = np.nan
    never = keypoint_features(poses_of(holed), 25.0, spec_of(length=["left", "tail"]))
    assert not never[:, :2].any()
    assert never[:, MISSING][:, 0].all()
    assert np.isfinite(never).all()


def test_an_empty_video_is_zeros_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "v.csv").write_text("nose_x,nose_y,left_x,left_y,tail_x,tail_y\n" + ",,,,,\n" * 7)
    feats = KeypointFiles(tmp_path, spec_of(), CLIP, rate_of=lambda _: 25.0).read("v")
    assert feats[:, MISSING].all()
    assert not np.delete(feats, range(4 * P, 5 * P), axis=1).any()
    assert "no point is visible in any frame" in caplog.text


def test_clips_are_means_of_their_frames() -> None:
    frames = np.arange(10, dtype=np.float32)[:, None]
    rows = clip_means(frames, ClipSpec(length=4, stride=3, policy="native", rate=0.0))
    assert rows.ravel().tolist() == [1.5, 4.5, 7.5]
    assert clip_means(frames[:2], ClipSpec(length=4, stride=3, policy="native", rate=0.0)).tolist() == [[0.5]]


# ------------------------------------------------------------------------------------------------ files of each tool


def names_of(individuals: tuple[str, ...]) -> list[tuple[str, ...]]:
    middle = [(i,) for i in individuals] or [()]
    return [(SCORER, *i, point, coord) for i in middle for point in POINTS for coord in ("x", "y", "likelihood")]


def deeplabcut_h5(path: Path, values: np.ndarray, individuals: tuple[str, ...] = ()) -> None:
    """Write a table as pandas does (format="table"): column names as a pickle of protocol 0 in an attribute."""
    rows = np.zeros(len(values), [("index", "<i8"), ("values_block_0", "<f8", (values.shape[1],))])
    rows["index"], rows["values_block_0"] = np.arange(len(values)), values
    with h5py.File(path, "w") as file:
        table = file.create_dataset("df_with_missing/table", data=rows)
        table.attrs["values_block_0_kind"] = np.bytes_(pickle.dumps(names_of(individuals), 0))


def deeplabcut_csv(path: Path, values: np.ndarray, individuals: tuple[str, ...] = ()) -> None:
    levels = ["scorer", *(["individuals"] if individuals else []), "bodyparts", "coords"]
    heads = [
        ",".join([level, *column])
        for level, column in zip(levels, zip(*names_of(individuals), strict=True), strict=True)
    ]
    rows = [",".join([str(k), *(repr(float(v)) for v in row)]) for k, row in enumerate(values)]
    path.write_text("\n".join([*heads, *rows]).replace("nan", "") + "\n")


def plain_csv(path: Path, values: np.ndarray, individuals: tuple[str, ...] = ()) -> None:
    names = [".".join(name[1:-1]) + "_" + name[-1] for name in names_of(individuals)]
    rows = [",".join([str(k), *(repr(float(v)) for v in row)]) for k, row in enumerate(values)]
    path.write_text("\n".join([",".join(["frame", *names]), *rows]) + "\n")


def sleap_h5(path: Path, values: np.ndarray, individuals: tuple[str, ...] = ()) -> None:
    all_TIPC = values.reshape(len(values), -1, P, 3)
    with h5py.File(path, "w") as file:
        file["tracks"] = all_TIPC[..., :2].transpose(1, 3, 2, 0)
        file["point_scores"] = all_TIPC[..., 2].transpose(1, 2, 0)
        file["node_names"] = np.array(POINTS, dtype="S")
        file["track_names"] = np.array(individuals, dtype="S") if individuals else np.zeros(0)


def sleap_h5_transposed(path: Path, values: np.ndarray, individuals: tuple[str, ...] = ()) -> None:
    all_TIPC = values.reshape(len(values), -1, P, 3)
    with h5py.File(path, "w") as file:
        file["tracks"], file["point_scores"] = all_TIPC[..., :2], all_TIPC[..., 2]
        file["node_names"] = list(POINTS)
        file["track_names"] = list(individuals)


WRITERS = {
    "dlc.h5": deeplabcut_h5, "dlc.csv": deeplabcut_csv, "plain.csv": plain_csv, "sleap.h5": sleap_h5,
    "sleap_new.h5": sleap_h5_transposed,
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("individuals", [(), ("m1", "m2")])
def test_all_tools_give_the_same_poses(tmp_path: Path, name: str, individuals: tuple[str, ...]) -> None:
    values = np.random.default_rng(1).normal(size=(9, max(len(individuals), 1) * P * 3))
    values[4, :2] = np.nan
    WRITERS[name](tmp_path / name, values, individuals)
    all_TIPC = values.reshape(9, -1, P, 3)
    poses = read_poses(tmp_path / name, ("tail", "nose"), individuals[::-1])
    order = all_TIPC[:, ::-1][:, :, [2, 0]]
    assert np.array_equal(poses.xy_TIP2, order[..., :2], equal_nan=True)
    gone = np.isnan(order[..., 0])
    assert gone.sum() == 1
    assert np.array_equal(poses.confidence_TIP, np.where(gone, 0, order[..., 2]))
    with pytest.raises(
        TadError, match=r"has no x and y of the point 'ear'; it has nose, left, tail; correct keypoints"
    ):
        read_poses(tmp_path / name, ("ear", "nose"), individuals)
    wrong = ("m3",)
    with pytest.raises(TadError, match=r"has no individual 'm3' but .*; correct keypoints\.individuals"):
        read_poses(tmp_path / name, POINTS, wrong)
    if individuals:
        with pytest.raises(TadError, match=r"has the individuals m1, m2; name those to use"):
            read_poses(tmp_path / name, POINTS)


def test_a_table_that_pandas_wrote(tmp_path: Path) -> None:
    pandas, _ = pytest.importorskip("pandas"), pytest.importorskip("tables")
    values = np.random.default_rng(2).normal(size=(5, 9))
    levels = pandas.MultiIndex.from_tuples(names_of(()), names=["scorer", "bodyparts", "coords"])
    pandas.DataFrame(values, columns=levels).to_hdf(tmp_path / "v.h5", key="df_with_missing", format="table")
    assert np.array_equal(read_poses(tmp_path / "v.h5", POINTS).xy_TIP2[:, 0, 2], values[:, 6:8])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: expected columns such as nose_x"),
        ("a,b\n1,2\n", "line 1: expected columns such as nose_x"),
        (",".join(["a_x"] * 10_001), "line 1: 10001 columns; tables of keypoints have at most 10000"),
        ("nose_x,nose_y\n1\n", "line 2: 1 columns, the header has 2"),
        ("nose_x,nose_y\n1,two\n", "line 2: could not convert string to float: 'two'"),
        ("nose_x,nose_y\n", "has no frames"),
        ("nose_x,nose_y,nose_x\n1,2,3\n", "has two columns 'x' of the point 'nose'"),
        ("nose_x,nose_y\n1,1e300\n", r"has a coordinate of 1e\+300 pixels"),
        ("frame,nose_x,nose_y\n1,0,0\n1,0,0\n", "frame 1 comes after frame 1; frames must increase"),
        ("frame,nose_x,nose_y\n0.5,0,0\n", "'0.5' is not a frame number"),
        ("frame,nose_x,nose_y\n99999999999,0,0\n", "the frame number 99999999999 declares"),
        ("scorer,s,s\nbodyparts,nose,nose\n1,2,3\n", "line 0: not a header of DeepLabCut"),
        ("scorer,s\nbodyparts,nose\ncoords,x\nlabeled-data/img0.png,3\n", "line 4: could not convert string"),
    ],
)
def test_damaged_tables_are_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "v.csv").write_text(text)
    with pytest.raises(TadError, match=rf"v\.csv: {said}.*export the keypoints again") as caught:
        read_poses(tmp_path / "v.csv", ("nose",))
    assert "\n" not in str(caught.value)


class _Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch trapped",)


def test_nothing_in_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    deeplabcut_h5(tmp_path / "v.h5", np.zeros((3, 9)))
    with h5py.File(tmp_path / "v.h5", "a") as file:
        file["df_with_missing/table"].attrs["values_block_0_kind"] = np.bytes_(pickle.dumps([_Trap()], 0))
    with pytest.raises(TadError, match=r"it asks for posix\.system.*; export the keypoints again"):
        read_poses(tmp_path / "v.h5", POINTS)
    assert not (tmp_path / "trapped").exists()


def test_names_and_tracks_beyond_all_measure_are_refused(tmp_path: Path) -> None:
    nested: Any = "x"
    for _ in range(40):  # its text would have 2^40 characters
        nested = (nested, nested)
    deeplabcut_h5(tmp_path / "v.h5", np.zeros((3, 9)))
    with h5py.File(tmp_path / "v.h5", "a") as file:
        names = pickle.dumps([(SCORER, nested, "x")] * 9, 0)
        file["df_with_missing/table"].attrs["values_block_0_kind"] = np.bytes_(names)
    with pytest.raises(TadError, match=r"not named by scorer, bodyparts and coords; export the keypoints again"):
        read_poses(tmp_path / "v.h5", POINTS)
    sleap_h5(tmp_path / "s.h5", np.zeros((1, 4000 * P * 3)))
    with pytest.raises(TadError, match=r"4000 tracks of 3 points; at most 10000 points are read"):
        read_poses(tmp_path / "s.h5", POINTS)


# ------------------------------------------------------------------------------------------------ folder and stage


def test_the_names_of_files_are_those_that_the_tools_give(tmp_path: Path) -> None:
    for name in (f"a{SCORER}.h5", f"a{SCORER}.csv", "mice.v001_b.analysis.h5", "sub/c.csv", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    files = KeypointFiles(tmp_path, spec_of(), CLIP, rate_of=lambda _: 25.0)
    assert {v: p.name for v, p in files.paths.items()} == {
        "a": f"a{SCORER}.h5", "b": "mice.v001_b.analysis.h5", "c": "c.csv"
    }  # fmt: skip
    (tmp_path / f"a{SCORER}_filtered.h5").write_text("x")
    with pytest.raises(TadError, match=r"belongs to the same video; remove one of them, or set keypoints\.suffix"):
        KeypointFiles(tmp_path, spec_of(), CLIP, rate_of=lambda _: 25.0)
    filtered = KeypointFiles(tmp_path, spec_of(suffix="_filtered"), CLIP, rate_of=lambda _: 25.0)
    assert [p.name for p in filtered.paths.values()] == [f"a{SCORER}_filtered.h5"]
    with pytest.raises(TadError, match="no such folder; give a folder"):
        KeypointFiles(tmp_path / "none", spec_of(), CLIP, rate_of=lambda _: 25.0)


def test_convert_makes_an_index_of_them(tmp_path: Path) -> None:
    clip = {"length": 6, "stride": 3, "policy": "native", "rate": 0.0}
    row = {"source": str(tmp_path / "poses"), "keypoints": {"points": list(POINTS)}, "clip": clip, "dtype": "float32"}
    made = Config.read(write_config(tmp_path, row)).spec("convert", dataset="toy", features="pose")
    assert isinstance(made, ConvertSpec)
    assert made.dim == spec_of().width == P * 5 + 3
    (tmp_path / "poses").mkdir()
    for video_id, seconds in (("a", 20.0), ("b", 9.5), ("c", 31.25)):
        values = np.concatenate([walk(30.0, seconds)[:, 0], np.full((round(30 * seconds), P, 1), 0.9)], axis=2)
        deeplabcut_csv(tmp_path / "poses" / f"{video_id}{SCORER}.csv", values.reshape(len(values), -1))
    out = convert(tmp_path / "poses", annotated(tmp_path), tmp_path / "f.h5", spec=made)
    with FeatureReader(out) as reader:
        grid = reader.grid("a")
        assert (grid.length, grid.step, grid.start) == (199, pytest.approx(0.1), pytest.approx(0.1))
        assert np.allclose(reader.stored("a")[:, SPEED][:, :2], 1.5, atol=0.1)
    values = made.model_dump() | {"clip": clip | {"policy": "resample", "rate": 15.0}}
    with pytest.raises(TadError, match=r"do not fit clip\.stride 3 at 15 frames per second"):
        convert(tmp_path / "poses", tmp_path / "toy.json", tmp_path / "g.h5", spec=ConvertSpec.model_validate(values))


def write_config(folder: Path, row: dict[str, Any]) -> Path:
    rows = {"datasets": {"toy": {"format": "activitynet", "annotations": "x"}}, "features": {"pose": row}}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(rows))
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dim": 7}, "dim cannot be combined with `keypoints`; remove it"),
        ({"keypoints": {"points": ["nose", "nose"]}}, "points: .*: name each once"),
        ({"keypoints": {"points": ["nose", "tail"], "length": ["nose", "ear"]}}, "length: ear: must be one of points"),
        ({"keypoints": {"points": ["nose", "tail"], "length": ["nose"]}}, "give two different points"),
        ({"source": "", "backbone": "i3d"}, "keypoints needs `source`"),
    ],
)
def test_wrong_rows_are_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    row = {"source": "poses", "keypoints": {"points": ["nose", "tail"]}, "clip": CLIP.model_dump()} | change
    with pytest.raises(TadError, match=said):
        Config.read(write_config(tmp_path, row))
