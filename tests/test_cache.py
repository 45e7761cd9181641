"""Feature files: round trip, equal bytes, and refusal of what is damaged or foreign."""

from pathlib import Path

import checksum_tools
import h5py
import numpy as np
import pytest

from tad.core.errors import TadError
from tad.core.grid import Grid
from tad.features.store import FeatureReader, ShardWriter
from tad.provenance.stamps import check, expect, read_stamp, stamp

GRID = Grid(0.5, 0.25, 6, 3.0)
FEATS_TC = np.arange(24, dtype=np.float16).reshape(6, 4)


def write(path: Path, feats_TC: np.ndarray = FEATS_TC) -> Path:
    with ShardWriter(path, stamp("extract", {"dataset": "d"}, {})) as shard:
        shard.add("../odd id/%", feats_TC, grid=GRID, attrs={"rate": 25.0})
        shard.attribute("excluded", {"gone": "truncated"})
    return path


def test_round_trip_and_equal_bytes(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.h5"), write(tmp_path / "b.h5")
    assert first.read_bytes() == second.read_bytes()
    with FeatureReader(first) as reader:
        assert reader.video_ids == ["../odd id/%"]
        assert reader.excluded == {"gone": "truncated"}
        assert reader.dim == 4
        assert reader.grid("../odd id/%") == GRID
        assert reader.read("../odd id/%", 2, 4).tolist() == FEATS_TC[2:4].tolist()
        assert reader.stored("../odd id/%").dtype == np.float16


def test_any_number_of_exclusions_with_long_causes(tmp_path: Path) -> None:
    causes = {f"video_{k:05d}": f"frame {k}: unreadable after {k} s; ä" * 10 for k in range(5000)}
    made = stamp("merge", {"dataset": "d", "exclude": causes}, {})
    with ShardWriter(tmp_path / "many.h5", made) as shard:
        shard.attribute("excluded", causes)
    with FeatureReader(tmp_path / "many.h5") as reader:
        assert reader.excluded == causes
    assert read_stamp(tmp_path / "many.h5")["spec"]["exclude"] == causes


def test_nan_features_are_refused_and_nothing_appears(tmp_path: Path) -> None:
    with pytest.raises(TadError, match="NaN"):
        write(tmp_path / "a.h5", np.full((6, 4), np.nan, np.float16))
    assert list(tmp_path.iterdir()) == []


def test_damaged_and_foreign_files(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5")
    (tmp_path / "half.h5").write_bytes(path.read_bytes()[:1500])
    (tmp_path / "text.h5").write_text("hello")
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["v"] = np.zeros(3)
    for name, message in [("half", "truncated"), ("text", "HDF5"), ("foreign", "no stamp"), ("absent", "no such file")]:
        with pytest.raises(TadError, match=message) as caught, FeatureReader(tmp_path / f"{name}.h5"):
            pass
        assert f"{name}.h5" in str(caught.value)


def test_flipped_bytes_are_found_by_the_checksum(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5")
    checksum_tools.flip(path, path.read_bytes().find(FEATS_TC.tobytes()) + 5)
    with pytest.raises(TadError, match="do not match their checksum"), FeatureReader(path) as reader:
        reader.stored("../odd id/%")


def test_features_without_checksums_of_blocks_have_one_of_the_video(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5")
    changed = FEATS_TC.copy()
    changed[0, 2] += 1
    checksum_tools.change(path, FEATS_TC.tobytes(), changed.tobytes())
    with FeatureReader(path) as reader, pytest.raises(TadError, match="odd id/%' do not match their checksum"):
        reader.stored("../odd id/%")


def test_nan_that_came_later_is_refused_on_reading(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5")
    changed = FEATS_TC.copy()
    changed[0, 0] = np.nan
    checksum_tools.change(path, FEATS_TC.tobytes(), changed.tobytes())
    with FeatureReader(path) as reader, pytest.raises(TadError, match="NaN"):
        reader.read("../odd id/%")


def test_snippets_are_looked_at_once_and_none_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feats_TC = np.arange(400, dtype=np.float32).reshape(100, 4)
    path = write(tmp_path / "a.h5", feats_TC)
    row_C = feats_TC[60].copy()
    row_C[0] = np.nan
    checksum_tools.change(path, feats_TC[60].tobytes(), row_C.tobytes())
    looks = []
    isfinite = np.isfinite
    monkeypatch.setattr(np, "isfinite", lambda x: looks.append(1) or isfinite(x))
    with FeatureReader(path) as reader:
        for first, last, looked in [(10, 30, 1), (12, 30, 0), (20, 50, 1), (10, 50, 0), (70, 90, 1), (75, 90, 0)]:
            looks.clear()
            np.testing.assert_array_equal(reader.read("../odd id/%", first, last), feats_TC[first:last])
            assert len(looks) == looked, (first, last)
        for first, last in [(50, 61), (40, 80), (60, 61)]:
            with pytest.raises(TadError, match="NaN"):
                reader.read("../odd id/%", first, last)


def test_a_missing_shard_and_a_missing_video(tmp_path: Path) -> None:
    write(tmp_path / "shard.h5")
    with h5py.File(tmp_path / "index.h5", "w") as file:
        file.attrs["tad_stamp"] = "{}"
        file["v"] = h5py.ExternalLink("gone.h5", "/v")
    with FeatureReader(tmp_path / "index.h5") as reader:
        with pytest.raises(TadError, match="shard of video 'v'"):
            reader.grid("v")
        with pytest.raises(TadError, match="no features of video 'w'"):
            reader.grid("w")


def test_expect_says_what_differs(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5")
    assert read_stamp(path)["spec"] == {"dataset": "d"}
    assert expect(path, stage="extract", dataset="d")["stage"] == "extract"
    with pytest.raises(TadError, match=r"dataset='d', expected dataset='e'"):
        expect(path, stage="extract", dataset="e")
    with pytest.raises(TadError, match="made by stage extract, expected one made by merge"):
        expect(path, stage="merge")
    settings = {"a": 1, "long": ["x"] * 99, "b": [2]}
    stamped = {"stage": "train", "spec": {"detector": {"name": "mse", "settings": settings}}}
    others = [({**settings, "b": [3]}, r"b=\[2\], .*b=\[3\]"), ({"a": 1, "b": [2]}, r"long=\['x'.*long=None")]
    for asked, said in others:
        with pytest.raises(TadError, match=rf"made with detector\.settings\.{said}; remove it and run train again"):
            check(stamped, path, stage="train", detector={"name": "mse", "settings": asked})
