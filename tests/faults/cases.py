"""What a fault campaign returns: one `Case` per injected fault.

A campaign is a module `campaign_<name>.py` in this folder. `run.py` finds it by its name. It has

- a docstring, whose first line is the title in the table,
- optionally `WEIGHT` (default 1.0), its share of the budget relative to the other campaigns,
- `run(budget_seconds: float) -> list[Case]`, which returns in about `budget_seconds`: it injects faults until the time
  is used up or its list is finished, and returns what it tried. It cleans up after itself and changes no global state.
"""

import os
import re
from typing import NamedTuple

SEED = int(os.environ.get("TAD_FAULT_SEED", "0"))  # other moments and places of the faults
SURVIVED = "survived"
LOST = "lost"
SILENT = "silent"
TRACEBACK = "traceback"
SKIPPED = "skipped"
OUTCOMES = {
    SURVIVED: "the result is right, or the error is one line with a non-zero exit status, and nothing finished is lost",
    LOST: "finished work is lost, something is left over, or the result is not that of an undisturbed run",
    SILENT: "exit status 0, or no message, although the result is wrong or missing",
    TRACEBACK: "a Python traceback, a crash of the process by a signal of its own, or a hang",
    SKIPPED: "the fault cannot be injected on this machine; the note says why",
}


class Case(NamedTuple):
    """One injected fault.

    Attributes:
        name: what was done, such as `kill -9 of train at 1.32 s`.
        outcome: a key of `OUTCOMES`.
        note: for any outcome but `survived`, what was seen.
    """

    name: str
    outcome: str
    note: str = ""


def judge(name: str, status: int, output: str, *, longest: int = 500) -> Case:
    """Judge a command that has to fail: a non-zero exit status and one line, no traceback and no signal.

    Args:
        name: name of the case.
        status: exit status as `subprocess` returns it (negative: killed by a signal).
        output: everything that the command wrote to standard error.
        longest: most characters of the line with the error.
    """
    last = output.strip().splitlines()[-1] if output.strip() else ""
    if "Traceback (most recent call last)" in output:
        return Case(name, TRACEBACK, last[:longest])
    if status < 0:
        return Case(name, TRACEBACK, f"killed by signal {-status}: {last[:longest]}")
    if status == 0 or not last:
        return Case(name, SILENT, f"exit status {status}: {last[:longest]}")
    if not re.match(r"tad [\w-]+: ", last):
        return Case(name, TRACEBACK, f"the last line is no message of tad: {last[:longest]}")
    if len(last) > longest:
        return Case(name, TRACEBACK, f"a message of {len(last)} characters: {last[:120]} …")
    return Case(name, SURVIVED)
