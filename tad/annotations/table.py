"""The annotation table: videos with splits, durations and labelled segments, and its JSON file.

Readers in `tad.datasets` create a `Table` from official or custom files without validating it;
`tad.annotations.checks` validates it. The two are separate because training reads tables and does not depend on how
they were checked. All times are in seconds from the start of the video.
"""

import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tad.core.errors import TadError
from tad.core.files import read_json, write_json
from tad.settings.plugins import nearest

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Instance:
    """A labelled segment in seconds.

    `entry` is its position in the source. `score` is the confidence of a detection that is written for an annotation
    tool; annotations have none. Comparisons ignore both.
    """

    start: float
    end: float
    label: str
    entry: str = field(default="", compare=False, repr=False)
    score: float | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Video:
    """A video's split, duration in seconds (None: not stated by the source) and instances in the source's order.

    `ambiguous` lists segments that are neither action nor background (THUMOS14). `rate` is the number of frames per
    second that the source states. It is only used to place imported features, whose videos have not been inspected,
    and to convert times that the source gives as frame numbers. `in_frames` marks instances with such times.
    """

    split: str
    duration: float | None
    instances: tuple[Instance, ...] = ()
    ambiguous: tuple[tuple[float, float], ...] = ()
    rate: float | None = None
    in_frames: bool = False

    def in_unit(self, unit: str) -> "Video":
        """Return the video with its times read in another unit than seconds; times in frames are unchanged.

        Args:
            unit: `frames`, `milliseconds`, or `seconds` and "" for no change.
        """
        if self.in_frames or unit not in ("frames", "milliseconds"):
            return self
        if unit == "frames":
            return replace(self, in_frames=True)
        return replace(self, in_frames=True).in_seconds(1000.0)

    def in_seconds(self, rate: float | None = None) -> "Video":
        """Convert times from frames to seconds: frame `n` starts at n / rate.

        The video is returned unchanged if its times are already in seconds or no rate is known.

        Args:
            rate: frames per second; by default the rate that the source states.
        """
        rate = rate or self.rate
        if not self.in_frames or not rate:
            return self
        instances = tuple(replace(i, start=i.start / rate, end=i.end / rate) for i in self.instances)
        ambiguous = tuple((start / rate, end / rate) for start, end in self.ambiguous)
        return replace(self, instances=instances, ambiguous=ambiguous, in_frames=False)


@dataclass(frozen=True)
class Dropped:
    """An instance that was dropped or clipped, with the cause."""

    video: str
    entry: str
    cause: str


@dataclass(frozen=True)
class Flaw:
    """A video file that can be decoded with flaws (docs/videos.md).

    `share` is the fraction of its frames that may be wrong or are lost, in [0, 1]. `used` is false if the dataset's
    `on_flawed` excludes the video.
    """

    share: float
    cause: str
    used: bool


@dataclass(frozen=True)
class Table:
    """All annotations of a dataset.

    `excluded` maps the id of each excluded video to the reason. `known` maps each kind of defect that the published
    files are known to have to a policy of `check` (keep, drop, clip or error), which overrides `on_invalid`.
    `dropped` and `clipped` list the instances that were removed or clipped to their video. `notes` describe
    deviations from the format that a reader accepted. `source` is the file that was read, for messages. `flawed` maps
    the ids of videos with a flawed file to the flaw; None if no files were inspected. `missing` maps the id of each
    video without a file to the cause; its instances count as missed. It is empty before `check`. `kind` is `moments`
    if every instance has a single time, which is its start and its end.
    """

    dataset: str
    labels: tuple[str, ...]
    videos: dict[str, Video]
    excluded: dict[str, str] = field(default_factory=dict)
    dropped: tuple[Dropped, ...] = ()
    known: dict[str, str] = field(default_factory=dict)
    clipped: tuple[Dropped, ...] = ()
    notes: tuple[str, ...] = ()
    source: str = ""
    flawed: dict[str, Flaw] | None = None
    missing: dict[str, str] = field(default_factory=dict)
    kind: Literal["segments", "moments"] = "segments"

    def split(self, name: str) -> dict[str, Video]:
        """Return the videos of one split."""
        return {video_id: video for video_id, video in self.videos.items() if video.split == name}

    def counts(self) -> dict[str, Counter[str]]:
        """Count the instances by split and label, for the splits that have videos."""
        labels: dict[str, list[str]] = {name: [] for name in SPLITS if self.split(name)}
        for video in self.videos.values():
            labels[video.split] += [instance.label for instance in video.instances]
        return {name: Counter(own) for name, own in labels.items()}


def among(name: str, known: list[str]) -> str:
    """Return a hint for an unknown name: the nearest known name, and all known names if they fit on a line."""
    hint = nearest(name, known)
    return hint if len(known) <= 30 else hint.partition("known: ")[0] + f"{len(known)} names are known"


def exclude(table: Table, reasons: Mapping[str, str]) -> Table:
    """Return the table without these videos; each of them is listed in `excluded` with its reason.

    Raises:
        TadError: an id is neither in the table nor already excluded; the message names the nearest id.
    """
    reasons = {unicodedata.normalize("NFC", video_id): why for video_id, why in reasons.items()}
    for video_id in reasons:
        if video_id not in table.videos and video_id not in table.excluded:
            hint = among(video_id, list(table.videos))
            raise TadError(f"{table.dataset}: exclude: no video is called '{video_id}'; {hint}")
    videos = {video_id: video for video_id, video in table.videos.items() if video_id not in reasons}
    return replace(table, videos=videos, excluded=table.excluded | dict(reasons))


def _listed(items: tuple[Dropped, ...]) -> list[dict[str, str]]:
    return [{"video": item.video, "entry": item.entry, "cause": item.cause} for item in items]


def write_table(table: Table, path: Path, stamp: dict[str, Any]) -> Path:
    """Write a checked table as JSON (docs/datasets.md) atomically."""
    videos = {
        video_id: {
            "split": video.split,
            "duration": video.duration,
            "instances": [[i.start, i.end, i.label] for i in video.instances],
            "entries": [i.entry for i in video.instances],
            "ambiguous": [list(segment) for segment in video.ambiguous],
            "rate": video.rate,
            **({"in_frames": True} if video.in_frames else {}),
        }
        for video_id, video in table.videos.items()
    }
    return write_json(
        path,
        {
            "stamp": stamp,
            "dataset": table.dataset,
            **({"kind": table.kind} if table.kind != "segments" else {}),
            "source": table.source,
            "labels": list(table.labels),
            "videos": videos,
            "excluded": table.excluded,
            "missing": table.missing,
            "dropped": _listed(table.dropped),
            "clipped": _listed(table.clipped),
            "known": table.known,
            "notes": list(table.notes),
            "flawed": None if table.flawed is None else {v: asdict(flaw) for v, flaw in table.flawed.items()},
        },
    )


def _video(entry: dict[str, Any]) -> Video:
    instances = entry["instances"]
    entries = entry.get("entries") or [f"instance {k}" for k in range(len(instances))]
    return Video(
        split=entry["split"],
        duration=entry["duration"],
        instances=tuple(
            Instance(start, end, label, place) for (start, end, label), place in zip(instances, entries, strict=True)
        ),
        ambiguous=tuple((start, end) for start, end in entry["ambiguous"]),
        rate=entry.get("rate"),
        in_frames=bool(entry.get("in_frames", False)),
    )


def _videos(entries: dict[str, dict[str, Any]]) -> dict[str, Video]:
    videos = {}
    for video_id, entry in entries.items():
        try:
            videos[str(video_id)] = _video(entry)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            cause = f"no '{error.args[0]}'" if isinstance(error, KeyError) else "a value has another type"
            raise TadError(f"video '{video_id}': {cause}") from None
    return videos


def _dropped(items: list[dict[str, str]]) -> tuple[Dropped, ...]:
    return tuple(Dropped(item["video"], item["entry"], item["cause"]) for item in items)


def _flawed(value: dict[str, dict[str, Any]] | None) -> dict[str, Flaw] | None:
    return None if value is None else {str(video_id): Flaw(**flaw) for video_id, flaw in value.items()}


def read_table(path: Path, *, in_frames: bool = False) -> Table:
    """Read a table written by `write_table`.

    Args:
        in_frames: accept videos whose times are still frame numbers because no source states their frame rate.

    Raises:
        TadError: the file is missing, damaged or of another kind, or has times in frames without `in_frames`.
    """
    value = read_json(path)
    try:
        table = Table(
            value["dataset"],
            tuple(value["labels"]),
            _videos(value["videos"]),
            dict(value["excluded"]),
            _dropped(value["dropped"]),
            known=dict(value.get("known", {})),
            clipped=_dropped(value.get("clipped", [])),
            notes=tuple(value.get("notes", [])),
            source=str(value.get("source", "")),
            flawed=_flawed(value.get("flawed")),
            missing=dict(value.get("missing", {})),
            kind=value.get("kind", "segments"),
        )
        if table.kind not in ("segments", "moments"):
            raise ValueError(f"its kind is {table.kind!r:.40}")
    except TadError as error:
        raise TadError(f"{path}: not an annotation table ({error}); make it with 'tad annotate'") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        cause = f"no '{error.args[0]}'" if isinstance(error, KeyError) else "a value has another type"
        raise TadError(f"{path}: not an annotation table ({cause}); make it with 'tad annotate'") from None
    frames = [video_id for video_id, video in table.videos.items() if video.in_frames]
    if frames and not in_frames:
        raise TadError(
            f"{path}: the times of {len(frames)} videos, first '{frames[0]}', are frame numbers, but the annotations do"
            " not state the frame rate; give it (column fps, or the setting rate), or read the table that 'tad check'"
            " writes with the decoded rates"
        )
    return table
