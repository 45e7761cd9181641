"""Format indented JSON at the speed of the C encoder.

`json.dumps` with an indent runs in pure Python, which takes minutes for a million annotations. Lists and objects
without further ones in them are formatted here by the C encoder, with the line break and the indent as its separator.
"""

import json
from collections.abc import Iterable
from functools import cache, lru_cache
from itertools import chain
from json.encoder import encode_basestring
from math import isfinite
from typing import Any

CONTAINERS = (dict, list, tuple)
SEQUENCES = frozenset({list, tuple})
LEAVES = frozenset({str, float, int, bool, type(None)})


@cache
def _encoder(level: int) -> json.JSONEncoder:
    """Return the encoder of a flat list or object whose items stand `level` spaces from the left."""
    separators = (",\n" + " " * level, ": ")
    return json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=separators)


@lru_cache(maxsize=1024, typed=True)  # typed: 1, 1.0 and true are equal but have other texts
def _key(key: Any) -> str:
    """Return the key of an object as JSON; numbers, booleans and null become text, as in `json.dumps`."""
    return _encoder(0).encode({key: 0})[1:-4]


def _leaf(value: Any) -> str:
    """Return the JSON of a text, number, boolean or null, without the cost of an encoder for the usual types."""
    kind = type(value)
    if kind is str:
        return encode_basestring(value)
    if value is None:
        return "null"
    if kind is int or (kind is float and isfinite(value)):
        return repr(value)
    return _encoder(0).encode(value)


def _flat(items: Iterable[Any]) -> bool:
    types = set(map(type, items))
    return types <= LEAVES or not any(issubclass(kind, CONTAINERS) for kind in types)


def _pairs(value: Any) -> bool:
    """Return whether a value is a list of flat lists that are not empty, such as a list of segments."""
    if not isinstance(value, list | tuple):
        return False
    if not set(map(type, value)) <= SEQUENCES or not all(value):
        return False
    return _flat(chain.from_iterable(value))


def _parts(value: Any, level: int, parts: list[str]) -> None:
    """Append the text of a list or object whose items stand `level` spaces from the left."""
    is_object = isinstance(value, dict)
    items = value.values() if is_object else value
    opening, closing = "{}" if is_object else "[]"
    if not value:
        parts.append(opening + closing)
        return
    indent = "\n" + " " * level
    parts.append(opening + indent)
    if _flat(items):
        parts.append(_encoder(level).encode(value)[1:-1])
    elif _pairs(value):
        # A raw line break is always part of a separator, because strings have it escaped.
        deeper = indent + " "
        text = _encoder(level + 1).encode(value)[2:-2].replace(f"],{deeper}[", f"{indent}],{indent}[{deeper}")
        parts.append(f"[{deeper}{text}{indent}]")
    else:
        first = True
        for key, item in value.items() if is_object else enumerate(value):
            parts.append(("" if first else "," + indent) + (f"{_key(key)}: " if is_object else ""))
            first = False
            if isinstance(item, CONTAINERS):
                _parts(item, level + 1, parts)
            else:
                parts.append(_leaf(item))
    parts.append(indent[:-1] + closing)


def indented(value: Any) -> str:
    """Return the text of `json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)`.

    Raises:
        TypeError: a value or key is of a type that JSON does not have.
        ValueError: a number is NaN or infinite.
        RecursionError: values are nested too deeply, or contain themselves.
    """
    if not isinstance(value, CONTAINERS):
        return _encoder(0).encode(value)
    parts: list[str] = []
    _parts(value, 1, parts)
    return "".join(parts)
