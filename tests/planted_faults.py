"""Plant small faults in a copy of the checkout, one at a time, and report which of them the named tests catch.

Run by hand: `python tests/planted_faults.py [--only NAME ...] [--jobs 2]`. The faults are the table
`planted_faults.toml`. Each row names the tests that ought to fail. First all of these tests run without a fault: a row
whose tests do not pass then counts for nothing.

Exit status: 1 if fewer than `LEAST` faults are caught, or a smaller share of them than `SHARE` (with `--only`: if one
of the chosen is not).
"""

import argparse
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = Path(__file__).with_suffix(".toml")
LEAST, SHARE = 57, 0.95  # caught faults, and their share: 57 of 60
SECONDS = 600.0  # of one row: most take about 10, many times that where the cores are shared
PASSED, FAILED = 0, 1  # exit statuses of pytest


@dataclass(frozen=True)
class Fault:
    """A change of one place in the code.

    Attributes:
        name: what is wrong then.
        file: relative to the checkout.
        old: the code as it is, which occurs once in the file.
        new: the code with the fault.
        tests: files or node ids, of which at least one is to fail.
        seconds: time limit; a row that reaches it counts as survived.
        why: of a fault that no test is expected to catch, the reason.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    seconds: float = SECONDS
    why: str = ""


@dataclass(frozen=True)
class Result:
    """The outcome of a row: caught, survived or stale, and the test that failed or what was found instead."""

    fault: Fault
    verdict: str
    remark: str


def read_faults(path: Path = TABLE) -> list[Fault]:
    """Return the rows of the table."""
    rows = tomllib.loads(path.read_text(encoding="utf-8"))["fault"]
    return [Fault(**{**row, "tests": tuple(row["tests"])}) for row in rows]


def copy_checkout(target: Path) -> Path:
    """Copy the files that git knows or would know to `target`, with a link to the virtual environment."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    if (ROOT / ".venv").exists() and not (target / ".venv").exists():
        (target / ".venv").symlink_to((ROOT / ".venv").resolve())
    return target


def run_tests(copy: Path, tests: Sequence[str], *, seconds: float, loops: Path, first: bool) -> tuple[int, str]:
    """Run tests in a copy of the checkout: the exit status of pytest (-1: out of time), and what it printed.

    `loops` is the cache of compiled loops. No bytecode is written: its dates are too coarse for edits like these.
    """
    shared = os.environ.get("TAD_SHARED", str(ROOT.parent / "shared"))
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(copy), "TAD_SHARED": shared,
        "PYTHONDONTWRITEBYTECODE": "1", "NUMBA_CACHE_DIR": str(loops),
    }  # fmt: skip
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "--tb=line", "-rfE"]
    try:
        done = subprocess.run(
            [*command, *(["-x"] if first else []), *tests],
            cwd=copy, env=environment, timeout=seconds, capture_output=True, text=True, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return -1, ""
    return done.returncode, done.stdout + done.stderr


def failures(output: str) -> list[str]:
    """Return the node ids that pytest's summary lists as failed."""
    lines = (line for line in output.splitlines() if line.startswith(("FAILED tests/", "ERROR tests/")))
    return [line.split(" ", 1)[1].split(" - ")[0] for line in lines]


def try_fault(fault: Fault, copy: Path, loops: Path, broken: Sequence[str]) -> Result:
    """Plant one fault in a copy, run its tests and take it out again."""
    path = copy / fault.file
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if text.count(fault.old) != 1 or fault.old == fault.new:
        return Result(fault, "stale", f"the old text occurs {text.count(fault.old)} times in {fault.file}")
    unsound = [test for test in fault.tests if any(name.startswith(test) for name in broken)]
    if unsound:
        return Result(fault, "stale", f"{unsound[0]} fails without the fault")
    path.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
    try:
        with tempfile.TemporaryDirectory() as fresh:  # a cached loop does not notice that one it calls has changed
            own = Path(fresh) if "@compiled" in text else loops
            status, output = run_tests(copy, fault.tests, seconds=fault.seconds, loops=own, first=True)
    finally:
        path.write_text(text, encoding="utf-8")
    if status == FAILED:
        return Result(fault, "caught", (failures(output) or ["?"])[0])
    if status == PASSED:
        return Result(fault, "survived", fault.why or "no test fails: write one")
    if status == -1:
        return Result(fault, "survived", f"no verdict within {fault.seconds:g} s")
    return Result(fault, "stale", f"pytest ends with status {status}: {output.strip().splitlines()[-1]}")


def broken_tests(faults: Sequence[Fault], copy: Path, loops: Path) -> list[str]:
    """Return those of the named tests that fail without any fault."""
    tests = sorted({test for fault in faults for test in fault.tests})
    status, output = run_tests(copy, tests, seconds=60 * SECONDS, loops=loops, first=False)
    if status not in (PASSED, FAILED):
        sys.exit(f"the tests do not run without a fault:\n{output}")
    return failures(output)


def try_all(faults: Sequence[Fault], jobs: int) -> list[Result]:
    """Try the faults in as many copies as jobs, and print each verdict."""
    with tempfile.TemporaryDirectory(prefix="tad-faults-") as folder:
        copies: queue.Queue[Path] = queue.Queue()
        for k in range(jobs):
            copies.put(copy_checkout(Path(folder) / f"copy-{k}" / "tad"))
        loops = Path(folder) / "loops"
        broken = broken_tests(faults, copies.queue[0], loops)

        def one(fault: Fault) -> Result:
            copy = copies.get()
            try:
                result = try_fault(fault, copy, loops, broken)
            finally:
                copies.put(copy)
            print(f"{result.verdict:<9} {fault.file}: {fault.name}\n          {result.remark}", flush=True)
            return result

        with ThreadPoolExecutor(jobs) as pool:
            return list(pool.map(one, faults))


def main() -> int:
    """Read the command line, try the faults and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], help="parts of names or files of the faults to try")
    parser.add_argument("--jobs", type=int, default=2, help="copies of the checkout that are tested at once")
    asked = parser.parse_args()
    faults = [f for f in read_faults() if not asked.only or any(part in f"{f.file} {f.name}" for part in asked.only)]
    if not faults:
        sys.exit(f"no fault is called {' or '.join(asked.only)}")
    results = try_all(faults, max(asked.jobs, 1))
    counts = Counter(result.verdict for result in results)
    print(f"{counts['caught']} of {len(results)} caught, {counts['survived']} survived, {counts['stale']} stale")
    for result in results:
        if result.verdict != "caught":
            print(f"{result.verdict}: {result.fault.name} ({result.fault.file}): {result.remark}")
    least = len(results) if asked.only else max(LEAST, SHARE * len(results))
    return int(counts["caught"] < least)


if __name__ == "__main__":
    sys.exit(main())
