"""One word per stage, a light `--help`, one-line errors."""

import inspect
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tad.commands.cli import build_parser, main
from tad.commands.command_table import COMMANDS, GROUPS, Command
from tad.commands.stages import ADAPTED
from tad.core.progress import setup_logging
from tad.settings.stage_table import STAGES, Argument

ROOT = Path(__file__).parents[1]
NOT_STAGES = {"render", "table", "all"}  # about the workflow, not about detection: scripts in workflow_scripts


def commands() -> set[str]:
    action = next(a for a in build_parser()._actions if a.dest == "command")
    return set(action.choices or ())


def test_rule_is_command_is_module_is_function_is_log() -> None:
    rules_text = "\n".join(p.read_text() for p in [ROOT / "Snakefile", *(ROOT / "rules").glob("*.smk")])
    rules = set(re.findall(r"^rule (\w+):", rules_text, re.M)) - NOT_STAGES
    modules = {p.stem for p in (ROOT / "tad" / "stages").glob("*.py")} - {"__init__"}
    assert rules == modules == commands() - set(COMMANDS) == set(STAGES)
    for stage in sorted(rules):
        source = (ROOT / "tad" / "stages" / f"{stage}.py").read_text()
        assert re.search(rf"^def {stage}\(", source, re.M), stage
        block = rules_text.split(f"rule {stage}:")[1].split("\nrule ")[0]
        assert re.search(rf'"(TAD_CODE=\S+ )?tad {stage} ', block), stage
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
        "import sys; from tad.commands.cli import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "sys.exit(7 if 'torch' in sys.modules else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program, *argv], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_parsing_the_snakefile_imports_no_torch() -> None:
    program = (
        "import sys, yaml; from tad.workflow.rules import Workflow\n"
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
        (["why", "results/dmo/map.json"], "results/dmo/map.json: runs has no 'dmo'; did you mean 'demo'?"),
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


def parameter_of(argument: Argument) -> str:
    return str(argument.options.get("dest", argument.name.lstrip("-").replace("-", "_")))


@pytest.mark.parametrize("name", sorted(STAGES))
def test_a_stage_is_called_with_its_arguments(name: str) -> None:
    """Each argument is a parameter, what the function must be given is an argument, and its settings are declared."""
    stage = STAGES[name]
    parameters = inspect.signature(stage.function()).parameters
    given = {parameter_of(argument) for argument in stage.arguments} | {"out", "spec", "cache", "threads"}
    given |= {"device"} if stage.device else set()
    needed = {key for key, parameter in parameters.items() if parameter.default is parameter.empty}
    assert needed <= given
    assert parameters["spec"].annotation is stage.spec_class()
    assert ("device" in parameters) == stage.device
    unused = {parameter_of(argument) for argument in stage.arguments} - set(parameters)
    adapter = (ROOT / "tad" / "commands" / "stages.py").read_text()
    assert [key for key in unused if not re.search(rf'\ba\.{key}\b|"{key}"', adapter)] == []
    assert not unused or name in {*ADAPTED, "evaluate"}


@pytest.mark.parametrize("command", [one for row in COMMANDS.values() for one in row.actions or (row,)], ids=str)
def test_a_command_is_called_with_its_arguments(command: Command) -> None:
    names = [parameter_of(argument) for argument in command.arguments] + ["device"] * command.device
    names += [command.passes] if command.passes else []
    bound = inspect.signature(command.function()).bind(**dict.fromkeys(names))  # TypeError unless they fit
    parameters = bound.signature.parameters
    together = {key for key in bound.arguments if parameters[key].kind is inspect.Parameter.VAR_KEYWORD}
    given = set(bound.arguments) - together
    assert given.union(*(bound.arguments[key] for key in together)) == set(names)


def test_every_command_has_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {row.group for row in COMMANDS.values()} == set(GROUPS)
    for columns in (62, 80, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        listed = build_parser().format_help()
        assert max(map(len, listed.splitlines())) <= columns
        words = " ".join(listed.split())
        for row in (*COMMANDS.values(), *STAGES.values()):
            assert f" {row.name} {row.help} " in f"{words} "


@pytest.mark.parametrize(("terminal", "verbose", "level"), [
    (True, False, logging.WARNING), (True, True, logging.DEBUG), (False, False, logging.INFO),
])  # fmt: skip
def test_the_stages_of_a_command_are_quiet_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, verbose: bool, level: int
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    setup_logging(verbose=verbose, quiet=COMMANDS["apply"].stages)
    assert root.level == level


def test_every_argument_has_a_help() -> None:
    rows = [one for row in (*COMMANDS.values(), *STAGES.values()) for one in (row, *getattr(row, "actions", ()))]
    assert not [(row.name, argument.name) for row in rows for argument in row.arguments if not argument.help]


def test_every_default_is_said() -> None:
    """By the help of the option, unless the default stands for none."""
    parser = build_parser()
    subparsers = next(a for a in parser._actions if a.dest == "command").choices
    assert isinstance(subparsers, dict)
    for name, own in subparsers.items():
        for action in own._actions:
            if action.default and action.option_strings and action.default != "==SUPPRESS==":
                said = str(action.help)
                assert "default" in said or str(action.default) in ("True", "False"), (name, action.dest)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nwe"], "tad: no command 'nwe'; did you mean 'new'? `tad --help` lists them"),
        (["a thing"], "tad: no command 'a thing'; `tad --help` lists them"),
        (["weights", "fecth"], "tad weights: no action 'fecth'; did you mean 'fetch'? `tad weights --help` lists them"),
    ],
)
def test_an_unknown_command_is_one_line(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert (ended.value.code, capsys.readouterr().err) == (2, message + "\n")


def test_without_a_command_the_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert capsys.readouterr().out == build_parser().format_help()
