"""One word per stage, a light `--help`, one-line errors."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tad.cli import build_parser, main

ROOT = Path(__file__).parents[1]
NOT_STAGES = {"render", "table", "all"}  # about the workflow, not about detection: scripts in workflow_scripts
# they explain, or bring in what is there
NOT_RULES = {
    *("diagnose", "show", "why", "import-checkpoint", "compare", "suggest", "sweep", "apply", "table", "weights"),
    "features",
}


def commands() -> set[str]:
    action = next(a for a in build_parser()._actions if a.dest == "command")
    return set(action.choices or ())


def test_rule_is_command_is_module_is_function_is_log() -> None:
    rules_text = "\n".join(p.read_text() for p in [ROOT / "Snakefile", *(ROOT / "rules").glob("*.smk")])
    rules = set(re.findall(r"^rule (\w+):", rules_text, re.M)) - NOT_STAGES
    modules = {p.stem for p in (ROOT / "tad" / "stages").glob("*.py")} - {"__init__"}
    assert rules == modules == commands() - NOT_RULES
    for stage in sorted(rules):
        source = (ROOT / "tad" / "stages" / f"{stage}.py").read_text()
        assert re.search(rf"^def {stage}\(", source, re.M), stage
        block = rules_text.split(f"rule {stage}:")[1].split("\nrule ")[0]
        assert re.search(rf'"tad {stage} ', block), stage
        assert f"{stage}.log" in block, stage
        assert f"{stage}.tsv" in block, stage


def test_rules_are_thin() -> None:
    for path in (ROOT / "rules").glob("*.smk"):
        text = path.read_text()
        assert "lambda" not in text
        assert "script:" not in text
        assert "retries" not in text
        assert not re.search(r"^    run:", text, re.M)


@pytest.mark.parametrize("argv", [["--help"], ["train", "--help"], ["show", "demo"], ["weights", "list"]])
def test_no_torch_without_a_stage(argv: list[str]) -> None:
    program = (
        "import sys; from tad.cli import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "sys.exit(7 if 'torch' in sys.modules else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program, *argv], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_parsing_the_snakefile_imports_no_torch() -> None:
    program = (
        "import sys, yaml; from tad.workflow import Workflow\n"
        "flow = Workflow(yaml.safe_load(open('config.yaml')), '.')\n"
        "flow.ready_runs(); sys.exit(7 if {'torch', 'numpy'} & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["show", "dmo"], "did you mean 'demo'?"),
        (["suppress", "nowhere.h5", "--spec", "{}", "--out", "x.json"], "run: Field required"),
        (["suppress", "nowhere.h5", "--spec", "absent.yaml", "--out", "x.json"], "absent.yaml"),
        (["suppress", "nowhere.h5", "--spec", "{run: [", "--out", "x.json"], "--spec: not valid JSON or YAML"),
        (["why", "results/dmo/map.json"], "results/dmo/map.json: No rule to produce"),
    ],
)
def test_errors_are_one_line_and_status_1(
    argv: list[str], message: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(argv) == 1
    lines = [line for line in capfd.readouterr().err.splitlines() if line]
    assert len(lines) == 1
    assert message in lines[0]
