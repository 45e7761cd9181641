"""Paths below results/ are formed in one module, and the rules write where it says."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tad.settings.paths import FOLDERS, PATTERNS, RESULTS, path_of, run_of
from tad.settings.stage_table import FEATURES, STAGES

ROOT = Path(__file__).parents[1]
RULES = "\n".join(path.read_text() for path in [ROOT / "Snakefile", *sorted((ROOT / "rules").glob("*.smk"))])
OTHERS = {"render": {"rendered", "rendered_annotations"}, "table": {"table"}}
OTHERS |= {"evaluate": {"evaluate", "figure", "diagnosis", "picture"}}


def sections(rule: str) -> dict[str, str]:
    """The sections of a rule by their names."""
    block = re.split(r"^(?=\S)", RULES.split(f"\nrule {rule}:\n")[1], flags=re.M)[0]
    parts = re.split(r"^    (\w+):", block, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def literals(text: str) -> set[str]:
    """The paths below results/ in a piece of a Snakefile, with plain wildcards."""
    found = re.findall(r'"results/([^"]+)"', text)
    return {path.replace("{{", "{").replace("}}", "}") for path in found}


@pytest.mark.parametrize("rule", sorted(set(re.findall(r"^rule (\w+):", RULES, re.M)) - {"all"}))
def test_a_rule_writes_where_the_package_looks(rule: str) -> None:
    assert literals(sections(rule)["output"]) == {PATTERNS[name] for name in OTHERS.get(rule, {rule})}


def test_what_the_rules_read_is_written_by_a_rule() -> None:
    rules = set(re.findall(r"^rule (\w+):", RULES, re.M)) - {"all"}
    read = {path for rule in rules for path in literals(sections(rule).get("input", ""))}
    assert read
    assert read <= set(PATTERNS.values())


def test_wildcards_tell_what_a_stage_is_made_for() -> None:
    allowed = [{"dataset"}, {"dataset", "shard"}, {"dataset", "features"}, {"dataset", "features", "shard"}, {"run"}]
    for stage in STAGES.values():
        assert stage.wildcards in allowed, stage.name
    assert set(FEATURES) == {"merge", "convert", "join", "index", "encode"}


def own_paths(tree: ast.AST) -> Iterator[str]:
    """Paths below results/ that a module forms by itself: text that begins so, and folders divided by it."""
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
        if id(node) not in documentation and re.search(r"(^|[\s`'])results/(?!<)", text):
            yield text
        right = node.right if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) else None
        if isinstance(right, ast.Constant) and right.value == "results":
            yield "results"


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ('f"results/{run}/map.json"', 1),
        ('"make it with: snakemake results/table.md"', 1),
        ('root / "results" / run', 1),
        ('root / "results/videos" / run', 1),
        ('"usually results/<run>/model.safetensors"', 0),
        ('value["results"]', 0),
        ('f"{folder}/map.json"', 0),
    ],
)
def test_own_paths_are_found(line: str, count: int) -> None:
    assert len(list(own_paths(ast.parse(f'"""results/x is documentation"""\na = {line}')))) == count


@pytest.mark.parametrize("path", sorted((ROOT / "tad").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_other_module_forms_a_path_below_results(path: Path) -> None:
    assert list(own_paths(ast.parse(path.read_text()))) == []


def test_path_of() -> None:
    assert str(path_of("train", run="a/seed-0")) == "results/a/seed-0/model.safetensors"
    assert path_of("probe", root=Path("/x"), dataset="d", shard="00-of-02") == Path("/x/results/videos/d/00-of-02.json")
    assert {"annotations", "videos", "features", "data", "logs"} <= FOLDERS
    with pytest.raises(KeyError):
        path_of("train", dataset="d")


@pytest.mark.parametrize(
    ("target", "run"),
    [
        ("results/a/map.json", "a"),
        ("results/a/seed-1/map.json", "a"),
        ("results/annotations/a.json", ""),
        ("results", ""),
        ("elsewhere/a/map.json", ""),
        ("a", ""),
    ],
)
def test_the_run_of_a_target(target: str, run: str) -> None:
    assert run_of(target) == run
    assert RESULTS == "results"
