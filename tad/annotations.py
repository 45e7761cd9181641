"""The annotation table: videos with splits, durations and labelled segments, written and read back.

Readers in `tad.datasets` make a `Table` from official or own files without judging it; `tad.annotation_checks` judges
(apart, because training reads tables and does not depend on how they were checked). All times are seconds from the
start of the video.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tad.errors import TadError
from tad.files import read_json, write_json
from tad.plugins import nearest

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Instance:
    """A labelled segment in seconds; `entry` says where in the source it stands and is no part of its value."""

    start: float
    end: float
    label: str
    entry: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True)
class Video:
    """A video's split, duration in seconds (None: not stated by the source) and instances in the source's order.

    `ambiguous` are segments that are neither action nor background (THUMOS14). `rate` are the frames per second that
    the source states; only imported features, whose videos nobody has looked at, are placed with it.
    """

    split: str
    duration: float | None
    instances: tuple[Instance, ...] = ()
    ambiguous: tuple[tuple[float, float], ...] = ()
    rate: float | None = None


@dataclass(frozen=True)
class Dropped:
    """An instance that was left out, and why."""

    video: str
    entry: str
    cause: str


@dataclass(frozen=True)
class Table:
    """All annotations of a dataset.

    `excluded` maps the id of each video that was left out to the reason. `known` says what `check` does with a kind
    of defect that the published files are known to have (kind → keep, drop or error), whatever `on_invalid` says.
    """

    dataset: str
    labels: tuple[str, ...]
    videos: dict[str, Video]
    excluded: dict[str, str] = field(default_factory=dict)
    dropped: tuple[Dropped, ...] = ()
    known: dict[str, str] = field(default_factory=dict)

    def split(self, name: str) -> dict[str, Video]:
        """The videos of one split."""
        return {video_id: video for video_id, video in self.videos.items() if video.split == name}

    def counts(self) -> dict[str, Counter[str]]:
        """Split → label → number of instances, for the splits that have videos."""
        found: dict[str, Counter[str]] = {name: Counter() for name in SPLITS if self.split(name)}
        for video in self.videos.values():
            found[video.split].update(instance.label for instance in video.instances)
        return found


def among(name: str, known: list[str]) -> str:
    """A hint for an unknown name: the nearest known one, and all of them when they fit a line."""
    hint = nearest(name, known)
    return hint if len(known) <= 30 else hint.partition("known: ")[0] + f"{len(known)} names are known"


def exclude(table: Table, reasons: Mapping[str, str]) -> Table:
    """The table without these videos; each is listed in `excluded` with its reason.

    Raises:
        TadError: an id that the table neither has nor excludes already, with the nearest one.
    """
    for video_id in reasons:
        if video_id not in table.videos and video_id not in table.excluded:
            hint = among(video_id, list(table.videos))
            raise TadError(f"{table.dataset}: exclude: no video is called '{video_id}'; {hint}")
    videos = {video_id: video for video_id, video in table.videos.items() if video_id not in reasons}
    return replace(table, videos=videos, excluded=table.excluded | dict(reasons))


def write_table(table: Table, path: Path, stamp: dict[str, Any]) -> Path:
    """Write a checked table as JSON (docs/datasets.md), at once or not at all."""
    videos = {
        video_id: {
            "split": video.split,
            "duration": video.duration,
            "instances": [[i.start, i.end, i.label] for i in video.instances],
            "ambiguous": [list(segment) for segment in video.ambiguous],
            "rate": video.rate,
        }
        for video_id, video in table.videos.items()
    }
    return write_json(
        path,
        {
            "stamp": stamp,
            "dataset": table.dataset,
            "labels": list(table.labels),
            "videos": videos,
            "excluded": table.excluded,
            "dropped": [{"video": d.video, "entry": d.entry, "cause": d.cause} for d in table.dropped],
        },
    )


def read_table(path: Path) -> Table:
    """The table that `write_table` wrote.

    Raises:
        TadError: missing, damaged, or another kind of file.
    """
    value = read_json(path)
    try:
        videos = {
            str(video_id): Video(
                split=entry["split"],
                duration=entry["duration"],
                instances=tuple(
                    Instance(start, end, label, f"instance {k}")
                    for k, (start, end, label) in enumerate(entry["instances"])
                ),
                ambiguous=tuple((start, end) for start, end in entry["ambiguous"]),
                rate=entry.get("rate"),
            )
            for video_id, entry in value["videos"].items()
        }
        dropped = tuple(Dropped(d["video"], d["entry"], d["cause"]) for d in value["dropped"])
        return Table(value["dataset"], tuple(value["labels"]), videos, dict(value["excluded"]), dropped)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TadError(
            f"{path}: not an annotation table ({type(error).__name__}: {error}); make it with 'tad annotate'"
        ) from None
