"""The scratch checkout, made and run once per session."""

from collections.abc import Iterator

import pytest
from scratch import Checkout, make_checkout


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout after one whole run."""
    checkout = make_checkout(tmp_path_factory.mktemp("checkout") / "tad")
    checkout.make()
    return checkout


@pytest.fixture
def checkout(finished: Checkout) -> Iterator[Checkout]:
    """The finished checkout, to edit and to plan in; edits are undone afterwards."""
    yield finished
    finished.restore()
