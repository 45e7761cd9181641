"""The commands `tad weights …` and `tad features …`."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tad.core.errors import TadError


def list_weights(backbones: Sequence[str] = (), *, root: Path, as_json: bool) -> Iterator[str]:
    """List the published files of these backbones, or of all, and their state (`tad weights list`)."""
    from tad.weights import store

    rows = store.list_weights(root, backbones)
    yield from [json.dumps(rows, indent=1)] if as_json else store.listed(rows)


def verify_weights(places: Sequence[Path]) -> Iterator[str]:
    """Verify weight files, one line per file (`tad weights verify`).

    Raises:
        TadError: after all lines, if a file's checksum does not match.
    """
    from tad.weights import store

    verdicts = store.verify(places)
    for verdict in verdicts:
        yield f"{verdict.state:<9} {verdict.path}: {verdict.remark}"
    bad = sum(verdict.state == "BAD" for verdict in verdicts)
    if bad:
        raise TadError(f"{bad} of {len(verdicts)} files do not match what was published; move them away, fetch again")


def show_features(
    index: Path, *, as_json: bool, video: str, figure: Path | None, annotations: Path | None
) -> Iterator[str]:
    """Show features: one line per video, the table as JSON, or the path of a figure (`tad features show`).

    Raises:
        TadError: --video without --figure or the reverse; after all lines, if videos are damaged or contain NaN.
    """
    from tad.features import show

    if bool(video) != bool(figure):
        raise TadError("features show: give --video and --figure together: the video, and the PNG to write")
    if figure:
        yield str(show.show_video(index, video, figure, annotations=annotations))
        return
    rows = show.rows_of(index)
    yield from [json.dumps(show.as_data(index, rows), indent=1)] if as_json else show.as_lines(rows)
    bad = [row for row in rows if row.state in ("damaged", "NaN")]
    if bad:
        raise TadError(f"{index}: {len(bad)} videos are damaged or contain NaN, first '{bad[0].video_id}'; run again")


def export_features(index: Path, **options: Any) -> Iterator[str]:
    """Export features and yield the path of the export (`tad features export`)."""
    from tad.features.export import export_features

    yield str(export_features(index, options.pop("to"), **options))
