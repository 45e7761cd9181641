"""`tad zoo`: the ready runs, what each needs, what is missing here, and published scores with their sources."""

import json
from pathlib import Path

import pytest
from config_tools import copy_config

from tad.commands.cli import main
from tad.commands.zoo import entry, score_text, zoo
from tad.core.errors import TadError
from tad.settings import plugins
from tad.settings.config import Config
from tad.workflow.missing import missing_of_run, needs

ROOT = Path(__file__).parents[1]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return copy_config(tmp_path)


def test_all_included_runs_are_listed_and_the_own_one_is_not(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo", "--config", str(config)]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = {line.split()[0] for line in lines[1:-1]}
    assert listed == set(Config.read(config).file.runs) - {"demo"}
    (row,) = [line for line in lines if line.startswith("anet-tsp-mse ")]
    assert row.split("  ")[-1].strip() == "annotations, features, class scores"
    assert " 36.9 " in row
    assert any(line.startswith("demo-afsd ") and line.endswith("nothing") for line in lines)


def test_what_is_there_is_no_longer_missing(config: Path) -> None:
    settings = Config.read(config)
    for need in needs(settings, "anet-tsp-mse"):
        assert not need.there
        (config.parent / need.path).parent.mkdir(parents=True, exist_ok=True)
        (config.parent / need.path).write_text("")
    assert all(need.there for need in needs(settings, "anet-tsp-mse"))
    assert missing_of_run(settings, "anet-tsp-mse") == []


def test_json_has_what_the_table_has_and_more(config: Path) -> None:
    (text,) = zoo(["thumos14"], config=config, format="json")
    rows = {row["run"]: row for row in json.loads(text)}
    assert set(rows) == {
        name for name, row in Config.read(config).file.runs.items() if row.dataset.startswith("thumos14")
    }
    student = rows["thumos-gkd"]
    assert {"what": "run", "path": "thumos-gaf-frames", "there": False} in student["needs"]
    assert student["file"] == str(config.parent / "zoo/thumos14.yaml")
    assert rows["thumos-i3d-tridet"]["published"]["average_mAP"] == 69.27
    assert any("data/thumos14/i3d_features" in sentence for sentence in rows["thumos-i3d-tridet"]["missing"])


@pytest.mark.parametrize("run", ["anet-gaf-frames-both", "spot-anet-tsn-10-cuhk", "demo-rgb", "hacs"])
def test_a_run_by_name_is_told_in_full(config: Path, run: str) -> None:
    lines, settings = list(zoo([run], config=config)), Config.read(config)
    for need in needs(settings, run):
        assert any(need.path in line for line in lines)
    for sentence in missing_of_run(settings, run):
        assert f"  {sentence}" in lines
    if published := settings.run(run).published:
        assert any(published.source in line and score_text(published) in line for line in lines)
    assert lines[-1] == f"  run it: tad run {run}"


def test_every_listed_need_has_a_sentence_and_every_sentence_a_need(config: Path) -> None:
    """The table and the dry run agree on what is missing, for every shipped run."""
    settings = Config.read(config)
    for run in settings.file.runs:
        own = [need for need in needs(settings, run) if need.what != "run" and not need.there]
        sentences = missing_of_run(settings, run)
        for need in own:
            assert any(need.path in sentence for sentence in sentences), (run, need)
        if not any(need.what == "run" for need in needs(settings, run)):
            for sentence in sentences:
                assert any(need.path in sentence for need in own), (run, sentence)


def test_published_scores_have_a_source_and_are_percent(config: Path) -> None:
    settings = Config.read(config)
    scores = {run: row.published for run, row in settings.file.runs.items() if row.published}
    assert len(scores) >= 25
    for run, score in scores.items():
        values = [score.average_mAP] if score.average_mAP is not None else list(score.mAP.values())
        assert all(1 < value < 100 for value in values), run
        assert entry(settings, run)["published"]["source"]


def test_without_included_runs_the_shipped_ones_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of one's own; what the last line asks for makes the runs known."""
    monkeypatch.chdir(tmp_path)
    for text in ("", "datasets: {}\nruns: {}\n"):
        if text:
            Path("config.yaml").write_text(text)
        *rows, last = zoo()
        assert {"hacs", "thumos-i3d-mse", "salads-gaf"} <= {row.split()[0] for row in rows}
        assert not any(row.startswith("demo") for row in rows)  # the demo's own rows are in the checkout's config.yaml
    entry = last.rpartition("include: ")[2]
    Path("config.yaml").write_text(f"include: {entry}\n")
    rows = list(zoo())
    assert any(row.startswith("anet-tsp-mse ") for row in rows)
    assert not any("include:" in row for row in rows)
    with pytest.raises(TadError, match=r"other\.yaml: no such file"):
        list(zoo(config=Path("other.yaml")))


def test_what_cannot_be_listed_is_one_line(config: Path, tmp_path: Path) -> None:
    with pytest.raises(TadError, match="epik: neither a run nor a data set; did you mean 'epic'"):
        list(zoo(["epik"], config=config))
    rows = "runs: {x: {dataset: demo, features: demo_clips, detector: mse, published: {source: somewhere}}}"
    (tmp_path / "zoo/salads.yaml").write_text(rows)
    copy = (ROOT / "config.yaml").read_text()
    config.write_text(copy)
    with pytest.raises(TadError, match=r"salads\.yaml: runs\.x\.published: give either average_mAP, or mAP by tIoU"):
        list(zoo(config=config))


def test_every_published_data_set_has_a_run(config: Path) -> None:
    settings = Config.read(config)
    used = {settings.dataset(run.dataset).format or run.dataset for run in settings.file.runs.values()}
    own = {"activitynet", "csv", "annotation_tool"}
    assert set(plugins.names("datasets")) - own <= used


def test_no_run_of_a_published_detector_lets_segments_vote_within_a_class(config: Path) -> None:
    """Published code votes only if it suppresses all classes together, even where its settings name a threshold."""
    settings = Config.read(config)
    published = [name for name in settings.file.runs if settings.detector_name(name) != "tad"]
    rules = [settings.spec("suppress", run=name).nms for name in published]
    assert sum(rule.voting > 0 for rule in rules) > 3
    assert not [rule for rule in rules if rule.voting > 0 and rule.per_class]
