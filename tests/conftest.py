"""Shared fixtures: where the oracles lie, and seeds."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with golden outputs and real data; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("TAD_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip("the shared oracles are not beside this checkout")
    return folder
