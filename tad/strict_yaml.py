"""YAML files read strictly: plain data only, a key written twice is an error, and every error names file and line."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from tad.errors import TadError


class _Loader(yaml.SafeLoader):
    """Plain data; a mapping's keys differ. (YAML itself lets the later of two rows win without a word.)"""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"'{key.value}' is there twice", key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings in a YAML file.

    Raises:
        TadError: missing, not UTF-8, not plain YAML, a key twice, or no settings at all; names the file and the line.
    """
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise TadError(f"{path}: no such file; run tad where config.yaml lies, or name it with --config") from None
    except UnicodeDecodeError as error:
        raise TadError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        raise TadError(f"{path}:{line} {getattr(error, 'problem', error)}; correct the YAML") from None
    if not isinstance(values, dict):
        raise TadError(f"{path}: expected settings (key: value), found {type(values).__name__}")
    return values
