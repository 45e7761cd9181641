"""Entry points of other installed packages, and their files, found without importing anything."""

import importlib.util
from collections.abc import Mapping
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple


class Installed(NamedTuple):
    """An entry point: `name = "module"` in a group of a distribution's metadata."""

    name: str
    module: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.module} of the package {self.distribution} {self.version}"


@cache
def _groups(prefix: str) -> Mapping[str, Mapping[str, tuple[Installed, ...]]]:
    """Group → name → its entry points, of all groups that begin with the prefix."""
    groups: dict[str, dict[str, tuple[Installed, ...]]] = {}
    seen: set[str] = set()
    for distribution in distributions():
        text = distribution.read_text("entry_points.txt") or ""
        if f"[{prefix}" not in text.replace("[ ", "["):  # few distributions have any: the others are not parsed
            continue
        package = str(distribution.metadata["Name"])
        if package.lower() in seen:  # of a distribution that is on the path twice Python imports the first
            continue
        seen.add(package.lower())
        for point in distribution.entry_points:
            if point.group.startswith(prefix):
                entry = Installed(point.name, point.value.strip(), package, distribution.version)
                of_group = groups.setdefault(point.group, {})
                of_group[point.name] = (*of_group.get(point.name, ()), entry)
    return MappingProxyType({group: MappingProxyType(points) for group, points in groups.items()})


def installed(group: str) -> Mapping[str, tuple[Installed, ...]]:
    """Name → the entry points of a group, such as `tad.detectors`; several where packages disagree on a name.

    The metadata of all distributions are read once in a process.
    """
    return _groups(group.partition(".")[0] + ".").get(group, MappingProxyType({}))


@cache
def module_file(module: str) -> Path | None:
    """The Python file of a module, located as an import would, without executing it or its packages."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # `__main__`, and names that are empty
        return None
    if spec is None:
        return None
    file = Path(spec.origin) if spec.has_location and spec.origin else None
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    for part in rest:
        file, folders = _below(folders, part)
    return file if file is not None and file.suffix == ".py" else None


def _below(folders: list[Path], name: str) -> tuple[Path | None, list[Path]]:
    """The file of a module in the folders of a package, and its own folders if it is a package, too."""
    for folder in folders:
        if (package := folder / name / "__init__.py").is_file():
            return package, [package.parent]
        if (module := folder / f"{name}.py").is_file():
            return module, []
    return None, [folder / name for folder in folders if (folder / name).is_dir()]  # a namespace
