"""What a detector's settings must fulfil, declared in its YAML under `constraints`, so that a dry run can tell.

Constructors check what they cannot work with, for who calls them without a workflow.
"""

from typing import Any

from tad.specs import Settings


def broken(constraints: dict[str, Any], settings: Settings, *, max_length: int) -> str:
    """The first constraint that does not hold, in words; empty when all do.

    Args:
        constraints: `odd`: names of numbers, or lists of them, that must be odd. `multiple`: name → of what, numbers or
            names of settings; `max_length` may be named, and `last_stride`, snippets between points of the last level.
            `per_level`: names of lists with an entry per level. `one_of`: name → possible values (of entries of lists).
            `whole_windows`, `exclusive` and `masks` are for `tad.distill`, `kin` for `tad.fuse`.
        settings: of the detector, of detect, and `pretext_epochs`.
        max_length: snippets of a training window.
    """
    levels = len(settings.get("regression_ranges", [0]))
    known = {**settings, "max_length": max_length, "last_stride": 2 ** (levels - 1)}
    for name in constraints.get("odd", ()):
        numbers = known[name] if isinstance(known[name], list) else [known[name]]
        if any(number % 2 == 0 for number in numbers):
            return f"{name}: {known[name]}: must be odd"
    for name, factors in constraints.get("multiple", {}).items():
        for factor in factors:
            number = known[factor] if isinstance(factor, str) else factor
            if number < 1:
                return f"{factor}: {number}: must be at least 1"
            if known[name] % number:
                called = f" ({factor})" if isinstance(factor, str) else ""
                return f"{name}: {known[name]}: must be a multiple of {number}{called}"
    for name in constraints.get("per_level", ()):
        if len(known[name]) != levels:
            return f"{name}: {known[name]}: needs one entry per level of regression_ranges ({levels})"
    for name, values in constraints.get("one_of", {}).items():
        for value in known[name] if isinstance(known[name], list) else [known[name]]:
            if value not in values:
                return f"{name}: {value!r}: choose {' or '.join(map(str, values))}"
    return ""
