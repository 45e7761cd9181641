"""Convert the video names of an annotation file to video ids: file names without folder and suffix."""

import os
import re
from collections import Counter
from urllib.parse import parse_qs, unquote

from tad.core.errors import TadError
from tad.core.ids import VIDEO_EXTENSIONS
from tad.datasets._text import compose

SUFFIX, FOLDER = "names with the extension of the file", "names with the folder of the file"
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+://")
WINDOWS = re.compile(r"[A-Za-z]:\\|\\\\")


class VideoNames:
    """Convert the video names of one annotation file to ids; `seen` counts the names with a folder or a suffix."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self._parts: dict[str, tuple[str, str, str]] = {}  # id → folder, suffix and full name
        self._split: dict[str, tuple[str, str, str, str]] = {}  # name → composed name, folder, id and suffix

    def read(self, name: str, where: str) -> str:
        """Return the id in a name: `clip` for `clip`, `clip.mp4`, `videos/clip.mp4` and `C:\\videos\\clip.mp4`.

        Of a web address it is the last part without the query, or the id in `watch?v=…` of YouTube.

        A name with `..`, an absolute folder or a backslash is treated as a path only if it ends with the suffix of a
        video file or starts with a drive. Otherwise it is returned unchanged, and the check refuses it.

        Raises:
            TadError: two names in the file have the same id but different folders or suffixes.
        """
        if name not in self._split:
            text = compose(name)
            self._split[name] = (text, *_split(text))
        text, folder, stem, suffix = self._split[name]
        if not folder and not suffix and stem in self._parts:  # says nothing new; most rows of a file
            return stem
        if folder:
            self.seen[FOLDER] += 1
        if suffix:
            self.seen[SUFFIX] += 1
        known = self._parts.setdefault(stem, (folder, suffix, text))
        for ours, theirs in ((folder, known[0]), (suffix, known[1])):
            if ours and theirs and ours != theirs:
                raise TadError(
                    f"{where}: '{text}' and '{known[2]}' above would both be the video '{stem}'; rename one of the two"
                    " files, or write both names alike if they are the same video"
                )
        self._parts[stem] = (folder or known[0], suffix or known[1], text if folder or suffix else known[2])
        return stem


def _path_of(address: str) -> str:
    """Return the path in an address (http, file, s3), with the YouTube id of `watch?v=…` as its last part."""
    path, _, query = address.partition("#")[0].partition("?")
    watched = parse_qs(query).get("v")
    if watched and path.endswith("/watch"):
        return f"{path}/{watched[0]}"
    return compose(unquote(path))


def _split(text: str) -> tuple[str, str, str]:
    """Split a name into folder, id and suffix; folder and suffix are empty unless it is certainly a path or a file."""
    if ADDRESS.match(text):
        text = _path_of(text)
    stem, suffix = os.path.splitext(text)
    suffix = suffix.lower() if suffix.lower() in VIDEO_EXTENSIONS else ""
    stem = stem if suffix else text
    windows = WINDOWS.match(stem) is not None or (suffix and "\\" in stem)
    unix = not stem.startswith("/") and ".." not in stem.split("/")
    if not windows and ("\\" in stem or not (unix or suffix)):
        return "", text, ""
    folder, _, last = (stem.replace("\\", "/") if windows else stem).rpartition("/")
    if not last or last in (".", "..") or last.startswith("."):
        return "", text, ""
    return folder or ("/" if stem.startswith("/") else ""), last, suffix
