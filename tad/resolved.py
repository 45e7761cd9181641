"""Settings in layers: sections of values, each with the file that it comes from; a later layer wins where it fits.

And values from a file as a checked spec, with mistakes named by file and key.
"""

from dataclasses import dataclass, field
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from tad import plugins, specs
from tad.errors import TadError
from tad.rows import ConfigFile, DatasetRow, FeatureRow, RunRow
from tad.specs import Settings, Spec

AnySpec = TypeVar("AnySpec", bound=Spec)


@dataclass
class Resolved:
    """Sections of settings with the layer that each value came from."""

    sections: dict[str, Settings]
    origin: dict[str, str] = field(default_factory=dict)

    def lay(self, section: str, changes: Settings, source: str) -> None:
        """Lay `changes` over a section (keys and types checked against what is there)."""
        if not changes:
            return
        base = self.sections.get(section)
        if base is None:
            raise TadError(f"{source}: no section '{section}'; {plugins.nearest(section, list(self.sections))}")
        self.sections[section] = plugins.override(section, base, changes, source)
        for key in changes:
            self.origin[f"{section}.{key}"] = source


def _fields_at(model: type[Spec], path: tuple[Any, ...]) -> list[str]:
    """Names that were possible where pydantic met an unknown key."""
    rows: dict[str, type[Spec]] = {"datasets": DatasetRow, "features": FeatureRow, "runs": RunRow}
    if len(path) >= 2 and path[0] in rows and model is ConfigFile:
        model, path = rows[str(path[0])], path[2:]
    for part in path:  # a group of settings within a row, or one of a list of groups
        if str(part) in model.model_fields:
            model = next(iter(_specs_in(model.model_fields[str(part)].annotation)), model)
    return list(model.model_fields)


def _specs_in(annotation: Any) -> list[type[Spec]]:
    """The specs that a type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return [annotation]
    return [spec for part in get_args(annotation) for spec in _specs_in(part)]


def parse(model: type[AnySpec], value: Any, source: str) -> AnySpec:
    """`value` as a spec.

    Raises:
        TadError: `source: path: …`; an unknown key comes with the nearest valid one.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        # a mistyped key also leaves the right one missing: the typo is what to name
        problem = next((p for p in error.errors() if p["type"] == "extra_forbidden"), error.errors()[0])
        path = tuple(problem["loc"])
        if problem["type"] == "extra_forbidden":
            key = str(path[-1])
            where = ".".join(str(p) for p in path)
            known = _fields_at(model, path[:-1])
            raise TadError(f"{source}: {where}: unknown key '{key}'; {plugins.nearest(key, known)}") from None
        raise TadError(f"{source}: {specs.explain(error)}") from None
