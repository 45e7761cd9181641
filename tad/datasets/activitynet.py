"""Read custom data in ActivityNet's JSON layout into an annotation table."""

from dataclasses import replace
from pathlib import Path

from tad.annotations.table import Table
from tad.core.errors import TadError
from tad.core.ids import alike
from tad.datasets._names import VideoNames
from tad.datasets._parse import SPLIT_NAMES, read_database
from tad.datasets._splits import split_and_label
from tad.datasets._times import Times
from tad.datasets.activitynet_settings import Settings


def read(source: Path, settings: Settings) -> Table:
    """Read a JSON file in ActivityNet's layout into a table, unchecked (see `tad.annotations.checks.check`).

    Args:
        source: the JSON file.
        settings: see activitynet_settings.py; the frame rate applies to videos with neither `fps` nor `frame`.

    Raises:
        TadError: the file is invalid; the message names the file, the video and entry, and the remedy.
    """
    source = Path(source)
    times, names, unassigned = Times(settings.unit), VideoNames(), set[str]()
    videos = read_database(
        source,
        splits={**SPLIT_NAMES, **settings.splits},
        ambiguous=settings.ambiguous,
        rename=lambda name: names.read(name, str(source)),
        times=times,
        unassigned=unassigned if settings.test_share > 0 else None,
    )
    videos = {v: replace(video, rate=video.rate or settings.rate or None).in_seconds() for v, video in videos.items()}
    videos, labels, note = split_and_label(source, videos, settings, unassigned)
    note += _unused(settings.ambiguous, labels, any(video.ambiguous for video in videos.values()), source)
    seen = tuple(f"{count} {what}" for what, count in {**times.seen, **names.seen}.items())
    return Table("activitynet", labels, videos, notes=(*seen, *note))


def _unused(ambiguous: str, labels: tuple[str, ...], found: bool, source: Path) -> tuple[str, ...]:
    """Return a note if no segment has the label of the setting `ambiguous`.

    Raises:
        TadError: a label is only written differently.
    """
    if not ambiguous or found:
        return ()
    for label in labels:
        if alike(label) == alike(ambiguous):
            raise TadError(f"{source}: setting ambiguous: '{ambiguous}', but segments have '{label}'; write them alike")
    return (f"no segment has the label '{ambiguous}' of the setting ambiguous",)
