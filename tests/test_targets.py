"""Targets that a person types: unknown ones are refused in one line; messages name commands that work in any folder."""

import ast
import re
from pathlib import Path

import pytest

from tad.core.errors import TadError
from tad.settings.config import Config
from tad.settings.paths import PATTERNS, command_of, path_of, wildcards_of
from tad.workflow.targets import RULES, check_targets

ROOT = Path(__file__).parents[1]
VALUES = {
    "datasets": {"demo": {}},
    "features": {"clips": {"backbone": "r2plus1d_small"}},
    "runs": {"kitchen": {"dataset": "demo", "features": "clips", "detector": "mse"}},
}


def test_the_rules_are_those_of_the_workflow() -> None:
    files = [ROOT / "Snakefile", *(ROOT / "rules").glob("*.smk")]
    assert set(re.findall(r"^rule (\w+):", "\n".join(file.read_text() for file in files), re.M)) == RULES


@pytest.mark.parametrize("what", sorted(PATTERNS))
def test_what_a_file_is_made_for(what: str) -> None:
    names = {"run": "a/seed-1", "dataset": "b", "features": "c", "shard": "00-of-02", "name": "d", "on": "train"}
    own = {name: names[name] for name in re.findall(r"{(\w+)}", PATTERNS[what])}
    made = None if what in ("apply", "sweep", "stream") else own
    assert wildcards_of(path_of(what, **names)) == made


def test_other_files_are_made_by_no_stage() -> None:
    for path in ("results/a/it.json", "results/a/sweep/train/detections.json", "a/map.json", "results/videos/map.json"):
        assert wildcards_of(Path(path)) is None


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("kitchn", "kitchn: no run of config.yaml has this name; did you mean 'kitchen'? known: kitchen"),
        ("results/kitchn/map.json", "results/kitchn/map.json: runs has no 'kitchn'; did you mean 'kitchen'? known: "),
        ("results/annotations/dmeo.json", "datasets has no 'dmeo'; did you mean 'demo'? known: demo"),
        ("results/features/demo/none.h5", "features has no 'none'; known: clips"),
        ("results/kitchen/map.jsn", "no stage writes this file; did you mean 'results/kitchen/map.json'?"),
        ("results/kitchen/page/index.html", "no stage writes this file; did you mean 'results/kitchen/page'?"),
        ("other/x", "other/x: no stage writes this file; `tad run RUN` makes the score of a run"),
    ],
)
def test_unknown_targets(target: str, message: str) -> None:
    with pytest.raises(TadError) as caught:
        check_targets([target], Config(VALUES))
    assert message in str(caught.value)


def test_known_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.csv").touch()
    score = "results/kitchen/seed-0/map.json"
    check_targets(["all", "train", "mine.csv", score, f"./{score}", str(tmp_path / score)], Config(VALUES))


def test_the_command_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    score = path_of("evaluate", run="a")
    assert command_of(score) == command_of(tmp_path / score, root=tmp_path) == "tad run results/a/map.json"
    assert command_of("it's" / score, root=Path("it's")) == "cd 'it'\"'\"'s' && tad run results/a/map.json"


def messages(text: str) -> list[str]:
    """The strings of a module, without its docstrings."""
    tree = ast.parse(text)
    documented = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in documented)
    return [node.value for node in constants if isinstance(node.value, str)]


def needs_a_checkout(text: str) -> list[str]:
    return [message for message in messages(text) if re.search(r"(`|: |&& )snakemake (?!--help)", message)]


def test_no_message_asks_for_a_command_that_needs_a_checkout() -> None:
    """Plain `snakemake` finds no Snakefile in a folder of one's own, and needs a number of cores; `tad run` works."""
    assert len(needs_a_checkout('"""Run `snakemake x`."""\nraise TadError(f"{a}: make it with `snakemake {a}`")')) == 1
    for path in sorted((ROOT / "tad").rglob("*.py")):
        assert not needs_a_checkout(path.read_text()), path
