"""Hostile and broken files in every reader.

Files that declare far more than they hold, then files with random edits, read as the stages read them. A refusal must
be one printable line of at most 500 characters. With the package `atheris` (tests/faults/fuzz_readers.py), edits are
also guided by what the readers execute.
"""

import importlib.util
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cases import LOST, SURVIVED, TRACEBACK, Case
from hostile_bombs import BOMBS
from hostile_tools import CORPUS, PIECES, READERS, edited, refused, write

WEIGHT = 1.0
SEED = 20261129
GUIDED_SHARE = 0.3  # of the budget, for atheris
BATCH = 200  # files per case
MEMORY = 1 << 20  # KiB that the peak may grow
CHILD = "import sys; sys.path[:0] = {paths!r}; import campaign_hostile as c; c.read_bombs({folder!r})"


def read_bombs(folder: str) -> None:
    """Read all of `BOMBS` and print how many KiB the peak of memory grew at each; run in a process of its own."""
    import resource

    for kind in {kind for kind, _ in BOMBS.values()}:  # imports what the readers need
        refused(write(Path(folder) / f"seed{READERS[kind].suffix}", READERS[kind].seeds()[0], kind), kind)
    contents = {name: make() for name, (_, make) in BOMBS.items()}
    for name, (kind, _) in BOMBS.items():
        path = write(Path(folder) / f"bomb{READERS[kind].suffix}", contents[name], kind)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        said = refused(path, kind)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, bool(said), name, sep="\t", flush=True)


def _bombs(folder: Path) -> list[Case]:
    code = CHILD.format(paths=sys.path[:6], folder=str(folder))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=600)
    cases = []
    for line in done.stdout.splitlines():
        grown, said, name = line.split("\t")
        if int(grown) > MEMORY:
            cases.append(Case(name, LOST, f"the peak of memory grew by {int(grown) >> 10} MiB"))
        else:
            cases.append(Case(name, SURVIVED) if said == "True" else Case(name, LOST, "was read as if it were whole"))
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1][:300]
        cases.append(Case(list(BOMBS)[min(len(cases), len(BOMBS) - 1)], TRACEBACK, why))
    return cases


def _edited(kind: str, folder: Path, draw: random.Random) -> Case:
    """Read files with random edits of valid ones."""
    reader = READERS[kind]
    seeds = [*reader.seeds(), *(path.read_bytes() for path in sorted((CORPUS / kind).glob("*")))]
    count = BATCH // 20 if reader.slow else BATCH
    for _ in range(count):
        edits = [
            (draw.randrange(20_000), draw.randrange(9), draw.choice([*PIECES, draw.randbytes(draw.randrange(9))]))
            for _ in range(draw.randrange(1, 5))
        ]
        content = edited(draw.choice(seeds), edits)
        path = write(folder / f"edited{reader.suffix}", content, kind)
        try:
            refused(path, kind)
        except Exception as error:
            kept = folder.parent / f"tad-hostile-{kind.replace(' ', '-')}{reader.suffix}"
            kept.write_bytes(content)
            return Case(f"{kind}: edited files", TRACEBACK, f"{type(error).__name__}: {error} ({kept})"[:300])
    return Case(f"{kind}: {count} edited files", SURVIVED)


def _guided(seconds: float, folder: Path) -> list[Case]:
    if importlib.util.find_spec("atheris") is None:
        return []
    script = Path(__file__).with_name("fuzz_readers.py")
    command = [sys.executable, str(script), "--seconds", str(int(seconds)), "--found", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 300)
    runs = sum(int(number) for number in re.findall(r"Done (\d+) runs", done.stderr))
    if done.returncode:
        return [Case("guided edits", TRACEBACK, (done.stdout.strip().splitlines() or [done.stderr[-300:]])[-1][:300])]
    if not runs:
        return [Case("guided edits", TRACEBACK, f"nothing was read: {done.stderr.strip()[-250:]}")]
    return [Case(f"{runs} guided edits", SURVIVED)]


def run(budget_seconds: float) -> list[Case]:
    """Read all bombs, then edited files until the time is used up."""
    end, draw = time.monotonic() + budget_seconds, random.Random(SEED)
    cases: list[Case] = []
    with tempfile.TemporaryDirectory(prefix="tad-hostile-") as text:
        folder = Path(text)
        cases += _bombs(folder)
        if time.monotonic() < end:
            cases += _guided(GUIDED_SHARE * (end - time.monotonic()), folder)
        while time.monotonic() < end:
            for kind in READERS:
                if time.monotonic() < end:
                    cases.append(_edited(kind, folder, draw))
    return cases
