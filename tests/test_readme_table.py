"""The results in docs/results.md are those of the kept scores; keeping a score loses nothing that a table shows."""

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from config_tools import all_rows
from test_table import score, seeds, write

from tad.core.files import digest, read_json, write_json
from tad.provenance.stamps import stamp
from tad.settings.config import Config
from tad.table import render
from tad.training.io.tensors import write_tensors

ROOT = Path(__file__).parents[1]
README = "# tad\n\n<!-- results: by hand -->\n| old |\n<!-- /results -->\n\nThe rest.\n"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = ROOT / "workflow_scripts/readme_table.py"
    spec = importlib.util.spec_from_file_location("readme_table", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_shows_the_kept_scores(script: ModuleType) -> None:
    readme = (ROOT / "docs" / "results.md").read_text()
    assert script.block(ROOT / script.KEPT) in readme
    assert readme.count("<!-- results") == 1
    assert "readme-table:" in (ROOT / "Makefile").read_text()


def test_kept_scores_are_small_and_name_no_folder(script: ModuleType) -> None:
    paths = sorted((ROOT / script.KEPT).glob("*.json"))
    assert paths
    for path in paths:
        assert path.stat().st_size < 20_000, path
        assert read_json(path)["run"].replace("/", "-") == path.stem
        assert '"/' not in path.read_text()


def kept() -> dict[str, dict[str, Any]]:
    return {path.stem: read_json(path) for path in sorted((ROOT / "benchmarks/reports/results").glob("*.json"))}


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {key: leaf for name, inner in value.items() for key, leaf in flat(inner, f"{prefix}.{name}").items()}


@pytest.mark.parametrize("run", kept())
def test_a_kept_score_can_be_made_again(run: str) -> None:
    """Its command names a run whose row has the dataset, features, detector, seeds and every setting of then; it names
    a commit; and the settings that it holds are those whose digest the score itself holds."""
    document = kept()[run]
    made, values = document["provenance"], all_rows()
    assert re.fullmatch(r"[0-9a-f]{40}", made["commit"])
    assert made["versions"]["torch"]
    assert made["identity"] or made["recovered"]
    command = shlex.split(made["command"])
    assert command[:4] == ["snakemake", "--cores", "all", f"results/{run}/map.json"]
    if command[4:]:
        assert command[4] == "--config"
        ((name, changes),) = yaml.safe_load(command[5].removeprefix("runs=")).items()
        assert name == run
        values["runs"][run] |= changes
    values["runs"] = {run: values["runs"][run]}
    config = Config(values)
    assert [config.run(name).seed for name in config.trainings(run)] == document["seeds"]
    then = made["spec"]["train"]
    assert digest(then) == document["hashes"]["spec"]["train"][0]
    now = flat(config.spec("train", run=f"{run}/seed-0").model_dump(mode="json"))
    assert {key: now.get(key) for key in flat(then)} == flat(then)  # settings that are new since keep their defaults
    assert (then["detector"]["name"], then["detector"]["settings"].get("face", "")) == (
        document["detector"],
        document["face"],
    )


def test_every_kept_score_has_a_row_and_every_row_of_studies_is_checked() -> None:
    values = all_rows()
    assert set(kept()) <= set(values["runs"])
    config = Config.read(ROOT / "config.yaml")
    for run in yaml.safe_load((ROOT / "zoo/studies.yaml").read_text())["runs"]:
        config.check(run)
        assert config.run(run).seeds > 1


def stamped(document: dict[str, Any]) -> dict[str, Any]:
    """A map.json with the stamp that `evaluate` gives it."""
    return {"stamp": stamp("evaluate", {"run": document["run"]}, {}), **document}


def folder_with(tmp_path: Path, *documents: dict[str, Any]) -> list[str]:
    """Scores of runs that have rows, and the arguments before them, six, and with them."""
    (tmp_path / "README.md").write_text(README)
    row = {"features": "scores", "detector": "mse"}
    runs = {d["run"]: {**row, "dataset": d["dataset"], "seeds": len(d.get("seeds", [0]))} for d in documents}
    source = {"source": "s", "dim": 4, "clip": {"length": 1, "stride": 1, "policy": "resample", "rate": 1.0}}
    values = {
        "datasets": {"demo": {}, "salads": {"format": "activitynet", "annotations": "a.json"}},
        "features": {"scores": source},
        "runs": runs,
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    paths = write(tmp_path / "results", *map(stamped, documents))
    folders = ["--kept", str(tmp_path / "kept"), "--readme", str(tmp_path / "README.md")]
    return [*folders, "--config", str(tmp_path / "config.yaml"), *paths]


def test_what_is_kept_makes_the_same_table(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = [seeds("a", 0.7), score("b", 0.6, epoch_rule="test split (peeked)"), score("c", dataset="demo")]
    argv = folder_with(tmp_path, *documents)
    assert script.main(argv) == 0
    shown = render([Path(path) for path in argv[6:]])
    assert f"{script.BEGIN}\n{shown}{script.END}\n" == capsys.readouterr().out
    readme = (tmp_path / "README.md").read_text()
    assert readme == f"# tad\n\n{script.BEGIN}\n{shown}{script.END}\n\nThe rest.\n"
    for format in ("csv", "html"):
        assert render(sorted((tmp_path / "kept").glob("*.json")), format=format) == render(
            [Path(path) for path in argv[6:]], format=format
        )
    again = stamped(score("c", 0.9, dataset="demo"))  # replaces what is kept of the run
    assert script.main([*argv[:6], *write(tmp_path / "results", again)]) == 0
    assert len(list((tmp_path / "kept").iterdir())) == 3
    assert "**90.00**" in (tmp_path / "README.md").read_text()
    before = (tmp_path / "README.md").read_bytes()
    assert script.main(argv[:6]) == 0  # nothing new: the same bytes
    assert (tmp_path / "README.md").read_bytes() == before


def test_a_score_is_kept_with_what_makes_it(script: ModuleType, tmp_path: Path) -> None:
    argv = folder_with(tmp_path, seeds("a", 0.7), score("b", 0.6, seed=3))
    values = yaml.safe_load((tmp_path / "config.yaml").read_text())
    values["runs"]["a"]["seeds"] = 1
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    assert script.main(argv) == 0
    made = read_json(tmp_path / "kept/a.json")["provenance"]
    assert made["command"] == "snakemake --cores all results/a/map.json --config 'runs={a: {seeds: 5}}'"
    assert made["identity"] == read_json(Path(argv[6]))["stamp"]["identity"]
    assert made["versions"]["torch"]
    assert made["versions"]["tad"]
    clean = not script._git("status", "--porcelain", "--", "tad")
    assert made["commit"] == (script._git("rev-parse", "HEAD") if clean else "")
    other = read_json(tmp_path / "kept/b.json")["provenance"]
    assert other["command"] == "snakemake --cores all results/b/map.json --config 'runs={b: {seed: 3}}'"


def test_code_that_has_changed_since_names_no_commit(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = stamped(score("a"))
    document["stamp"]["code"] = "evaluate@0"
    argv = folder_with(tmp_path, document)
    assert script.main(argv) == 0
    assert read_json(tmp_path / "kept/a.json")["provenance"]["commit"] == ""
    assert "no commit is kept" in capsys.readouterr().err


def test_a_score_that_no_command_makes_is_refused(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = folder_with(tmp_path, score("a"))
    values = yaml.safe_load((tmp_path / "config.yaml").read_text())
    values["runs"]["a"]["detector"] = "tridet"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    assert script.main(argv) == 1
    assert "runs.a: is now salads, scores, tridet, and the score is of salads, scores, mse" in capsys.readouterr().err
    del values["runs"]["a"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    assert script.main(argv) == 1
    assert "no run is called 'a'; add its row to zoo/studies.yaml" in capsys.readouterr().err
    assert not (tmp_path / "kept").exists()


def test_the_face_comes_from_the_model_where_an_older_score_lacks_it(script: ModuleType, tmp_path: Path) -> None:
    document = seeds("many")
    del document["face"]
    argv = folder_with(tmp_path, document)
    made = stamp("train", {"detector": {"name": "mse", "settings": {"face": "corrected"}}}, {})
    model = tmp_path / "results/many/seed-0/model.safetensors"
    write_tensors(model, {}, {"tad_stamp": made})
    assert script.main(argv) == 0
    assert read_json(tmp_path / "kept/many.json")["face"] == "corrected"
    assert "| many | mse | corrected |" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    ("readme", "document", "said"),
    [
        (README, {"average_mAP": 1}, "not a map.json"),
        ("# tad\n", score("a"), "needs one line '<!-- results"),
        (README + README, score("a"), "needs one line '<!-- results"),
        ("<!-- /results -->\n<!-- results -->\n", score("a"), "needs one line '<!-- results"),
        (README, None, "no score is kept; name map.json files: make readme-table SCORES="),
    ],
)
def test_what_cannot_be_right_is_one_line(
    script: ModuleType,
    tmp_path: Path,
    readme: str,
    document: dict[str, Any] | None,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = folder_with(tmp_path, *([document] if document and "run" in document else []))
    if document and "run" not in document:
        argv.append(str(write_json(tmp_path / "map.json", document)))
    (tmp_path / "README.md").write_text(readme)
    assert script.main(argv) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert said in line
    assert (tmp_path / "README.md").read_text() == readme
