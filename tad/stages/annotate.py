"""Official or own annotations → one checked table.

Inputs: an annotation file or folder in a format of `tad.datasets`, and the files beside it that settings name.
Output: results/annotations/<dataset>.json (docs/datasets.md).
Settings: `tad.specs.AnnotateSpec`.
"""

import logging
from dataclasses import replace
from pathlib import Path

from tad import plugins
from tad.annotation_checks import check
from tad.annotations import Table, exclude, write_table
from tad.datasets._parse import beside
from tad.errors import TadError
from tad.files import digest, sha256
from tad.provenance import stamp
from tad.specs import AnnotateSpec

log = logging.getLogger(__name__)

TEXTS = {".json", ".csv", ".tsv", ".txt"}


def _content(source: Path) -> str:
    """sha256 of a file, or digest over the names and sha256 of the annotation files in a folder."""
    if source.is_file():
        return sha256(source)
    if not source.is_dir():
        raise TadError(f"{source}: no such file or folder; docs/datasets.md says where each dataset publishes it")
    files = sorted(path for path in source.rglob("*") if path.is_file() and path.suffix.lower() in TEXTS)
    return digest({path.relative_to(source).as_posix(): sha256(path) for path in files}, 64)


def _inputs(source: Path, spec: AnnotateSpec) -> dict[str, str]:
    """Name → content hash of the annotations and of each file that a setting `…_file` names."""
    named = {key: value for key, value in spec.format.settings.items() if key.endswith("_file") and value}
    return {"annotations": _content(source)} | {key: _content(beside(source, value)) for key, value in named.items()}


def _report(table: Table) -> None:
    counts = table.counts()
    for split, counter in counts.items():
        videos = table.split(split)
        bare = sum(not video.instances for video in videos.values())
        log.info(
            "%s: %s: %d videos (%d without instances), %d instances of %d classes, %d ambiguous segments",
            table.dataset,
            split,
            len(videos),
            bare,
            counter.total(),
            len(counter),
            sum(len(video.ambiguous) for video in videos.values()),
        )
    for label in table.labels:
        log.info("%s: %s: %s", table.dataset, label, ", ".join(f"{split} {c[label]}" for split, c in counts.items()))
        if "train" in counts and not counts["train"][label]:
            log.warning("%s: '%s' has no train instance: it cannot be learnt", table.dataset, label)
    unknown = sum(video.duration is None for video in table.videos.values())
    if unknown:
        log.info("%s: %d videos without a stated duration: ends were not compared with it", table.dataset, unknown)
    for video_id, reason in table.excluded.items():
        log.info("%s: left out: %s: %s", table.dataset, video_id, reason)


def annotate(source: Path, out: Path, *, spec: AnnotateSpec) -> Path:
    """Read, check and write the annotations of a dataset.

    Args:
        source: annotation file or folder.
        out: the table to write.
        spec: dataset, format with its settings, videos to leave out, what to do with invalid instances.

    Raises:
        TadError: the file, the video and entry or line, and the remedy.
    """
    source, out = Path(source), Path(out)
    inputs = _inputs(source, spec)
    table = plugins.load("datasets", spec.format.name)(source, **spec.format.settings)
    table = exclude(replace(table, dataset=spec.dataset), spec.exclude)
    table = check(table, source=str(source), on_invalid=spec.on_invalid)
    _report(table)
    return write_table(table, out, stamp("annotate", spec.model_dump(mode="json"), inputs))
