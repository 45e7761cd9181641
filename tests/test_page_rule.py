"""The rule of pages: its inputs, also for several seeds and runs side by side, and what makes it run again."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import page_tools as tools
import pytest
from config_tools import all_rows

from tad.core.errors import TadError
from tad.core.files import read_json, write_json
from tad.datasets._any import read_checked
from tad.metrics import protocol
from tad.provenance.stamps import identity_of, stamp
from tad.settings.config import Config
from tad.workflow.rules import Workflow
from tad.workflow.why import Job, _changed

ROOT = Path(__file__).parents[1]
CLIP = {"length": 1, "stride": 1, "policy": "resample", "rate": 1.0}


def rows(**runs: Any) -> dict[str, Any]:
    """Two data sets with published features, and runs on them."""
    known = {"a": "own", "b": "own", "other": "others", **dict.fromkeys(runs, "own")}
    made = {
        name: {"dataset": dataset, "features": "given", "detector": "mse", **runs.get(name, {})}
        for name, dataset in known.items()
    }
    return {
        "datasets": {"own": {"format": "csv", "annotations": "x.csv"}, "others": {"format": "csv"}},
        "features": {"given": {"source": "feats", "dim": 8, "clip": CLIP}},
        "runs": made,
    }


def flow(values: dict[str, Any], tmp_path: Path) -> Workflow:
    return Workflow(copy.deepcopy(values), ROOT, tmp_path / "hashes.json")


def wild(run: str) -> Any:
    return SimpleNamespace(run=run)


def test_a_page_has_all_seeds_and_the_runs_beside(tmp_path: Path) -> None:
    made = flow(rows(a={"seeds": 2, "page": {"beside": ["b", "a"]}}), tmp_path)
    assert made.page_runs(wild("a")) == ["a/seed-0", "a/seed-1", "b"]
    assert made.page_detections(wild("a"))[1:] == ["results/a/seed-1/detections.json", "results/b/detections.json"]
    assert made.page_scores(wild("b")) == ["results/b/map.json"]
    assert made.page_runs(wild("a/seed-1")) == ["a/seed-1", "b", "a/seed-0"]
    assert set(made.pattern("pages").split("|")) == {"a", "a/seed-0", "a/seed-1", "b", "other"}
    spec = made.config.spec("page", run="a")
    assert spec.runs == ("a/seed-0", "a/seed-1", "b")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ({"beside": ["other"]}, r"runs\.a\.page\.beside: run other is on others, not on own"),
        ({"beside": ["bb"]}, "runs has no 'bb'"),
        ({"copys": 3}, r"runs\.a\.page: copys: unknown key 'copys'; did you mean 'copies'"),
        ({"beside": "b"}, r"runs\.a\.page: beside: write a list, such as \[b\]"),
        ({"height": 5}, r"runs\.a\.page: height: Input should be greater"),
    ],
)
def test_wrong_settings_stop_a_dry_run(page: dict[str, Any], message: str) -> None:
    with pytest.raises(TadError, match=message):
        Config(rows(a={"page": page}))


def test_a_page_without_videos_and_with_new_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    values = rows()
    assert flow(values, tmp_path).page_videos(wild("a")) == []
    before = flow(values, tmp_path).page_content(wild("a"))
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "v.mp4").write_bytes(b"1")
    values["datasets"]["own"]["videos"] = "clips"
    made = flow(values, tmp_path)
    assert made.page_videos(wild("a")) == ["clips"]
    assert made.page_content(wild("a")) != before


def test_why_names_a_changed_setting_of_a_page(tmp_path: Path) -> None:
    config = Config(rows(a={"page": {"copies": 7}}))
    spec = config.spec("page", run="a").model_dump(mode="json")
    spec["page"]["copies"] = 50
    write_json(tmp_path / "page" / "stamp.json", {"stamp": stamp("page", spec, {})})
    assert _changed(Job("page", [str(tmp_path / "page")], {"run": "a"}), config) == ["setting page.copies: 50 → 7"]
    assert identity_of(tmp_path / "page")


def test_every_shipped_run_has_settings_of_a_page() -> None:
    config = Config(all_rows(), root=ROOT)
    for run in config.file.runs:
        assert config.spec("page", run=run)


@pytest.mark.wide
def test_the_page_of_thumos_is_small(shared: Path, tmp_path: Path) -> None:
    """212 videos, 42,400 detections: below 1 MB without videos, and what is read at once below 200 KB."""
    rules = protocol("thumos14-212")
    table = read_checked(shared / "data/annotations/thumos14.json", counted=rules.counted, on_invalid="", splits={})
    found = read_json(shared / "data/detections/actionformer_thumos14_test_detections.json")["results"]
    page = tools.make_page(tmp_path, table.__class__(**{**vars(table), "dataset": "toys"}), {"af": found}, media=False)
    files = {path: path.stat().st_size for path in page.rglob("*") if path.is_file()}
    assert sum(files.values()) < 1_000_000
    at_once = [path for path in files if path.parent.name == "assets" or path.name in ("index.html", "index.js")]
    assert sum(files[path] for path in at_once) < 200_000
