"""Collect the warnings of all stages of one workflow call, to be printed at its end."""

from collections.abc import Iterator
from pathlib import Path

from tad.core import notices
from tad.core.printable import one_line
from tad.settings.paths import RESULTS

TITLE = "Warnings of the stages that ran (map.json lists those behind each score):"


def since(started: float, root: Path = Path(RESULTS)) -> Iterator[str]:
    """Return the lines to print: the warnings of every artefact written since `started` (seconds of the epoch).

    A stage passes the warnings of its inputs on, so that those of earlier calls are listed too. A warning that several
    files share is one line.
    """
    fresh = [path for path in sorted(root.rglob(f"{notices.FOLDER}/*.json")) if path.stat().st_mtime >= started]
    artefacts = [path.parent.parent / path.name.removesuffix(".json") for path in fresh]
    lines = notices.lines(notices.join(notices.read(path) for path in artefacts))
    if lines:
        yield TITLE
        yield from (f"  {one_line(line)}" for line in lines)
