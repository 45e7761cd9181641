"""Shared fixtures: the folder with reference data, and deterministic settings."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # set before torch starts its threads, as cores may be shared
os.environ.setdefault("GOMP_SPINCOUNT", "0")
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):  # each worker uses its share of the cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // workers, 1)))

# A shell that runs the tests in the background ignores Ctrl-C for them and all that they start; tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

# the cores may be shared: a slow example is no failure
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")


@pytest.hookimpl(tryfirst=True)  # before the hook of pytest-xdist, which reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group tests for several workers (`--dist loadgroup`). The tests of one file stay together. All tests that need
    the scratch checkout run on one worker, because it takes minutes to create and run. Tests that run whole workflows
    come first; at the end they would keep a single worker busy.
    """

    def checkout(item: pytest.Item) -> bool:
        return "finished" in getattr(item, "fixturenames", ())

    for item in items:
        item.add_marker(pytest.mark.xdist_group("checkout" if checkout(item) else str(item.path)))
    items.sort(key=lambda item: (not checkout(item), item.path.parent.name != "workflow"))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Stop where a new version of pytest or pytest-xdist does not group the tests: fixtures of a file or session would
    be made on every worker, and the tests take twice as long.
    """
    if getattr(session.config.option, "loadgroup", False) and not all("@" in item.nodeid for item in session.items):
        raise pytest.UsageError("pytest-xdist has not grouped the tests; install the versions of requirements-dev.txt")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder with golden outputs and real data; tests that need it are skipped if it is absent."""
    folder = Path(os.environ.get("TAD_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip("the shared oracles are not beside this checkout")
    return folder


USUAL: list[int] = []  # torch's number of threads when the tests begin


@pytest.fixture(autouse=True)
def _usual_threads() -> None:
    """Give torch its usual number of threads again, which a training in an earlier test of this process may change."""
    torch = sys.modules.get("torch")
    if torch and USUAL and torch.get_num_threads() != USUAL[0]:
        torch.set_num_threads(USUAL[0])
    elif torch and not USUAL:
        USUAL.append(torch.get_num_threads())


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Limit torch to one thread, because results are bit-identical only for equal numbers of threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
