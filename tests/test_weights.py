"""What the backbones' YAML says of published weights: closed entries, which files go with which settings."""

from pathlib import Path
from typing import Any

import pytest

from tad.core.errors import TadError
from tad.settings import plugins
from tad.settings.config import Config
from tad.settings.stages import Plugin
from tad.weights.published import (
    fetch_command,
    lacking,
    missing_weights,
    published,
    wanted,
    weight_files,
    weights_identity,
)
from tad.workflow.missing import missing

BACKBONES = plugins.names("backbones")
FACTS = {"bytes": 3, "sha256": "0" * 64, "git_blob": "1" * 40, "sha256_prefix": "2" * 8}


def plugin(name: str, **changes: Any) -> Plugin:
    return Plugin(name=name, settings=plugins.defaults("backbones", name) | changes)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_entry_is_whole_and_its_settings_are_the_backbones(name: str) -> None:
    settings = plugins.settings_class("backbones", name)
    entries = published(name)
    assert len({entry.name for entry in entries}) == len(entries)
    for entry in entries:
        assert set(entry.settings) <= set(settings.model_fields), entry.name
        assert entry.licence
        assert entry.source
        if entry.sha256_prefix:
            assert entry.sha256_prefix in entry.name
    if "pretrain" not in plugins.sections("backbones", name) or entries:
        assert wanted(name, plugins.defaults("backbones", name)), "its own default settings have weights"


def test_names_of_files_are_unique_among_backbones_or_of_one_url() -> None:
    seen: dict[str, str] = {}
    for name in BACKBONES:
        for entry in published(name):
            assert seen.setdefault(entry.name, entry.url) == entry.url


def test_settings_choose_the_files() -> None:
    assert [e.name for e in wanted("i3d", plugin("i3d").settings)] == ["rgb_imagenet.pt", "flow_imagenet.pt"]
    assert [e.name for e in wanted("i3d", plugin("i3d", streams="flow").settings)] == ["flow_imagenet.pt"]
    assert [e.name for e in wanted("slowfast", plugin("slowfast", depth=101).settings)] == ["SLOWFAST_8x8_R101.pyth"]
    command = fetch_command(wanted("slowfast", plugin("slowfast").settings), "w")
    assert command == "`tad weights fetch SLOWFAST_8x8_R50.pyth --to w`"
    assert fetch_command(wanted("r2plus1d_small", {}), "w") == ""


def test_a_folder_may_hold_the_weights_of_all_settings(tmp_path: Path) -> None:
    for name in ("SLOWFAST_8x8_R50.pyth", "SLOWFAST_8x8_R101.pyth", "pins.json"):
        (tmp_path / name).write_text(name)
    assert [f.name for f in weight_files(tmp_path, plugin("slowfast", depth=50))] == ["SLOWFAST_8x8_R50.pyth"]
    assert [f.name for f in weight_files(tmp_path, plugin("slowfast", depth=101))] == ["SLOWFAST_8x8_R101.pyth"]
    assert len(weight_files(tmp_path)) == 2
    one = weights_identity(tmp_path, plugin("slowfast", depth=50))
    assert one == weights_identity(tmp_path / "SLOWFAST_8x8_R50.pyth")
    (tmp_path / "SLOWFAST_8x8_R101.pyth").write_text("another")
    assert one == weights_identity(tmp_path, plugin("slowfast", depth=50))
    (tmp_path / "own.pth").write_text("own weights count beside those that fit")
    assert len(weight_files(tmp_path, plugin("slowfast", depth=50))) == 2


def test_a_folder_without_the_right_file_names_the_command(tmp_path: Path) -> None:
    (tmp_path / "rgb_imagenet.pt").write_text("x")
    with pytest.raises(TadError, match=r"no such weight file; `tad weights fetch flow_imagenet\.pt --to ") as caught:
        weight_files(tmp_path, plugin("i3d", streams="flow"))
    assert "\n" not in str(caught.value)
    with pytest.raises(TadError, match=r"absent\.pt: no such weight file; .* --to " + str(tmp_path)):
        weight_files(tmp_path / "absent.pt", plugin("i3d"))
    with pytest.raises(TadError, match="weights: pretrain"):
        weight_files(tmp_path / "absent.pt", plugin("r2plus1d_small"))
    with pytest.raises(TadError, match="tad weights list"):
        weight_files(tmp_path / "absent.pt")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sha256": "00"}, "sha256"), ({"git_blob": "G" * 40}, "git_blob"), ({"url": "ftp://x/y"}, "url"),
        ({"name": "../x.pt"}, "name"), ({"name": ".x"}, "name"), ({"bytes": 0}, "bytes"), ({"md5": "0"}, "md5"),
        ({"licence": None}, "licence"), ({"sha256_prefix": "abc"}, "sha256_prefix"),
    ],
)  # fmt: skip
def test_entries_that_cannot_be_right_are_named(
    change: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = {"name": "x.pt", "url": "https://example.org/x.pt", "licence": "MIT", "source": "s", **FACTS}
    monkeypatch.setattr(plugins, "document", lambda kind, name: {"weights": [good, good | change]})
    with pytest.raises(TadError, match=rf"backbones/toy\.yaml: weights\.1: {said}") as caught:
        published("toy")
    assert "\n" not in str(caught.value)


def test_a_dry_run_without_weights_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "v").mkdir()
    (tmp_path / "a.csv").write_text("")
    values: dict[str, Any] = {
        "datasets": {"mine": {"format": "csv", "annotations": "a.csv", "videos": "v"}},
        "features": {"f": {"backbone": {"name": "slowfast", "depth": 101}, "weights": "data/weights/slowfast"}},
        "runs": {"one": {"dataset": "mine", "features": "f", "detector": "mse"}},
    }
    sentence = (
        "put the weights of slowfast at data/weights/slowfast (`tad weights fetch SLOWFAST_8x8_R101.pyth --to "
        "data/weights/slowfast`; published at https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/"
        "SLOWFAST_8x8_R101.pyth)"
    )
    assert missing(Config(values), "mine", "f") == [sentence]
    folder = tmp_path / "data/weights/slowfast"
    folder.mkdir(parents=True)
    (folder / "SLOWFAST_8x8_R50.pyth").write_text("of another depth")
    assert missing(Config(values), "mine", "f") == [sentence]
    (folder / "SLOWFAST_8x8_R101.pyth").write_text("x")
    assert missing(Config(values), "mine", "f") == []
    values["features"]["f"]["weights"] = "data/weights/slowfast/mine.pyth"
    assert "at data/weights/slowfast/mine.pyth (`tad weights fetch" in missing(Config(values), "mine", "f")[0]


def test_half_of_what_two_streams_need_is_not_enough(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "rgb_imagenet.pt").write_text("x")
    said = missing_weights(tmp_path, "w", plugin("i3d"))
    assert len(said) == 1
    assert "`tad weights fetch flow_imagenet.pt --to w`" in said[0]
    assert missing_weights(tmp_path, "w", plugin("i3d", streams="rgb")) == []
    assert len(lacking(tmp_path / "w", plugin("i3d", streams="flow"))) == 1
    (tmp_path / "w" / "model_flow.pth").write_text("an alternative is a choice")
    assert missing_weights(tmp_path, "w", plugin("i3d")) == []
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "own.pth").write_text("so are own weights")
    assert missing_weights(tmp_path, "o", plugin("i3d")) == []
    assert missing_weights(tmp_path, "o/own.pth", plugin("i3d")) == []
    (tmp_path / "empty").mkdir()
    for path in ("absent", "empty"):
        assert "none are published" in missing_weights(tmp_path, path, plugin("i3d", classes=3))[0]
