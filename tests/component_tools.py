"""Settings of components for tests: defaults, the YAML's for data sets, and changes, validated as in config.yaml."""

from typing import Any

from tad.settings.resolved import of_component


def laid(kind: str, name: str, changes: dict[str, Any], *variants: str) -> dict[str, Any]:
    """Return the settings of a component with `changes` applied."""
    resolved = of_component(kind, name, [variant for variant in variants if variant])
    resolved.lay("settings", changes, "test")
    return resolved.check("test").sections["settings"]
