"""The house: few modules loose in the package, no import upward, whole folders without torch."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def folders_without_torch() -> list[str]:
    contract = next(c for c in CONTRACTS if c.get("forbidden_modules") == ["torch"])
    return [name.removeprefix("tad.") for name in contract["source_modules"]]


def test_no_module_lies_loose() -> None:
    assert {path.name for path in (ROOT / "tad").glob("*.py")} == {"__init__.py", "__main__.py"}


def test_contracts_name_folders() -> None:
    """One line a floor, and every folder is on one of them (`exhaustive`)."""
    layers = next(c for c in CONTRACTS if c["type"] == "layers")
    named = {name.strip() for line in layers["layers"] for name in line.split("|")}
    assert named == {path.parent.name for path in (ROOT / "tad").glob("*/__init__.py")}
    assert layers["exhaustive"]


@pytest.mark.parametrize("folder", folders_without_torch())
def test_a_folder_without_torch(folder: str) -> None:
    """Importing every module of the folder imports neither torch nor torchvision."""
    files = sorted((ROOT / "tad" / folder).rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in files]
    assert names
    program = "import sys, importlib\nfor name in sys.argv[1:]: importlib.import_module(name)\n"
    program += "print(sorted({'torch', 'torchvision'} & set(sys.modules)))"
    command = [sys.executable, "-c", program, *names]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
