"""Features leave for other tools and come back bit for bit; an export that is cut off, foreign or stale is noticed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import checksum_tools
import h5py
import numpy as np
import pytest
import torch
import video_tools as vt

from tad.annotations.table import Table, Video, write_table
from tad.commands.cli import main
from tad.core.errors import TadError
from tad.core.files import read_json, write_json
from tad.core.grid import Grid
from tad.features import export as features_export
from tad.features.export import FORMATS, export_features
from tad.features.facts import SIDECAR
from tad.features.store import FeatureReader, ShardWriter, checksum, key_of
from tad.provenance.stamps import stamp
from tad.settings.resolved import component_sections
from tad.settings.stages import ConvertSpec, ExtractSpec, MergeSpec, ProbeSpec
from tad.stages.convert import convert
from tad.stages.extract import extract
from tad.stages.merge import merge
from tad.stages.probe import probe

CLIP = {"length": 17, "stride": 4, "policy": "native", "rate": 0.0}
IDS = ("v_-one", "two words/ü", "three.v1")
DIM = 5


def rows_of(video_id: str, dtype: str) -> np.ndarray:
    rng = np.random.default_rng(len(video_id))
    return rng.normal(size=(20 + len(video_id), DIM)).astype(dtype)


def cached(path: Path, *, dtype: str = "float16", only: tuple[str, ...] = IDS, spoil: str = "") -> Path:
    """An index as extract makes it: native rates that no annotation states, a short video, one excluded."""
    made = stamp("extract", {"dataset": "toy", "features": "f", "clip": CLIP}, {}, recipe={"clip": CLIP})
    with ShardWriter(path, made) as writer:
        for k, video_id in enumerate(sorted(only)):
            feats_TC = rows_of(video_id, dtype)
            rate = (30000 / 1001, 25.0, 23.976)[k]
            grid = Grid.of_clips(clip_length=16, stride=4, rate=rate, length=len(feats_TC), duration=7.3 + k)
            facts = {"rate": rate, "clip_length": 17, "stride": 4, "frames": 999, "padded": k == 1, "reader": "pyav"}
            writer.add(video_id, feats_TC, grid=grid, attrs={**facts, "row_key": "x", "sha256": "0" * 64})
        writer.attribute("excluded", {"broken": "no frame could be decoded"})
    if spoil:
        with checksum_tools.edit_h5(path) as file:
            group = file[key_of(spoil)]
            group["feats"][3, 1] = np.nan
            group.attrs["checksum"] = checksum(group["feats"][:])
    return path


def imported(source: Path, folder: Path, *, dtype: str = "float16", **changes: Any) -> Path:
    videos = {v: Video("train", None) for v in (*IDS, "broken")}  # neither durations nor rates: the export has them
    table = write_table(Table("toy", ("a",), videos), folder / "toy.json", stamp("annotate", {"dataset": "toy"}, {}))
    values = {"dataset": "toy", "features": "g", "clip": CLIP, "dim": DIM, "dtype": dtype} | changes
    return convert(source, table, folder / "back.h5", spec=ConvertSpec.model_validate(values))


def contents(path: Path) -> dict[str, Any]:
    """Everything about the videos but where they came from."""
    with FeatureReader(path) as reader:
        found: dict[str, Any] = {"excluded": reader.excluded}
        for video_id in reader.video_ids:
            attrs = {k: v for k, v in reader.attrs(video_id).items() if k not in ("row_key", "source")}
            feats_TC = reader.stored(video_id)
            found[video_id] = (feats_TC.tobytes(), feats_TC.dtype, feats_TC.shape, reader.grid(video_id), attrs)
        return found


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize(("dtype", "written"), [("float16", "stored"), ("float16", "float32"), ("float32", "stored")])
def test_an_export_comes_back_bit_for_bit(tmp_path: Path, file_format: Any, dtype: str, written: str) -> None:
    index = cached(tmp_path / "f.h5", dtype=dtype)
    source = export_features(index, tmp_path / "out", file_format=file_format, dtype=written)
    assert contents(imported(source, tmp_path, dtype=dtype)) == contents(index)


def test_other_tools_find_what_they_expect(tmp_path: Path) -> None:
    index, video_id = cached(tmp_path / "f.h5"), "three.v1"
    expected = rows_of(video_id, "float16").astype(np.float32)
    for file_format in FORMATS:
        export_features(index, tmp_path / file_format, file_format=file_format, dtype="float32")
    assert np.array_equal(np.load(tmp_path / "npy" / "three.v1.npy"), expected)
    assert np.array_equal(np.load(tmp_path / "npz" / "three.v1.npz")["feats"], expected)
    assert np.array_equal(torch.load(tmp_path / "pt" / "three.v1.pt", weights_only=True).numpy(), expected)
    with h5py.File(tmp_path / "h5" / "features.h5", "r") as file:
        assert sorted(file) == sorted(map(key_of, IDS))
        assert file[video_id].shape == expected.shape
        assert file[video_id].attrs["stride"] == 4
    beside = json.loads((tmp_path / "npy" / SIDECAR).read_text())
    entry = beside["videos"]["two words/ü"]
    assert entry["file"] == "two%20words%2F%C3%BC.npy"
    assert {"fps", "stride", "clip", "offset", "duration"} <= set(entry)
    assert entry["offset"] == pytest.approx(8.0)
    assert (beside["dtype"], beside["cached_dtype"], beside["dim"]) == ("float32", "float16", DIM)
    assert beside["excluded"] == {"broken": "no frame could be decoded"}


@pytest.mark.parametrize("file_format", ["npy", "npz", "pt"])
def test_a_cut_off_export_goes_on(tmp_path: Path, file_format: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    index, out = cached(tmp_path / "f.h5"), tmp_path / "out"
    save, written = features_export.SAVE[file_format], []

    def failing(feats_TC: np.ndarray, content: Any) -> None:
        if len(written) == 2:
            content.write(b"half")
            raise KeyboardInterrupt
        written.append(len(feats_TC))
        save(feats_TC, content)

    monkeypatch.setitem(dict(features_export.SAVE), file_format, failing)
    monkeypatch.setattr(features_export, "SAVE", {file_format: failing})
    with pytest.raises(KeyboardInterrupt):
        export_features(index, out, file_format=file_format)
    assert len(list(out.glob(f"*.{file_format}"))) == 2
    assert not (out / SIDECAR).exists(), "the facts come last: they say that the export is whole"
    first = {path: path.stat().st_mtime_ns for path in out.glob(f"*.{file_format}")}
    done = min(first)
    done.write_bytes(b"damaged since")
    monkeypatch.undo()
    export_features(index, out, file_format=file_format)
    after = {path: path.stat().st_mtime_ns for path in out.glob(f"*.{file_format}")}
    assert len(after) == 3
    assert [path for path in first if after[path] == first[path]] == [path for path in first if path != done]
    assert contents(imported(out, tmp_path)) == contents(index)
    assert not list(out.glob("*.unfinished"))
    assert not list(out.glob("*.partial*"))


def test_a_newer_index_replaces_its_own_files_and_no_others(tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_features(cached(tmp_path / "f.h5"), out, file_format="npy")
    (out / "own.npy").write_bytes(b"somebody's")
    export_features(cached(tmp_path / "g.h5", only=IDS[:2]), out, file_format="npy")
    assert sorted(p.name for p in out.iterdir()) == sorted([*(f"{key_of(v)}.npy" for v in IDS[:2]), "own.npy", SIDECAR])
    with pytest.raises(TadError, match="which is not a npz file; give another folder"):
        export_features(tmp_path / "f.h5", out, file_format="npz")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "a.npy").write_bytes(b"theirs")
    with pytest.raises(TadError, match=r"contains a\.npy, which no export wrote"):
        export_features(tmp_path / "f.h5", foreign, file_format="npy")
    assert (foreign / "a.npy").read_bytes() == b"theirs"
    with pytest.raises(TadError, match="not a folder"):
        export_features(tmp_path / "f.h5", tmp_path / "f.h5", file_format="npy")


@pytest.mark.parametrize("file_format", ["npy", "h5"])
def test_nan_is_refused_kept_or_left_out(tmp_path: Path, file_format: Any) -> None:
    index = cached(tmp_path / "f.h5", spoil="v_-one")
    with pytest.raises(TadError, match=r"'v_-one' contains NaN or infinity \(1 values\).*--on-nan keep or exclude"):
        export_features(index, tmp_path / "a", file_format=file_format)
    source = export_features(index, tmp_path / "b", file_format=file_format, on_nan="exclude")
    with FeatureReader(imported(source, tmp_path)) as reader:
        assert reader.video_ids == sorted(IDS[1:])
        assert reader.excluded["v_-one"] == "features held NaN or infinity (1 values)"
    source = export_features(index, tmp_path / "c", file_format=file_format, on_nan="keep")
    with pytest.raises(TadError, match=r"NaN or infinity \(1 values\)"):
        imported(source, tmp_path)
    if file_format == "npy":
        assert np.isnan(np.load(tmp_path / "c" / "v_-one.npy")[3, 1])


def test_values_too_large_for_half_precision_are_refused(tmp_path: Path) -> None:
    made = stamp("extract", {"dataset": "toy"}, {})
    with ShardWriter(tmp_path / "f.h5", made) as writer:
        facts = {"rate": 25.0, "clip_length": 16, "stride": 4}
        writer.add("a", np.full((3, DIM), 1e6, np.float32), grid=Grid(0.1, 0.2, 3, 4.0), attrs=facts)
    with pytest.raises(TadError, match="'a' has values too large for float16; export with --dtype float32"):
        export_features(tmp_path / "f.h5", tmp_path / "out", file_format="npy", dtype="float16")


def test_an_export_says_no_to_other_clips_and_changed_rows(tmp_path: Path) -> None:
    index = cached(tmp_path / "f.h5")
    out = export_features(index, tmp_path / "out", file_format="npy")
    with pytest.raises(TadError, match=r"exported with clips of 17 frames every 4 at .* have clips of 16 every 4"):
        imported(out, tmp_path, clip={**CLIP, "length": 16})
    with pytest.raises(TadError, match=r"have clips of 17 every 4 \(resample 10\)"):
        imported(out, tmp_path, clip={**CLIP, "policy": "resample", "rate": 10.0})
    path = out / "v_-one.npy"
    rows = np.load(path)
    np.save(path, rows[:-1])
    with pytest.raises(TadError, match="differs from the exported rows"):
        imported(out, tmp_path)
    np.save(path, rows + np.float16(1))
    with pytest.raises(TadError, match="differs from the exported rows"):
        imported(out, tmp_path)
    np.save(path, rows)
    imported(out, tmp_path)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda d: d["videos"]["v_-one"].update(stride=0), r"videos\.v_-one\.stride"),
        (lambda d: d["videos"]["v_-one"].update(file="../x"), "file"),
        (lambda d: d["videos"].pop("v_-one"), "'v_-one' has no facts in this export"),
        (lambda d: d.update(format="csv"), "format"),
        (lambda d: d.update(more=1), "more"),
    ],
)
def test_edited_facts_are_named(tmp_path: Path, edit: Any, said: str) -> None:
    out = export_features(cached(tmp_path / "f.h5"), tmp_path / "out", file_format="npy")
    beside = read_json(out / SIDECAR)
    edit(beside)
    write_json(out / SIDECAR, beside)
    with pytest.raises(TadError, match=said) as caught:
        imported(out, tmp_path)
    assert "\n" not in str(caught.value)


def test_hdf5_without_facts_of_a_video_or_with_links_is_refused(tmp_path: Path) -> None:
    source = export_features(cached(tmp_path / "f.h5"), tmp_path / "out", file_format="h5")
    with checksum_tools.edit_h5(source) as file:
        del file["v_-one"].attrs["tad_facts"]
    with pytest.raises(TadError, match="'v_-one' has no facts"):
        imported(source, tmp_path)
    with checksum_tools.edit_h5(source) as file:
        del file["v_-one"]
        file["v_-one"] = h5py.ExternalLink("f.h5", "/v_-one/feats")
    with pytest.raises(TadError, match="not a dataset of its own file"):
        imported(source, tmp_path)


def test_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    index = cached(tmp_path / "f.h5")
    assert main(["features", "export", str(index), "--to", str(tmp_path / "o"), "--format", "h5"]) == 0
    assert capfd.readouterr().out == f"{tmp_path / 'o' / 'features.h5'}\n"
    assert main(["features", "export", str(tmp_path / "none.h5"), "--to", str(tmp_path / "p"), "--format", "npy"]) == 1
    assert "no such file" in capfd.readouterr().err
    assert not os.path.exists(tmp_path / "p")


def test_an_index_of_real_videos_comes_back(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for name, frames in (("long", 60), ("short", 5)):
        vt.encode(videos / f"{name}.mp4", frames)
    vt.text(videos / "page.mp4")
    manifest = probe(videos, tmp_path / "m/00-of-01.json", spec=ProbeSpec(dataset="toy"))
    document = component_sections("backbones", "r2plus1d_small")
    settings = document["settings"] | {"height": 20, "width": 24, "widths": [4, 4, 4, 8]}
    spec = ExtractSpec.model_validate(
        {"dataset": "toy", "backbone": {"name": "r2plus1d_small", "settings": settings}, "clip": document["clip"]}
    )
    shard = tmp_path / "r/f/0.h5"
    extract(manifest, videos, None, shard, spec=spec, cache=tmp_path / "k", device="cpu", workers=1)
    index = merge([shard], [manifest], tmp_path / "r/f.h5", spec=MergeSpec(dataset="toy", features="f"))
    whole = contents(index)
    assert set(whole) == {"excluded", "long", "short"}
    assert set(whole["excluded"]) == {"page"}
    table = Table("toy", ("a",), {v: Video("train", 3.0) for v in ("long", "short", "page")})
    labels = write_table(table, tmp_path / "toy.json", stamp("annotate", {"dataset": "toy"}, {}))
    values = {"dataset": "toy", "features": "g", "clip": document["clip"], "dim": 8}
    for file_format in FORMATS:
        source = export_features(index, tmp_path / file_format, file_format=file_format)
        back = convert(source, labels, tmp_path / "back.h5", spec=ConvertSpec.model_validate(values))
        assert contents(back) == whole


@pytest.mark.parametrize("arguments", [["show", "f.h5"], ["export", "f.h5", "--to", "o", "--format", "npz"]])
def test_no_torch_is_needed(tmp_path: Path, arguments: list[str]) -> None:
    cached(tmp_path / "f.h5")
    program = (
        "import sys; from tad.commands.cli import main\n"
        "code = main(sys.argv[1:]); sys.exit(code or 7 * ('torch' in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "features", *arguments], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
