"""Bit rot: a changed byte anywhere in any kind of stored file is one line that names the file; never another result."""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import checksum_tools
import h5py
import numpy as np
import pytest
import torch
from checksum_tools import flip, unseal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_join import SPEC, two

from tad.annotations.table import Table, Video, read_table, write_table
from tad.backbones._weights import read_weights
from tad.commands.cli import main
from tad.commands.verify import verify
from tad.core import checksums
from tad.core.checksums import BLOCK, BlockFile, append_blocks
from tad.core.errors import DamagedError, TadError
from tad.core.files import read_json, write_json
from tad.core.grid import Grid
from tad.core.h5 import H5Writer, open_h5
from tad.features.show import rows_of
from tad.features.store import FeatureReader, ShardWriter
from tad.metrics.results_file import read_results
from tad.provenance.stamps import stamp
from tad.settings.stages import FrameSpec
from tad.stages.join import join
from tad.stages.suppress import read_candidates, write_detections
from tad.training.data import frame_flow
from tad.training.io.tensors import read_tensors, write_tensors

CLIPS = {"rate": 1.0, "clip_length": 16, "stride": 1}
FRAMES = FrameSpec(modality="flow", rate=10.0, height=8, width=8)


def plain(value: Any) -> Any:
    """A value in a form that can be compared."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, torch.Tensor):
        return plain(value.numpy())
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def verified(path: Path) -> list[str]:
    """The lines of `tad verify` about a damaged file."""
    lines: list[str] = []
    with pytest.raises(TadError, match="1 of 1 files are damaged"):
        collect(verify([path]), lines)
    return lines


def collect(source: Iterator[str], lines: list[str]) -> None:
    """Append lines as they come, until an exception ends them."""
    for line in source:
        lines.append(line)


def features(path: Path) -> Any:
    with FeatureReader(path) as reader:
        parts = {v: reader.read(v, 1, 3) for v in reader.video_ids}
        whole = {v: (reader.stored(v), reader.grid(v), reader.attrs(v)) for v in reader.video_ids}
        return reader.stamp, reader.excluded, parts, whole


def frame_index(path: Path) -> Any:
    with open_h5(path) as file:
        return {name: dict(group.attrs) for name, group in file.items()}, dict(file.attrs)


def write_candidates(path: Path) -> Path:
    rng = np.random.default_rng(0)
    with H5Writer(path, stamp("detect", {"run": "r"}, {})) as writer:
        writer.dataset("segments", np.sort(rng.random((40, 2)), axis=1).astype(np.float32))
        writer.dataset("scores", rng.random(40).astype(np.float32))
        writer.dataset("labels", np.zeros(40, np.int32))
        writer.dataset("offsets", np.array([0, 15, 40]))
        writer.dataset("grids", np.array([[0.5, 1, 50, 60], [0.5, 1, 40, 50.0]]))
        writer.file.create_dataset("video_ids", data=["a", "b"], dtype=h5py.string_dtype(), track_times=False)
        writer.file.attrs["labels"] = '["jump"]'
        writer.attribute("excluded", {})
    return path


def write_frames(path: Path) -> Path:
    with H5Writer(path, stamp("index", {"dataset": "d"}, {})) as writer:
        for name in ("a", "b"):
            writer.file.create_group(name).attrs["path"] = f"videos/{name}.mp4"
    return path


def write_flow(path: Path) -> Path:
    rows = np.random.default_rng(1).integers(0, 255, (5, 8 * 8 * 3), dtype=np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frame_flow, "flow_rows", lambda rows, frames: (row[: frames.dim] for row in rows))
        frame_flow.write_flow(path, rows, length=5, frames=FRAMES)
    return path


def flow(path: Path) -> Any:
    return frame_flow.read_flow(path, length=5, frames=FRAMES, first=1, last=4)


def write_model(path: Path) -> Path:
    weights = {"a.weight": torch.arange(600.0).reshape(20, 30), "steps": torch.tensor(5)}
    header = {"tad_stamp": stamp("train", {"run": "r"}, {}), "labels": ["jump"], "detector": {}, "feature_dim": "4"}
    return write_tensors(path, weights, header)


def write_results(path: Path) -> Path:
    found = {"a": [{"label": "jump", "score": 0.5, "segment": [1.0, 2.5]}] * 30, "b": []}
    return write_detections(path, {"version": "1", "stamp": stamp("suppress", {"run": "r"}, {})}, found)


def write_annotations(path: Path) -> Path:
    return write_table(Table("d", ("a",), {"v": Video("train", 5.0)}), path, stamp("annotate", {"dataset": "d"}, {}))


def write_score(path: Path) -> Path:
    return write_json(path, {"stamp": stamp("evaluate", {"run": "r"}, {}), "average_mAP": 0.62, "mAP": [0.7, 0.54]})


Kind = tuple[str, Callable[[Path], Path], Callable[[Path], Any]]
KINDS: list[Kind] = [
    ("shard.h5", lambda path: two(path.parent)[0].parent / "rgb/100%/00-of-01.h5", features),
    ("index of links.h5", lambda path: two(path.parent)[0], features),
    ("joined.h5", lambda path: join(two(path.parent), path, spec=SPEC), features),
    ("candidates.h5", write_candidates, read_candidates),
    ("frames.h5", write_frames, frame_index),
    ("flow.flow/abc.npy", write_flow, flow),
    ("model.safetensors", write_model, read_tensors),
    ("encoder.safetensors", write_model, read_weights),
    ("detections.json", write_results, lambda path: (read_results(path)[0].__dict__, read_results(path)[1])),
    ("annotations.json", write_annotations, read_table),
    ("score.json", write_score, read_json),
]


@pytest.mark.parametrize(("name", "write", "read"), KINDS, ids=[kind[0] for kind in KINDS])
def test_a_flipped_byte_is_one_line_or_concerns_nothing_that_is_read(
    tmp_path_factory: pytest.TempPathFactory, name: str, write: Callable[[Path], Path], read: Callable[[Path], Any]
) -> None:
    path = write(tmp_path_factory.mktemp("kind") / name)
    raw, right = path.read_bytes(), plain(read(path))
    seen = []

    @settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(at=st.integers(0, len(raw) - 1), mask=st.integers(1, 255))
    def attempt(at: int, mask: int) -> None:
        path.write_bytes(raw)
        flip(path, at, mask)
        try:
            found = plain(read(path))
        except TadError as error:
            text = str(error)
            assert str(path) in text
            assert "\n" not in text
            assert len(text) <= 500 + len(str(path))
            seen.append(at)
        else:
            assert found == right
        assert len(verified(path)) == 2
        path.write_bytes(raw)

    attempt()
    assert len(seen) > 10  # most bytes are read


def test_every_part_of_joined_features_is_checked(tmp_path: Path) -> None:
    joined = join(two(tmp_path), tmp_path / "two.h5", spec=SPEC)
    shard = tmp_path / "flow/100%/00-of-01.h5"
    with h5py.File(shard, "r") as file:
        at = file["a/feats"].id.get_offset()
    flip(shard, at + 3)
    with pytest.raises(DamagedError, match=r"flow/100%/00-of-01\.h5: damaged on disk: bytes 0 to"):
        features(joined)


def big(path: Path, *, rows: int = 3000, width: int = 64) -> np.ndarray:
    """A shard of two videos over several blocks."""
    feats_TC = np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32)
    with ShardWriter(path, stamp("extract", {"dataset": "d"}, {})) as writer:
        for name in ("a", "b"):
            writer.add(name, feats_TC, grid=Grid(0.5, 1, rows, rows + 1), attrs=CLIPS)
        writer.attribute("excluded", {})
    return feats_TC


def test_windows_are_read_with_the_checksums_of_their_blocks_only(tmp_path: Path) -> None:
    """A window beside the damage is read; one that touches the damaged block is refused, with video and range."""
    path = tmp_path / "f.h5"
    feats_TC = big(path)
    with h5py.File(path, "r") as file:
        at = file["b/feats"].id.get_offset()
    bad = at + 1500 * 64 * 4
    flip(path, bad)
    block = bad // BLOCK
    first_bad, last_bad = (block * BLOCK - at) // 256, ((block + 1) * BLOCK - 1 - at) // 256
    rng = np.random.default_rng(3)
    refused = 0
    with FeatureReader(path) as reader:
        np.testing.assert_array_equal(reader.stored("a"), feats_TC)
        for first in rng.integers(0, 2900, 60):
            last = int(first) + int(rng.integers(1, 400))
            if first <= last_bad and min(last, 3000) - 1 >= first_bad:
                with pytest.raises(DamagedError, match=rf"bytes {block * BLOCK} to .*\(read for video 'b'\)"):
                    reader.read("b", int(first), last)
                refused += 1
            else:
                np.testing.assert_array_equal(reader.read("b", int(first), last), feats_TC[first:last])
        assert 0 < refused < 60
    assert "values of 'b')" in verified(path)[0]


def test_features_show_lists_the_damaged_video_beside_the_others(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    big(path)
    with h5py.File(path, "r") as file:
        at = file["b/feats"].id.get_offset()
    flip(path, at + 1500 * 64 * 4)
    first, second = rows_of(path)
    assert (first.video_id, first.state) == ("a", "ok")
    assert (second.video_id, second.state) == ("b", "damaged")
    assert "do not match their checksum" in second.cause


def test_damage_that_hdf5_passes_over_is_raised_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    big(path)
    reader = FeatureReader(path)
    with pytest.raises(DamagedError, match="damaged on disk"), reader:
        reader._index._blocks._found("bytes 0 to 3")


def test_a_lost_checksum_is_damage_where_the_format_has_one_and_old_files_are_read(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    score, model, shard = write_score(tmp_path / "s.json"), write_model(tmp_path / "m.safetensors"), tmp_path / "f.h5"
    big(shard)
    unseal(shard)
    score.write_text(score.read_text().replace("tad_checksum", "tad_checksun"))
    model.write_bytes(model.read_bytes().replace(b"tad_checksum", b"tad_checksun"))
    for path, read in ((score, read_json), (model, read_tensors), (shard, features)):
        with pytest.raises(DamagedError, match=r"of format \d without checksums") as caught:
            read(path)
        assert str(path) in str(caught.value)
    # as an earlier version wrote it: no checksum, and the number before
    for path, old, new in ((score, b"score 2", b"score 1"), (shard, b"features 3", b"features 2")):
        path.write_bytes(path.read_bytes().replace(old, new))
    assert read_json(score)["average_mAP"] == 0.62
    assert features(shard)
    assert main(["verify", str(score), str(shard)]) == 0
    out = capfd.readouterr().out
    assert f"{score}: no checksum\n{shard}: no checksum\n2 files, " in out
    assert "0 damaged, 2 without checksums" in out


def test_verify_walks_everything_and_says_how_to_make_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    results = Path("results")
    write_model(results / "run/model.safetensors")
    write_results(results / "run/it's.json")
    write_json(results / ".kept/hashes.json", {"a": 1})
    (results / "run/train.log").write_text("epoch 1")
    assert main(["verify"]) == 0
    said = capfd.readouterr().out
    size = sum(path.stat().st_size for path in results.rglob("*") if path.suffix in (".json", ".safetensors"))
    assert said.startswith(f"3 files, {size} bytes")
    assert "1 .log" in said
    for path in (results / "run/model.safetensors", results / "run/it's.json", results / ".kept/hashes.json"):
        flip(path, path.stat().st_size - 5, 1)
    assert main(["verify"]) == 1
    out, err = capfd.readouterr()
    assert len(out.splitlines()) == 4
    assert "rm results/run/model.safetensors && tad run results/run/model.safetensors" in out
    assert """rm 'results/run/it'"'"'s.json', and run the command again that wrote it""" in out
    assert "rm results/.kept/hashes.json (a cache: it is recreated when needed)" in out
    assert err == "tad verify: 3 of 3 files are damaged; the lines above say how to recreate them\n"
    assert main(["verify", "nowhere"]) == 1
    assert "nowhere: no such file or folder" in capfd.readouterr().err


def test_an_index_without_its_shard_is_reported(tmp_path: Path) -> None:
    index = two(tmp_path)[0]
    (tmp_path / "rgb/100%/00-of-01.h5").unlink()
    assert "the shard of 'a', is missing" in verified(index)[0]


@given(
    size=st.sampled_from([0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7]),
    ranges=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=8),
)
@settings(max_examples=30, deadline=None, database=None)
def test_any_range_of_a_file_in_blocks_is_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, size: int, ranges: list[tuple[float, float]]
) -> None:
    path = tmp_path_factory.mktemp("blocks") / "x"
    content = np.random.default_rng(size).bytes(size)
    path.write_bytes(content)
    append_blocks(path)
    with BlockFile(path) as file:
        assert (file.length, file.sealed, file.damaged_ranges()) == (size, True, [])
        assert file.read() == content
        for one, other in ranges:
            first, last = sorted((round(one * size), round(other * size)))
            out = bytearray(last - first + 9)
            assert file.read_at(first, memoryview(out)) == min(len(out), size - first)
            assert out[: size - first] == content[first : first + len(out)]


def test_a_footer_that_lies_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for length, block in ((1 << 60, BLOCK), (0, BLOCK), (5, 0), (5, 1 << 31)):
        head = struct.pack("<QII", length, block, 0)
        path.write_bytes(b"hello" + head + checksums.zlib.crc32(head).to_bytes(4, "little") + checksums.MAGIC)
        with pytest.raises(DamagedError, match="its checksums are damaged"):
            BlockFile(path)


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    for write, suffix in ((write_model, "safetensors"), (write_results, "json"), (write_candidates, "h5")):
        one, other = (write(tmp_path / f"{name}.{suffix}").read_bytes() for name in "ab")
        assert one == other
    checksum_tools.reseal(unseal(write_candidates(tmp_path / "c.h5")))
    assert (tmp_path / "c.h5").read_bytes() == (tmp_path / "a.h5").read_bytes()
