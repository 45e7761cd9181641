"""All map.json → the workflow's table as Markdown, written to a file and printed."""

import argparse
import sys
from pathlib import Path

from tad.errors import TadError
from tad.files import publish
from tad.table import render


def main(argv: list[str] | None = None) -> int:
    """Write and print the table; 1 and one line on standard error for files that are no scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scores", type=Path, nargs="*", help="map.json of each run")
    parser.add_argument("--out", type=Path, required=True)
    a = parser.parse_args(argv)
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
