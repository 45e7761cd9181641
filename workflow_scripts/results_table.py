"""Write the table of all map.json files of the workflow as Markdown to a file, and print it."""

import argparse
import sys
from pathlib import Path

from tad.core.errors import TadError
from tad.core.files import publish
from tad.core.processes import end_with_supervisor
from tad.table import render


def main(argv: list[str] | None = None) -> int:
    """Write and print the table. If a file is not a score, return 1 and print one line to standard error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scores", type=Path, nargs="*", help="map.json of each run")
    parser.add_argument("--out", type=Path, required=True)
    a = parser.parse_args(argv)
    end_with_supervisor()
    try:
        text = render(a.scores) if a.scores else "No run has a score yet.\n"
    except TadError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    with publish(a.out) as partial:
        partial.write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
