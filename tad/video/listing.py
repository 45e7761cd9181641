"""A folder → its videos by id, and the shard that each belongs to; light enough for parsing a workflow."""

import hashlib
import os
import re
from pathlib import Path

from tad.errors import TadError
from tad.ids import unsafe

EXTENSIONS = frozenset({".mp4", ".mkv", ".avi", ".webm", ".mov", ".m4v", ".mpg", ".mpeg"})


def _walk(folder: str, prefix: str, found: list[str], open_folders: set[tuple[int, int]]) -> None:
    stat = os.stat(folder)
    here = (stat.st_dev, stat.st_ino)
    if here in open_folders:  # a link to one of its own parents
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
                _walk(entry.path, f"{prefix}{entry.name}/", found, open_folders)
    open_folders.discard(here)


def list_videos(folder: Path) -> dict[str, str]:
    """Video id → path relative to `folder` (with `/`), sorted by id; subfolders are searched, hidden names are not.

    The id is the file's name without its extension: that is what annotation files call a video.

    Raises:
        TadError: no such folder; a name that cannot be an id; two files with one id.
    """
    if not Path(folder).is_dir():
        raise TadError(f"{folder}: no such folder; set the dataset's video folder to where the videos lie")
    found: list[str] = []
    _walk(str(folder), "", found, set())
    videos: dict[str, str] = {}
    for path in sorted(found):
        video_id = os.path.splitext(path.rpartition("/")[2])[0]
        why = unsafe(video_id)
        if why:
            name = ascii(f"{folder}/{path}")[1:-1]  # control characters and broken Unicode would not survive a log
            raise TadError(f"{name}: no video id: it {why}; rename the file")
        if video_id in videos:
            raise TadError(f"{folder}/{path}: same video id as {videos[video_id]} ('{video_id}'); rename or remove one")
        videos[video_id] = path
    return dict(sorted(videos.items()))


def shard_of(video_id: str, shards: int) -> int:
    """The shard of a video: a hash of its id alone, so that adding a video touches one shard."""
    return int(hashlib.sha256(video_id.encode()).hexdigest(), 16) % shards


def parse_shard(text: str) -> tuple[int, int]:
    """(k, n) of a shard's name "k-of-n", 0 <= k < n.

    Raises:
        TadError: anything else.
    """
    match = re.fullmatch(r"(\d+)-of-(\d+)", text)
    if match is None or not int(match[1]) < int(match[2]):
        raise TadError(f"--shard: {text!r}: expected K-of-N with 0 <= K < N, such as 03-of-16")
    return int(match[1]), int(match[2])
