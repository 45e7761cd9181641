"""Feature sets side by side: the rows of all parts, nothing stored twice, and what cannot be joined is named."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import checksum_tools
import h5py
import numpy as np
import pytest

from tad.commands.show import show
from tad.core.errors import TadError
from tad.core.files import digest, write_json
from tad.core.grid import Grid
from tad.features import store
from tad.features.export import export_features
from tad.features.show import rows_of
from tad.features.store import FeatureReader, ShardWriter, key_of
from tad.provenance import fingerprint, stamps
from tad.provenance.stamps import stamp
from tad.settings.config import Config
from tad.settings.stages import JoinSpec, MergeSpec
from tad.stages.join import join
from tad.stages.merge import merge
from tad.training.data.inputs import recipe_of
from tad.workflow.rules import Workflow

IDS = ("a", "b/100 %b", "c")
ROWS, STEP = {"a": 10, "b/100 %b": 7, "c": 4}, 0.32
SPEC = JoinSpec(dataset="toy", features="two", parts=("rgb", "flow"))


def part(
    folder: Path, name: str, *, dim: int, dtype: str = "float16", seed: int = 0, start: float = 0.64,
    step: float = STEP, longer: int = 0, ids: tuple[str, ...] = IDS, excluded: dict[str, str] | None = None,
    **recipe: Any,
) -> Path:  # fmt: skip
    """The index of a feature set of one shard, as extract and merge leave them."""
    manifest = folder / "manifest.json"
    probed = stamp("probe", {"dataset": "toy"}, {})
    write_json(manifest, {"stamp": probed, "videos": {video_id: {} for video_id in (*ids, *(excluded or {}))}})
    made = stamp("extract", {"dataset": "toy", "backbone": name, **recipe}, {"manifest": str(probed["identity"])})
    rng, shard = np.random.default_rng([seed, dim]), folder / name / "100%/00-of-01.h5"
    with ShardWriter(shard, made) as writer:
        writer.attribute("excluded", excluded or {})
        for video_id in ids:
            feats_TC = rng.normal(size=(ROWS[video_id] + longer, dim)).astype(dtype)
            facts = {"rate": 12.5, "clip_length": 16, "stride": 4, "sha256": digest(video_id), "backbone": name}
            writer.add(video_id, feats_TC, grid=Grid(start, step, len(feats_TC), 9.0), attrs=facts)
    return merge([shard], [manifest], folder / f"{name}.h5", spec=MergeSpec(dataset="toy", features=name))


def two(folder: Path, **changes: Any) -> list[Path]:
    """RGB of three channels, and flow of two whose clips are a frame longer and end a row earlier."""
    flow = {"dim": 2, "dtype": "float32", "start": 0.68, "longer": -1} | changes
    return [part(folder, "rgb", dim=3), part(folder, "flow", **flow)]


def test_rows_hold_the_channels_of_all_parts(tmp_path: Path) -> None:
    rgb, flow = two(tmp_path, excluded={"d": "truncated"}, ids=("a", "b/100 %b"))
    rgb = part(tmp_path, "rgb", dim=3, excluded={"d": "cut off"})
    out = join([rgb, flow], tmp_path / "two.h5", spec=SPEC.model_copy(update={"may_miss": ("c",)}))
    with FeatureReader(out) as reader, FeatureReader(rgb) as first, FeatureReader(flow) as second:
        assert reader.video_ids == ["a", "b/100 %b"]
        assert reader.excluded == {"d": "rgb: cut off"}
        assert reader.dim == 5
        for video_id in reader.video_ids:
            feats_TC, length = reader.stored(video_id), ROWS[video_id] - 1
            assert feats_TC.dtype == np.float32
            np.testing.assert_array_equal(feats_TC[:, :3], first.stored(video_id)[:length])
            np.testing.assert_array_equal(feats_TC[:, 3:], second.stored(video_id))
            np.testing.assert_array_equal(reader.read(video_id, 2, 5), feats_TC[2:5])
            assert reader.grid(video_id) == first.grid(video_id).window(0, length)
            facts = reader.attrs(video_id)
            assert (facts["clip_length"], facts["sha256"], "backbone" in facts) == (16, digest(video_id), False)
    assert [row.state for row in rows_of(out)] == ["ok", "ok", "excluded"]
    assert export_features(out, tmp_path / "npy", file_format="npy") == tmp_path / "npy"


@pytest.mark.parametrize("most", [1, 2, 3])
def test_the_parts_of_a_video_stay_open_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """With more files than may be open, those of earlier videos are closed, not the first part of this one."""
    out = join(two(tmp_path), tmp_path / "two.h5", spec=SPEC)
    with FeatureReader(out) as reader:
        wanted = {video_id: reader.stored(video_id) for video_id in reader.video_ids}
    monkeypatch.setattr(store, "FILES_AT_ONCE", most)
    with FeatureReader(out) as reader:
        for video_id in [*wanted, *reversed(wanted)]:
            np.testing.assert_array_equal(reader.stored(video_id), wanted[video_id])
            np.testing.assert_array_equal(reader.read(video_id, 1, 3), wanted[video_id][1:3])


def test_nothing_is_stored_twice_and_the_folder_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    parts = two(here)
    out = join(parts, here / "two.h5", spec=SPEC)
    again = join(parts, here / "again.h5", spec=SPEC)
    assert out.read_bytes() == again.read_bytes()
    with h5py.File(out) as file:
        assert all(file[key_of(video_id)]["feats"].is_virtual for video_id in IDS)
    with FeatureReader(out) as reader:
        before = {video_id: reader.stored(video_id) for video_id in IDS}
    monkeypatch.chdir(tmp_path)
    here.rename(tmp_path / "there")
    with FeatureReader(Path("there/two.h5")) as reader:
        for video_id, feats_TC in before.items():
            np.testing.assert_array_equal(reader.stored(video_id), feats_TC)


@pytest.mark.parametrize("harm", ["removed", "damaged", "another", "without", "shorter"])
def test_a_part_that_is_not_there_any_more_is_named(tmp_path: Path, harm: str) -> None:
    out = join(two(tmp_path), tmp_path / "two.h5", spec=SPEC)
    shard = tmp_path / "flow/100%/00-of-01.h5"
    if harm == "removed":
        shard.unlink()
    elif harm == "damaged":
        shard.write_bytes(b"no longer HDF5" * 99)
    elif harm == "another":
        two(tmp_path, seed=1)
    elif harm == "without":
        two(tmp_path, ids=("c",))
    else:  # as if its writer had been at fault: the checksum is that of what was joined
        with checksum_tools.edit_h5(shard) as file:
            group = file["a"]
            kept = group["feats"][:4]
            del group["feats"]
            group["feats"] = kept
    with FeatureReader(out) as reader:
        for read in (reader.read, reader.stored):
            with pytest.raises(TadError, match=r"flow/100%/00-of-01\.h5") as caught:
                read("a")
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"longer": 3}, r"rgb.h5 has 10 rows every 0.32 s from 0.64 s, .*flow.h5 has 13 rows every"),
        ({"start": 0.9}, "from 0.64 s, .* from 0.9 s; joined features need the same clips: make stride"),
        ({"step": 0.4}, "10 rows every 0.32 s .* 9 rows every 0.4 s"),
    ],
)
def test_rows_of_other_times_are_not_joined(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(TadError, match=said) as caught:
        join(two(tmp_path, **changes), tmp_path / "two.h5", spec=SPEC)
    assert "video 'a'" in str(caught.value)
    assert not (tmp_path / "two.h5").exists()


def test_parts_that_are_not_those_of_the_settings_are_refused(tmp_path: Path) -> None:
    parts = two(tmp_path)
    wrong = [
        (parts[:1], SPEC, "1 indices for 2 parts; give one index each for rgb, flow"),
        (parts[::-1], SPEC, "features='flow', expected features='rgb'"),
        (parts, SPEC.model_copy(update={"dataset": "demo"}), "dataset='toy', expected dataset='demo'"),
        ([parts[0], tmp_path / "gone.h5"], SPEC, "gone.h5: no such file"),
        ([parts[0], tmp_path / "rgb/100%/00-of-01.h5"], SPEC, "made by stage extract, expected one made by merge or"),
        ([part(tmp_path, "rgb", dim=3, ids=("a",)), parts[1]], SPEC, "rgb.h5: no features of 2 videos .* first 'b/100"),
    ]
    for paths, spec, said in wrong:
        with pytest.raises(TadError, match=said):
            join(paths, tmp_path / "two.h5", spec=spec)


def test_the_recipe_is_that_of_all_parts(tmp_path: Path) -> None:
    def recipe(spec: JoinSpec = SPEC, **changes: Any) -> str:
        return recipe_of(stamps.read_stamp(join(two(tmp_path, **changes), tmp_path / "two.h5", spec=spec)))

    assert recipe() == recipe(seed=1)
    assert recipe() != recipe(stride=8)


CLIPS = {"backbone": "r2plus1d_small"}
SOURCE = {"source": "f", "dim": 8, "clip": {"length": 16, "stride": 4, "policy": "resample", "rate": 12.5}}


def values(join_: Any = ("clips", "theirs"), **features: Any) -> dict[str, Any]:
    rows = {"clips": CLIPS, "theirs": SOURCE, "frames": {"frames": {"rate": 5.0, "height": 8, "width": 8}}}
    return {
        "datasets": {"mine": {"format": "csv", "videos": "v", "annotations": "a.csv"}},
        "features": {**rows, "two": {"join": join_}, **features},
        "runs": {"r": {"dataset": "mine", "features": "two", "detector": "actionformer", "exclude": {"x": "why"}}},
    }


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        (values(["clips", "thiers"]), r"features\.two\.join: no features are called 'thiers'; did you mean 'theirs'"),
        (values(["clips"]), r"features\.two\.join: only clips; name at least two"),
        (values(["clips", "clips"]), "clips is listed twice"),
        (values(["clips", "frames"]), "frames is frames, not features; join features of your videos or published"),
        (values(more={"join": ["two", "clips"]}), r"features\.more\.join: two is joined itself; name its parts"),
        (values(two={"join": ["clips", "theirs"], "dtype": "float32"}), "dtype cannot be combined with `join`"),
        (values(two={"join": ["clips", "theirs"], "backbone": "i3d"}), "needs exactly one of `backbone`"),
        (values("clips"), r"features\.two\.join"),
        (values(theirs={**SOURCE, "every": 2}), "clips has a snippet every 0.32 seconds, theirs every 0.64; joined"),
    ],
)
def test_a_row_that_cannot_be_joined_stops_a_dry_run(tree: dict[str, Any], said: str) -> None:
    with pytest.raises(TadError, match=said) as caught:
        Config(tree)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("config.yaml: ")


def test_rules_get_the_parts_and_what_they_lack_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flow, names = Workflow(values(), tmp_path, tmp_path / "h.json"), SimpleNamespace(dataset="mine", features="two")
    assert [flow.pattern(kind) for kind in ("joined", "imported", "extracted")] == ["two", "theirs", "clips"]
    with pytest.raises(TadError, match=r"put the annotations .*; put the videos .*; put the features theirs at f"):
        flow.joined_parts(names)
    for name in ("v", "f"):
        (tmp_path / name).mkdir()
    (tmp_path / "a.csv").touch()
    assert flow.joined_parts(names) == ["results/features/mine/clips.h5", "results/features/mine/theirs.h5"]
    assert flow.ready_runs() == ["r"]
    assert flow.spec("join", names) == '{"dataset":"mine","features":"two","may_miss":["x"],"parts":["clips","theirs"]}'
    convert = flow.config.spec("convert", dataset="mine", features="theirs")
    assert convert.model_dump()["may_miss"] == ("x",)


def test_what_is_joined_is_shown_part_by_part(tmp_path: Path) -> None:
    from yaml import safe_dump

    (tmp_path / "config.yaml").write_text(safe_dump(values(["clips", "theirs"])))
    lines = "\n".join(show("r", config=tmp_path / "config.yaml"))
    for said in ("settings.join  ", "features clips:", "features theirs:", "pretrain.epochs", "settings.source"):
        assert said in lines


def test_the_code_of_join_is_not_that_of_extract() -> None:
    config = Config(values())
    modules = {}
    for stage, features in (("join", "two"), ("extract", "clips")):
        spec = config.spec(stage, dataset="mine", features=features).model_dump()
        modules[stage] = set(fingerprint.modules(*fingerprint.stage_roots(stage, spec)))
    assert "tad.stages.join" in modules["join"] - modules["extract"]
    assert not any(name.endswith(".joins") for name in modules["join"] | modules["extract"])
