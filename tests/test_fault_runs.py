"""The runner of the fault campaigns: it finds them, shares the time, counts, and fails if a fault was not survived."""

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given as given_all
from hypothesis import settings
from hypothesis import strategies as st

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
    monkeypatch.setattr(runner, "in_process", lambda name, seconds: runner.attempt(name, fakes[name], seconds))
    doc = tmp_path / "doc.md"
    doc.write_text(f"above\n{runner.BEGIN}\nan older table\n{runner.END}\nbelow\n")
    assert runner.main(["--budget", "40", "--jobs", "1", "--doc", str(doc)]) == status
    written = doc.read_text()
    assert "| Title a" in written
    assert "`make test-faults BUDGET=40`" in written
    assert "older" not in written
    assert written.startswith("above\n")
    assert written.endswith("\nbelow\n")
    assert given["a"] == pytest.approx(10, abs=0.5), "the lightest comes first"
    assert given["b"] == pytest.approx(40, abs=0.5), "b has the time that a did not use"
    printed = capsys.readouterr().out
    assert "| Title a" in printed
    assert f"{SKIPPED}: the campaign b itself: no case in 40 s" in printed
    if outcome != SURVIVED:
        assert f"{outcome}: two: why" in printed


@settings(max_examples=30)
@given_all(
    weights=st.lists(st.floats(0.1, 5), min_size=1, max_size=9),
    used=st.lists(st.floats(0, 1), min_size=9, max_size=9),
    jobs=st.integers(1, 4),
)
def test_campaigns_side_by_side_keep_the_budget(weights: list[float], used: list[float], jobs: int) -> None:
    budget, began = 0.2, time.monotonic()
    running: list[str] = []
    most = [0]
    ends: dict[str, float] = {}

    def start(name: str, seconds: float) -> runner.Result:
        running.append(name)
        most[0] = max(most[0], len(running))
        ends[name] = time.monotonic() - began + seconds
        time.sleep(seconds * used[int(name)])
        running.remove(name)
        return runner.Result(name, name, [], seconds)

    results = runner.shared_out({str(k): weight for k, weight in enumerate(weights)}, budget, jobs, start)
    assert [result.name for result in results] == [str(k) for k in range(len(weights))], "each once, in their order"
    assert most[0] <= jobs
    assert max(ends.values()) <= budget + 0.1, "none is allowed to end after all time is over"


def test_a_campaign_in_a_process_of_its_own_brings_its_cases_back() -> None:
    result = runner.in_process("exits", 0.01)
    assert result.name == "exits"
    assert result.cases
    assert all(isinstance(case, Case) for case in result.cases)


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
