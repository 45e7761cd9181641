"""The videos of each dataset as the rules see them: listed once, divided into shards, and hashed where a plan needs it.

Planning has to stay cheap for 50,000 videos: one pass over the ids divides them among all shards, and a video is only
opened if its shard may have to be recreated.
"""

import math
import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from tad.core.files import HashCache, digest, read_json
from tad.settings.config import Config
from tad.settings.paths import path_of
from tad.video.listing import list_videos, shard_of
from tad.workflow.missing import require_files

SHARD = r"\d\d+-of-\d\d+"  # the wildcard `shard`; without braces, which Snakemake takes for a wildcard
PER_SHARD, FEW_SHARDS = 32, 16  # videos; up to 16 shards, so that a few hundred videos keep several processes busy
SHARD_BYTES = 60 * 60 * 8_000_000  # about an hour of work: a core decodes some 8 MB of compressed video per second
MOST_SHARDS = 128  # Snakemake plans each shard of each feature set in a few milliseconds; a row may ask for more
UNREAD = "not read in a dry run"


def needed(videos: int, size: int = 0) -> int:
    """Return the number of shards for videos of a total size in bytes: a power of 2, so that it rarely changes.

    It is the least with at most 32 videos per shard, but no more than 16 for this reason; and the least with at most an
    hour of decoding per shard, but no more than 128.
    """
    by_count = min(math.ceil(videos / PER_SHARD), FEW_SHARDS)
    by_work = min(math.ceil(size / SHARD_BYTES), MOST_SHARDS)
    return 1 << (max(by_count, by_work, 1) - 1).bit_length()


def shard_name(number: int, count: int) -> str:
    """Return `k-of-n` with leading zeros, at least two digits."""
    width = max(2, len(str(count)))
    return f"{number:0{width}d}-of-{count:0{width}d}"


class Videos:
    """The videos of each dataset.

    Args:
        config: the configuration.
        hashes: cache of content keys.
        dry: returns whether nothing will be run, which Snakemake knows only after it has parsed the rules. Then the
            videos of a shard without a manifest are not read: its job is planned anyway, and its parameters are not
            recorded.
    """

    def __init__(self, config: Config, hashes: HashCache, *, dry: Callable[[], bool]) -> None:
        self.config, self.hashes, self.dry = config, hashes, dry
        self.listed = cache(self._listed_uncached)
        self.count = cache(self._count_uncached)
        self._members = cache(self._members_uncached)
        self._rendered = cache(self._rendered_uncached)

    def generated(self, dataset: str) -> bool:
        """Return whether the workflow renders the videos of a dataset."""
        return dataset in self.config.generated

    def folder(self, dataset: str) -> str:
        """Return the folder of a dataset's videos.

        Raises:
            TadError: it does not exist.
        """
        if self.generated(dataset):
            return str(path_of("rendered_videos", dataset=dataset))
        require_files(self.config, dataset, "videos")
        return self.config.dataset(dataset).videos

    def render_settings(self, dataset: str) -> dict[str, Any]:
        """Return the settings of the renderer of a generated dataset."""
        return self.config.resolve_dataset(dataset).sections["render"]

    def _listed_uncached(self, dataset: str) -> dict[str, str]:
        folder = Path(self.folder(dataset))
        return list_videos(folder) if folder.is_dir() else {}

    def _rendered_uncached(self, dataset: str) -> dict[str, str]:
        """Return video id → content key as rendered, or "" before rendering; empty for other datasets."""
        if not self.generated(dataset):
            return {}
        receipt = path_of("rendered", dataset=dataset)
        if receipt.is_file():
            return {v: str(facts["content_key"]) for v, facts in read_json(receipt)["videos"].items()}
        return {f"demo_{k:02d}": "" for k in range(int(self.render_settings(dataset)["videos"]))}

    def _members_uncached(self, dataset: str) -> list[list[str]]:
        """Return the ids of each shard, in one pass over all ids."""
        count = self.count(dataset)
        members: list[list[str]] = [[] for _ in range(count)]
        for video_id in self.listed(dataset).keys() | self._rendered(dataset).keys():
            members[shard_of(video_id, count)].append(video_id)
        return members

    def content(self, dataset: str, shard: str) -> str:
        """Return a content key of the videos of one shard, independent of file dates."""
        if self.dry() and not path_of("probe", dataset=dataset, shard=shard).exists():
            return UNREAD
        return digest(self._keys_of(dataset, self._members(dataset)[int(shard.partition("-")[0])]))

    def keys(self, dataset: str) -> dict[str, str]:
        """Return video id → content key of all videos, see `content`."""
        return self._keys_of(dataset, [video_id for ids in self._members(dataset) for video_id in ids])

    def _keys_of(self, dataset: str, ids: list[str]) -> dict[str, str]:
        """Return video id → content key.

        The key of an unchanged rendered file is `rendered`, both before and after rendering, so that the plans of the
        first and the second run agree.
        """
        folder, listed, rendered = Path(self.folder(dataset)), self.listed(dataset), self._rendered(dataset)
        present = [video_id for video_id in sorted(ids) if video_id in listed]
        keys = dict.fromkeys(ids, "absent")
        keys |= zip(present, self.hashes.keys(folder / listed[video_id] for video_id in present), strict=True)
        as_made = {v for v in ids if v in rendered and (not rendered[v] or keys[v] == rendered[v])}
        return keys | dict.fromkeys(as_made, "rendered")

    def _count_uncached(self, dataset: str) -> int:
        """Return the number of shards of a dataset.

        It is taken from the dataset's row, else from the existing manifests, so that new videos do not move others to
        another shard, else from the number and size of the videos.
        """
        if given := self.config.dataset(dataset).shards:
            return given
        manifests = path_of("probe", dataset=dataset, shard="*").parent.glob("*-of-*.json")
        counts = Counter(int(path.stem.partition("-of-")[2]) for path in manifests if re.fullmatch(SHARD, path.stem))
        if counts:
            return max(counts, key=lambda count: (counts[count] / count, count))
        folder, listed = self.folder(dataset), self.listed(dataset)
        size = sum((Path(folder) / path).stat().st_size for path in listed.values())
        return needed(len(listed.keys() | self._rendered(dataset).keys()), size)

    def shards(self, dataset: str) -> list[str]:
        """Return the names of all shards of a dataset."""
        count = self.count(dataset)
        return [shard_name(k, count) for k in range(count)]
