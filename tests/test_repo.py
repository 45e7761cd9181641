"""The checkout itself: pins that agree, commands that exist, files that stay small."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


def pins() -> dict[str, str]:
    text = (ROOT / "requirements.txt").read_text()
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
        assert (ROOT / (path[0] or path[1])).is_file(), path


def test_files_stay_small_and_name_no_machine() -> None:
    for path in tracked():
        if path.suffix in {".py", ".smk"} or path.name in {"Snakefile", "Makefile"}:
            text = path.read_text()
            assert text.count("\n") <= 400, path
            assert not re.search(r"(?<![\w.])/(?:wor" r"k|hom" r"e|roo" r"t)/", text), path


def test_the_citation_names_every_method() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    notes = " ".join(entry["notes"] for entry in citation["references"])
    for path in [*(ROOT / "tad" / "detectors").glob("*.yaml"), *(ROOT / "tad" / "backbones").glob("*.yaml")]:
        assert f"`{path.stem}`" in notes, path.stem
    assert citation["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
