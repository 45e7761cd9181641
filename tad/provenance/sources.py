"""Parsed modules for fingerprints: code without comments, docstrings and line numbers, and the imports of each module.

Results of parsing are cached until a file changes, in memory and in a file below `.snakemake/`, which is updated
whenever the workflow is planned. The cache may be deleted at any time.
"""

import ast
import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tad.core.errors import TadError, cause_of
from tad.core.files import digest, write_json
from tad.core.installed import module_file
from tad.provenance import conditions

CACHE = Path(".snakemake/tad_sources.json")  # in the folder of a workflow; elsewhere in the user's cache folder


def cache_file(root: Path) -> Path:
    """Return the file that the parsed modules of the package in the folder `root` are cached in.

    Each copy of the package has its own file, because an entry is only valid for one version of this code.
    """
    if CACHE.parent.is_dir():
        return CACHE
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "tad" / f"sources-{digest(str(root))}.json"


Conditions = frozenset[str]
NONE: Conditions = frozenset()


def is_foreign(module: str) -> bool:
    """Return whether a module belongs to another package than tad."""
    return module.split(".")[0] != "tad"


@dataclass(frozen=True)
class Source:
    """A parsed module; `text` is the hash of its code without docstrings and imports from tad.

    Every import is stored with the conditions that guard it (`tad.provenance.conditions`).
    """

    text: str
    imports: tuple[tuple[Conditions, str], ...]  # conditions, dotted name
    bound: tuple[tuple[Conditions, str, str, str], ...]  # `from tad…`: conditions, package, name, local name

    def imported(self, holding: Conditions) -> set[str]:
        """Return all dotted names that are imported if these conditions hold."""
        return {name for behind, name in self.imports if behind <= holding}

    def as_json(self) -> list[str]:
        """Return three strings for the cache file, which are read faster than many small lists."""
        return [self.text, *("\n".join(map(_line, part)) for part in (self.imports, self.bound))]

    @classmethod
    def from_json(cls, value: list[str]) -> "Source":
        """Create a source from the result of `as_json`."""
        text, imports, bound = value
        lines = [line.split(" ") for line in imports.splitlines()]
        names = [line.split(" ") for line in bound.splitlines()]
        return cls(
            text,
            tuple((_holding(behind), name) for behind, name in lines),
            tuple((_holding(behind), package, name, local) for behind, package, name, local in names),
        )


def _line(entry: tuple[Any, ...]) -> str:
    """Format an import as a line: its conditions separated by commas, then its names."""
    return " ".join([",".join(sorted(entry[0])), *entry[1:]])


def _holding(text: str) -> Conditions:
    return frozenset(text.split(",")) if text else NONE


def _from_tad(node: ast.ImportFrom) -> bool:
    return (node.module or "").split(".")[0] == "tad"


def _conditions(test: ast.expr, path: Path) -> Conditions:
    """Return the conditions of an `if` test: calls `uses("…", …)`, alone or combined with others by `and`."""
    names = set()
    for part in test.values if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And) else [test]:
        if not (isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id == conditions.NAME):
            continue
        name = part.args[0] if part.args else None
        if not (isinstance(name, ast.Constant) and name.value in conditions.CONDITIONS):
            known = ", ".join(conditions.CONDITIONS)
            raise TadError(f"{path}: line {part.lineno}: uses() asks for one of {known}, written as a literal")
        names.add(str(name.value))
    return frozenset(names)


class _Normalise(ast.NodeTransformer):
    """Drops docstrings, and the imports from tad, which it collects: where code lies is not what it does. What is
    imported for type checkers alone is never executed, and left out."""

    def __init__(self, path: Path, *, foreign: bool = False) -> None:
        self.path, self.foreign = path, foreign
        self.behind: Conditions = frozenset()
        self.imports: set[tuple[Conditions, str]] = set()
        self.bound: set[tuple[Conditions, str, str, str]] = set()

    def visit_If(self, node: ast.If) -> ast.AST | None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING" and not node.orelse:
            return None
        if self.foreign:  # conditions are tad's own means
            return self.generic_visit(node)
        before, orelse = self.behind, node.orelse
        self.behind, node.orelse = before | _conditions(node.test, self.path), []
        self.generic_visit(node)
        self.behind = before
        node.orelse = [left for part in orelse if (left := self.visit(part)) is not None]
        return node

    def _import(self, *names: str) -> None:
        """Record imports from tad and of possible scripts beside a script; in another package record all imports."""
        self.imports |= {
            (self.behind, name) for name in names if self.foreign or name.startswith("tad.") or "." not in name
        }

    def visit_Import(self, node: ast.Import) -> ast.AST:
        self._import(*(alias.name for alias in node.names))
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        if node.level:
            package = "." * node.level + (node.module or "")
            within = package if node.module is None else f"{package}."
            self._import(*[package] * bool(node.module), *(f"{within}{alias.name}" for alias in node.names))
            return node
        if node.module:
            self._import(node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        if not _from_tad(node):
            return node
        for alias in node.names:
            self.bound.add((self.behind, str(node.module), alias.name, alias.asname or alias.name))
        return None

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            return node
        first = body[0] if body else None
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if (
            documented
            and isinstance(first, ast.Expr)
            and isinstance(first.value, ast.Constant)
            and isinstance(first.value.value, str)
        ):
            body = body[1:]
        node.body = body or [ast.Pass()]  # type: ignore[attr-defined]
        return node


def text_of(tree: ast.AST) -> str:
    """Return the hash of parsed code."""
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:12]


def _in_order(entry: tuple[Any, ...]) -> list[Any]:
    return [sorted(entry[0]), *entry[1:]]


def parse(path: Path, *, foreign: bool = False) -> Source:
    """Read and parse a module.

    Args:
        path: file of the module.
        foreign: the module belongs to another package; all its imports are recorded, relative ones with their dots.

    Raises:
        TadError: a condition does not exist, or a module of another package is not valid Python.
    """
    normalise = _Normalise(path, foreign=foreign)
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except (SyntaxError, UnicodeDecodeError) as error:
        if not foreign:
            raise
        line = f"line {error.lineno}: " if isinstance(error, SyntaxError) else ""
        raise TadError(f"{path}: {line}not valid Python ({cause_of(error)}); repair or update its package") from None
    text = text_of(normalise.visit(tree))
    imports = sorted(normalise.imports, key=_in_order)
    return Source(text, tuple(imports), tuple(sorted(normalise.bound, key=_in_order)))


def parse_foreign(path: Path) -> Source:
    """Read and parse a module of another package; see `parse`."""
    return parse(path, foreign=True)


def _read_yaml(path: Path) -> str:
    return digest(yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def _as_json(value: Any) -> Any:
    return value.as_json() if isinstance(value, Source) else value


def _source(stored: list[Any]) -> Source | None:
    """Return a source from an entry of the cache file; None if the entry is damaged."""
    try:
        return Source.from_json(stored)
    except (ValueError, TypeError, AttributeError):
        return None


class _Remembered:
    """Cache of parsed files, keyed by path, size, dates and inode; valid for one Python version and this code."""

    def __init__(self) -> None:
        self.entries: dict[str, Sequence[Any]] = {}  # path → facts, value
        self.loaded: set[Path] = set()
        self.changed = False
        self._version = ""

    @property
    def version(self) -> str:
        """Digest of the Python version and of this code, on which all entries depend."""
        if not self._version:
            own = [Path(file).read_bytes() for file in (__file__, str(conditions.__file__))]
            self._version = hashlib.sha256(b"".join([sys.version.encode(), *own])).hexdigest()[:16]
        return self._version

    def load(self, path: Path) -> None:
        """Add the entries of a cache file, once; an unreadable file is ignored."""
        if path in self.loaded:
            return
        self.loaded.add(path)
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["version"] == self.version:
                for name, (facts, value) in stored["entries"].items():
                    self.entries.setdefault(name, (facts, value))  # `of` converts those that are asked for
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return

    def save(self, path: Path) -> None:
        """Write the cache file if there are new entries; do nothing if the folder is not writable."""
        if not self.changed:
            return
        entries = {name: [entry[0], _as_json(entry[1])] for name, entry in sorted(self.entries.items())}
        try:
            write_json(path, {"version": self.version, "entries": entries})
        except OSError:
            return
        self.changed = False

    def of(self, path: Path, stat: os.stat_result, read: Callable[[Path], Any]) -> Any:
        """Return `read(path)`, from the cache if the file has not changed."""
        facts = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        entry = self.entries.get(str(path))
        if entry is None or entry[0] != facts:
            entry = (facts, read(path))
            self.entries[str(path)] = entry
            self.changed = True
        elif isinstance(entry[1], list):
            entry = (facts, _source(entry[1]) or read(path))
            self.entries[str(path)] = entry
        return entry[1]


_MEMORY = _Remembered()


class Sources:
    """A snapshot of the package; every file is checked for changes once.

    Args:
        root: folder of the package.
        cache: cache file for later processes.
    """

    def __init__(self, root: Path, *, cache: Path | None = None) -> None:
        self.root, self.cache = root, cache or cache_file(root)
        _MEMORY.load(self.cache)
        self._paths: dict[str, tuple[Path, os.stat_result] | None] = {}
        self._data: dict[str, str] = {}

    def save(self) -> None:
        """Write the cache for later processes."""
        _MEMORY.save(self.cache)

    def _find(self, module: str) -> tuple[Path, os.stat_result] | None:
        if is_foreign(module):
            file = module_file(module)
            return (file, os.stat(file)) if file else None
        base = self.root.joinpath(*module.split(".")[1:])
        for path in (base.with_name(f"{base.name}.py"), base / "__init__.py"):
            try:
                return path, os.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
        return None

    def path(self, module: str) -> Path | None:
        """Return the file of a module; None for the package tad itself and for names that are not modules."""
        if module not in self._paths:
            self._paths[module] = self._find(module) if module != "tad" else None
        file = self._paths[module]
        return file[0] if file else None

    def source(self, module: str) -> Source | None:
        """Return a parsed module; None if there is no such module."""
        if self.path(module) is None or (file := self._paths[module]) is None:
            return None
        source: Source = _MEMORY.of(*file, parse_foreign if is_foreign(module) else parse)
        return source

    def imported(self, module: str, holding: Conditions) -> set[str]:
        """Return all dotted names that a module imports if these conditions hold; relative imports are resolved."""
        source, path = self.source(module), self.path(module)
        if source is None or path is None:
            return set()
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        resolved = set()
        for name in source.imported(holding):
            up = len(name) - len(name.lstrip("."))
            above = package.split(".")[: len(package.split(".")) - up + 1]
            resolved.add(".".join([*above, *filter(None, [name.lstrip(".")])]) if up else name)
        return resolved

    def script(self, path: Path) -> Source:
        """Return a parsed script."""
        source: Source = _MEMORY.of(path, os.stat(path), parse)
        return source

    def data(self, module: str) -> str:
        """Return the digest of the values in the YAML file beside a module; empty if there is no such file."""
        if module not in self._data:
            path = self.path(module)
            beside = path.with_suffix(".yaml") if path else None
            exists = beside is not None and beside.is_file()
            self._data[module] = str(_MEMORY.of(beside, os.stat(beside), _read_yaml)) if beside and exists else ""
        return self._data[module]

    def origin(self, package: str, name: str) -> tuple[str, str]:
        """Return the module and symbol that `from package import name` refers to; the symbol is "" for a module."""
        module = f"{package}.{name}"
        return (package, name) if self.path(module) is None else (module, "")
