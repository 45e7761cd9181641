"""The configuration of the repository for tests: copy it elsewhere, or read all of its rows as plain values."""

import shutil
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]


def copy_config(folder: Path) -> Path:
    """Copy config.yaml and the files that it includes into a folder; return the path of the copy."""
    shutil.copytree(ROOT / "zoo", folder / "zoo", dirs_exist_ok=True)
    return Path(shutil.copy(ROOT / "config.yaml", folder / "config.yaml"))


def all_rows() -> dict[str, Any]:
    """Return the values of config.yaml merged with the rows of the included files, as if they were one file."""
    values = yaml.safe_load((ROOT / "config.yaml").read_text())
    del values["include"]
    for path in sorted((ROOT / "zoo").glob("*.yaml")):
        for kind, rows in yaml.safe_load(path.read_text()).items():
            assert not values[kind].keys() & rows.keys(), path
            values[kind] |= rows
    return values
