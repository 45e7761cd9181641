"""The README's results are those of the kept scores; keeping a score loses nothing that a table shows."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from test_table import score, seeds, write

from tad.files import read_json, write_json
from tad.provenance import stamp
from tad.table import render

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


def test_the_readme_shows_the_kept_scores(script: ModuleType) -> None:
    readme = (ROOT / "README.md").read_text()
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


def folder_with(tmp_path: Path, *documents: dict[str, Any]) -> list[str]:
    (tmp_path / "README.md").write_text(README)
    paths = write(tmp_path / "results", *documents)
    return ["--kept", str(tmp_path / "kept"), "--readme", str(tmp_path / "README.md"), *paths]


def test_what_is_kept_makes_the_same_table(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = [seeds("a", 0.7), score("b", 0.6, epoch_rule="test split (peeked)"), score("c", dataset="demo")]
    argv = folder_with(tmp_path, *documents)
    assert script.main(argv) == 0
    shown = render([Path(path) for path in argv[4:]])
    assert f"{script.BEGIN}\n{shown}{script.END}\n" == capsys.readouterr().out
    readme = (tmp_path / "README.md").read_text()
    assert readme == f"# tad\n\n{script.BEGIN}\n{shown}{script.END}\n\nThe rest.\n"
    for format in ("csv", "html"):
        assert render(sorted((tmp_path / "kept").glob("*.json")), format=format) == render(
            [Path(path) for path in argv[4:]], format=format
        )
    again = score("c", 0.9, dataset="demo")  # replaces what is kept of the run
    assert script.main([*argv[:4], *write(tmp_path / "results", again)]) == 0
    assert len(list((tmp_path / "kept").iterdir())) == 3
    assert "**90.00**" in (tmp_path / "README.md").read_text()
    before = (tmp_path / "README.md").read_bytes()
    assert script.main(argv[:4]) == 0  # nothing new: the same bytes
    assert (tmp_path / "README.md").read_bytes() == before


def test_the_face_comes_from_the_model_where_an_older_score_lacks_it(script: ModuleType, tmp_path: Path) -> None:
    document = seeds("many")
    del document["face"]
    argv = folder_with(tmp_path, document)
    made = stamp("train", {"detector": {"name": "mse", "settings": {"face": "corrected"}}}, {})
    header = json.dumps({"__metadata__": {"tad_stamp": json.dumps(made)}}).encode()
    model = tmp_path / "results/many/seed-0/model.safetensors"
    model.parent.mkdir()
    model.write_bytes(len(header).to_bytes(8, "little") + header)
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
    (tmp_path / "README.md").write_text(readme)
    paths = [str(write_json(tmp_path / "map.json", document))] if document else []
    assert script.main(["--kept", str(tmp_path / "kept"), "--readme", str(tmp_path / "README.md"), *paths]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert (tmp_path / "README.md").read_text() == readme
