"""Listing of a folder's videos by id, and assignment to shards; light enough to import while parsing a workflow."""

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from tad.core.errors import Remedy, TadError
from tad.core.ids import VIDEO_EXTENSIONS as EXTENSIONS
from tad.core.ids import unsafe

PREVIEW = ".gif"  # a gif with the same id as another file is a preview of it


def _walk(
    folder: str, prefix: str, found: list[str], open_folders: set[tuple[int, int]], others: list[str] | None = None
) -> None:
    """Append files with a video extension to `found`, and all others to `others` if it is given."""
    stat = os.stat(folder)
    here = (stat.st_dev, stat.st_ino)
    if here in open_folders:  # a link to a parent folder
        return
    open_folders.add(here)
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
                if not entry.is_dir():
                    found.append(prefix + entry.name)
            elif entry.is_dir():
                _walk(entry.path, f"{prefix}{entry.name}/", found, open_folders, others)
            elif others is not None:
                others.append(prefix + entry.name)
    open_folders.discard(here)


def list_videos(folder: Path) -> dict[str, str]:
    """Return video id → path relative to `folder` (with `/`), sorted by id.

    Subfolders are searched; hidden names are skipped. The id is the file name without its extension in NFC, as
    annotation files name a video. A gif next to another file with the same id is ignored as a preview.

    Raises:
        TadError: the folder does not exist, a name cannot be an id, or two files have the same id.
    """
    if not Path(folder).is_dir():
        remedy = Remedy("videos", "set the dataset's video folder to where the videos lie")
        raise TadError(f"{folder}: no such folder; ", remedy)
    found: list[str] = []
    _walk(str(folder), "", found, set())
    videos: dict[str, str] = {}
    for path in sorted(found, key=lambda path: (path.lower().endswith(PREVIEW), path)):
        video_id = stem(path)
        why = unsafe(video_id)
        if why:
            name = ascii(f"{folder}/{path}")[1:-1]  # control characters and broken Unicode would not survive a log
            raise TadError(f"{name}: no video id: it {why}; rename the file")
        if video_id in videos and path.lower().endswith(PREVIEW):
            continue
        if video_id in videos:
            raise TadError(f"{folder}/{path}: same video id as {videos[video_id]} ('{video_id}'); rename or remove one")
        videos[video_id] = path
    return dict(sorted(videos.items()))


def stem(path: str) -> str:
    """Return a file's name without its folder and extension, in NFC."""
    return unicodedata.normalize("NFC", os.path.splitext(path.rpartition("/")[2])[0])


def _loose(name: str) -> str:
    """Normalise the case and the Unicode form of a name."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def near_misses(folder: Path, missing: Iterable[str]) -> dict[str, str]:
    """Find probable files of videos without one: unsupported extension, or different case or Unicode form.

    Return video id → a short message that names the file and the remedy.
    """
    wanted = {_loose(video_id): video_id for video_id in missing}
    if not wanted:
        return {}
    found: list[str] = []
    others: list[str] = []
    _walk(str(folder), "", found, set(), others)
    causes: dict[str, str] = {}
    unread = set(others)
    for path in sorted(others) + sorted(found):  # supported files come last and override the others
        video_id = wanted.get(_loose(stem(path))) or wanted.get(_loose(path.rpartition("/")[2]))
        if video_id is None:
            continue
        shown = path if path.isprintable() else ascii(path)[1:-1]
        if path in unread and stem(path) == video_id:
            extension = os.path.splitext(path)[1]
            lacks = f"the extension {extension} is not supported" if extension else "it has no extension"
            causes[video_id] = f"'{shown}' exists, but {lacks}; rename it with the right extension"
        else:
            differs = "case" if stem(path).lower() == video_id.lower() else "the form of its letters"
            causes[video_id] = f"'{shown}' exists, whose name differs in {differs}; rename it"
    return causes


def shard_of(video_id: str, shards: int) -> int:
    """Return the shard of a video, a hash of its id alone, so that adding a video changes only one shard."""
    return int.from_bytes(hashlib.sha256(video_id.encode()).digest()) % shards


def parse_shard(text: str) -> tuple[int, int]:
    """Parse a shard's name "k-of-n" into (k, n), 0 <= k < n.

    Raises:
        TadError: the text has another form.
    """
    match = re.fullmatch(r"(\d+)-of-(\d+)", text)
    if match is None or not int(match[1]) < int(match[2]):
        raise TadError(f"--shard: {text!r}: expected K-of-N with 0 <= K < N, such as 03-of-16")
    return int(match[1]), int(match[2])
