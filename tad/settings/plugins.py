"""Find components by module name: `tad.<kind>.<name>` with one fixed symbol.

There is no registry: a new method is a new file. Beside `<name>.py` are `<name>_settings.py` (the class `Settings`,
without torch) and optionally `<name>.yaml` (what a paper changes in the common defaults, per data set under `for`).

A component may also be in another installed package, whose entry point in the group `tad.<kind>` names its module.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from tad.core.errors import TadError, cause_of
from tad.core.installed import Installed, installed, module_file
from tad.settings.base import Settings, Spec, explain
from tad.settings.clips import ClipSpec
from tad.settings.components import BackboneSettings, ComponentSettings, DetectorSettings, FormatSettings
from tad.settings.sections import DetectSpec, EvalSpec, NmsSpec, PretrainRecipe, TrainSpec
from tad.settings.strict_yaml import read_yaml

SYMBOLS = {"datasets": "read", "backbones": "Backbone", "detectors": "Detector"}
BASES: dict[str, type[ComponentSettings]] = {
    "datasets": FormatSettings, "backbones": BackboneSettings, "detectors": DetectorSettings,
}  # fmt: skip
# sections of a component's YAML and their types
DATA: dict[str, dict[str, type]] = {
    "detectors": {"train": dict, "detect": dict, "nms": dict, "labels": dict, "for": dict},
    "backbones": {"clip": dict, "pretrain": dict, "weights": list, "for": dict},
    "datasets": {"eval": dict, "published": dict, "for": dict},
}
PACKAGE = Path(__file__).parents[1]
NO_DATA: Mapping[str, Any] = MappingProxyType({})


def nearest(name: str, known: list[str]) -> str:
    """Return a hint for a mistyped name: the nearest known name, and all known names."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}known: {', '.join(sorted(known)) or 'none'}"


@cache
def _own_names(kind: str) -> tuple[str, ...]:
    modules = (module.name for module in pkgutil.iter_modules([str(PACKAGE / kind)]))
    return tuple(sorted(name for name in modules if not name.startswith("_") and not name.endswith("_settings")))


@cache
def _names(kind: str) -> tuple[str, ...]:
    return tuple(sorted({*_own_names(kind), *installed(f"tad.{kind}")}))


def names(kind: str) -> list[str]:
    """Return the components of a kind (`datasets`, `backbones` or `detectors`), including other packages', sorted."""
    return list(_names(kind))


def own_names(kind: str) -> list[str]:
    """Return the components of a kind that are part of tad, sorted."""
    return list(_own_names(kind))


def is_foreign(kind: str, name: str) -> bool:
    """Whether another package has a component of this name, even if tad has one too."""
    return name in installed(f"tad.{kind}")


def _foreign(kind: str, name: str) -> Installed | None:
    """Return the entry point of another package's component; None for tad's own."""
    return None if name in _own_names(kind) else next(iter(installed(f"tad.{kind}").get(name, ())), None)


def _path(kind: str, name: str, suffix: str) -> Path | None:
    """Return the path of a file beside a component, existing or not; None if the package's module does not exist."""
    foreign = _foreign(kind, name)
    module = module_file(foreign.module) if foreign else PACKAGE / kind / f"{name}.py"
    if module is not None and module.name == "__init__.py" and suffix != ".py":  # beside the folder
        return module.parent.with_name(module.parent.name + suffix)
    return module.with_name(module.stem + suffix) if module else None


def file_of(kind: str, name: str, suffix: str = ".yaml") -> str:
    """Return the name of a component's file in messages."""
    return str(_path(kind, name, suffix) if _foreign(kind, name) else f"tad/{kind}/{name}{suffix}")


def _require(kind: str, name: str) -> None:
    """Check that exactly one component has the name.

    Raises:
        TadError: none has it, or several packages do, or a package names a module that is not there.
    """
    if name not in _names(kind):
        raise TadError(f"no {kind[:-1]} is called '{name}'; {nearest(name, names(kind))}")
    others = installed(f"tad.{kind}").get(name, ())
    places = [f"tad/{kind}/{name}.py"] * (name in _own_names(kind)) + [str(other) for other in others]
    if len(places) > 1:
        raise TadError(
            f"{kind[:-1]} '{name}' exists several times: {' and '.join(places)}; uninstall a package, or rename its"
            " entry point"
        )
    if others and _path(kind, name, ".py") is None:
        raise TadError(f"{kind[:-1]} '{name}': there is no module {others[0]}; install the package again")


def _imported(kind: str, name: str, suffix: str = "") -> Any:
    """A component's module, or that of its settings.

    Raises:
        TadError: the module of another package cannot be imported.
    """
    foreign = _foreign(kind, name)
    if foreign is None:
        return importlib.import_module(f"tad.{kind}.{name}{suffix}")
    try:
        return importlib.import_module(foreign.module + suffix)
    except Exception as error:  # somebody else's code; the cause stays attached
        raise TadError(
            f"{kind[:-1]} '{name}': cannot import {foreign._replace(module=foreign.module + suffix)}"
            f" ({type(error).__name__}: {cause_of(error)}); repair or update that package"
        ) from error


@cache
def document(kind: str, name: str) -> Mapping[str, Any]:
    """Return the content of a component's YAML, read-only; empty without a file.

    Sections: `train`, `detect`, `nms` and `labels` of a detector; `clip`, `pretrain` and `weights` of a backbone;
    `eval` and `published` of a data set; `for`: changes per data set, feature set or variant, by section.

    Raises:
        TadError: no such component; or a file that cannot be read or has an unknown section.
    """
    _require(kind, name)
    path = _path(kind, name, ".yaml")
    if path is None or not path.is_file():
        return NO_DATA
    value, known = read_yaml(path), DATA[kind]
    for section, content in value.items():
        if section not in known:
            hint = f"its fields and defaults belong in {name}_settings.py" if section == "settings" else ""
            raise TadError(f"{path}: no section '{section}'; {hint or nearest(str(section), list(known))}")
        if not isinstance(content, known[section]):
            what = "settings (key: value)" if known[section] is dict else "a list"
            raise TadError(f"{path}: {section}: expected {what}, found {content!r}")
    return MappingProxyType(value)


@cache
def settings_class(kind: str, name: str) -> type[ComponentSettings]:
    """Return the class `Settings` of a component; without a module `<name>_settings`, a class without fields.

    Raises:
        TadError: no such component, or a module without the class.
    """
    _require(kind, name)
    path = _path(kind, name, "_settings.py")
    if path is None or not path.is_file():
        return BASES[kind]
    settings = getattr(_imported(kind, name, "_settings"), "Settings", None)
    if not (isinstance(settings, type) and issubclass(settings, BASES[kind])):
        where = file_of(kind, name, "_settings.py")
        raise TadError(f"{where}: define a class Settings that derives from {BASES[kind].__name__}")
    return settings


def detector_class(name: str) -> type[DetectorSettings]:
    """Return the class `Settings` of a detector."""
    settings = settings_class("detectors", name)
    assert issubclass(settings, DetectorSettings)
    return settings


@cache
def defaults_of(model: type[Spec]) -> Mapping[str, Any]:
    """Return the defaults of a model's fields as plain values, read-only, without required fields."""
    given = {name: field.get_default() for name, field in model.model_fields.items() if not field.is_required()}
    return MappingProxyType(model.model_construct(**given).model_dump(mode="json"))


def defaults(kind: str, name: str) -> Settings:
    """Return the defaults of all settings of a component."""
    return dict(defaults_of(settings_class(kind, name)))


def section_defaults(kind: str, name: str, section: str) -> Settings:
    """Return the defaults of a section of a component, without its YAML and without required fields."""
    model = settings_class(kind, name)
    if section == "clip" and issubclass(model, BackboneSettings) and model.clip is not None:
        return model.clip.model_dump(mode="json")
    return dict(defaults_of(sections(kind, name)[section]))


@cache
def sections(kind: str, name: str) -> Mapping[str, type[Spec]]:
    """Return the sections of a component's configuration, with the model of each."""
    model = settings_class(kind, name)
    models: dict[str, type[Spec]] = {"settings": model}
    if kind == "detectors":
        models |= {"train": TrainSpec, "detect": DetectSpec, "nms": NmsSpec}
    elif issubclass(model, BackboneSettings):
        models |= {"clip": ClipSpec, **({"pretrain": PretrainRecipe} if model.trainable else {})}
    elif issubclass(model, FormatSettings):
        models |= {"eval": EvalSpec, **({"render": model.render} if model.render else {})}
    return MappingProxyType(models)


def load(kind: str, name: str) -> Any:
    """Import a component: `Detector`, `Backbone` or `read` of its module.

    Raises:
        TadError: no such component, or a module without it.
    """
    _require(kind, name)
    component = getattr(_imported(kind, name), SYMBOLS[kind], None)
    if component is None:
        raise TadError(f"{file_of(kind, name, '.py')}: define {SYMBOLS[kind]}, by which tad finds the {kind[:-1]}")
    return component


def checked(kind: str, name: str, settings: Settings) -> ComponentSettings:
    """Return the settings of a component as an object of its class, with defaults for missing ones.

    Raises:
        TadError: unknown or invalid settings.
    """
    try:
        return settings_class(kind, name).model_validate(settings)
    except ValidationError as error:
        raise TadError(f"{kind[:-1]} {name}: {explain(error)}") from None


def build(kind: str, name: str, settings: Settings, **sizes: Any) -> Any:
    """Build a detector or backbone from settings, see `checked`; `sizes` are passed to its constructor.

    Raises:
        TadError: unknown or invalid settings.
    """
    return load(kind, name)(checked(kind, name, settings), **sizes)


def read_annotations(name: str, source: Path, settings: Settings) -> Any:
    """Read annotations in the format `name` into an annotation table, unchecked, with settings, see `checked`.

    Raises:
        TadError: unknown or invalid settings, or invalid annotations.
    """
    return load("datasets", name)(source, checked("datasets", name, settings))
