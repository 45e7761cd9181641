"""Every script in benchmarks/ imports and says what it takes; those that need no other project's code run; reports name
commands that are there."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from config_tools import all_rows

from tad.settings.config import Config

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))
REPORTS = sorted((ROOT / "benchmarks" / "reports").glob("*.md"))
ALONE = (
    "bench_metrics",
    "bench_evaluate",
    "bench_results_file",
    "bench_sharing",
    "bench_extract_memory",
    "bench_dag",
    "bench_dry_run",
    "bench_large_annotations",
    "bench_checksums",
    "bench_loading",
    "bench_steps",
    "bench_gpu",
    "bench_adapters",
)
ON_A_VIDEO = {"bench_flow": "v.mp4", "bench_readers": ".", "bench_extract": ".", "bench_backbones": "."}


def run(script: str, *arguments: str, cwd: Path = ROOT) -> str:
    command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_imports_and_has_help(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(path.parent))
    spec = importlib.util.spec_from_file_location(f"benchmarks_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    if path.stem.startswith("bench_"):
        monkeypatch.setattr(sys, "argv", [path.name, "--help"])
        with pytest.raises(SystemExit) as left:
            module.main()
        assert left.value.code == 0
        assert "--quick" in capsys.readouterr().out


SLOW = ("bench_dag", "bench_dry_run", "bench_sharing", "bench_extract_memory")  # 15 to 40 seconds each


@pytest.mark.slow
@pytest.mark.parametrize("script", [pytest.param(s, marks=[pytest.mark.wide] * (s in SLOW)) for s in ALONE])
def test_a_script_that_needs_nothing_runs(script: str) -> None:
    assert "|" in run(script, "--quick", *(["--device", "cpu"] if script == "bench_gpu" else []))


@pytest.mark.slow
@pytest.mark.parametrize("script", ON_A_VIDEO)
def test_a_script_that_needs_a_video_runs(script: str, tmp_path: Path) -> None:
    from video_tools import encode

    encode(tmp_path / "v.mp4", frames=60)
    assert "|" in run(script, "--quick", str(tmp_path / ON_A_VIDEO[script]), cwd=tmp_path)


def commands(text: str) -> list[str]:
    """The commands in a report: lines of its sh blocks, continued ones joined, and those between single backquotes."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in [*lines, *re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S))]
            if re.match(r"(\w+=\S+ )*(python|snakemake|tad|make) ", line)]  # fmt: skip


def expanded(word: str) -> list[str]:
    """A word with the alternatives of its braces, as a shell has them."""
    match = re.search(r"\{([^{}]*,[^{}]*)\}", word)
    if not match:
        return [word]
    return [out for part in match[1].split(",") for out in expanded(word[: match.start()] + part + word[match.end() :])]


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.stem)
def test_a_report_names_commands_that_are_there(path: Path) -> None:
    found, values = commands(path.read_text()), all_rows()
    assert found, "a report names the commands that make it"
    for command in found:
        if script := re.search(r"python (\S+\.py)", command):
            assert (ROOT / script[1]).is_file(), command
        for word in command.split():
            for target in expanded(word) if word.startswith("results/") else ():
                name = target.split("/")[1]
                assert name in values["runs"] or "<" in name or name == "data", command
        if compared := re.match(r"tad compare (\S+) (\S+)", command):
            assert set(compared.groups()) <= set(values["runs"]), command
        if changes := re.search(r"--config 'runs=(.*)'", command):
            rows = yaml.safe_load(changes[1])
            config = Config.read(ROOT / "config.yaml", changes={"runs": rows})
            for name in rows:
                config.check(name)
