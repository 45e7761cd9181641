"""Fuzz the readers with atheris, which guides its edits by the Python code that they execute.

    python tests/faults/fuzz_readers.py [--seconds 60] [--only READER …] [--found FOLDER]

Needs `pip install atheris` (Linux, Python 3.11 or later). Each reader gets an equal share of the time, in a process of
its own. A file that a reader does not refuse in one line is written to FOLDER, and the exit status is 1. Add such a
file, made small, to tests/corpus/<reader>/: the tests and the campaign read everything there.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]
LONGEST = 65536  # bytes of a file


def _fuzz(kind: str, seconds: int, found: Path) -> None:
    import atheris

    # what a reader needs is imported by reading a valid file; only modules that were not imported before are guided by
    with (
        atheris.instrument_imports(include=["tad", "json", "yaml", "csv", "pickletools", "zipfile", "xml"]),
        tempfile.TemporaryDirectory() as text,
    ):
        from hostile_tools import CORPUS, READERS, refused, write

        reader = READERS[kind]
        refused(write(Path(text) / f"seed{reader.suffix}", reader.seeds()[0], kind), kind)
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        (folder / "seeds").mkdir()
        for number, content in enumerate([*reader.seeds(), *(p.read_bytes() for p in (CORPUS / kind).glob("*"))]):
            (folder / "seeds" / str(number)).write_bytes(content)
        path = folder / f"fuzzed{reader.suffix}"
        atheris.Setup(
            [sys.argv[0], str(folder / "seeds"), f"-max_total_time={seconds}", f"-max_len={LONGEST}", "-seed=1",
             f"-artifact_prefix={found}/{kind.replace(' ', '-')}-", "-rss_limit_mb=4096", "-verbosity=1"],
            lambda content: refused(write(path, content, kind), kind),
        )  # fmt: skip
        atheris.Fuzz()


def main() -> int:
    """Fuzz all readers; return 1 if a file was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, help="for all readers together")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--found", type=Path, default=Path("found"))
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.one:
        _fuzz(a.one, a.seconds, a.found)
        return 0
    from hostile_tools import READERS

    if unknown := set(a.only) - READERS.keys():
        parser.error(f"no reader is called {', '.join(sorted(unknown))}; there are {', '.join(READERS)}")
    a.found.mkdir(parents=True, exist_ok=True)
    failed = 0
    kinds = a.only or list(READERS)
    for kind in kinds:
        share = max(a.seconds // len(kinds), 1)
        command = [sys.executable, __file__, "--one", kind, "--seconds", str(share), "--found", str(a.found.resolve())]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        sys.stderr.write(done.stderr)
        if done.returncode:
            failed = 1
            lines = [line for line in done.stderr.splitlines() if "Error" in line or "ERROR" in line]
            print(f"{kind}: {(lines or ['failed'])[0][:200]}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
