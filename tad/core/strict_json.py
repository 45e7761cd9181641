"""Parse JSON from untrusted sources: depth and integers are limited, and every failure is a ValueError."""

import json
import math
import re
from collections.abc import Callable
from typing import Any

from tad.core.limits import DEPTH, LimitError, refuse_integer

Pairs = Callable[[list[tuple[str, Any]]], Any]
ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
NOT_BRACKETS = bytes(set(range(256)) - set(b'[]{}"'))
BRACKETS = bytes.maketrans(b"{}", b"[]")
EXPONENT = re.compile(r"[eE]\+?\d{3}")
DIGITS = bytes.maketrans(b"123456789", b"000000000")
LONGEST = 400  # digits that Python converts quickly; longer integers are refused unread


def type_name(value: object) -> str:
    """Name the JSON type of a value, with its article, for messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"'{str(value).lower()}'"
    kinds = {dict: "an object", list: "a list", str: "a text", int: "a number", float: "a number"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def _integer(text: str) -> int:
    if len(text) > LONGEST:
        raise LimitError(f"the integer {text[:20]}… has {len(text)} digits; numbers have at most 19")
    return refuse_integer(int(text), text)


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise LimitError(f"the number {text[:20]} is too large")
    return value


def _refuse_constant(name: str) -> float:
    raise LimitError(f"{name} is not JSON")


def decoder(*, pairs: Pairs | None = None, nan: bool = False, finite: bool = False) -> json.JSONDecoder:
    """Return a decoder with limited integers.

    Args:
        pairs: function that makes an object of its (key, value) pairs.
        nan: accept NaN and Infinity, which are not JSON but occur in published files.
        finite: refuse numbers that are infinite as floats, such as 1e400; this takes longer.
    """
    floats = {"parse_float": _finite} if finite else {}
    constant = {} if nan else {"parse_constant": _refuse_constant}
    return json.JSONDecoder(object_pairs_hook=pairs, parse_int=_integer, **constant, **floats)  # type: ignore[arg-type]


def _may_be_infinite(text: str) -> bool:
    """Return whether text may hold a number that is infinite as a float: an exponent or mantissa of many digits."""
    return bool(EXPONENT.search(text)) or b"0" * 300 in text.encode("utf-8", "surrogatepass").translate(DIGITS)


def refuse_deep(text: str) -> None:
    """Check the depth of JSON text without recursion, in a few passes that run at the speed of memory.

    Raises:
        LimitError: values are nested more than `DEPTH` times. Brackets that are never closed count as nested.
    """
    if text.count("[") + text.count("{") <= DEPTH:
        return
    stored = text.encode("utf-8", "surrogatepass").replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = stored.translate(BRACKETS, NOT_BRACKETS).replace(b'""', b"")
    if b'"' in brackets:  # brackets inside strings
        brackets = re.sub(rb'"[^"]*"', b"", brackets)
    for _ in range(DEPTH):  # each pass removes the innermost level
        inner = brackets.replace(b"[]", b"")
        if len(inner) == len(brackets):
            break
        brackets = inner
    if b"[]" in brackets or brackets.count(b"[") > DEPTH:
        raise LimitError(f"values are nested more than {DEPTH} times")


def refuse_surrogates(text: str, value: object) -> None:
    """Check that no string of a value is half of a surrogate pair, which no file or terminal can hold.

    Args:
        text: the JSON text; only escapes in it can produce one.
        value: the value of the text.

    Raises:
        LimitError: a string is not valid Unicode.
    """
    if ESCAPED_SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            half = f"\\u{ord(error.object[error.start]):04x}"
            raise LimitError(f"a string contains {half}, an unpaired surrogate, so it is not valid Unicode") from None


def parse_json(text: str, *, pairs: Pairs | None = None, nan: bool = False) -> Any:
    """Parse JSON text; see `decoder` for the arguments.

    Raises:
        json.JSONDecodeError: the text is not JSON.
        LimitError: NaN, a number that is infinite as a float, an integer of more than 64 bits, more than `DEPTH`
            levels, or text that is not Unicode.
    """
    refuse_deep(text)
    try:
        value = decoder(pairs=pairs, nan=nan, finite=not nan and _may_be_infinite(text)).decode(text)
    except RecursionError:  # only if the caller is itself near the limit of recursion
        raise LimitError("values are nested too deeply") from None
    refuse_surrogates(text, value)
    return value
