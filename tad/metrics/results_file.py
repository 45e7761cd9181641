"""Streaming reader of results files: only one video is held in memory at a time, even of a gigabyte of JSON."""

import json
import zipfile
from collections.abc import Callable, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any, TextIO

from tad.core import checksums, formats
from tad.core.errors import DamagedError, TadError
from tad.core.file_kinds import other_kind
from tad.core.limits import LimitError
from tad.core.strict_json import decoder, refuse_deep, refuse_surrogates
from tad.metrics.columns import Collector, Columns

BLOCK = 1 << 20  # characters per read
BLANK = " \t\r\n"
PEEK = 4096
BEHIND_NUMBER = 2  # characters of a truncated number that are not decoded: `1.` and `1e-` are read as 1
LONGEST_TOKEN = 16  # an error this close to the end of the buffer may be due to a truncated token


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        raise TadError(f"key '{next(key for key in keys if keys.count(key) > 1)}' is given twice; keep one")
    return value


def _members(value: list[Any] | dict[str, Any]) -> int:
    """Count the members of an object, or of the objects in a list, without those nested deeper."""
    return len(value) if isinstance(value, dict) else sum(len(item) for item in value if isinstance(item, dict))


def _check(text: str, value: Any, where: str) -> None:
    try:
        refuse_deep(text)
        refuse_surrogates(text, value)
    except LimitError as error:
        raise TadError(f"not a results file: {error} ({where}); recreate the file") from None


class _Stream:
    """Incremental JSON reader that holds only the current value."""

    def __init__(self, handle: TextIO) -> None:
        self._handle, self._text, self._at, self._done, self._size = handle, "", 0, False, 0
        self._quick = decoder().raw_decode
        self._exact = decoder(pairs=_unique).raw_decode

    def _more(self) -> bool:
        """Append another block to the unread text; blocks grow with the size of the current value."""
        left = len(self._text) - self._at
        block = "" if self._done else self._handle.read(max(BLOCK, left))
        self._done = not block
        self._text, self._at = self._text[self._at :] + block, 0
        return bool(block)

    def peek(self) -> str:
        """Return the next character that is not blank, or "" at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in BLANK:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, expected: str, where: str) -> str:
        """Consume and return the next character, which must be one of `expected`."""
        character = self.peek()
        if not character or character not in expected:
            what = f"'{character}'" if character else "the file ends"
            raise TadError(
                f"not valid JSON: {what} where one of {' '.join(expected)} must follow ({where}); the file is truncated"
            )
        self._at += 1
        return character

    def _decode(self) -> tuple[Any, int]:
        """Decode the value at the current position, and refuse duplicate keys.

        Every member of an object needs a colon. If there are as many colons as members, no member was overwritten by
        another of the same name. The exact decoder, which takes twice as long, settles all other cases.
        """
        value, end = self._quick(self._text, self._at)
        if not isinstance(value, list | dict) or _members(value) == self._text.count(":", self._at, end):
            return value, end
        return self._exact(self._text, self._at)

    def value(self, where: str) -> Any:
        """Consume and return the next complete value."""
        self.peek()
        while True:
            try:
                value, end = self._decode()
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos >= len(self._text) - LONGEST_TOKEN
                if cut and self._more():
                    continue
                raise TadError(f"not valid JSON ({error.msg}, {where}); repair or recreate the file") from None
            except RecursionError:
                raise TadError(f"not a results file: nested too deeply ({where}); recreate the file") from None
            except LimitError as error:
                raise TadError(f"{error} ({where}); detections must be finite numbers; correct it") from None
            begin = self._at
            if end >= len(self._text) - BEHIND_NUMBER:  # a number may continue in the next block
                if self._more():
                    continue
                end -= begin  # the end of the file, to which the text has been cut
            _check(self._text[self._at : end], value, where)
            self._at = end
            return value

    def members(self, where: str, visit: Callable[[str], None]) -> None:
        """Call `visit(key)`, which must consume the value, for every member of the next object."""
        self.take("{", where)
        keys: set[str] = set()
        if self.peek() == "}":
            self.take("}", where)
            return
        while True:
            if self.peek() != '"':
                self.take('"', where)
            key = self.value(where)
            if key in keys:
                raise TadError(f"key '{key}' is given twice ({where}); merge the two")
            keys.add(key)
            self.take(":", f"after '{key}'")
            visit(key)
            if self.take(",}", f"after '{key}'") == "}":
                return


def _looks_like(path: Path) -> str:
    """Describe what a file that is not a results file looks like, with a remedy."""
    with open(path, "rb") as handle:
        head = handle.read(PEEK)
    if head[:1] == b"\x80":
        return "looks like a Python pickle (ActionFormer's eval_results.pkl is one); write its rows as JSON"
    if head[:8] == b"\x89HDF\r\n\x1a\n":
        return "looks like HDF5 (candidates before suppression?); run tad suppress on it first"
    if head[:6] == b"\x93NUMPY":
        return "looks like a NumPy array; write its rows as JSON"
    if zipfile.is_zipfile(path):
        return "looks like a zip archive (an .npz or a submission?); unpack it and name the JSON in it"
    if what := other_kind(head):
        return what
    text = head.decode("utf-8", "replace").lstrip("\ufeff" + BLANK)
    line = text.partition("\n")[0]
    if not text:
        return "is empty; recreate it"
    if text[0] == "[":
        return "looks like a list of detections (COCO style); group them by video: {'results': {video: [...]}}"
    if text[0] == "{":
        return "is JSON with another layout"
    words = len(line.split())
    if words == 3 and line.startswith("video_"):
        return "looks like THUMOS'14 annotations (video start end); give their folder as --annotations"
    if words in (4, 5) and not line.startswith("<"):
        return "looks like a THUMOS'14 devkit text file (video start end class score); write its rows as JSON"
    if line.count(",") >= 3:
        return "looks like CSV; write its rows as JSON"
    return f"begins with {line[:30]!r}"


def _layout(keys: set[str]) -> str:
    if "database" in keys:
        return "is an annotation file ('database'); give it as --annotations, and the detections in its place"
    if {"stamp", "videos", "labels"} <= keys:
        return "is an annotation table of tad; give it as --annotations"
    if "average_mAP" in keys:
        return "is a score (map.json); give the detections.json next to it"
    if {"t-start", "video-id"} & keys:
        return "holds columns (video-id, t-start, ...); group them by video"
    return f"has {', '.join(sorted(keys)[:3]) or 'nothing'}; if these are the videos, put them under one key 'results'"


def read_results(
    path: Path, *, label: Callable[[Mapping[str, Any]], Any] = itemgetter("label")
) -> tuple[Columns, dict[str, Any]]:
    """Read the detections of an ActivityNet results file, and its other entries (`stamp`, `version`, …).

    Args:
        label: function that returns the label of an entry.

    Raises:
        TadError: a file that is missing, damaged (see `tad.core.checksums`), not UTF-8, truncated, of another layout
            (which the message names) or of a `tad` format that this version cannot read; NaN or infinity, a duplicate
            key, or an invalid entry.
    """
    path, collector = Path(path), Collector(label=label)
    rest: dict[str, Any] = {}
    has_results = False

    def video(video_id: str) -> None:
        collector.add(video_id, stream.value(f"video '{video_id}'"))

    def top(key: str) -> None:
        nonlocal has_results
        if key == "results":
            has_results = True
            if stream.peek() != "{":
                raise TadError("'results' must be {video id: [detections]}; group the detections by video")
            stream.members("results", video)
        else:
            rest[key] = stream.value(f"'{key}'")

    try:
        sealed = checksums.verify_inline(path)
        with open(path, encoding="utf-8-sig") as handle:
            stream = _Stream(handle)
            if stream.peek() != "{":
                raise TadError(f"not a results file: it {_looks_like(path)}")
            stream.members("the file", top)
            if stream.peek():
                what = f"not valid JSON: '{stream.peek()}' after the end of the object; repair the file"
                several = "holds several JSON objects (JSON lines, or several files in one); put them into one"
                raise TadError(several if stream.peek() == "{" else what)
    except DamagedError:
        raise
    except TadError as error:
        raise TadError(f"{path}: {error}") from None
    except UnicodeDecodeError:
        raise TadError(f"{path}: not a results file: it {_looks_like(path)}") from None
    except FileNotFoundError:
        raise TadError(f"{path}: no such file; check the path") from None
    except IsADirectoryError:
        raise TadError(f"{path}: is a folder; give the results file in it") from None
    rest.pop(checksums.KEY, None)
    if not has_results:
        raise TadError(f"{path}: not a results file: it {_layout(set(rest))}")
    formats.check_document(rest | {"results": has_results}, path, sealed=sealed)
    return collector.columns(), rest
