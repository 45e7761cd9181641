"""The JSON schema of config.yaml, printed or written."""

from collections.abc import Iterator
from pathlib import Path

from tad.core.files import publish
from tad.settings.schema import schema_text


def schema(out: Path | None) -> Iterator[str]:
    """Yield the schema, or write it to the file `out`."""
    if out is None:
        yield schema_text().rstrip("\n")
        return
    with publish(out) as partial:
        partial.write_text(schema_text(), encoding="utf-8")
