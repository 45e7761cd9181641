"""Warnings that outlast a stage's log: collected while it runs, stored beside its output, passed on to later stages.

A warning in the log of one of many jobs is seen by nobody. Each stage's warnings, and those of its inputs, are
therefore stored in `.warnings/<output>.json` beside its output; `evaluate` writes them into map.json, and the workflow
prints them as one list at its end. These files are not outputs of the workflow: without them only warnings are lost.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tad.core import formats
from tad.core.errors import TadError
from tad.core.files import read_json, write_json

log = logging.getLogger(__name__)
TRANSIENT = {"transient": True}
"""`log.warning(…, extra=TRANSIENT)`: what concerns this attempt alone and not what it produces, such as a cache that
cannot be used. It stays in the log."""
FOLDER = ".warnings"
ATTEMPTS = 50  # works of one output whose warnings are kept, as their results are cached side by side
MARK = formats.mark("warnings")


class _Collector(logging.Handler):
    def __init__(self, journal: Path | None, key: object) -> None:
        super().__init__(logging.WARNING)
        self.journal, self.key = journal, key
        self.others = [one for one in _attempts(journal) if one["key"] != key] if journal else []
        own = [one for one in _attempts(journal) if one["key"] == key] if journal else []
        self.lines: list[str] = own[-1]["warnings"] if own else []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.WARNING and not getattr(record, "transient", False):
            line = record.getMessage()
            if line not in self.lines:
                self.lines.append(line)
                if self.journal:
                    attempts = [*self.others, {"key": self.key, "warnings": self.lines}][-ATTEMPTS:]
                    write_json(self.journal, {**MARK, "attempts": attempts})


def _attempts(journal: Path) -> list[dict[str, Any]]:
    """Return the key and the warnings of earlier attempts, the newest last."""
    attempts = _read(journal).get("attempts", [])
    return [{"key": one.get("key"), "warnings": [str(line) for line in one.get("warnings", [])]} for one in attempts]


def _read(path: Path) -> dict[str, Any]:
    """Return the content of a file of warnings; empty without a file, or if this version cannot read it."""
    if not path.is_file():
        return {}
    try:
        stored = read_json(path)
        if not isinstance(stored, dict):
            raise TadError(f"{path}: not a file of warnings; remove it")
        formats.check(stored, path, kind="warnings")
    except TadError as error:
        log.warning("%s; the warnings in it are ignored", error, extra=TRANSIENT)
        return {}
    return stored


@contextmanager
def collecting(journal: Path | None = None, *, key: object = None) -> Iterator[list[str]]:
    """Collect the warnings logged by `tad` in the block, each once, in their order.

    Args:
        journal: file in which they are kept between attempts. A stage that was killed and resumes, or that publishes a
            cached result, does not log all of its warnings again.
        key: what identifies the work, as plain JSON; the warnings of an attempt with another key do not count. It must
            not name dates of files, because inputs that are made again with equal bytes reach the same cache.
    """
    collector, logger = _Collector(journal, key), logging.getLogger("tad")
    logger.addHandler(collector)
    try:
        yield collector.lines
    finally:
        logger.removeHandler(collector)


def repeat(journal: Path, key: object) -> None:
    """Log the warnings again that `collecting` has kept in a file for a key.

    For parts of a cache that are reused while the rest of the work differs: nothing else logs what concerns them.
    """
    for line in [line for one in _attempts(journal) if one["key"] == key for line in one["warnings"]]:
        log.warning("%s", line)


def _beside(path: Path) -> Path:
    return path.parent / FOLDER / f"{path.name}.json"


def read(path: Path) -> dict[str, list[str]]:
    """Read the warnings of an artefact and of its inputs: name of the file that they concern → lines; empty if none.

    Two kinds of warnings are ignored: those of a former file of this name, which has another size; and inherited ones
    about an input that has been recreated without the warning, because an artefact can outlive its inputs.
    """
    path = Path(path)
    found = _stored(path)
    for name in found:
        if name != str(path) and Path(name).is_file():
            now = _stored(Path(name)).get(name, [])
            found[name] = [line for line in found[name] if line in now]
    return {name: lines for name, lines in found.items() if lines}


def _stored(path: Path) -> dict[str, list[str]]:
    """Return the warnings stored beside an artefact; empty without any, or if they belong to a former file."""
    stored = _read(_beside(path))
    if not path.is_file() or stored.get("bytes") != path.stat().st_size:
        return {}
    return {str(name): [str(line) for line in lines] for name, lines in stored.get("warnings", {}).items()}


def join(parts: Iterable[dict[str, list[str]]]) -> dict[str, list[str]]:
    """Merge the warnings of several artefacts, each line once per file."""
    joined: dict[str, list[str]] = {}
    for part in parts:
        for name, lines in part.items():
            own = joined.setdefault(name, [])
            own += [line for line in lines if line not in own]
    return {name: lines for name, lines in joined.items() if lines}


def store(out: Path, own: list[str], inputs: Iterable[Path]) -> None:
    """Store the warnings of a stage and of its inputs beside its output; without any, no file is written."""
    out = Path(out)
    warnings = join([*(read(path) for path in inputs), {str(out): own}])
    if warnings and out.is_file():
        write_json(_beside(out), {**MARK, "bytes": out.stat().st_size, "warnings": warnings})
    else:
        _beside(out).unlink(missing_ok=True)


def lines(warnings: dict[str, list[str]]) -> list[str]:
    """`file: warning`, one per line of text; one that several files share is listed once, with their number."""
    files: dict[str, list[str]] = {}
    for name, texts in warnings.items():
        for text in texts:
            files.setdefault(text, []).append(name)
    return [
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {text}" for text, names in files.items()
    ]
