"""Strict YAML reader: plain data only; duplicate keys are errors; every error names file and line.

Files from others may be built to fill the memory or the stack: size, depth and the values behind aliases are limited
before anything is built (`tad.core.limits`).
"""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from tad.core.errors import TadError
from tad.core.limits import DEPTH, YAML_BYTES, YAML_NODES, LimitError
from tad.core.strict_json import type_name

# PyYAML's C parser, if available, is about ten times as fast
Plain: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
SAFE_STACK = 2000  # levels that the C parser composes without overflowing its stack; measured: 5,000 are possible
LONGEST_INTEGER = 24  # characters
TAG = "tag:yaml.org,2002:"
TAGS = {  # of plain data; others (sets, bytes, ordered pairs, Python's own) are not settings
    yaml.ScalarNode: {TAG + name for name in ("null", "bool", "int", "float", "str", "timestamp", "merge")},
    yaml.SequenceNode: {TAG + "seq"},
    yaml.MappingNode: {TAG + "map"},
}


class _Strict:
    """Loader mixin that rejects duplicate keys, of which PyYAML would silently use the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"duplicate key '{key.value}'", key.start_mark)
                seen.add(key.value)
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep=deep)  # type: ignore[misc]
        return mapping

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Build a value; impossible dates and numbers are errors with a line."""
        if node.tag.endswith(":int") and len(node.value) > LONGEST_INTEGER:
            problem = f"the integer {node.value[:20]}… has {len(node.value)} characters; numbers have at most 19"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        try:
            return super().construct_object(node, deep=deep)  # type: ignore[misc]
        except (ValueError, TypeError, OverflowError, AttributeError, KeyError) as error:
            problem = f"not a value of the kind that it looks like ({error})"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None


class _Quick(_Strict, Plain):  # type: ignore[misc, valid-type]
    """Strict loader with the C parser."""


class _Exact(_Strict, yaml.SafeLoader):
    """Strict loader with the Python parser, whose error messages are better."""


def _refuse_deep(text: str) -> None:
    """Check the depth from the events of the parser, which need no stack. Small files cannot be deep."""
    if sum(text.count(opening) for opening in ("[", "{", "- ", "-\n", "?", ":")) <= SAFE_STACK:
        return
    depth = 0
    for event in yaml.parse(text, Loader=Plain):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH:
            line = event.start_mark.line + 1 if event.start_mark else 0
            raise LimitError(f"line {line}: values are nested more than {DEPTH} times")


def _refuse_tag(node: yaml.Node) -> None:
    """Check that a node is plain data, of the kind that its tag names, in valid Unicode."""
    place = f"line {node.start_mark.line + 1}"
    if node.tag not in TAGS[type(node)]:
        raise LimitError(f"{place}: a value with the tag {node.tag.replace(TAG, '!!')} is not plain data")
    if isinstance(node, yaml.ScalarNode) and not node.value.isascii():
        try:
            node.value.encode("utf-8")
        except UnicodeEncodeError:
            raise LimitError(f"{place}: a string contains an unpaired surrogate, so it is not valid Unicode") from None


def _inner(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _refuse_large(root: yaml.Node) -> None:
    """Check the depth and the number of values after aliases are replaced by what they stand for.

    Raises:
        LimitError: too many or too deep, or an alias within the value that it stands for.
    """
    counts: dict[int, int] = {}  # values in a node, by its id
    levels: dict[int, int] = {}
    stack, open_nodes = [root], set[int]()
    while stack:
        node = stack[-1]
        place = f"line {node.start_mark.line + 1}"
        parts = _inner(node)
        if id(node) not in open_nodes and id(node) not in counts:
            _refuse_tag(node)
            open_nodes.add(id(node))
            if any(id(part) in open_nodes for part in parts):
                raise LimitError(f"{place}: an alias stands for a value that contains the alias")
            stack += [part for part in parts if id(part) not in counts]
            continue
        stack.pop()
        if id(node) in counts:
            continue
        open_nodes.discard(id(node))
        counts[id(node)] = 1 + sum(counts[id(part)] for part in parts)
        levels[id(node)] = 1 + max((levels[id(part)] for part in parts), default=-1)
        if counts[id(node)] > YAML_NODES:
            raise LimitError(f"{place}: aliases stand for more than {YAML_NODES} values; write them out")
        if levels[id(node)] > DEPTH:
            raise LimitError(f"{place}: values are nested more than {DEPTH} times")


def _build(text: str, loader_class: type[yaml.SafeLoader]) -> Any:
    loader = loader_class(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _refuse_large(node)
        return loader.construct_document(node)  # type: ignore[no-untyped-call]
    finally:
        loader.dispose()  # type: ignore[no-untyped-call]


def parse_yaml(text: str) -> Any:
    """Parse YAML text as plain data.

    Raises:
        LimitError: the text is too long, deep or large, or is not plain YAML; the message begins with the line.
    """
    if len(text) > YAML_BYTES:
        raise LimitError(
            f"has {len(text)} characters, more than the {YAML_BYTES} of any settings; is this the right file?"
        )
    try:
        _refuse_deep(text)
        try:
            value = _build(text, _Quick)
        except yaml.YAMLError:
            value = _build(text, _Exact)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        raise LimitError(f"{line}{getattr(error, 'problem', None) or error}") from None
    except RecursionError:
        raise LimitError("values are nested too deeply") from None
    return value


def parse_settings(text: str, source: str) -> dict[str, Any]:
    """Parse settings in YAML or JSON text; `source` is its name in messages.

    Raises:
        TadError: the text is not plain YAML, has a duplicate key, or is not a mapping; the message names the line.
    """
    try:
        values = parse_yaml(text)
    except LimitError as error:
        raise TadError(f"{source}: {error}; correct the YAML") from None
    if not isinstance(values, dict):
        raise TadError(f"{source}: expected settings (key: value), found {type_name(values)}")
    return values


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the settings in a YAML file.

    Raises:
        TadError: a file that is missing, not UTF-8, not plain YAML or without settings, or a duplicate key; the message
            names the file and the line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise TadError(f"{path}: no such file; run tad in the folder of config.yaml, or use --config") from None
    except UnicodeDecodeError as error:
        raise TadError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    return parse_settings(text, str(path))
