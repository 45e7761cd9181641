"""Settings in layers: sections of values, each with the file that it comes from; a later layer wins where it fits."""

from dataclasses import dataclass, field

from tad import plugins
from tad.errors import TadError
from tad.specs import Settings


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
