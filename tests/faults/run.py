"""Run all fault campaigns within a bounded time and print one table (`make test-faults`).

    python tests/faults/run.py [--budget SECONDS] [--only NAME …] [--out REPORT.json] [--doc docs/reliability.md]

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
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(path) for path in (HERE, HERE.parent, HERE.parent / "workflow", HERE.parents[1])]

from cases import LOST, OUTCOMES, SILENT, SKIPPED, SURVIVED, TRACEBACK, Case  # noqa: E402

BUDGET_SECONDS = 1080.0  # 18 of the 20 minutes that the whole target may take
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


def attempt(name: str, campaign: ModuleType, seconds: float) -> Result:
    """Run one campaign; an exception in it counts as a traceback, so that the other campaigns still run."""
    title = (campaign.__doc__ or name).strip().partition("\n")[0].rstrip(".")
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
    return Result(name, title, cases, time.monotonic() - started)


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
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="campaigns to run; default: all")
    parser.add_argument("--out", type=Path, help="write all cases to this JSON file")
    parser.add_argument("--doc", type=Path, help="write the table into this Markdown file")
    a = parser.parse_args(argv)
    found = campaigns()
    if unknown := [name for name in a.only if name not in found]:
        print(f"no campaign named {', '.join(unknown)}; there are: {', '.join(found)}", file=sys.stderr)
        return 2
    chosen = {name: campaign for name, campaign in found.items() if not a.only or name in a.only}
    results: list[Result] = []
    end = time.monotonic() + a.budget
    for name, campaign in chosen.items():
        left = sum(map(weight_of, list(chosen.values())[len(results) :]))
        seconds = max(end - time.monotonic(), 0.0) * weight_of(campaign) / left
        print(f"{name}: up to {seconds:.0f} s …", flush=True)
        results.append(attempt(name, campaign, seconds))
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
