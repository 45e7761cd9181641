"""Run all fault campaigns within a bounded time and print one table (`make test-faults`).

    python tests/faults/run.py [--budget SECONDS] [--jobs N] [--only NAME …] [--out REPORT.json] [--doc PAGE.md]

Each campaign runs in a process of its own, `--jobs` of them at a time: most cases keep one core busy.

With `--doc`, the table replaces the one between the two comments `fault table` of a Markdown file, with its date and
command.
TAD_FAULT_SEED=N chooses other moments and places of the faults.

Exit status 0: every injected fault was survived. 1: finished work was lost, a fault was silent, or there was a
traceback. 2: no such campaign.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(path) for path in (HERE, HERE.parent, HERE.parent / "workflow", HERE.parents[1])]

from cases import LOST, OUTCOMES, SILENT, SKIPPED, SURVIVED, TRACEBACK, Case  # noqa: E402

BUDGET_SECONDS = 1080.0  # 18 of the 20 minutes that the whole target may take
PATIENCE_SECONDS = 300.0  # of a campaign beyond twice its budget: cases take longer on a busy machine
BEGIN, END = "<!-- fault table: begin -->", "<!-- fault table: end -->"
BAD = (LOST, SILENT, TRACEBACK)


class Result(NamedTuple):
    """The cases of one campaign and how long it took."""

    name: str
    title: str
    cases: list[Case]
    seconds: float


def campaigns() -> dict[str, ModuleType]:
    """Import all campaigns of this folder, by name."""
    names = sorted(path.stem for path in HERE.glob("campaign_*.py"))
    return {name.removeprefix("campaign_"): importlib.import_module(name) for name in names}


def weight_of(campaign: ModuleType) -> float:
    """Return a campaign's share of the budget, relative to the other campaigns."""
    return float(getattr(campaign, "WEIGHT", 1.0))


def title_of(name: str) -> str:
    """Return the title of a campaign in the table."""
    return (campaigns()[name].__doc__ or name).strip().partition("\n")[0].rstrip(".")


def attempt(name: str, campaign: ModuleType, seconds: float) -> Result:
    """Run one campaign; an exception in it counts as a traceback, so that the other campaigns still run."""
    started = time.monotonic()
    try:
        cases = list(campaign.run(seconds)) or [
            Case(f"the campaign {name} itself", SKIPPED, f"no case in {seconds:.0f} s")
        ]
    except Exception as error:
        traceback.print_exc()
        cases = [Case(f"the campaign {name} itself", TRACEBACK, f"{type(error).__name__}: {error}"[:200])]
    unknown = {case.outcome for case in cases} - OUTCOMES.keys()
    assert not unknown, f"campaign {name} returned unknown outcomes {unknown}"
    return Result(name, title_of(name), cases, time.monotonic() - started)


def in_process(name: str, seconds: float) -> Result:
    """Run one campaign in a process of its own; what it prints appears at once."""
    print(f"{name}: up to {seconds:.0f} s …", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tad-faults-") as folder:
        report = Path(folder) / "report.json"
        words = [sys.executable, str(HERE / "run.py"), "--only", name, "--budget", str(seconds), "--out", str(report)]
        try:
            status = subprocess.run(
                words, stdout=subprocess.DEVNULL, check=False, timeout=2 * seconds + PATIENCE_SECONDS
            ).returncode
        except subprocess.TimeoutExpired:  # a case hangs
            status = None
        if report.exists():
            (cases,) = json.loads(report.read_text(encoding="utf-8")).values()
            return Result(name, title_of(name), [Case(**case) for case in cases], time.monotonic() - began)
    note = f"it did not end in {2 * seconds + PATIENCE_SECONDS:.0f} s" if status is None else f"it ended with {status}"
    return Result(
        name, title_of(name), [Case(f"the campaign {name} itself", TRACEBACK, note)], time.monotonic() - began
    )


def shared_out(
    weights: dict[str, float], budget: float, jobs: int, start: Callable[[str, float], Result]
) -> list[Result]:
    """Run campaigns, `jobs` at a time; time that one does not use is given to those after it.

    The lightest come first, so that each is tried on a slow machine too; the heaviest ones fill the time that is left.

    Args:
        weights: the campaigns' shares of the time, by name.
        budget: seconds for all of them together.
        jobs: how many run at the same time.
        start: runs a campaign, given by its name, for a number of seconds.

    Returns:
        the results in the order of `weights`.
    """
    end = time.monotonic() + budget
    left = sorted(weights, key=weights.__getitem__)
    running: dict[Future[Result], float] = {}  # → when its time is over
    results: dict[str, Result] = {}
    with ThreadPoolExecutor(jobs) as pool:
        while left or running:
            while left and len(running) < jobs:
                now = time.monotonic()
                free = (jobs - len(running)) * (end - now) + sum(end - until for until in running.values())
                share = free * weights[left[0]] / sum(map(weights.__getitem__, left))
                seconds = max(min(share, end - now), 0.0)
                running[pool.submit(start, left.pop(0), seconds)] = now + seconds
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                del running[future]
                results[future.result().name] = future.result()
    return [results[name] for name in weights]


def table(results: Sequence[Result]) -> str:
    """Return a Markdown table with one row per campaign and a sum."""
    head = ("campaign", "cases tried", "survived", "lost", "silent", "tracebacks", "skipped", "seconds")
    rows = []
    for result in results:
        counts = Counter(case.outcome for case in result.cases)
        tried = len(result.cases) - counts[SKIPPED]
        numbers = [tried, *(counts[outcome] for outcome in (SURVIVED, *BAD, SKIPPED)), round(result.seconds)]
        rows.append([result.title, *numbers])
    rows.append(["all", *(sum(column) for column in list(zip(*rows, strict=True))[1:])])
    lines = [list(map(str, row)) for row in (head, *rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(head))]
    text = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in lines
    ]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(text)


def write_into(doc: Path, text: str, seconds: float) -> None:
    """Replace what stands between the two markers of a Markdown file by the table, with its date and command."""
    before, _, rest = doc.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    assert end, f"{doc} has no {BEGIN} and {END}"
    command = f"make test-faults BUDGET={seconds:.0f}"
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    said = f"{datetime.now(UTC):%Y-%m-%d}, `{command}`, {os.cpu_count()} cores, load at the end {load}:"
    doc.write_text(f"{before}{BEGIN}\n{said}\n\n{text}\n{END}{after}", encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Run the chosen campaigns; time that one does not use is given to those after it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--budget", type=float, default=BUDGET_SECONDS, help="seconds for all campaigns together")
    jobs = os.cpu_count() or 1
    parser.add_argument("--jobs", type=int, default=jobs, help=f"campaigns at the same time; default: {jobs}")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="campaigns to run; default: all")
    parser.add_argument("--out", type=Path, help="write all cases to this JSON file")
    parser.add_argument("--doc", type=Path, help="write the table into this Markdown file")
    a = parser.parse_args(argv)
    found = campaigns()
    if unknown := [name for name in a.only if name not in found]:
        print(f"no campaign named {', '.join(unknown)}; there are: {', '.join(found)}", file=sys.stderr)
        return 2
    chosen = {name: campaign for name, campaign in found.items() if not a.only or name in a.only}
    weights = {name: weight_of(campaign) for name, campaign in chosen.items()}
    if len(chosen) == 1:
        results = [attempt(name, campaign, a.budget) for name, campaign in chosen.items()]
    else:
        results = shared_out(weights, a.budget, a.jobs, in_process)
    print(f"\n{table(results)}\n")
    bad = [case for result in results for case in result.cases if case.outcome in BAD]
    for case in [case for result in results for case in result.cases if case.outcome in (*BAD, SKIPPED)]:
        print(f"{case.outcome}: {case.name}: {case.note}")
    if a.doc:
        write_into(a.doc, table(results), a.budget)
    if a.out:
        report = {result.name: [case._asdict() for case in result.cases] for result in results}
        a.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    tried = any(case.outcome != SKIPPED for result in results for case in result.cases)
    return 0 if tried and not bad else 1


if __name__ == "__main__":
    sys.exit(main())
