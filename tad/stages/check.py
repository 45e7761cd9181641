"""Stage check: compares the annotation table with the decoded videos before anything is computed from them.

Inputs: the table (annotate), all manifest shards (probe) of its dataset, and the folder of its videos.
Output: results/annotations/<dataset>.checked.json, with the same layout: frame numbers are converted to seconds,
    videos without a stated duration have the decoded one, and videos with a flawed file or without a file are listed.
Settings: `tad.settings.stages.CheckSpec`.
"""

import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tad.annotations.checks import LISTED, TOLERANCE
from tad.annotations.checks import check as check_table
from tad.annotations.doubts import beginnings, percent
from tad.annotations.table import Flaw, Instance, Table, Video, read_table, write_table
from tad.annotations.units import likely_unit, span_of
from tad.core.errors import TadError
from tad.core.files import digest, read_json
from tad.core.storage import forecast
from tad.provenance.stamps import expect, stamp
from tad.settings.stages import CheckSpec
from tad.video.listing import near_misses

log = logging.getLogger(__name__)
SHARE = 0.5  # of the videos must have too late ends before another time unit is suspected; their rates are known here
OTHER_SHARE, OTHER_UNIT = 0.05, 5.0  # difference of a stated duration, and its ratio, from which they are reported


@dataclass(frozen=True)
class Decoded:
    """Decoded facts of a video: duration in seconds, frames per second, and whether the frame rate is variable."""

    duration: float
    rate: float
    uneven: bool


def _entries(manifests: Sequence[Path]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for path in manifests:
        entries |= read_json(path)["videos"]
    return entries


def _flawed(entries: Mapping[str, Any], table: Table) -> dict[str, Flaw]:
    """Return the flaws of the table's videos. A video that the table excludes is in no split and is left out."""
    return {
        video_id: Flaw(float(entry["flawed_share"]), str(entry["cause"]), bool(entry["usable"]))
        for video_id, entry in sorted(entries.items())
        if entry["status"] == "flawed" and video_id in table.videos
    }


def _missing(table: Table, entries: Mapping[str, Any], videos: Path) -> dict[str, str]:
    """Return video id → cause of the videos of the table without a file; the cause names a file of a similar name."""
    absent = sorted(video_id for video_id in table.videos if video_id not in entries)
    near = near_misses(videos, absent)
    if absent:
        log.warning("%d expected videos have no file in %s (first: %s)", len(absent), videos, absent[0])
    for video_id, what in sorted(near.items()):
        log.warning("%s: no video has this name, but %s", video_id, what)
    return {video_id: f"missing; {near[video_id]}" if video_id in near else "missing" for video_id in absent}


def _decoded(entries: Mapping[str, Any]) -> dict[str, Decoded]:
    return {
        video_id: Decoded(float(entry["duration"]), float(entry["rate"]), bool(entry["vfr"]))
        for video_id, entry in entries.items()
        if entry["status"] != "damaged" and entry["duration"] > 0 and entry["rate"] > 0
    }


def _in_seconds(table: Table, decoded: Mapping[str, Decoded]) -> Table:
    """Convert frame numbers to seconds at the decoded frame rates.

    Videos that cannot be decoded get the median rate of the others; their instances count as missed in any case.
    """
    waiting = [video_id for video_id, video in table.videos.items() if video.in_frames]
    if not waiting:
        return table
    for video_id in waiting:
        if video_id in decoded and decoded[video_id].uneven and table.videos[video_id].instances:
            first = table.videos[video_id].instances[0]
            raise TadError(
                f"{table.source}: video '{video_id}', {first.entry}: the time of frame {first.start:g} is uncertain,"
                " because this video has a variable frame rate; give seconds, or convert it to a constant frame rate"
            )
    rates = {video_id: decoded[video_id].rate for video_id in waiting if video_id in decoded}
    if not rates:
        raise TadError(
            f"{table.source}: times are frame numbers, but none of the {len(waiting)} videos could be decoded; give the"
            " setting rate or seconds"
        )
    typical = statistics.median(rates.values())
    log.info("%s: frame numbers of %d videos converted to seconds at the decoded rates", table.source, len(rates))
    if undecoded := len(waiting) - len(rates):
        log.warning(
            "%s: %d videos cannot be decoded; assuming %g frames per second for them", table.source, undecoded, typical
        )
    videos = {v: video.in_seconds(rates.get(v, typical)) for v, video in table.videos.items()}
    return replace(table, videos=videos)


def _timed(video: Video, decoded: Decoded) -> Video:
    """Return a video with the decoded duration and (mean) frame rate where the source states none."""
    duration = decoded.duration if video.duration is None else video.duration
    return replace(video, duration=duration, rate=video.rate or decoded.rate)


def _late(video: Video, duration: float) -> list[Instance]:
    return [i for i in video.instances if i.end > duration + TOLERANCE or i.start >= duration]


def _refuse_other_units(table: Table, decoded: Mapping[str, Decoded]) -> None:
    """Check that the times are seconds.

    Raises:
        TadError: the times look like milliseconds or frame numbers.
    """
    spans = [
        span_of(video_id, [(i.start, i.end) for i in table.videos[video_id].instances], video.duration, video.rate)
        for video_id, video in decoded.items()
        if video_id in table.videos and table.videos[video_id].instances
    ]
    unit = likely_unit(spans, share=SHARE)
    if unit is not None and not unit.fits:  # of a part of the videos, the instances themselves are reported
        unit = likely_unit(spans)
    if unit is None:
        return
    late = [span for span in spans if span.last > span.duration + TOLERANCE]
    video_id = next(v for v in table.videos if any(span.video_id == v for span in late))
    duration = decoded[video_id].duration
    first = _late(table.videos[video_id], duration)[0]
    raise TadError(
        f"{table.source}: video '{video_id}', {first.entry}: {first.start:g}-{first.end:g} s ends"
        f" {first.end - duration:.2f} s after the video, which lasts {duration:.2f} s; the same is true of"
        f" {len(late)} of {len(spans)} videos, and the times look like {unit.words}; {unit.remedy}"
    )


def _shorter_than_stated(table: Table, decoded: Mapping[str, Decoded]) -> tuple[str, ...]:
    """Report instances after the end of a video file that is shorter than its stated duration; do not change them.

    In this case the file is wrong (truncated, or another version), and published results count these instances.
    """
    late = [
        (video_id, video.duration, instance)
        for video_id, video in table.videos.items()
        if video_id in decoded and video.duration is not None
        for instance in _late(video, decoded[video_id].duration)
        if instance.end <= video.duration + TOLERANCE
    ]
    for video_id, stated, instance in late[:LISTED]:
        log.warning(
            "%s: video '%s', %s: %g-%g s ends after the video file, which lasts %.2f s instead of the stated %.2f s",
            table.source, video_id, instance.entry, instance.start, instance.end, decoded[video_id].duration, stated,
        )  # fmt: skip
    if not late:
        return ()
    files = len({video_id for video_id, _, _ in late})
    note = f"{len(late)} instances end after {files} video files that are shorter than stated; they count as annotated"
    log.warning("%s: %s", table.source, note)
    return (note,)


def _contradicting_durations(table: Table, decoded: Mapping[str, Decoded]) -> tuple[str, ...]:
    """Report stated durations that are not those of the files (another unit, other files); do not change them.

    Files whose instances are reported by `_shorter_than_stated` are left out.
    """
    stated = {v: video.duration for v, video in table.videos.items() if video.duration is not None and v in decoded}
    off = {
        v: seconds
        for v, seconds in stated.items()
        if abs(seconds - decoded[v].duration) > max(TOLERANCE, OTHER_SHARE * seconds)
        and not _late(table.videos[v], decoded[v].duration)
    }
    if not off:
        return ()
    video_id, first = next(iter(off.items()))
    ratio = statistics.median(seconds / decoded[v].duration for v, seconds in off.items())
    other = f"; typically they are {ratio:.0f} times as long, so they may be in another unit"
    words = other if ratio > OTHER_UNIT else ""
    note = (
        f"the stated durations of {len(off)} of {len(stated)} videos are not those of their files (first: '{video_id}',"
        f" {first:g} s stated, {decoded[video_id].duration:.2f} s decoded){words}"
    )
    log.warning("%s: %s; correct them, or leave them out", table.source, note)
    return (note,)


def _contradicting_rates(table: Table, decoded: Mapping[str, Decoded]) -> tuple[str, ...]:
    """Report stated frame rates that are not those of the files; times in frames were converted at the stated ones."""
    stated = {v: video.rate for v, video in table.videos.items() if video.rate and v in decoded}
    off = [v for v, rate in stated.items() if abs(rate - decoded[v].rate) > OTHER_SHARE * decoded[v].rate]
    if not off:
        return ()
    note = (
        f"the stated frame rates of {len(off)} of {len(stated)} videos are not those of their files (first: '{off[0]}',"
        f" {stated[off[0]]:g} stated, {decoded[off[0]].rate:.2f} decoded)"
    )
    log.warning(
        "%s: %s; if frames were counted in these files, correct the rates or leave them out", table.source, note
    )
    return (note,)


def check(annotations: Path, manifests: Sequence[Path], videos: Path, out: Path, *, spec: CheckSpec) -> Path:
    """Compare annotated times with the decoded videos, and write the table that training and evaluation read.

    Args:
        annotations: table made by annotate.
        manifests: all manifest shards made by probe.
        videos: folder of the videos.
        out: the table to write.
        spec: handling of instances that end after a video without a stated duration.

    Raises:
        TadError: the times are not seconds (the message names the likely unit), or an instance ends after its video;
            both with the line or entry in the annotations.
    """
    stamped = expect(annotations, stage="annotate", dataset=spec.dataset)
    forecast(out, 1.2 * annotations.stat().st_size, what="check")
    probed = sorted(str(expect(path, stage="probe", dataset=spec.dataset)["identity"]) for path in manifests)
    entries = _entries(manifests)
    table, decoded = read_table(annotations, in_frames=True), _decoded(entries)
    missing = _missing(table, entries, Path(videos))
    _refuse_other_units(replace(table, videos={v: x for v, x in table.videos.items() if not x.in_frames}), decoded)
    notes = _contradicting_rates(table, decoded)
    table = _in_seconds(table, decoded)
    notes += _shorter_than_stated(table, decoded) + _contradicting_durations(table, decoded)
    timed = {
        video_id: _timed(video, decoded[video_id]) if video_id in decoded else video
        for video_id, video in table.videos.items()
    }
    compared = sum(video_id in decoded for video_id in table.videos)
    log.info("%s: times of %d of %d videos compared with the decoded videos", spec.dataset, compared, len(timed))
    untimed = any(video.duration is None for video in table.videos.values())
    checked = check_table(replace(table, videos=timed), source=table.source, on_invalid=spec.on_invalid)
    for words in (percent(checked), beginnings(checked)) if untimed else ():  # else annotate has said so
        if words:
            log.warning("%s: %s", table.source, words)
    inputs = {"annotations": str(stamped["identity"]), "manifests": digest(probed, 16)}
    table = replace(checked, notes=(*table.notes, *notes), flawed=_flawed(entries, table), missing=missing)
    return write_table(table, out, stamp("check", spec.model_dump(mode="json"), inputs))
