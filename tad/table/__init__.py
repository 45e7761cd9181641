"""Render the scores of runs as one table: Markdown, CSV or an HTML page.

Runs scored on the same split under the same protocol share a block; scores of different blocks are not comparable.
"""

from collections.abc import Sequence
from pathlib import Path

from tad.core.errors import TadError
from tad.core.files import publish
from tad.settings.config import Config
from tad.settings.paths import command_of, path_of
from tad.settings.plugins import nearest
from tad.table.page import page
from tad.table.scores import blocks, read_score
from tad.table.text import comma_separated, markdown

FORMATS = {"markdown": markdown, "csv": comma_separated, "html": page}
SUFFIXES = {".md": "markdown", ".csv": "csv", ".html": "html", ".htm": "html"}


def _scores(runs: Sequence[str], config: Path) -> list[Path]:
    """Return the map.json files of runs; a run is given by its name in the configuration or by the file itself."""
    named = [run for run in runs if not run.endswith(".json")]
    if runs and not named:
        return [Path(run) for run in runs]
    settings = Config.read(config)
    for run in named:
        settings.run(run)
    there = [Path(run) if run.endswith(".json") else path_of("evaluate", root=settings.root, run=run) for run in runs]
    for run, path in zip(runs, there, strict=True):
        if run in named and not path.is_file():
            raise TadError(f"{path}: no such file; make it with: {command_of(path, root=settings.root)}")
    if runs:
        return there
    paths = [path_of("evaluate", root=settings.root, run=run) for run in settings.file.runs]
    paths = [path for path in paths if path.is_file()]
    if not paths:
        first = next(iter(settings.file.runs), "<run>")
        make = command_of(path_of("evaluate", root=settings.root, run=first), root=settings.root)
        raise TadError(f"{config}: no run has a score yet; make one with: {make}")
    return paths


def format_of(name: str, out: Path | None) -> str:
    """Return the requested format, or the one of the file's suffix, or Markdown.

    Raises:
        TadError: the format is unknown.
    """
    chosen = name or (SUFFIXES.get(out.suffix.lower(), "markdown") if out is not None else "markdown")
    if chosen not in FORMATS:
        raise TadError(f"--format {chosen}: no such format; {nearest(chosen, list(FORMATS))}")
    return chosen


def render(scores: Sequence[Path], *, format: str = "markdown") -> str:
    """Render the table of the given map.json files as text.

    Raises:
        TadError: a file is not a map.json, a run occurs twice, or the format is unknown.
    """
    return FORMATS[format_of(format, None)](blocks(read_score(path) for path in scores))


def table(
    runs: Sequence[str] = (), *, config: Path = Path("config.yaml"), format: str = "", out: Path | None = None
) -> str:
    """Render the table of runs and, if `out` is given, write it to that file.

    Args:
        runs: names in the configuration, or map.json files; if empty, all runs of the configuration that have a score.
        config: the configuration; not read if all runs are given as files.
        format: `markdown`, `csv` or `html`; by default the format of the suffix of `out`, or Markdown.
        out: the output file.

    Raises:
        TadError: a run or the format is unknown, there is no score, a file is not a map.json, or a run occurs twice.
    """
    text = render(_scores(runs, config), format=format_of(format, out))
    if out is not None:
        with publish(out) as partial:
            partial.write_text(text, encoding="utf-8")
    return text
