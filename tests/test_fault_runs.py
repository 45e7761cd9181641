"""The runner of the fault campaigns: it finds them, shares the time, counts, and fails if a fault was not survived."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parent / "faults"))

import run as runner
from cases import LOST, SILENT, SKIPPED, SURVIVED, TRACEBACK, Case, judge


def test_every_campaign_can_be_found_and_has_a_title() -> None:
    found = runner.campaigns()
    assert "exits" in found
    for name, campaign in found.items():
        assert campaign.__doc__, name
        assert callable(campaign.run), name
        assert runner.weight_of(campaign) > 0, name


@pytest.mark.parametrize(("outcome", "status"), [(SURVIVED, 0), (SKIPPED, 0), (LOST, 1), (SILENT, 1), (TRACEBACK, 1)])
def test_status_says_whether_all_was_survived(
    outcome: str,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    given: dict[str, float] = {}

    def fake(name: str, weight: float, cases: list[Case]) -> SimpleNamespace:
        return SimpleNamespace(__doc__=f"Title {name}.", WEIGHT=weight, run=lambda s: given.update({name: s}) or cases)

    fakes = {"a": fake("a", 1, [Case("one", SURVIVED), Case("two", outcome, "why")]), "b": fake("b", 3, [])}
    monkeypatch.setattr(runner, "campaigns", lambda: fakes)
    doc = tmp_path / "doc.md"
    doc.write_text(f"above\n{runner.BEGIN}\nan older table\n{runner.END}\nbelow\n")
    assert runner.main(["--budget", "40", "--doc", str(doc)]) == status
    written = doc.read_text()
    assert "| Title a" in written
    assert "`make test-faults BUDGET=40`" in written
    assert "older" not in written
    assert written.startswith("above\n")
    assert written.endswith("\nbelow\n")
    assert given["a"] == pytest.approx(10, abs=0.5)
    assert given["b"] == pytest.approx(40, abs=0.5), "b has the time that a did not use"
    printed = capsys.readouterr().out
    assert "| Title a" in printed
    assert f"{SKIPPED}: the campaign b itself: no case in 40 s" in printed
    if outcome != SURVIVED:
        assert f"{outcome}: two: why" in printed


def test_a_campaign_that_fails_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(seconds: float) -> list[Case]:
        raise ValueError("broken")

    monkeypatch.setattr(runner, "campaigns", lambda: {"a": SimpleNamespace(__doc__="A.", run=fail)})
    assert runner.main([]) == 1
    assert runner.main(["--only", "nobody"]) == 2
    monkeypatch.setattr(runner, "campaigns", lambda: {"a": SimpleNamespace(__doc__="A.", run=lambda seconds: [])})
    assert runner.main([]) == 1, "nothing was tried"


@pytest.mark.parametrize(
    ("status", "output", "outcome"),
    [
        (1, "INFO start\ntad merge: x.h5: no such file\n", SURVIVED),
        (0, "tad merge: x.h5: no such file\n", SILENT),
        (1, "", SILENT),
        (1, "Traceback (most recent call last):\n  ...\nKeyError: 'a'\n", TRACEBACK),
        (-11, "tad merge: x\n", TRACEBACK),
        (1, "KeyError: 'a'\n", TRACEBACK),
        (1, "tad merge: " + "x" * 600, TRACEBACK),
    ],
)
def test_judge(status: int, output: str, outcome: str) -> None:
    assert judge("case", status, output).outcome == outcome
