"""Layered settings: sections of values that remember the layer that set them; later layers override earlier ones.

Also parses values of a file into a checked spec, with error messages that name file and key.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from tad.core.errors import TadError
from tad.settings import plugins
from tad.settings.base import Settings, Spec, explain
from tad.settings.rows import DatasetRow, FeatureRow, IncludedFile, RunRow

AnySpec = TypeVar("AnySpec", bound=Spec)
ROW = re.compile(r"(.+) ((?:runs|features|datasets)\..+)")
WRONG_TYPES = {
    "float_type": "a number", "int_type": "a whole number", "int_from_float": "a whole number",
    "bool_type": "true or false",
    "string_type": "text", "tuple_type": "a list", "dict_type": "settings (key: value)",
    "model_type": "settings (key: value)", "model_attributes_type": "settings (key: value)",
}  # fmt: skip


@dataclass
class Resolved:
    """Sections of settings, with the layer that each value comes from.

    Attributes:
        sections: values by section; after `check`, sections with a model are complete and valid.
        origin: `section.key` → the file, and the part of it, that set the value.
        models: the models of sections; a section without a model is not validated.
        called: names of sections in messages, if they differ from the key.
        specs: the checked sections as objects.
    """

    sections: dict[str, Settings]
    origin: dict[str, str] = field(default_factory=dict)
    models: dict[str, type[Spec]] = field(default_factory=dict)
    called: Mapping[str, str] = field(default_factory=dict)
    specs: dict[str, Spec] = field(default_factory=dict)

    def lay(self, section: str, changes: Settings, source: str) -> None:
        """Override values of a section by `changes`; groups of settings in it are merged key by key.

        Raises:
            TadError: no such section or key; the message suggests the nearest known one.
        """
        if not isinstance(changes, dict):
            raise TadError(f"{source}: {section} must be settings (key: value), not {changes!r}")
        if not changes and section not in self.sections:
            return  # an empty group in a row of config.yaml
        if section not in self.sections:
            raise TadError(f"{source}: no section '{section}'; {plugins.nearest(section, list(self.sections))}")
        merged = self._merged(section, self.models.get(section), self.sections[section], changes, source)
        self.sections[section] = merged

    def _merged(self, path: str, model: type[Spec] | None, base: Settings, changes: Settings, source: str) -> Settings:
        known = list(model.model_fields) if model else list(base)
        merged = dict(base)
        for key, value in changes.items():
            if key not in known:
                raise TadError(
                    f"{source}: {self._name(path)} has no setting '{key}'; {plugins.nearest(str(key), known)}"
                )
            inner = _group(model, key)
            self.origin[f"{path}.{key}"] = source
            if inner and isinstance(value, dict):
                merged[key] = self._merged(f"{path}.{key}", inner, base.get(key, {}), value, source)
            else:
                merged[key] = value
        return merged

    def _name(self, path: str) -> str:
        section, dot, rest = path.partition(".")
        return self.called.get(section, section) + dot + rest

    def check(self, source: str) -> "Resolved":
        """Complete and validate every section that has a model; return self.

        Raises:
            TadError: an invalid value; the message names the layer that set it (else `source`), the key, and what is
                allowed.
        """
        for section, model in self.models.items():
            try:
                # as JSON: strict types, and lists where the model has tuples
                spec = model.model_validate_json(json.dumps(self.sections[section], default=str), strict=True)
            except ValidationError as error:
                raise TadError(self._problem(section, error, source)) from None
            self.specs[section], self.sections[section] = spec, spec.model_dump(mode="json")
        return self

    def _problem(self, section: str, error: ValidationError, source: str) -> str:
        problem = error.errors()[0]
        path = ".".join([section, *map(str, problem["loc"])])
        keys = [path.rsplit(".", k)[0] for k in range(len(problem["loc"]) + 1)]
        message, value = str(problem["msg"]), problem.get("input")
        if problem["type"] == "value_error" and not problem["loc"]:  # of the whole section; it begins with a key
            path, message = section, message.removeprefix("Value error, ")
            own = source in (origin for key, origin in self.origin.items() if key.startswith(f"{section}."))
            keys = [] if own else [f"{section}.{message.partition(':')[0]}"]  # blame the row unless it set nothing here
        where = _place(next((self.origin[key] for key in keys if key in self.origin), source), self._name(path))
        if problem["type"] == "missing":
            return f"{where}: is missing and has no default; set it"
        if not problem["loc"]:
            return f"{where}.{message}" if message.partition(":")[0].isidentifier() else f"{where}: {message}"
        message = message.removeprefix("Value error, ")
        if kind := WRONG_TYPES.get(problem["type"]):
            return f"{where} must be {kind}, not {value!r}{_hint(value)}"
        return f"{where}: {message} (got {value!r:.80})"


def _hint(value: Any) -> str:
    """Return a hint how to write a number that YAML reads as text."""
    if not isinstance(value, str):
        return ""
    if match := re.fullmatch(r"([+-]?\d+)(e[+-]?\d+)", value.lower()):  # a number only with a point, in YAML
        return f"; write {match[1]}.0{match[2]}, not {value}"
    return "; write 0.1, not 10%" if "%" in value else ""


def _place(origin: str, path: str) -> str:
    """Name a setting in messages.

    For example `config.yaml: runs.one.nms.sigma` in a row, or `tad/detectors/mse.yaml for demo: nms.sigma`.
    """
    row = ROW.fullmatch(origin)
    return f"{row[1]}: {row[2]}.{path}" if row else f"{origin}: {path}"


def _group(model: type[Spec] | None, key: str) -> type[Spec] | None:
    """Return the model of a field that is a group of settings, else None."""
    annotation = model.model_fields[key].annotation if model else None
    return annotation if isinstance(annotation, type) and issubclass(annotation, Spec) else None


def of_component(kind: str, name: str, variants: list[str]) -> Resolved:
    """Return the sections of a component, not yet checked: defaults, its YAML, and the YAML's `for` each variant.

    Raises:
        TadError: the YAML has an unknown section or key.
    """
    models, document = dict(plugins.sections(kind, name)), plugins.document(kind, name)
    file, own = plugins.file_of(kind, name), plugins.file_of(kind, name, "_settings.py")
    resolved = Resolved({}, models=models, called={"settings": kind[:-1] if kind != "datasets" else "settings"})
    for section, model in models.items():
        values = plugins.section_defaults(kind, name, section)
        resolved.sections[section] = values
        source = own if section in ("settings", "render") else f"{model.__module__.replace('.', '/')}.py"
        resolved.origin |= {f"{section}.{key}": source for key in values}
        resolved.lay(section, document.get(section, {}), file)
    for variant in variants:
        changes = document.get("for", {}).get(variant, {})
        if not isinstance(changes, dict):
            raise TadError(f"{file}: for.{variant} must be sections of settings, not {changes!r}")
        for section, values in changes.items():
            resolved.lay(section, values, f"{file} for {variant}")
    return resolved


def component_sections(kind: str, name: str, *variants: str) -> dict[str, Settings]:
    """Return the checked sections of a component for variants of its YAML, as plain values.

    Raises:
        TadError: its YAML has an unknown section or key, or an invalid value.
    """
    return of_component(kind, name, list(variants)).check(plugins.file_of(kind, name)).sections


def _fields_at(model: type[Spec], path: tuple[Any, ...]) -> list[str]:
    """Return the valid keys at the place of an unknown key."""
    rows: dict[str, type[Spec]] = {"datasets": DatasetRow, "features": FeatureRow, "runs": RunRow}
    if len(path) >= 2 and path[0] in rows and issubclass(model, IncludedFile):
        model, path = rows[str(path[0])], path[2:]
    for part in path:  # a group of settings in a row, or in a list of groups
        if str(part) in model.model_fields:
            model = next(iter(_specs_in(model.model_fields[str(part)].annotation)), model)
    return list(model.model_fields)


def _specs_in(annotation: Any) -> list[type[Spec]]:
    """Return the specs that a type annotation contains."""
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return [annotation]
    return [spec for part in get_args(annotation) for spec in _specs_in(part)]


def parse(model: type[AnySpec], value: Any, source: str) -> AnySpec:
    """Validate `value` as a spec.

    Raises:
        TadError: an invalid value, as `source: path: …`; for an unknown key, with the nearest valid one.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        # a mistyped key also makes the right one missing; report the typo
        problem = next((p for p in error.errors() if p["type"] == "extra_forbidden"), error.errors()[0])
        path = tuple(problem["loc"])
        if problem["type"] == "extra_forbidden":
            key = str(path[-1])
            where = ".".join(str(p) for p in path)
            known = _fields_at(model, path[:-1])
            raise TadError(f"{source}: {where}: unknown key '{key}'; {plugins.nearest(key, known)}") from None
        raise TadError(f"{source}: {explain(error)}") from None
