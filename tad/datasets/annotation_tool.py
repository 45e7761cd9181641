"""Read exports of annotation tools (ELAN, BORIS, VIA, Label Studio, subtitles, …) into an annotation table."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tad.annotations.table import Instance, Table, Video
from tad.core.errors import Remedy, TadError
from tad.datasets._formats import table as formats
from tad.datasets._splits import split_and_label, split_file, without_rows
from tad.datasets.annotation_tool_settings import Settings
from tad.settings.plugins import nearest

SHOWN = 3


def read(source: Path, settings: Settings) -> Table:
    """Read an export, or a folder with one export per video, into a table, unchecked.

    Args:
        source: file or folder.
        settings: see annotation_tool_settings.py; `tool` is a key of `tad.datasets._formats.table.FORMATS`.

    Raises:
        TadError: the export is invalid, or a video has no split; the message names the file and the remedy.
    """
    source = Path(source)
    table = formats.read(source, tool=settings.tool, unit=settings.unit)
    by_video, rest = split_file(source, settings), settings.split
    videos = _renamed(table, settings.names, source)
    rate = settings.rate or None
    videos = {v: replace(x, rate=x.rate or rate).in_seconds() for v, x in videos.items()}
    said = ""
    if settings.points:
        videos, said = as_segments(videos, points=settings.points, source=source)
    videos = {v: replace(video, split=by_video.get(v) or video.split or rest) for v, video in videos.items()}
    unassigned = {video_id for video_id, video in videos.items() if not video.split}
    if unassigned and not settings.test_share:
        raise TadError(
            f"{source}: video '{min(unassigned)}' belongs to no split; give the setting split_file (video,split), split"
            " (one for all) or test_share (drawn by seed, 0.2 for example)"
        )
    videos = {v: replace(video, split=video.split or "train") for v, video in videos.items()}
    videos, labels, note = split_and_label(source, videos, settings, unassigned)
    notes = (*table.notes, *without_rows(by_video, videos, settings), *filter(None, [said]), *note)
    return Table("annotation_tool", labels, videos, notes=notes)


def _renamed(table: Table, names: Mapping[str, str], source: Path) -> dict[str, Video]:
    for name in names:
        if name not in table.videos:
            raise TadError(f"{source}: setting names: no video is called '{name}'; {nearest(name, list(table.videos))}")
    videos = {names.get(video_id, video_id): video for video_id, video in table.videos.items()}
    if len(videos) < len(table.videos):
        raise TadError(f"{source}: setting names: gives two videos the same id; map each to another file")
    return videos


def as_segments(videos: Mapping[str, Video], *, points: float, source: Path) -> tuple[dict[str, Video], str]:
    """Return the videos with a segment of `points` seconds around each point in time, and a sentence about them.

    Raises:
        TadError: there are points in time, and `points` is 0, or they are in frames of an unknown rate.
    """
    found = [(video_id, i) for video_id, video in videos.items() for i in video.instances if i.start == i.end]
    if not found:
        return dict(videos), ""
    video_id, first = found[0]
    count = sum(len(video.instances) for video in videos.values())
    if points <= 0:
        raise TadError(
            f"{source}: {len(found)} of {count} entries are points in time (video '{video_id}': '{first.label}' at"
            f" {first.start:g} s), and actions have a length; ",
            Remedy(
                "points", "set `kind: moments` in the data set's row to spot points, or `points: 2` in its settings"
            ),
            " for a segment of 2 s around each",
        )
    framed = next((v for v, i in found if videos[v].in_frames), "")
    if framed:
        raise TadError(
            f"{source}: the points in time of video '{framed}' are frames, and `points` are seconds; ",
            Remedy("rate", "give the frame rate in the settings, such as `rate: 25`"),
            ", or write the times in seconds",
        )

    def widened(video: Video, instance: Instance) -> Instance:
        if instance.start != instance.end:
            return instance
        end = instance.start + points / 2
        end = end if video.duration is None else min(end, video.duration)
        return replace(instance, start=max(instance.start - points / 2, 0.0), end=end)

    wide = {
        v: replace(video, instances=tuple(widened(video, i) for i in video.instances)) for v, video in videos.items()
    }
    return wide, f"{len(found)} points in time became segments of {points:g} s around them"
