"""Features in CSV files, as TSN's are published: read, spread over the video, bad rows named by their line."""

from pathlib import Path

import numpy as np
import pytest
from test_convert import DIM, DURATIONS, annotated, arrays, spec_of

from tad.core.errors import TadError
from tad.features.store import FeatureReader
from tad.settings.config import Config
from tad.stages.convert import convert
from tad.training.data.in_memory import resize

SPREAD = {"timing": "spread", "clip": {"length": 1, "stride": 1, "policy": "native", "rate": 0.0}}


def write(path: Path, feats_TC: np.ndarray, *, header: str = "") -> None:
    names = header or ",".join(f"f{k}" for k in range(feats_TC.shape[1]))
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [",".join(repr(float(x)) for x in row) for row in feats_TC]
    path.write_text("\n".join([names, *lines]) + "\n")


def folder_of(folder: Path, header: str = "") -> Path:
    for video_id, feats_TC in arrays().items():
        write(folder / "feats" / f"v_{video_id}.csv", feats_TC, header=header)
    return folder / "feats"


@pytest.mark.parametrize("header", ["", "0,1,2,3,4,5"])  # or as tables without names are written
def test_a_row_for_each_snippet_is_spread_over_the_video(tmp_path: Path, header: str) -> None:
    spec = spec_of(prefix="v_", **SPREAD)
    out = convert(folder_of(tmp_path, header), annotated(tmp_path, rate=None), tmp_path / "f.h5", spec=spec)
    with FeatureReader(out) as reader:
        for video_id, feats_TC in arrays().items():
            assert np.array_equal(reader.stored(video_id), feats_TC)
            grid, step = reader.grid(video_id), DURATIONS[video_id] / len(feats_TC)
            assert (grid.length, grid.duration) == (len(feats_TC), DURATIONS[video_id])
            assert grid.step == pytest.approx(step)
            assert grid.start == pytest.approx(step / 2)
            resized = grid.spread(100)  # times do not depend on how many rows there were
            assert resized.to_seconds(0) == pytest.approx(DURATIONS[video_id] / 200)
            assert resize(reader.stored(video_id), 100).shape == (100, DIM)


@pytest.mark.parametrize(
    ("line", "text", "said"),
    [
        (3, "1,2,3", r"line 3: 3 columns, the header has 6"),
        (2, "1,2,3,4,5,six", r"line 2: could not convert string to float: 'six'"),
        (4, "1,2,,4,5,6", r"line 4: could not convert string to float: ''"),
        (5, "", r"line 5: 0 columns"),
        (1, "0.1,0.2,0.3,0.4,0.5,0.6", r"line 1: expected a header, but it is a row of numbers"),
    ],
)
def test_bad_rows_are_named_by_their_line(tmp_path: Path, line: int, text: str, said: str) -> None:
    folder = folder_of(tmp_path)
    lines = (folder / "v_b.csv").read_text().splitlines()
    lines[line - 1] = text
    (folder / "v_b.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(TadError, match=rf"v_b\.csv: {said}.*download or export it again") as caught:
        convert(folder, annotated(tmp_path), tmp_path / "f.h5", spec=spec_of(prefix="v_", **SPREAD))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "f.h5").exists()


def test_values_and_widths_are_checked_as_of_other_files(tmp_path: Path) -> None:
    folder, table = folder_of(tmp_path), annotated(tmp_path)
    for text, said in (("nan", r"'b' contains NaN or infinity \(1 values\)"), ("inf", "contains NaN")):
        feats_TC = arrays()["b"]
        write(folder / "v_b.csv", feats_TC)
        whole = (folder / "v_b.csv").read_text()
        (folder / "v_b.csv").write_text(whole.replace(repr(float(feats_TC[2, 3])), text))
        with pytest.raises(TadError, match=said):
            convert(folder, table, tmp_path / "f.h5", spec=spec_of(prefix="v_", **SPREAD))
    write(folder / "v_b.csv", arrays()["b"][:0])
    with pytest.raises(TadError, match=r"'b' has no rows"):
        convert(folder, table, tmp_path / "f.h5", spec=spec_of(prefix="v_", **SPREAD))
    (folder / "v_b.csv").write_text("")
    with pytest.raises(TadError, match=r"line 1: expected a header, but it is empty"):
        convert(folder, table, tmp_path / "f.h5", spec=spec_of(prefix="v_", **SPREAD))
    with pytest.raises(TadError, match=r"has 6 channels and .* expected dim 400"):
        convert(folder, table, tmp_path / "f.h5", spec=spec_of(prefix="v_", dim=400, **SPREAD))
    with pytest.raises(ValueError, match="timing spread goes with clip"):
        spec_of(timing="spread")


def test_spots_published_features_are_a_row() -> None:
    config = Config.read(Path(__file__).parents[1] / "config.yaml")
    made = config.spec("convert", dataset="anet_tsp", features="tsn_anet")
    assert (made.dim, made.timing, made.prefix) == (400, "spread", "")
    for run in ("spot-anet-tsn", "spot-anet-tsn-10", "spot-anet-tsn-60"):
        spec = config.spec("train", run=run)
        assert (spec.detector.settings["width"], spec.train.resize) == (0, 100)  # the features' own 400
        assert (spec.labels is None) == (run == "spot-anet-tsn")
    assert config.file.runs["spot-anet"].features == "tsp_anet"
