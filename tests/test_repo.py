"""The checkout itself: pins that agree, commands that exist, files that stay small."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tad.settings import plugins

ROOT = Path(__file__).parents[1]


def pins() -> dict[str, str]:
    text = "".join(path.read_text() for path in sorted(ROOT.glob("requirements*.txt")))
    return {name.lower(): version for name, version in re.findall(r"^([\w.-]+)==([\w.]+)", text, re.M)}


def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\n") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("name", ["base", "torch", "video"])
def test_environments_agree_with_the_pins(name: str) -> None:
    environment = yaml.safe_load((ROOT / "envs" / f"{name}.yaml").read_text())
    found = 0
    for entry in environment["dependencies"]:
        for line in entry["pip"] if isinstance(entry, dict) else [entry]:
            package, _, version = re.sub("=+", "=", line).partition("=")
            package = {"matplotlib-base": "matplotlib"}.get(package, package)
            if package in ("python", "pip"):
                continue
            assert pins()[package] == version, line
            found += 1
    assert found >= 7


def test_the_readme_starts_with_two_commands_that_the_makefile_has() -> None:
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    block = readme.split("```sh")[1].split("```")[0]
    commands = re.findall(r"^make (\w+)", block, re.M)
    assert commands == ["demo", "test"]
    for command in commands:
        assert re.search(rf"^{command}: .*\$\(READY\)|^{command}: check", makefile, re.M)
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    for path in re.findall(r"\]\((docs/[^)]+)\)|!\[[^]]*\]\(([^)]+)\)", readme):
        assert (ROOT / (path[0] or path[1])).exists(), path


def test_the_two_test_commands_together_run_every_test() -> None:
    makefile, settings = (ROOT / "Makefile").read_text(), tomllib.loads((ROOT / "pyproject.toml").read_text())
    commands = {
        name: re.search(rf"^{name}: .*\n\t(.*)\n", makefile, re.M)[1]  # type: ignore[index]
        for name in ("test", "test-wide")
    }
    assert commands == {"test": '$(PYTEST) -m "not wide"', "test-wide": "$(PYTEST) -m wide"}
    pytest_command = re.search(r"^PYTEST := (.*)$", makefile, re.M)
    assert pytest_command is not None
    chosen = [*pytest_command[1].split(), *settings["tool"]["pytest"]["ini_options"]["addopts"].split()]
    assert not [word for word in chosen[3:] if word.startswith(("-m", "-k", "--ignore", "--deselect", "--lf", "tests"))]
    assert settings["tool"]["pytest"]["ini_options"]["testpaths"] == ["tests"]
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert lines.index("make test") < lines.index("make test-wide")


@pytest.mark.wide
def test_set_up_compiles_every_loop(tmp_path: Path) -> None:
    """With an empty cache, in a process of its own: each function that numba compiles gets its machine code."""
    program = (
        "import importlib, pkgutil, sys; sys.path.insert(0, 'workflow_scripts'); import precompile\n"
        "precompile.compile_all()\n"
        "import tad.metrics, tad.nms\n"
        "for package in (tad.metrics, tad.nms):\n"
        "    for found in pkgutil.iter_modules(package.__path__, package.__name__ + '.'):\n"
        "        if found.name in sys.modules:\n"
        "            for name, loops in vars(sys.modules[found.name]).items():\n"
        "                if hasattr(loops, 'nopython_signatures'):\n"
        "                    print(found.name, name, len(loops.nopython_signatures))\n"
    )
    own = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    counts = [line.split() for line in done.stdout.splitlines()]
    assert len(counts) > 15
    assert {module.split(".")[1] for module, _, _ in counts} == {"metrics", "nms"}
    assert not [line for line in counts if line[2] == "0"]
    assert "python workflow_scripts/precompile.py" in (ROOT / "Makefile").read_text()


def test_files_stay_small_and_name_no_machine() -> None:
    for path in tracked():
        if path.suffix in {".py", ".smk"} or path.name in {"Snakefile", "Makefile"}:
            text = path.read_text()
            assert text.count("\n") <= 400, path
            assert not re.search(r"(?<![\w.])/(?:wor" r"k|hom" r"e|roo" r"t)/", text), path


def paper_of(kind: str, name: str) -> bool:
    """Whether a component's docstrings name a publication, with its year."""
    files = [ROOT / "tad" / kind / f"{name}{suffix}" for suffix in (".py", "_settings.py")]
    texts = [ast.get_docstring(ast.parse(file.read_text())) or "" for file in files if file.is_file()]
    return any(re.search(r"\b(19|20)\d\d\b", text) for text in texts)


def test_the_citation_names_every_method_of_a_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    notes = " ".join(entry["notes"] for entry in citation["references"])
    methods = [name for kind in ("detectors", "backbones") for name in plugins.own_names(kind) if paper_of(kind, name)]
    assert {"mse", "tridet", "i3d", "videomae"} <= set(methods)
    for name in methods:
        assert f"`{name}`" in notes, name
    assert citation["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")


def test_no_document_installs_somebody_elses_package() -> None:
    """PyPI's `tad` is another project: neither documents nor messages name it as what to install."""
    for path in tracked():
        if path.suffix in {".md", ".py", ".yaml", ".toml", ".txt", ".smk"} and path != Path(__file__):
            assert not re.search(r"pip install (-\S+ )*['\"]?tad\b", path.read_text()), path


def test_the_readme_is_short_for_a_newcomer() -> None:
    """One picture, and each of the three things that a newcomer wants in under 15 lines."""
    readme = (ROOT / "README.md").read_text()
    assert len(re.findall(r"!\[", readme)) == 1
    for title in ("Your own data", "One video", "Evaluate anybody's detections"):
        section = readme.split(f"\n## {title}\n")[1].split("\n## ")[0]
        assert 3 <= len([line for line in section.splitlines() if line]) < 15, title
