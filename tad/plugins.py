"""Components found by module name: `tad.<kind>.<name>`, settings in the YAML beside it, one fixed symbol inside.

No registry: a new method is a new file. Settings are read and checked here without importing the component (or torch).
"""

import difflib
import importlib
import pkgutil
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tad.errors import TadError

SYMBOLS = {"datasets": "read", "backbones": "Backbone", "detectors": "Detector"}
PACKAGE = Path(__file__).parent


def nearest(name: str, known: list[str]) -> str:
    """A hint for a mistyped name: the nearest known one, and all of them."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}known: {', '.join(sorted(known)) or 'none'}"


def names(kind: str) -> list[str]:
    """The components of a kind (`datasets`, `backbones` or `detectors`), sorted."""
    return sorted(m.name for m in pkgutil.iter_modules([str(PACKAGE / kind)]) if not m.name.startswith("_"))


@cache
def _document(kind: str, name: str) -> dict[str, Any]:
    if name not in names(kind):
        raise TadError(f"no {kind[:-1]} is called '{name}'; {nearest(name, names(kind))}")
    path = PACKAGE / kind / f"{name}.yaml"
    value = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise TadError(f"{path}: expected settings, found {type(value).__name__}")
    return value


def document(kind: str, name: str) -> dict[str, Any]:
    """The component's whole YAML as a fresh dict.

    Sections: `settings` (the constructor's keyword arguments with their defaults), others by kind (`train`, `detect`,
    `nms` of a detector; `clip`, `weights` of a backbone; `eval`, `published` of a dataset), and `for`: changes per
    dataset, feature set or variant, by section.
    """
    import copy

    return copy.deepcopy(_document(kind, name))


def check_value(where: str, default: Any, value: Any) -> Any:
    """`value` if it has the type of the default that it replaces (an int may stand for a float).

    Raises:
        TadError: another type; PyYAML reads `1e-4` as a string, and the message says what to write.
    """
    if isinstance(default, bool) or isinstance(value, bool):
        fits = isinstance(default, bool) and isinstance(value, bool)
    elif isinstance(default, float):
        fits = isinstance(value, int | float)
        value = float(value) if fits else value
    elif isinstance(default, list):
        fits = isinstance(value, list)
    else:
        fits = isinstance(value, type(default))
    if not fits:
        text = value if isinstance(default, float) and isinstance(value, str) else ""
        hint = "; write 1.0e-4, not 1e-4" if "e" in text.lower() else "; write 0.1, not 10%" if "%" in text else ""
        raise TadError(f"{where} is a {type(default).__name__} ({default!r} by default), not {value!r}{hint}")
    return value


def override(where: str, base: dict[str, Any], changes: dict[str, Any], source: str) -> dict[str, Any]:
    """`base` with `changes` laid over it; every key must exist in `base` and keep its type (checked by example).

    Nested dicts are merged; `where` is the path used in messages, `source` the file or layer that the change is from.
    """
    if not isinstance(changes, dict):
        raise TadError(f"{source}: {where} must be settings (key: value), not {changes!r}")
    merged = dict(base)
    for key, value in changes.items():
        if key not in base:
            raise TadError(f"{source}: {where} has no setting '{key}'; {nearest(str(key), list(base))}")
        if isinstance(base[key], dict) and base[key]:
            merged[key] = override(f"{where}.{key}", base[key], value, source)
        else:
            merged[key] = check_value(f"{source}: {where}.{key}", base[key], value)
    return merged


def load(kind: str, name: str) -> Any:
    """The component itself: `Detector`, `Backbone` or `read` of `tad.<kind>.<name>`."""
    document(kind, name)
    return getattr(importlib.import_module(f"tad.{kind}.{name}"), SYMBOLS[kind])
