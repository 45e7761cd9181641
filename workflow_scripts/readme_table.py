"""map.json files → kept beside the benchmarks' reports, and the README's table of all that are kept."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tad.errors import TadError
from tad.files import publish, read_json, write_json
from tad.provenance import read_stamp
from tad.table import render
from tad.table.scores import Score, read_score

ROOT = Path(__file__).parents[1]
KEPT = Path("benchmarks/reports/results")
BEGIN = "<!-- results: made by `make readme-table` from the files in benchmarks/reports/results -->"
END = "<!-- /results -->"
ALSO = ("per_seed", "training", "hashes")  # no table shows them, but they say what the numbers are of


def _face(path: Path) -> str:
    """The face of the detector behind a map.json, from the model that lies beside it or in its first seed's folder."""
    for model in (path.with_name("model.safetensors"), path.parent / "seed-0" / "model.safetensors"):
        if model.is_file():
            return str(read_stamp(model)["spec"]["detector"]["settings"].get("face", ""))
    return ""


def keep(path: Path, folder: Path) -> Path:
    """Write what a table shows of a map.json, and where it is from, as `<run>.json` into `folder`.

    Raises:
        TadError: not a map.json.
    """
    score, document = read_score(path), read_json(path)
    facts: dict[str, Any] = {key: document[key] for key in (*Score.model_fields, *ALSO) if key in document}
    facts["protocol"] = score.protocol.model_dump()
    facts.setdefault("face", _face(path))
    return write_json(folder / f"{score.run.replace('/', '-')}.json", facts)


def block(folder: Path) -> str:
    """The README's lines between the markers.

    Raises:
        TadError: nothing is kept.
    """
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise TadError(
            f"{folder}: no score is kept; name map.json files: make readme-table SCORES=results/<run>/map.json"
        )
    return f"{BEGIN}\n{render(paths)}{END}\n"


def replaced(text: str, block: str, where: Path) -> str:
    """`text` with another block between its markers.

    Raises:
        TadError: the markers are not there exactly once.
    """
    marks = [line for line in text.splitlines() if line.startswith("<!-- results") or line == END]
    if len(marks) != 2 or marks[1] != END:
        raise TadError(f"{where}: needs one line '<!-- results … -->' and one '{END}' after it")
    before, _, rest = text.partition(marks[0] + "\n")
    return before + block + rest.partition(END + "\n")[2]


def main(argv: Sequence[str] | None = None) -> int:
    """Keep the scores given and write the README; 1 and one line on standard error for what cannot be right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scores", type=Path, nargs="*", help="map.json of runs to keep; none: those that are kept")
    parser.add_argument("--kept", type=Path, default=ROOT / KEPT)
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    a = parser.parse_args(argv)
    try:
        for path in a.scores:
            keep(path, a.kept)
        text = replaced(a.readme.read_text(encoding="utf-8"), block(a.kept), a.readme)
    except TadError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    with publish(a.readme) as partial:
        partial.write_text(text, encoding="utf-8")
    sys.stdout.write(block(a.kept))
    return 0


if __name__ == "__main__":
    sys.exit(main())
