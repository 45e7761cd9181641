"""How long waiting threads look for work, by what else runs on the machine."""

from pathlib import Path

import pytest

from tad.core.openmp import spins


@pytest.mark.parametrize(
    ("said", "expected"),
    [("0.10 0.20 0.30 1/345 678\n", 20000), ("7.9 8.0 8.1 9/345 678\n", 1000), ("nonsense", 1000), (None, 1000)],
    ids=["alone", "busy", "unreadable", "not Linux"],
)
def test_waiting_threads_spin_long_only_on_an_idle_machine(tmp_path: Path, said: str | None, expected: int) -> None:
    path = tmp_path / "loadavg"
    if said is not None:
        path.write_text(said)
    assert spins(path) == expected
