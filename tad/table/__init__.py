"""Scores of runs → one table: Markdown, CSV or an HTML page.

Runs that were scored on the same split under the same protocol share a block; others cannot be compared.
"""

from collections.abc import Sequence
from pathlib import Path

from tad.config import Config
from tad.errors import TadError
from tad.files import publish
from tad.plugins import nearest
from tad.table.page import page
from tad.table.scores import blocks, read_score
from tad.table.text import comma_separated, markdown

FORMATS = {"markdown": markdown, "csv": comma_separated, "html": page}
SUFFIXES = {".md": "markdown", ".csv": "csv", ".html": "html", ".htm": "html"}


def _scores(runs: Sequence[str], config: Path) -> list[Path]:
    """The map.json files of runs; a run may be a name in the configuration or the file itself."""
    named = [run for run in runs if not run.endswith(".json")]
    if runs and not named:
        return [Path(run) for run in runs]
    settings = Config.read(config)
    for run in named:
        settings.run(run)
    there = [Path(run) if run.endswith(".json") else settings.root / f"results/{run}/map.json" for run in runs]
    if runs:
        return there
    found = [settings.root / f"results/{run}/map.json" for run in settings.file.runs]
    found = [path for path in found if path.is_file()]
    if not found:
        first = next(iter(settings.file.runs), "<run>")
        raise TadError(
            f"{config}: no run has a score yet; make one with: snakemake --cores all results/{first}/map.json"
        )
    return found


def format_of(name: str, out: Path | None) -> str:
    """The format asked for, else that of the file's suffix, else Markdown.

    Raises:
        TadError: no such format.
    """
    chosen = name or (SUFFIXES.get(out.suffix.lower(), "markdown") if out is not None else "markdown")
    if chosen not in FORMATS:
        raise TadError(f"--format {chosen}: no such format; {nearest(chosen, list(FORMATS))}")
    return chosen


def render(scores: Sequence[Path], *, format: str = "markdown") -> str:
    """The table of these map.json files as text.

    Raises:
        TadError: a file that is no map.json, a run that is there twice, an unknown format.
    """
    return FORMATS[format_of(format, None)](blocks(read_score(path) for path in scores))


def table(
    runs: Sequence[str] = (), *, config: Path = Path("config.yaml"), format: str = "", out: Path | None = None
) -> str:
    """The table of runs, written to `out` if that is given.

    Args:
        runs: names in the configuration, or map.json files; none: all runs of the configuration that have a score.
        config: the configuration; not read where all runs are files.
        format: `markdown`, `csv` or `html`; by default what the suffix of `out` says, else Markdown.
        out: the file to write.

    Raises:
        TadError: an unknown run or format, no score, a file that is no map.json, a run that is there twice.
    """
    text = render(_scores(runs, config), format=format_of(format, out))
    if out is not None:
        with publish(out) as partial:
            partial.write_text(text, encoding="utf-8")
    return text
