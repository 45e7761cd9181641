"""Locate the files of the workflow: in the package if it was installed from a wheel, else in the checkout.

The files are the Snakefile and the folders rules, profiles, zoo, envs and workflow_scripts.
"""

import os
import sys
from pathlib import Path

from tad.core.errors import TadError

PACKAGE = Path(__file__).parents[1]
INSTALLED = PACKAGE / "workflow" / "bundle"
ROOT = INSTALLED if INSTALLED.is_dir() else PACKAGE.parent


def workflow_file(name: str) -> Path:
    """Return the path of a file or folder of the workflow, such as `Snakefile` or `profiles/slurm`.

    Raises:
        TadError: it does not exist, because the package was copied without the workflow.
    """
    path = ROOT / name
    if not path.exists():
        raise TadError(f"{path}: no such file; install the distribution temporal-action-detection again")
    return path


def python_module(name: str) -> list[str]:
    """Return the command that runs a module of this package or another, in the current environment.

    With `-P`, modules in the working folder, which is the user's, do not replace those of Python or of this package.
    """
    return [sys.executable, *(() if Path.cwd() == PACKAGE.parent else ("-P",)), "-m", name]


def import_path(*, other_python: bool) -> Path:
    """Return the folder from which jobs import `tad`, for PYTHONPATH.

    In a checkout it is the checkout. An installed package is found without it, except by another Python, such as that
    of a conda environment: for this, a folder below `.snakemake/` holds a link to the package, and nothing else of the
    packages beside it.
    """
    if INSTALLED != ROOT or not other_python:
        return ROOT
    folder = Path(".snakemake/tad_package").absolute()
    link = folder / "tad"
    if not link.is_symlink() or link.resolve() != PACKAGE.resolve():
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"tad.{os.getpid()}"
        partial.symlink_to(PACKAGE, target_is_directory=True)
        partial.replace(link)
    return folder
