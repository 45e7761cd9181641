"""Shared fixtures: where the oracles lie, and seeds."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch starts its threads: the cores may be shared
os.environ.setdefault("GOMP_SPINCOUNT", "0")
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):  # each takes its share of the cores, and no more
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // workers, 1)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For several workers (`--dist loadgroup`): a file's tests stay together, and all that need the scratch checkout,
    which takes minutes to make and to run, are of one worker. What runs whole workflows comes first: at the end one
    worker would be left alone with it."""

    def checkout(item: pytest.Item) -> bool:
        return "finished" in getattr(item, "fixturenames", ())

    for item in items:
        item.add_marker(pytest.mark.xdist_group("checkout" if checkout(item) else str(item.path)))
    items.sort(key=lambda item: (not checkout(item), item.path.parent.name != "workflow"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with golden outputs and real data; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("TAD_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip("the shared oracles are not beside this checkout")
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch on one thread: bits are equal for equal numbers of threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
