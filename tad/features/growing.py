"""Stored rows of a video file that has grown at its end since: those of its first part are still right."""

# T snippets, C channels

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from tad.core.errors import TadError
from tad.features.store import FeatureReader

UNSURE = 64  # last frames of an unfinished file, which may still change


def _sha256_of_start(path: Path, size: int) -> str:
    """Return the sha256 of the first `size` bytes of a file."""
    state = hashlib.sha256()
    with open(path, "rb") as file:
        while size > 0 and (block := file.read(min(size, 1 << 20))):
            state.update(block)
            size -= len(block)
    return state.hexdigest()


def rows_of_start(
    video_id: str, file: Path, places: Iterable[Path], *, size: int, key: Callable[[str], str]
) -> np.ndarray | None:
    """Return the rows (T, C) of the first clips of a video, if they were stored when its file was shorter.

    Clips with the last `UNSURE` frames of the shorter file are left out.

    Args:
        video_id: the video.
        file: its file.
        places: files of features that may hold the rows; absent and damaged ones are passed over.
        size: bytes of the file now.
        key: returns the key of the rows for the sha256 of a content.
    """
    for path in places:
        try:
            with FeatureReader(path) as reader:
                if video_id not in reader.video_ids:
                    continue
                facts, rows_TC = reader.attrs(video_id), reader.stored(video_id)
        except (TadError, OSError, KeyError):
            continue
        before, sha256 = int(facts.get("bytes", 0)), str(facts.get("sha256", ""))
        if not 0 < before < size or facts.get("row_key") != key(sha256) or _sha256_of_start(file, before) != sha256:
            continue
        sure = (int(facts["frames"]) - UNSURE - int(facts["clip_length"])) // int(facts["stride"]) + 1
        return rows_TC[: min(max(sure, 0), len(rows_TC))]
    return None
