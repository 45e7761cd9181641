"""Fingerprints of the code of `tad` that a stage executes, independent of the names and paths of its modules."""

import ast
from pathlib import Path
from typing import Any

import tad
from tad.core.files import digest
from tad.core.installed import Installed, installed
from tad.provenance import conditions
from tad.provenance.sources import Conditions, Source, Sources, is_foreign, text_of

ROOT = Path(tad.__file__).parent
# Modules without an effect on results, or whose whole effect is recorded in the spec. A name without a dot is a folder.
TRANSPARENT = {"settings", "provenance", "commands", "workflow", "__main__"}
TRANSPARENT |= {f"core.{name}" for name in ("claims", "errors", "files", "formats", "heaps", "installed")}
TRANSPARENT |= {f"core.{name}" for name in ("json_text", "leases", "notices", "openmp", "processes", "progress")}
TRANSPARENT |= {f"core.{name}" for name in ("bundle", "checksums", "limits", "printable", "storage", "strict_json")}
TRANSPARENT |= {f"weights.{name}" for name in ("published", "store", "fetch", "download")}
PLUGIN_FIELDS = {"format": "datasets", "backbone": "backbones", "detector": "detectors"}


# entry of an `__init__.py` without code
NO_CODE = [digest([text_of(ast.Module([ast.Pass()], [])), []]), []]


def transparent(module: str) -> bool:
    """Return whether a module is ignored in all fingerprints.

    Such modules are those in `TRANSPARENT` and the settings of components (`<name>_settings.py`, `settings.py`), whose
    values are in the spec.
    """
    if is_foreign(module):
        return False
    name = module.split(".", 1)[-1]
    if name in TRANSPARENT or name.split(".")[0] in TRANSPARENT:
        return True
    last = name.rpartition(".")[2]
    return name.split(".")[0] in PLUGIN_FIELDS.values() and (last == "settings" or last.endswith("_settings"))


class Code:
    """The code of `tad` at one moment, and the fingerprints computed from it.

    Args:
        sources: the package; default: its current state on disk.
    """

    def __init__(self, sources: Sources | None = None) -> None:
        self.sources = sources or Sources(ROOT)
        self._hashes: dict[str, str] = {}
        self._entries: dict[tuple[str, Conditions], list[Any]] = {}

    def _own_hash(self, module: str, source: Source) -> str:
        """Return the hash of a module: its code, the names that it imports from tad, and the values of its YAML file.

        The YAML of a component is not included, because its values are in the spec.
        """
        if module not in self._hashes:
            names = sorted((self.sources.origin(package, name)[1], local) for _, package, name, local in source.bound)
            data = "" if _is_component(module) else self.sources.data(module)
            self._hashes[module] = digest([source.text, names]) + (f"+{data}" if data else "")
        return self._hashes[module]

    def modules(self, *roots: str, holding: Conditions = frozenset()) -> dict[str, str]:
        """Return the hashes of all modules behind the roots; see the function `modules`."""
        hashes: dict[str, str] = {}
        waiting, packages = list(roots), {"tad"}
        for root in filter(is_foreign, roots):  # the settings of a module outside a package are a module beside it
            packages |= {root.split(".")[0]} if "." in root else {root, f"{root}_settings"}
        while waiting:
            module = waiting.pop()
            parent = module.rpartition(".")[0]
            if parent not in ("", "tad"):  # importing a module also executes its package's `__init__.py`
                waiting.append(parent)
            if module in hashes or transparent(module) or (source := self.sources.source(module)) is None:
                continue
            hashes[module] = self._own_hash(module, source)
            waiting.extend(n for n in self.sources.imported(module, holding) if n.split(".")[0] in packages)
        return dict(sorted(hashes.items()))

    def _edges(self, source: Source, holding: Conditions) -> list[list[str]]:
        """Return the origin of each imported name, with the hash of its module instead of the module's name.

        So renaming a module changes nothing, but importing the name from another module does.
        """
        edges = []
        for behind, package, name, local in source.bound:
            if behind <= holding:
                module, symbol = self.sources.origin(package, name)
                origin = None if transparent(module) else self.sources.source(module)
                edges.append([origin.text if origin else "", symbol, local])
        return sorted(edges)

    def _entry(self, module: str, holding: Conditions) -> list[Any]:
        source = self.sources.source(module)
        assert source is not None
        key = module, holding & frozenset().union(*(behind for behind, *_ in source.bound))
        if key not in self._entries:
            self._entries[key] = [self._own_hash(module, source), self._edges(source, holding)]
        return self._entries[key]

    def fingerprint(self, *roots: str, holding: Conditions = frozenset()) -> str:
        """Return the digest of all code behind the roots; see the function `fingerprint`."""
        entries = [self._entry(module, holding) for module in self.modules(*roots, holding=holding)]
        entries += [[f"{name} {version}", []] for name, version in distributions(*roots).items()]
        return digest(sorted(entry for entry in entries if entry != NO_CODE))

    def file_fingerprint(self, path: Path) -> str:
        """Return the fingerprint of a script; see the function `file_fingerprint`."""
        scripts: dict[str, list[Any]] = {}
        used: set[str] = set()
        waiting = [path]
        while waiting:
            script = waiting.pop()
            if script.name in scripts or not script.is_file():
                continue
            source = self.sources.script(script)
            scripts[script.name] = [source.text, self._edges(source, frozenset())]
            imports = source.imported(frozenset())
            waiting.extend(script.with_name(f"{name}.py") for name in sorted(imports) if "." not in name)
            used |= {name for name in imports if name.startswith("tad.")}
        return digest([sorted(scripts.values()), self.fingerprint(*sorted(used))])

    def modules_of_stage(self, stage: str, spec: dict[str, Any]) -> dict[str, str]:
        """Return the hashes of all code behind a stage; see `stage_modules`."""
        roots = stage_roots(stage, spec)
        return self.modules(*roots, holding=conditions.holding(spec)) | distributions(*roots)

    def of_stage(self, stage: str, spec: dict[str, Any]) -> str:
        """Return the fingerprint of a stage; see `code`."""
        return f"{stage}@{self.fingerprint(*stage_roots(stage, spec), holding=conditions.holding(spec))}"


def modules(*roots: str, holding: Conditions = frozenset()) -> dict[str, str]:
    """Return the hash of each module of `tad` that the roots import, directly or indirectly.

    For a root in another package, the imported modules of that package are included. The hashes are of parsed code:
    comments, docstrings, formatting and names of modules do not matter. Not included are the modules in `TRANSPARENT`,
    imports behind conditions that are not in `holding`, and components that are loaded by name; pass these as roots.
    """
    return Code().modules(*roots, holding=holding)


def fingerprint(*roots: str, holding: Conditions = frozenset()) -> str:
    """Return the digest of all code behind the roots; it contains no names, so renaming a module does not change it."""
    return Code().fingerprint(*roots, holding=holding)


def file_fingerprint(path: Path) -> str:
    """Return the fingerprint of a script, of the scripts that it imports, and of the code of `tad` that they use."""
    return Code().file_fingerprint(path)


def _entry_points() -> dict[str, Installed]:
    """Return the entry points of all components from other packages, by module."""
    groups = [installed(f"tad.{kind}") for kind in PLUGIN_FIELDS.values()]
    return {entry.module: entry for group in groups for entries in group.values() for entry in entries}


def _is_component(module: str) -> bool:
    """Return whether a module is a component, whose YAML file is part of the settings."""
    if is_foreign(module):
        return module in _entry_points()
    return module.split(".")[1] in PLUGIN_FIELDS.values()


def distributions(*roots: str) -> dict[str, str]:
    """Return the versions of the distributions that provide roots from other packages."""
    points = _entry_points() if any(map(is_foreign, roots)) else {}
    versions = {points[root].distribution: points[root].version for root in roots if root in points}
    return {f"distribution {name}": version for name, version in sorted(versions.items())}


def _component(kind: str, name: str) -> str:
    """Return the module of a component: in tad if it exists there, otherwise in the package that provides it."""
    others = installed(f"tad.{kind}").get(name, ())
    own = not others or (ROOT / kind / f"{name}.py").is_file()
    return f"tad.{kind}.{name}" if own else others[0].module


def stage_roots(stage: str, spec: dict[str, Any]) -> list[str]:
    """Return the root modules of a stage: its own module and those of the components that its spec names."""
    roots = [f"tad.stages.{stage}"]
    for field, kind in PLUGIN_FIELDS.items():
        plugin = spec.get(field)
        if isinstance(plugin, dict):
            roots.append(_component(kind, plugin["name"]))
    if adapters := spec.get("adapters"):
        roots.append(_component("backbones", adapters["backbone"]["name"]))
    others = [*(spec.get("distill") or {}).get("teachers", ()), *filter(None, [spec.get("fused")])]
    return roots + sorted({_component("detectors", other["detector"]["name"]) for other in others})


def stage_modules(stage: str, spec: dict[str, Any]) -> dict[str, str]:
    """Return the hashes of all modules behind a stage with this spec.

    The versions of other packages that provide its components are included as `distribution <name>`.
    """
    return Code().modules_of_stage(stage, spec)


def code(stage: str, spec: dict[str, Any]) -> str:
    """Return `<stage>@<fingerprint>` of all code behind a stage with this spec."""
    return Code().of_stage(stage, spec)
