"""Read published files in ActivityNet's layout, which differ in their subset names and class order."""

from collections.abc import Mapping
from pathlib import Path

from tad.annotations.table import Table, Video
from tad.core.errors import TadError
from tad.datasets._names import VideoNames
from tad.datasets._parse import beside, database, expect_classes, labels_of, read_database, read_labels, youtube_id
from tad.datasets._settings import NumberedSettings, OfficialSettings
from tad.datasets._text import tidy


def ordered_labels(source: Path, videos: Mapping[str, Video]) -> tuple[str, ...]:
    """Return the labels in the order of `label_id`, as in published detectors; sorted if the file has no `label_id`.

    Raises:
        TadError: a label has two numbers, or two labels share one.
    """
    found: dict[str, int] = {}
    labels = labels_of(videos)
    for video_id, entry in database(source).items():
        for k, item in enumerate(entry.get("annotations") or []):
            label, number = tidy(item["label"]), item.get("label_id")
            if label not in labels:
                continue
            if not isinstance(number, int) or isinstance(number, bool):
                return labels
            if found.setdefault(label, number) != number:
                where = f"{source}: video '{video_id}', annotations[{k}]"
                raise TadError(f"{where}: label '{label}' has id {number} here and {found[label]} above; correct one")
    if len(set(found.values())) < len(found):
        raise TadError(f"{source}: two labels have the same label_id; correct one, or remove all of them")
    return tuple(sorted(found, key=lambda label: found[label]))


def read_official(source: Path, name: str, settings: NumberedSettings) -> Table:
    """Read a published file in ActivityNet's layout with the settings of its format; see `official_table`."""
    return official_table(
        source,
        name,
        splits=settings.splits.model_dump(),
        classes=settings.classes,
        label_file=settings.label_file,
        known=settings.known.model_dump(),
    )


def official_table(
    source: Path,
    name: str,
    *,
    splits: Mapping[str, str],
    classes: int,
    label_file: str,
    known: Mapping[str, str],
) -> Table:
    """Read a published file in ActivityNet's layout, whose ids are the names of the video files, into a table.

    Raises:
        TadError: the file is invalid; the message names the file, the video and entry, and the remedy.
    """
    source = Path(source)
    names = VideoNames()
    videos = read_database(source, splits=splits, rename=lambda key: names.read(key, str(source)))
    labels = read_labels(beside(source, label_file)) if label_file else ordered_labels(source, videos)
    expect_classes(source, labels, videos, classes)
    notes = tuple(f"{count} {what}" for what, count in names.seen.items())
    return Table(name, labels, videos, known=dict(known), notes=notes)


def read_youtube(source: Path, settings: OfficialSettings) -> tuple[dict[str, Video], tuple[str, ...]]:
    """Read the videos and labels of ActivityNet's or HACS's official file; ids get the prefix of the video files.

    Raises:
        TadError: the file is invalid; the message names the file, the video and entry, and the remedy.
    """
    videos = read_database(
        source, splits=settings.splits.model_dump(), rename=lambda name: settings.prefix + youtube_id(name)
    )
    labels = read_labels(beside(source, settings.label_file)) if settings.label_file else labels_of(videos)
    expect_classes(source, labels, videos, settings.classes)
    return videos, labels
