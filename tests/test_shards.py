"""How many shards a dataset has: what the row says, what is there, what its videos need; and paths with `~`."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tad.core import files
from tad.core.files import HashCache
from tad.settings.config import Config
from tad.settings.rows import DatasetRow, FeatureRow
from tad.video.listing import parse_shard, shard_of
from tad.workflow.rules import Workflow
from tad.workflow.videos import FEW_SHARDS, MOST_SHARDS, PER_SHARD, SHARD, SHARD_BYTES, Videos, needed, shard_name


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos").mkdir()
    (tmp_path / "a.csv").write_text("video,start,end,label,split\n")
    return tmp_path


def manifests(folder: Path, **row: int) -> list[str]:
    values = {"datasets": {"own": {"format": "csv", "videos": "videos", "annotations": "a.csv", **row}}}
    flow = Workflow(values, folder, folder / "hashes.json")
    return [path.rpartition("/")[2] for path in flow.manifests(SimpleNamespace(dataset="own"))]


def videos(folder: Path, count: int) -> None:
    for k in range(count):
        (folder / f"videos/v{k}.mp4").write_bytes(b"x")


@pytest.mark.parametrize(("count", "shards"), [(0, 1), (8, 1), (32, 1), (33, 2), (100, 4), (413, 16), (20_000, 16)])
def test_few_videos_need_few_shards(count: int, shards: int) -> None:
    assert needed(count) == shards


@given(st.integers(0, 5000))
def test_shards_are_small_and_as_few_as_that_allows(count: int) -> None:
    shards = needed(count)
    assert shards == FEW_SHARDS or count <= PER_SHARD * shards
    assert shards == 1 or count > PER_SHARD * shards / 2


@given(st.integers(1, 300_000), st.integers(0, 200 * SHARD_BYTES))
def test_large_files_need_more_shards(count: int, size: int) -> None:
    shards = needed(count, size)
    assert shards & (shards - 1) == 0
    assert needed(count) <= shards <= MOST_SHARDS
    assert shards == MOST_SHARDS or size <= SHARD_BYTES * shards
    assert shards == needed(count) or size > SHARD_BYTES * shards / 2


@given(st.integers(1, 9999).flatmap(lambda count: st.tuples(st.integers(0, count - 1), st.just(count))))
def test_names_of_shards_sort_and_are_read_back(shard: tuple[int, int]) -> None:
    name = shard_name(*shard)
    assert re.fullmatch(SHARD, name)
    assert parse_shard(name) == shard
    assert shard_name(shard[0] - 1, shard[1]) < name or shard[0] == 0


def test_a_video_belongs_to_one_shard_whatever_others_there_are(folder: Path) -> None:
    videos(folder, 40)
    before = contents(folder, shards=130)
    (folder / "videos/one_more.mp4").write_bytes(b"x")
    after = contents(folder, shards=130)
    changed = [shard for shard in before if before[shard] != after[shard]]
    assert changed == [shard_name(shard_of("one_more", 130), 130)]
    assert len(before) == 130


def contents(folder: Path, *, dry: bool = False, **row: int) -> dict[str, str]:
    """The content key of each shard, from a parse of its own."""
    values = {"datasets": {"own": {"format": "csv", "videos": "videos", "annotations": "a.csv", **row}}}
    seen = Videos(Config(values), HashCache(folder / "none.json"), dry=lambda: dry)
    return {shard: seen.content("own", shard) for shard in seen.shards("own")}


def test_a_dry_run_reads_no_video_of_a_shard_that_is_made_anyway(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos(folder, 40)
    made = contents(folder, shards=4)
    manifest = folder / "results/videos/own/02-of-04.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    opened: list[str] = []
    content_key = files.content_key
    monkeypatch.setattr(files, "content_key", lambda path: opened.append(path.stem) or content_key(path))
    planned = contents(folder, dry=True, shards=4)
    assert planned["02-of-04"] == made["02-of-04"]
    assert [shard for shard in made if planned[shard] == made[shard]] == ["02-of-04"]
    assert sorted(opened) == sorted(f"v{k}" for k in range(40) if shard_of(f"v{k}", 4) == 2)


def test_eight_clips_are_one_shard_and_a_row_decides(folder: Path) -> None:
    videos(folder, 8)
    assert manifests(folder) == ["00-of-01.json"]
    assert len(manifests(folder, shards=16)) == 16


def test_more_videos_move_no_finished_one(folder: Path) -> None:
    videos(folder, 8)
    (folder / "results/videos/own").mkdir(parents=True)
    (folder / "results/videos/own/00-of-01.json").write_text("{}")
    videos(folder, 100)
    assert manifests(folder) == ["00-of-01.json"]
    assert len(manifests(folder, shards=8)) == 8
    (folder / "results/videos/own/00-of-01.json").unlink()
    assert len(manifests(folder)) == 4


def test_folders_of_earlier_versions_keep_their_sixteen(folder: Path) -> None:
    videos(folder, 8)
    (folder / "results/videos/own").mkdir(parents=True)
    for k in range(16):
        (folder / f"results/videos/own/{k:02d}-of-16.json").write_text("{}")
    (folder / "results/videos/own/00-of-04.json").write_text("{}")  # one of a plan that was given up
    assert len(manifests(folder)) == 16


def test_home_is_expanded_in_every_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "it's me"))
    home = f"{tmp_path}/it's me"
    row = DatasetRow(videos="~/v", annotations="~/a.csv")
    assert (row.videos, row.annotations) == (f"{home}/v", f"{home}/a.csv")
    assert FeatureRow(backbone="i3d", weights="~/w").weights == f"{home}/w"
    clip = {"length": 1, "stride": 1}
    assert FeatureRow(source="~/f", dim=3, clip=clip).source == f"{home}/f"
    assert DatasetRow(videos="a~b/~").videos == "a~b/~"
    values = {
        "datasets": {"own": {"format": "csv", "videos": "v", "annotations": "a.csv"}},
        "features": {
            "f": {"source": "~/f", "dim": 3, "clip": {"length": 1, "stride": 1, "policy": "native", "rate": 0.0}}
        },
        "runs": {"r": {"dataset": "own", "features": "f", "detector": "mse", "external": {"source": "~/s.json"}}},
    }
    assert Config(values).external_scores("r") == f"{home}/s.json"
