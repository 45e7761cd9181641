"""Named recipes: complete, consistent with their backbones, the published numbers of rows, and how rows of config.yaml
take and change them."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from config_tools import all_rows

from tad.commands.cli import main
from tad.core.errors import TadError
from tad.core.grid import Grid
from tad.settings import plugins, recipes
from tad.settings.config import Config
from tad.video.clips import count_clips, ffmpeg_cfr, resample
from tad.weights.published import published, wanted

ROOT = Path(__file__).parents[1]
PUBLISHED = {
    "thumos14-i3d-resize", "thumos14-i3d-center_crop", "thumos14-i3d-ten_crop", "activitynet13-i3d",
    "activitynet13-tsp", "thumos14-tsp", "hacs-slowfast", "epic-slowfast",
}  # fmt: skip
# clip as its backbone's streams see it: length, stride, rate (0: the video's own), and dim
CLIPS = {
    "thumos14-i3d": (16, 4, 0, 2048), "activitynet13-i3d": (16, 16, 25, 2048), "activitynet13-tsp": (16, 16, 15, 512),
    "thumos14-tsp": (16, 1, 15, 512), "hacs-slowfast": (32, 8, 15, 2304), "epic-slowfast": (32, 16, 30, 2304),
}  # fmt: skip
# frames at a rate → rows: the published counts; P01_01 has one row more than whole clips
ROWS = {
    "thumos14-i3d": (5090, 30, 1269), "activitynet13-tsp": (5090, 30, 159), "thumos14-tsp": (5090, 30, 2530),
    "epic-slowfast": (round(1652.15 * 30), 30, 3097),
}  # fmt: skip


def family(name: str) -> str:
    return "-".join(name.split("-")[:2])


def rows_of(name: str, frames: int, rate: float) -> int:
    """Rows of a video with a constant rate."""
    clip = recipes.recipe(name).clip
    times = ((k / rate, k) for k in range(frames))
    seen = frames if clip.policy == "native" else len(list(resample(times, rate=clip.rate, native_rate=rate)))
    return count_clips(seen, length=clip.length, stride=clip.stride, tail=clip.tail)


def test_the_published_feature_sets_are_there() -> None:
    assert set(recipes.names()) == PUBLISHED


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_is_complete_and_fits_its_backbone(name: str) -> None:
    recipe = recipes.recipe(name)
    defaults = plugins.defaults("backbones", recipe.backbone)
    assert set(recipe.settings) == set(defaults)  # complete: a default that changes leaves the recipe alone
    assert plugins.settings_class("backbones", recipe.backbone).model_validate(recipe.settings)
    length = recipe.settings.get("stream_length", recipe.clip.length)
    assert (length, recipe.clip.stride, recipe.clip.rate, recipe.dim) == CLIPS[family(name)]
    assert recipe.clip.length == length + ("stream_length" in recipe.settings)
    files = {entry.name: entry for entry in published(recipe.backbone)}
    assert all(files[file].fits(recipe.settings) for file in recipe.weights)
    usual = {entry.name for entry in wanted(recipe.backbone, recipe.settings)}
    assert set(recipe.weights) == usual or name == "thumos14-tsp"
    assert recipe.released == (name != "hacs-slowfast")
    text = (ROOT / "tad" / "settings" / "recipes" / f"{name}.yaml").read_text()
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("name", [name for name in recipes.names() if family(name) in ROWS])
def test_rows_are_as_published(name: str) -> None:
    frames, rate, rows = ROWS[family(name)]
    assert rows_of(name, frames, rate) == rows
    (check,) = recipes.recipe(name).checks
    assert rows_of(name, check.frames, check.rate) == check.rows == rows
    if name.startswith("thumos14-i3d"):
        assert [rows_of(name, near, rate) for near in (5089, 5091)] == [rows, rows]  # either stream may decide
    if name == "epic-slowfast":
        assert check.published == rows
        assert any("3097" in fact and "3096" in fact for fact in recipes.recipe(name).unknown)


def picked(times: list[float], native: float, *, rate: float) -> tuple[list[int], list[int], list[int]]:
    """Frames that `resample` at 15 and `ffmpeg_cfr` at 15 take, and every second frame of ffmpeg's fps=30."""
    timed = [(time, 1 / native, k) for k, time in enumerate(times)]
    by_time = list(resample(((t, k) for t, _, k in timed), rate=rate, native_rate=native))
    return by_time, list(ffmpeg_cfr(timed, rate=rate)), list(ffmpeg_cfr(timed, rate=2 * rate))[::2]


@pytest.mark.parametrize(
    ("native", "share"), [(30.0, 1.0), (30000 / 1001, 0.99), (25.0, 1.0), (24000 / 1001, 0.9), (60000 / 1001, 0.49)]
)
def test_tsps_frames_are_those_of_resample(native: float, share: float) -> None:
    by_time, at_once, published_way = picked([k / native for k in range(3000)], native, rate=15.0)
    assert abs(len(by_time) - len(published_way)) <= 1
    same = [sum(a == b for a, b in zip(frames, published_way, strict=False)) for frames in (by_time, at_once)]
    assert same[0] >= share * len(by_time)
    assert same[1] < 0.7 * same[0] or native == 30.0  # why the recipe does not say ffmpeg_cfr
    late = [abs(a - b) for a, b in zip(by_time, published_way, strict=False)]
    assert max(late) <= 1


def test_rows_lie_where_detectors_look_for_them() -> None:
    for name, frame in (("thumos14-i3d-resize", 8), ("activitynet13-tsp", 8), ("hacs-slowfast", 16)):
        recipe = recipes.recipe(name)
        rate = recipe.clip.rate or 30.0
        length = recipe.settings.get("stream_length", recipe.clip.length)
        grid = Grid.of_clips(clip_length=length, stride=recipe.clip.stride, rate=rate, length=9, duration=9.0)
        assert grid.to_seconds(5.0) == pytest.approx((frame + 5 * recipe.clip.stride) / rate)


def test_the_fine_tuned_hacs_weights_are_said_to_be_missing() -> None:
    text = "\n".join(recipes.notes("hacs-slowfast"))
    assert "weights: those behind the published features were never released" in text
    assert "matches: no" in text


def values(**features: Any) -> dict[str, Any]:
    row = {"recipe": "thumos14-i3d-resize", "weights": "w"} | features
    return {
        "datasets": {"mine": {"format": "csv", "videos": "v", "annotations": "a.csv"}},
        "features": {"set": {key: value for key, value in row.items() if value is not None}},
        "runs": {"one": {"dataset": "mine", "features": "set", "detector": "mse"}},
    }


def test_a_row_takes_a_recipe_and_may_change_it() -> None:
    config = Config(values())
    resolved = config.resolve_features("set", "mine")
    recipe = recipes.recipe("thumos14-i3d-resize")
    assert resolved.sections["settings"] == recipe.settings
    assert resolved.sections["clip"] == recipe.clip.model_dump()
    file = "tad/settings/recipes/thumos14-i3d-resize.yaml"
    assert {resolved.origin[f"settings.{key}"] for key in recipe.settings} == {file}
    spec = config.spec("extract", dataset="mine", features="set").model_dump()
    assert spec["backbone"] == {"name": "i3d", "settings": recipe.settings}
    assert not any("changed" in line for line in config.notes("set"))

    changed = {"name": "thumos14-i3d-resize", "streams": "rgb"}
    config = Config(values(recipe=changed, clip={"length": 16}))
    resolved = config.resolve_features("set", "mine")
    assert resolved.sections["settings"] == recipe.settings | {"streams": "rgb"}
    assert resolved.origin["settings.streams"] == resolved.origin["clip.length"] == "config.yaml features.set"
    assert resolved.origin["clip.stride"] == file
    assert config.notes("set")[1].startswith("  changed: streams, length; so these are not the published features;")


def test_equal_settings_are_one_feature_set_however_they_are_said() -> None:
    recipe = recipes.recipe("hacs-slowfast")
    said = values(recipe=None, backbone={"name": "slowfast", **recipe.settings}, clip=recipe.clip.model_dump())
    named = values(recipe="hacs-slowfast")
    texts = [Config(v).spec("extract", dataset="mine", features="set").json_text() for v in (said, named)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("change", "named", "hint"),
    [
        ({"recipe": "thumos14-i3d-resise"}, "features.set.recipe: no recipe is called", "'thumos14-i3d-resize'"),
        ({"recipe": {"streams": "rgb"}}, "features.set.recipe", "needs a `name`"),
        ({"recipe": {"name": "thumos14-tsp", "dept": 18}}, "no setting 'dept'", "did you mean 'depth'?"),
        ({"backbone": "i3d"}, "features.set", "exactly one of `backbone` or `recipe`"),
        ({"source": "x"}, "features.set", "exactly one of `backbone` or `recipe`"),
        ({"weights": None}, "features.set", "a `recipe` needs `weights`"),
        ({"clip": {"rate": 25.0}}, "clip", "rate must be 0"),
    ],
)
def test_a_mistake_in_a_row_is_one_line(change: dict[str, Any], named: str, hint: str) -> None:
    with pytest.raises(TadError) as caught:
        Config(values(**change))
    assert named in str(caught.value)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_file_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(recipes, "FOLDER", tmp_path)
    text = (ROOT / "tad" / "settings" / "recipes" / "thumos14-tsp.yaml").read_text()
    (tmp_path / "wrong.yaml").write_text(text.replace("released:", "releassed:"))
    with pytest.raises(TadError, match=r"tad/settings/recipes/wrong\.yaml: released"):
        recipes.recipe("wrong")


def test_show_prints_recipe_origin_and_notes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values(recipe={"name": "thumos14-i3d-ten_crop", "flow_bound": 10.0})))
    assert main(["show", "one", "--config", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("recipe thumos14-i3d-ten_crop: ")
    assert any(line.startswith("  matches: not bit for bit") for line in lines)
    assert any(line.startswith("  unknown: which view the released files use") for line in lines)
    (view,) = [line for line in lines if "settings.view" in line]
    assert view.split() == ["settings.view", "ten_crop", "tad/settings/recipes/thumos14-i3d-ten_crop.yaml"]
    (bound,) = [line for line in lines if "settings.flow_bound" in line]
    assert bound.endswith("features.set")


def test_config_yaml_uses_them() -> None:
    rows = all_rows()["features"]
    named = {row["recipe"] for row in rows.values() if isinstance(row.get("recipe"), str)}
    assert named >= {"activitynet13-tsp", "hacs-slowfast"}
