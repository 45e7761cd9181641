"""Cache of extracted videos: a file for each finished video, and the last whole shard.

Rows are found by their key, the digest of everything that they depend on, so a changed video, setting or line of code
is never given old rows.
"""

# T snippets, C channels

import logging
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tad.core.errors import TadError
from tad.core.files import digest, publish
from tad.core.formats import OlderFormatError, replaceable
from tad.core.notices import TRANSIENT
from tad.core.storage import storing
from tad.features.growing import rows_of_start
from tad.features.store import FeatureReader, key_of
from tad.settings.stages import ExtractSpec

log = logging.getLogger(__name__)
NAME_BYTES = 180  # maximum length of a part's file name, without its suffixes (also those of a partial file)
NOT_IN_ROWS = {"dataset", "on_damaged", "stall_seconds", "reader_mb"}  # settings that do not change a video's rows

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class RowCache:
    """The cached rows of one feature set; a video is given by its entry in the manifest.

    Attributes:
        folder: where the rows are cached.
        recipe: digest of everything but the video that rows depend on.
    """

    folder: Path
    recipe: str

    @classmethod
    def at(cls, folder: Path, spec: ExtractSpec, stamped: dict[str, Any]) -> "RowCache":
        """Return the cache in `folder`, which is created, for the settings and the stamp of a shard.

        Raises:
            StorageError: the folder cannot be created.
        """
        settings, weights = spec.model_dump(mode="json", exclude=NOT_IN_ROWS), stamped["inputs"].get("weights", "")
        with storing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return cls(folder, digest({"spec": settings, "code": stamped["code"], "weights": weights}, 32))

    @property
    def whole(self) -> Path:
        """File of the last whole shard."""
        return self.folder / "shard.h5"

    @property
    def warnings(self) -> Path:
        """Return the file of warnings that concern all rows, such as those about the backbone's settings."""
        return self.folder / "warnings.json"

    def part(self, video_id: str) -> Path:
        """Return the file of a finished video.

        File names are limited to 255 bytes, and a letter of a non-Latin script takes nine bytes here. So a long id is
        truncated and a digest is added.
        """
        name = key_of(video_id)
        if len(name) > NAME_BYTES:
            name = f"{name[: NAME_BYTES - 33]}-{digest(video_id, 32)}"
        return self.folder / f"{name}.part.h5"

    def key(self, entry: Entry) -> str:
        """Return the digest of everything that a video's rows depend on."""
        return self._key_of(entry, entry["sha256"])

    def _key_of(self, entry: Entry, sha256: str) -> str:
        """Return the key of another content of the same video."""
        return digest({"recipe": self.recipe, "video": sha256, "reader": entry["reader"]}, 32)

    def sources(self, usable: Mapping[str, Entry]) -> dict[str, Path]:
        """Return the file of each video whose rows can be reused."""
        shards = [self.whole] if self.whole.is_file() and not _older(self.whole) else []
        sources: dict[str, Path] = {}
        for video_id, entry in usable.items():
            for path in (self.part(video_id), *shards):
                if path.is_file() and _stored(path, self.key(entry), video_id):
                    sources[video_id] = path
                    break
        return sources

    def grown(self, usable: Mapping[str, Entry], videos: Path) -> dict[str, np.ndarray]:
        """Return the rows (T, C) of the first clips of videos whose files have grown at their end since.

        Args:
            usable: the videos.
            videos: folder that their paths are relative to.
        """
        known: dict[str, np.ndarray] = {}
        for video_id, entry in usable.items():
            key, places = partial(self._key_of, entry), (self.part(video_id), self.whole)
            rows_TC = rows_of_start(video_id, Path(videos) / entry["path"], places, size=entry["bytes"], key=key)
            known |= {} if rows_TC is None else {video_id: rows_TC}
        return known

    def keep(self, shard: Path) -> None:
        """Cache a whole shard (as a hard link if possible), then remove the parts that it contains."""
        with publish(self.whole, size=shard.stat().st_size) as fresh:
            try:
                os.link(shard, fresh)
            except OSError:  # another file system, or one without hard links
                shutil.copyfile(shard, fresh)
        for part in self.folder.glob("*.part.h5"):
            with suppress(FileNotFoundError):
                part.unlink()


def _stored(path: Path, key: str, video_id: str) -> bool:
    """Return whether `path` holds the complete rows of this video with this key."""
    try:
        with FeatureReader(path) as reader:
            if video_id not in reader.video_ids or reader.attrs(video_id).get("row_key") != key:
                return False
            reader.stored(video_id)
            return True
    except (TadError, OSError, KeyError) as error:
        if not replaceable(error):
            raise
        log.warning("%s: cached rows of %s are not usable (%s)", path, video_id, error, extra=TRANSIENT)
        return False


def _older(path: Path) -> bool:
    """Return whether a cache file has an older format, which is reported once and not for each of its videos."""
    try:
        with FeatureReader(path):
            return False
    except OlderFormatError as error:
        log.warning("%s: cached rows are not usable (%s)", path, error, extra=TRANSIENT)
        return True
    except (TadError, OSError):  # `_stored` reports it
        return False
