"""Results files, read video by video: a file of a gigabyte never is in memory as a whole."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from tad.errors import TadError
from tad.metrics.columns import Collector, Columns

BLOCK = 1 << 20  # characters read at once
BLANK = " \t\r\n"
PEEK = 4096
LONGEST_TOKEN = 16  # an error this close to the end of what was read may be a token that is cut there


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        raise TadError(f"key '{next(key for key in keys if keys.count(key) > 1)}' is given twice")
    return value


def _constant(name: str) -> float:
    raise TadError(f"{name} is not JSON; detections must be finite numbers")


class _Stream:
    """A JSON text taken piece by piece; only the value at hand is held."""

    def __init__(self, handle: TextIO) -> None:
        self._handle, self._text, self._at, self._done, self._size = handle, "", 0, False, 0
        self._decode = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_constant).raw_decode

    def _more(self) -> bool:
        """Read another block behind what is left; the blocks grow with a value that does not end."""
        left = len(self._text) - self._at
        block = "" if self._done else self._handle.read(max(BLOCK, left))
        self._done = not block
        self._text, self._at = self._text[self._at :] + block, 0
        return bool(block)

    def peek(self) -> str:
        """The next character that is not blank; empty at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in BLANK:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, expected: str, where: str) -> str:
        """One of the characters `expected`, which is consumed."""
        found = self.peek()
        if not found or found not in expected:
            what = f"'{found}'" if found else "the file ends"
            raise TadError(f"not valid JSON: {what} where one of {' '.join(expected)} must follow ({where}); it is cut")
        self._at += 1
        return found

    def value(self, where: str) -> Any:
        """The next whole value."""
        self.peek()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos >= len(self._text) - LONGEST_TOKEN
                if cut and self._more():
                    continue
                raise TadError(f"not valid JSON ({error.msg}, {where}); repair the file or make it again") from None
            if end == len(self._text) and self._more():  # a number at the end of a block may go on in the next one
                continue
            self._at = end
            return value

    def members(self, where: str, visit: Callable[[str], None]) -> None:
        """Call `visit(key)`, which must consume the value, for every member of the object that comes next."""
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
    """What a file that is no results file looks like, and what to do with it."""
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
    text = head.decode("utf-8", "replace").lstrip("\ufeff" + BLANK)
    line = text.partition("\n")[0]
    if not text:
        return "is empty; make it again"
    if text[0] == "[":
        return "looks like a list of detections (COCO style); group them by video: {'results': {video: [...]}}"
    if text[0] == "{":
        return "is JSON of another layout"
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
        return "is a score (map.json); give the detections.json beside it"
    if {"t-start", "video-id"} & keys:
        return "holds columns (video-id, t-start, ...); group them by video"
    return f"has {', '.join(sorted(keys)[:3]) or 'nothing'}; if these are the videos, put them under one key 'results'"


def read_results(path: Path) -> tuple[Columns, dict[str, Any]]:
    """The detections of an ActivityNet results file, and its other entries (`stamp`, `version`, `external_data` …).

    Raises:
        TadError: missing, not UTF-8, cut, NaN or infinity, a key that is given twice, an entry that is no detection,
            or another layout, which the message names.
    """
    path, collector = Path(path), Collector()
    rest: dict[str, Any] = {}
    found = False

    def video(video_id: str) -> None:
        collector.add(video_id, stream.value(f"video '{video_id}'"))

    def top(key: str) -> None:
        nonlocal found
        if key == "results":
            found = True
            if stream.peek() != "{":
                raise TadError("'results' must be {video id: [detections]}; group the detections by video")
            stream.members("results", video)
        else:
            rest[key] = stream.value(f"'{key}'")

    try:
        with open(path, encoding="utf-8-sig") as handle:
            stream = _Stream(handle)
            if stream.peek() != "{":
                raise TadError(f"not a results file: it {_looks_like(path)}")
            stream.members("the file", top)
            if stream.peek():
                raise TadError(f"not valid JSON: '{stream.peek()}' after its end; repair the file")
    except TadError as error:
        raise TadError(f"{path}: {error}") from None
    except UnicodeDecodeError:
        raise TadError(f"{path}: not a results file: it {_looks_like(path)}") from None
    except FileNotFoundError:
        raise TadError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise TadError(f"{path}: is a folder; name the results file in it") from None
    if not found:
        raise TadError(f"{path}: not a results file: it {_layout(set(rest))}")
    return collector.columns(), rest
