"""What an index holds, in table and picture: the numbers are right, damage is named, bars lie where they belong."""

import json
from pathlib import Path

import checksum_tools
import h5py
import numpy as np
import pytest

from tad.annotations.table import Instance, Table, Video, write_table
from tad.commands.cli import main
from tad.core.errors import TadError
from tad.core.grid import Grid
from tad.core.h5 import H5Writer
from tad.features.show import MOST_CELLS, as_lines, draw, rows_of, self_similarity, show_video, totals
from tad.features.store import ShardWriter, checksum, key_of
from tad.provenance.stamps import stamp

FACTS = {"rate": 25.0, "clip_length": 10, "stride": 5}
INSTANCES = (Instance(0.5, 1.5, "jump"), Instance(1.0, 2.0, "run"), Instance(2.5, 3.0, "jump"))


def feats(rows: int) -> np.ndarray:
    return np.tile(np.array([[3.0, 4.0]], np.float32), (rows, 1)) * np.arange(1, rows + 1, dtype=np.float32)[:, None]


def index_of(folder: Path) -> Path:
    """Four videos: whole, with NaN, with a flipped bit, in a shard that is gone; one more is excluded."""
    made = stamp("extract", {"dataset": "toy", "features": "f"}, {})
    shards = {"one": ("nan", "whole", "worn"), "two": ("lost",)}
    for shard, ids in shards.items():
        with ShardWriter(folder / f"{shard}.h5", made) as writer:
            for video_id in ids:
                grid = Grid.of_clips(clip_length=10, stride=5, rate=25.0, length=8, duration=4.0)
                writer.add(video_id, feats(8), grid=grid, attrs=FACTS)
    with checksum_tools.edit_h5(folder / "one.h5") as file:
        file["nan/feats"][2, 0] = np.nan
        file["nan"].attrs["checksum"] = checksum(file["nan/feats"][:])
        file["worn/feats"][0, 0] = 3.5
    with H5Writer(folder / "f.h5", made) as index:
        index.attribute("excluded", {"audio": "no video stream"})
        for shard, ids in shards.items():
            for video_id in ids:
                index.file[key_of(video_id)] = h5py.ExternalLink(f"{shard}.h5", f"/{video_id}")
    (folder / "two.h5").unlink()
    return folder / "f.h5"


def test_the_table_is_right(tmp_path: Path) -> None:
    rows = {row.video_id: row for row in rows_of(index_of(tmp_path))}
    whole = rows["whole"]
    assert (whole.state, whole.rows, whole.rate, whole.stride, whole.step) == ("ok", 8, 25.0, 5, 0.2)
    assert (whole.first, whole.last, whole.duration) == pytest.approx((0.0, 1.8, 4.0))
    assert whole.covered == pytest.approx(0.45)
    assert (whole.norm_mean, whole.norm_max, whole.nan_share) == pytest.approx((22.5, 40.0, 0.0))
    assert (rows["nan"].state, rows["nan"].nan_share) == ("NaN", 1 / 16)
    assert rows["nan"].norm_max == pytest.approx(40.0)
    assert (rows["worn"].state, rows["lost"].state, rows["audio"].state) == ("damaged", "damaged", "excluded")
    assert "do not match their checksum" in rows["worn"].cause
    assert "shard of video 'lost' is missing" in rows["lost"].cause
    assert rows["audio"].cause == "no video stream"
    found = totals(list(rows.values()))
    assert (found["videos"], found["ok"], found["NaN"], found["damaged"], found["excluded"]) == (5, 1, 1, 2, 1)
    assert (found["rows"], found["hours"]) == (16, 8 / 3600)
    lines = list(as_lines(list(rows.values())))
    assert len(lines) == 7
    assert len({len(line) for line in lines[:1] + [line for line in lines if " ok " in line[:20]]}) == 1


def test_the_command_prints_all_and_fails_where_something_is_wrong(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    index = index_of(tmp_path)
    assert main(["features", "show", str(index)]) == 1
    out, err = capfd.readouterr()
    assert "5 videos: 1 ok, 1 with NaN, 2 damaged, 1 excluded; 16 rows of 2 channels over 0.00 h" in out
    assert err.splitlines()[-1].endswith("3 videos are damaged or contain NaN, first 'lost'; run again")
    assert main(["features", "show", str(index), "--json"]) == 1
    data = json.loads(capfd.readouterr().out)
    assert data["totals"]["dims"] == [2]
    assert [video["video_id"] for video in data["videos"]] == ["audio", "lost", "nan", "whole", "worn"]
    assert data["totals"]["damaged"] == 2
    assert main(["features", "show", str(index), "--video", "whole"]) == 1
    assert "give --video and --figure together" in capfd.readouterr().err


def test_similarity_is_the_cosine() -> None:
    feats_TC = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    feats_TC[3] = 0
    found = self_similarity(feats_TC)
    for i in range(7):
        for j in range(7):
            norms = float(np.linalg.norm(feats_TC[i]) * np.linalg.norm(feats_TC[j]))
            assert found[i, j] == pytest.approx(float(feats_TC[i] @ feats_TC[j]) / norms if norms else 0.0, abs=1e-6)
    long = self_similarity(np.ones((3 * MOST_CELLS + 5, 2), np.float16))
    assert long.shape == (MOST_CELLS, MOST_CELLS)
    assert np.allclose(long, 1)
    halves = np.repeat(np.eye(2, dtype=np.float32), 300, axis=0)
    assert np.array_equal(self_similarity(halves, most=2), np.eye(2)), "cells are averages of neighbours in time"


def test_bars_lie_over_their_seconds_on_both_axes() -> None:
    grid = Grid.of_clips(clip_length=10, stride=5, rate=25.0, length=8, duration=4.0)
    figure = draw("v", feats(8) + np.eye(8, 2, dtype=np.float32), grid, INSTANCES, title="f of toy")
    figure.savefig("/dev/null", format="png")  # lays it out
    axes = {a.get_label(): a for a in figure.axes}
    main_box, top_box, left_box = (axes[name].get_position() for name in ("similarity", "top", "left"))
    assert (top_box.x0, top_box.x1) == pytest.approx((main_box.x0, main_box.x1))
    assert (left_box.y0, left_box.y1) == pytest.approx((main_box.y0, main_box.y1))
    assert axes["top"].get_xlim() == axes["similarity"].get_xlim() == (0, 4.0)
    assert axes["left"].get_ylim() == axes["similarity"].get_ylim() == (4.0, 0)
    tops = sorted((p.get_x(), p.get_x() + p.get_width()) for p in axes["top"].patches)
    lefts = sorted((p.get_y(), p.get_y() + p.get_height()) for p in axes["left"].patches)
    assert tops == lefts == [(i.start, i.end) for i in INSTANCES]
    first, second = (p for p in axes["top"].patches if p.get_x() < 2)
    assert first.get_y() + first.get_height() <= second.get_y(), "what overlaps in time does not overlap in the picture"
    assert axes["similarity"].images[0].get_extent() == pytest.approx([0.1, 1.7, 1.7, 0.1])
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["jump (2)", "run (1)", "an instance with itself"]


def test_many_classes_share_a_colour() -> None:
    grid = Grid(0.1, 0.2, 8, 4.0)
    many = [Instance(k / 10, k / 10 + 0.05, f"class {k:02d}") for k in range(14)]
    texts = [text.get_text() for text in draw("v", feats(8), grid, many).legends[0].get_texts()]
    assert texts[-2:] == ["5 further classes", "an instance with itself"]
    assert not draw("v", feats(1), Grid(0.1, 0.2, 1, 4.0), ()).legends


def test_the_picture_of_a_video(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    index, out = index_of(tmp_path), tmp_path / "p.png"
    table = Table("toy", ("jump", "run"), {"whole": Video("train", 4.0, INSTANCES)})
    labels = write_table(table, tmp_path / "toy.json", stamp("annotate", {"dataset": "toy"}, {}))
    arguments = ["features", "show", str(index), "--video", "whole", "--figure", str(out), "--annotations", str(labels)]
    assert main(arguments) == 0
    assert capfd.readouterr().out == f"{out}\n"
    once = out.read_bytes()
    assert once[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(once[16:20], "big") > 900
    show_video(index, "whole", out, annotations=labels)
    assert out.read_bytes() == once
    with pytest.raises(TadError, match="'whol' is not in it; did you mean 'whole'"):
        show_video(index, "whol", out)
    with pytest.raises(TadError, match="'audio' is excluded: no video stream"):
        show_video(index, "audio", out)
    with pytest.raises(TadError, match="contains no video 'nan'"):
        show_video(index, "nan", out, annotations=labels)
    with pytest.raises(TadError, match="contain NaN"):
        show_video(index, "nan", out)
