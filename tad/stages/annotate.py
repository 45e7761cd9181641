"""Stage annotate: reads official or own annotations, checks them and writes one table.

Inputs: an annotation file or folder in a format of `tad.datasets`, and further files beside it named in the settings.
Output: results/annotations/<dataset>.json (docs/datasets.md).
Settings: `tad.settings.stages.AnnotateSpec`.
"""

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path

from tad.annotations.checks import check, missing_splits
from tad.annotations.doubts import doubts
from tad.annotations.moments import as_moments
from tad.annotations.notes import Choice
from tad.annotations.table import Table, exclude, write_table
from tad.core.errors import TadError
from tad.core.files import digest, sha256
from tad.core.garbage import collection_paused
from tad.core.ids import LABEL_EXTENSIONS
from tad.core.printable import plural
from tad.core.storage import forecast
from tad.datasets._parse import beside
from tad.provenance.stamps import stamp
from tad.settings import plugins
from tad.settings.stages import AnnotateSpec

log = logging.getLogger(__name__)
LABELS_LISTED = 500  # labels whose counts are logged, a line each; the published data sets have up to 300
TABLE_SHARE = 3  # bytes of the table per byte of the annotations, at most: a row of a CSV file becomes a line of JSON
WARNINGS_LISTED = 20  # labels without a train instance that are warned of, a line each


def _files(source: Path) -> list[Path]:
    """Return the annotation file, or the annotation files of a folder."""
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise TadError(f"{source}: no such file or folder; see docs/datasets.md for where to download it")
    return sorted(path for path in source.rglob("*") if path.is_file() and path.suffix.lower() in LABEL_EXTENSIONS)


def _content(source: Path) -> str:
    """Return the sha256 of a file, or a digest of the names and sha256 of the annotation files in a folder."""
    files = _files(source)
    if source.is_file():
        return sha256(source)
    return digest({path.relative_to(source).as_posix(): sha256(path) for path in files}, 64)


def _inputs(source: Path, spec: AnnotateSpec) -> dict[str, str]:
    """Return content hashes of the annotations and of each file named by a setting `…_file`."""
    named = {key: value for key, value in spec.format.settings.items() if key.endswith("_file") and value}
    return {"annotations": _content(source)} | {key: _content(beside(source, value)) for key, value in named.items()}


def _report(table: Table) -> None:
    for note in table.notes:
        if isinstance(note, Choice):
            log.info("%s: %s", table.dataset, note)
    if others := [note for note in table.notes if not isinstance(note, Choice)]:
        log.warning("%s: %s is read with these conversions: %s", table.dataset, table.source, "; ".join(others))
    for sentence in (*doubts(table), *missing_splits(table)):
        log.warning("%s: %s", table.dataset, sentence)
    counts = table.counts()
    what = "moment" if table.kind == "moments" else "instance"
    for split, counter in counts.items():
        videos = table.split(split)
        bare = sum(not video.instances for video in videos.values())
        log.info(
            "%s: %s: %s (%d without instances), %s of %s, %s",
            table.dataset,
            split,
            plural(len(videos), "video"),
            bare,
            plural(counter.total(), what),
            plural(len(counter), "class"),
            plural(sum(len(video.ambiguous) for video in videos.values()), "ambiguous segment"),
        )
    _report_labels(table, counts)
    unknown = sum(video.duration is None for video in table.videos.values())
    if unknown:
        log.info(
            "%s: %s without a stated duration: instance ends are checked after probe has decoded the videos",
            table.dataset,
            plural(unknown, "video"),
        )
    for video_id, reason in table.excluded.items():
        log.info("%s: excluded: %s: %s", table.dataset, video_id, reason)


def _report_labels(table: Table, counts: dict[str, Counter[str]]) -> None:
    """Log the instances of each label, and warn about labels that cannot be learnt; long lists are shortened."""
    for label in table.labels[:LABELS_LISTED]:
        log.info("%s: %s: %s", table.dataset, label, ", ".join(f"{split} {c[label]}" for split, c in counts.items()))
    if len(table.labels) > LABELS_LISTED:
        further = plural(len(table.labels) - LABELS_LISTED, "further label")
        log.info("%s: and %s; the table has all", table.dataset, further)
    lost = [label for label in table.labels if not counts["train"][label]] if "train" in counts else []
    for label in lost[:WARNINGS_LISTED]:
        log.warning("%s: '%s' has no train instance, so it cannot be learnt", table.dataset, label)
    if len(lost) > WARNINGS_LISTED:
        further = plural(len(lost) - WARNINGS_LISTED, "further label has", "further labels have")
        log.warning("%s: %s no train instance, so they cannot be learnt", table.dataset, further)


def annotate(source: Path, out: Path, *, spec: AnnotateSpec) -> Path:
    """Read, check and write the annotations of a dataset.

    Args:
        source: annotation file or folder.
        out: the table to write.
        spec: dataset, format with its settings, excluded videos, handling of invalid instances.

    Raises:
        TadError: the annotations are invalid; the message names file, video, entry or line, and a remedy.
    """
    source, out = Path(source), Path(out)
    forecast(out, TABLE_SHARE * sum(path.stat().st_size for path in _files(source)), what="annotate")
    inputs = _inputs(source, spec)
    with collection_paused():
        table = plugins.read_annotations(spec.format.name, source, spec.format.settings)
        if spec.kind == "moments":
            table = as_moments(table, spec.moment)
        table = exclude(replace(table, dataset=spec.dataset, source=str(source)), spec.exclude)
        table = check(table, source=str(source), on_invalid=spec.on_invalid)
        _report(table)
        return write_table(table, out, stamp("annotate", spec.model_dump(mode="json"), inputs))
