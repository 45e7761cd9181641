"""Hostile files: each reader refuses them in one line, without a traceback and without filling the memory."""

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hostile_bombs import BOMBS
from hostile_tools import CORPUS, PIECES, READERS, edited, refused, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).parents[1]
CASES = ROOT.parent / "shared" / "cases" / "hostile"
GROWTH = 1 << 30
MEASURE = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch, hostile_tools as tools
from hostile_bombs import BOMBS
from tad.core.errors import TadError
folder = Path({folder!r})
for name, (kind, _) in BOMBS.items():
    for path, content in ((folder / "seed", tools.READERS[kind].seeds()[0]),):
        path = path.with_suffix(tools.READERS[kind].suffix)
        tools.write(path, content, kind)
        try:
            tools.READERS[kind].read(path)
        except TadError:
            pass
for name, (kind, make) in BOMBS.items():
    path = tools.write(folder / f"x{{tools.READERS[kind].suffix}}", (folder / name).read_bytes(), kind)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        tools.READERS[kind].read(path)
        said = "read"
    except TadError as error:
        said = str(error)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{{grown}}\\t{{name}}\\t{{said}}", flush=True)
"""


@pytest.mark.parametrize("kind", READERS)
def test_valid_files_are_read(kind: str, tmp_path: Path) -> None:
    for number, content in enumerate(READERS[kind].seeds()):
        path = write(tmp_path / f"{number}{READERS[kind].suffix}", content, kind)
        assert not refused(path, kind)


def test_small_files_never_fill_the_memory(tmp_path: Path) -> None:
    """Every file is below 10 MB, every refusal one line, and the peak of memory grows by less than 1 GiB."""
    for name, (_, make) in BOMBS.items():
        (tmp_path / name).write_bytes(make())
        assert (tmp_path / name).stat().st_size < 10_000_000, name
    script = MEASURE.format(tests=str(ROOT / "tests"), folder=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [name for _, name, _ in rows] == list(BOMBS)
    for grown, name, said in rows:
        assert said != "read", name
        assert int(grown) << 10 < GROWTH, (name, grown)


OF_CASES = {
    "ck_expand_600M.pth.tar": "checkpoint", "ck_sp_expand_20G.pth.tar": "checkpoint", "ck_sp_f8.pth.tar": "checkpoint",
    "ck_sp_meta.pth.tar": "checkpoint", "ck_sp_sparse_coo.pth.tar": "checkpoint",
    "csv_field_200k.csv": "annotation CSV", "det_int_400.json": "results file",
    "det_nest_in_video.json": "results file", "det_score_str.json": "results file",
    "h_fuzz10.h5": "HDF5 features of others", "h_gzip_bomb_3G.h5": "HDF5 features of others",
    "h_huge_chunked_20G.h5": "HDF5 features of others", "h_zeros_inside.h5": "HDF5 features of others",
    "js_dur_int_400.json": "annotations", "js_int_400.json": "annotations", "js_label_surrogate.json": "annotations",
    "k_grids_nan.h5": "candidates", "k_segments_huge.h5": "candidates", "unhashable_key.yaml": "YAML",
}  # fmt: skip


@pytest.mark.skipif(not CASES.is_dir(), reason="../shared/cases is not here")
@pytest.mark.parametrize("name", OF_CASES)
def test_files_that_went_wrong(name: str) -> None:
    assert refused(CASES / name, OF_CASES[name])


EDITS = st.lists(
    st.tuples(st.integers(0, 20_000), st.integers(0, 8), st.one_of(st.binary(max_size=8), st.sampled_from(PIECES))),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("kind", READERS)
def test_damaged_files_are_read_or_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    reader = READERS[kind]
    seeds = reader.seeds()
    outcomes: set[bool] = set()

    @settings(
        max_examples=6 if reader.slow else 40,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, len(seeds) - 1), EDITS)
    def check(seed: int, edits: list[tuple[int, int, bytes]]) -> None:
        path = write(tmp_path / f"x{reader.suffix}", edited(seeds[seed], edits), kind)
        outcomes.add(bool(refused(path, kind)))  # asserts that a refusal is one line

    check()
    assert True in outcomes, "no edit damaged the file, so that nothing was tried"


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*/*")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_files_that_once_were_answered_by_a_traceback(path: Path, tmp_path: Path) -> None:
    kind = path.parent.name
    refused(write(tmp_path / f"x{READERS[kind].suffix}", path.read_bytes(), kind), kind)


def shard_at(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write(path, READERS["feature shard"].seeds()[0], "feature shard")


def index_at(path: Path, link: object) -> Path:
    """Write an index whose only video is a link."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(READERS["feature shard"].seeds()[0])
    with h5py.File(path, "r+") as file:
        del file["v1"]
        file["v1"] = link
    READERS["feature shard"].seal(path)
    return path


def test_an_index_reads_the_shards_in_its_folder(tmp_path: Path) -> None:
    shard_at(tmp_path / "in/shards/00.h5")
    assert not refused(index_at(tmp_path / "in/x.h5", h5py.ExternalLink("shards/00.h5", "/v1")), "feature shard")


def test_links_that_leave_the_folder_are_refused_in_indices(tmp_path: Path) -> None:
    outside = shard_at(tmp_path / "outside/00.h5")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/alias.h5").symlink_to(outside)
    (tmp_path / "in/folder").symlink_to(outside.parent)
    for name in ("../outside/00.h5", str(outside), "alias.h5", "folder/00.h5"):
        said = refused(index_at(tmp_path / "in/x.h5", h5py.ExternalLink(name, "/v1")), "feature shard")
        assert "outside the folder of the index" in said, name
    assert "is a link to" in refused(index_at(tmp_path / "in/x.h5", h5py.SoftLink("/nowhere")), "feature shard")


def test_links_of_joined_features_stay_inside(tmp_path: Path) -> None:
    path = shard_at(tmp_path / "in/joined.h5")
    outside = shard_at(tmp_path / "outside/00.h5")
    with h5py.File(outside) as file:
        sum_of_part = str(file["v1"].attrs["checksum"])
    for name, inner in (("../outside/00.h5", False), ("part.h5", True)):
        shard_at(tmp_path / "in/part.h5")
        layout = h5py.VirtualLayout((4, 3), np.float32)
        layout[0:4, 0:3] = h5py.VirtualSource(name, "/v1/feats", (4, 3))[0:4, 0:3]
        path.write_bytes(READERS["feature shard"].seeds()[0])
        with h5py.File(path, "r+") as file:
            del file["v1/feats"]
            file["v1"].create_virtual_dataset("feats", layout)
            file["v1"].attrs["joined"] = f'["{sum_of_part}"]'
        READERS["feature shard"].seal(path)
        said = refused(path, "feature shard")
        assert said == "" if inner else "outside the folder of the index" in said, said


def test_raw_files_behind_datasets_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(48))
    path = tmp_path / "x.h5"
    path.write_bytes(READERS["feature shard"].seeds()[0])
    with h5py.File(path, "r+") as file:
        del file["v1/feats"]
        file["v1"].create_dataset("feats", (4, 3), "f4", external=[(str(tmp_path / "secret"), 0, 48)])
    READERS["feature shard"].seal(path)
    assert "another file" in refused(path, "feature shard")
