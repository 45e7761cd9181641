"""Included files of a configuration (`include`), such as zoo/thumos14.yaml.

Included files contain only rows. A name may occur in one file only, and every row remembers its file, so that messages
and `tad show` can name it. Snakemake's --config and --configfile change included rows key by key, like those of
config.yaml.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tad.core.bundle import ROOT
from tad.core.errors import TadError
from tad.core.limits import LimitError
from tad.settings.base import Settings
from tad.settings.resolved import parse
from tad.settings.rows import IncludedFile
from tad.settings.strict_yaml import parse_yaml, read_yaml

KINDS = ("datasets", "features", "runs")


@dataclass(frozen=True)
class Rows:
    """A configuration with its included rows, and the file of each included row."""

    values: Settings
    files: dict[tuple[str, str], str] = field(default_factory=dict)
    changed: frozenset[tuple[str, str]] = frozenset()  # included rows that the command line changes

    def file_of(self, kind: str, name: str) -> str:
        """Return the included file of a row (a seed of a run counts as the run); empty for the main file's rows."""
        return self.files.get((kind, name.partition("/")[0]), "")


def files_named(globs: object, folder: Path, source: str) -> list[Path]:
    """Return the files that `include` names, in order and without duplicates.

    An entry that matches no file in `folder` may name shipped files, such as `zoo/thumos14.yaml`.

    Raises:
        TadError: not a list of file names, or an entry that matches no file.
    """
    if not isinstance(globs, list | tuple) or not all(isinstance(entry, str) and entry for entry in globs):
        raise TadError(f"{source}: include: {globs!r}: write a list of files, such as [zoo/*.yaml]")
    paths: list[Path] = []
    for entry in map(os.path.expanduser, globs):
        absolute = Path(entry).is_absolute()
        base = Path(Path(entry).anchor) if absolute else folder
        pattern = str(Path(entry).relative_to(base)) if absolute else entry
        matches = sorted(path for path in base.glob(pattern) if path.is_file())
        if not matches and not absolute and entry.startswith("zoo/"):
            matches = sorted(path for path in ROOT.glob(pattern) if path.is_file())
        if not matches:
            shipped = f" (the shipped rows: {ROOT / 'zoo'}/*.yaml)" if (ROOT / "zoo").is_dir() else ""
            where = f"{source}: include: {entry}: no such file in {folder.resolve()}"
            raise TadError(f"{where}; correct the entry{shipped} or remove it")
        paths += [path for path in matches if path not in paths]
    return paths


def _check(values: Settings, source: str) -> Settings:
    """Check the keys and types of an included file, and return its rows."""
    parse(IncludedFile, values, source)
    return values


def with_included(values: Settings, *, folder: Path, source: str, written: Mapping[str, Any]) -> Rows:
    """Add the rows of the files that `include` names to a configuration.

    Args:
        values: the whole configuration, including changes from Snakemake's command line.
        folder: the folder that entries of `include` are relative to.
        source: the name of the configuration in messages.
        written: the configuration file's own values, without changes from the command line. A name in both these and an
            included file is an error, but the command line may change included rows.

    Raises:
        TadError: a file that is missing or contains more than rows, or a row that is in two files.
    """
    files: dict[tuple[str, str], str] = {}
    rows: dict[str, Settings] = {kind: {} for kind in KINDS}
    for path in files_named(values.get("include", []), folder, source):
        for kind, section in _check(read_yaml(path), str(path)).items():
            for name, row in section.items():
                both = files.get((kind, name)) or (source if name in (written.get(kind) or {}) else "")
                if both:
                    raise TadError(f"{both} and {path}: {kind}.{name} is in both files; rename or remove one of them")
                files[kind, name] = str(path)
                rows[kind][name] = row
    if not files:
        return Rows(values)
    changed: set[tuple[str, str]] = set()
    for kind in KINDS:
        given = values.get(kind) or {}
        if not isinstance(given, dict):
            continue  # the check of the whole configuration reports it
        twice = given.keys() & rows[kind].keys()
        changed |= {(kind, name) for name in twice}
        rows[kind] |= {name: merged(rows[kind][name], given[name]) for name in twice}
        values = {**values, kind: {**given, **rows[kind]}}
    for kind, name in changed:
        files[kind, name] += " with --config"
        _check({kind: {name: rows[kind][name]}}, files[kind, name])
    return Rows(values, files, frozenset(changed))


def merged(row: Any, changes: Any) -> Any:
    """Merge changes into values as Snakemake does: mappings key by key, all other values as a whole."""
    if not (isinstance(row, dict) and isinstance(changes, Mapping)):
        return changes
    return {**row, **{key: merged(row.get(key), value) for key, value in changes.items()}}


def with_types(values: Any, written: Any) -> Any:
    """Parse scalars that come from Snakemake's command line, which passes nested values as strings.

    Args:
        values: the whole configuration, with changes from the command line.
        written: the values of the configuration files alone; what is equal to them keeps its type.
    """
    if isinstance(values, dict):
        own = written if isinstance(written, dict) else {}
        return {key: with_types(value, own.get(key)) for key, value in values.items()}
    if values == written or not isinstance(values, str | list):
        return values
    if isinstance(values, list):
        return [with_types(value, None) for value in values]
    try:
        scalar = parse_yaml(values)
    except LimitError:
        return values
    return scalar if isinstance(scalar, bool | int | float) else values


def written_in(paths: Sequence[Path]) -> tuple[Settings, Path, Settings]:
    """Read and merge the configuration files.

    Later files override earlier ones, as in Snakemake. Each file is read strictly.

    Returns:
        The values up to the last file with an `include`, that file's folder, and the values of all files.

    Raises:
        TadError: a file is missing, is not plain YAML or has a key twice.
    """
    values: Settings = {}
    written, folder = values, Path()
    for path in paths:
        own = read_yaml(path)
        values = merged(values, own)
        if "include" in own:
            written, folder = values, path.parent
    return written, folder, values
