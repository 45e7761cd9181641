"""Stage probe: decodes the videos of one shard and records their properties, damage and suitable reader in a manifest.

Input: the folder of the videos. Annotations are not an input, so editing them does not decode anything again.
Output: `results/videos/<dataset>/<k>-of-<n>.json`.
Settings: `tad.settings.stages.ProbeSpec`.
"""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tad.core.errors import TadError
from tad.core.files import digest, read_json, sha256, write_json
from tad.core.formats import replaceable
from tad.core.notices import TRANSIENT
from tad.core.progress import track
from tad.core.storage import forecast
from tad.provenance.stamps import stamp
from tad.settings.stages import ProbeSpec
from tad.video.listing import list_videos, shard_of
from tad.video.probing import Decoder, damaged, examine
from tad.video.scanning import Scan

log = logging.getLogger(__name__)
SECONDS_BETWEEN_SAVES = 30.0
ENTRY_BYTES = 1000  # of a video in the manifest

Entries = dict[str, dict[str, Any]]


def _known(cache: Path | None, stamped_now: dict[str, Any]) -> Entries:
    """Return the entries of an earlier manifest with the same settings and code, by the sha256 of the video file."""
    if cache is None or not cache.is_file():
        return {}
    try:
        before = read_json(cache)
        stamps = [{**stamped, "spec": _decoded_with(stamped["spec"])} for stamped in (before["stamp"], stamped_now)]
        if any(stamps[0][key] != stamps[1][key] for key in ("stage", "spec", "code")):
            return {}
        return {entry["sha256"]: entry for entry in before["videos"].values() if entry["sha256"]}
    except (TadError, KeyError, TypeError) as error:
        if not replaceable(error):
            raise
        log.warning("%s: not usable (%s); every video is decoded again", cache, error, extra=TRANSIENT)
        return {}


def _decoded_with(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that affect the decoding of a video."""
    return {name: value for name, value in spec.items() if name != "on_flawed"}


def _usable(facts: dict[str, Any], spec: ProbeSpec) -> bool:
    return bool(facts["status"] == "ok" or (facts["status"] == "flawed" and spec.on_flawed == "keep"))


def _stamp(spec: ProbeSpec, entries: Entries) -> dict[str, Any]:
    contents = {video_id: [entry["sha256"], entry["path"]] for video_id, entry in sorted(entries.items())}
    return stamp("probe", spec.model_dump(mode="json"), {"videos": digest(contents, 16)})


def probe(
    videos: Path,
    out: Path,
    *,
    spec: ProbeSpec,
    shard: tuple[int, int] = (0, 1),
    cache: Path | None = None,
) -> Path:
    """Write the manifest of the videos of one shard.

    Args:
        videos: folder of the videos.
        out: the manifest to write.
        spec: settings.
        shard: index k of the shard and number n of shards.
        cache: file with an earlier manifest of this shard, not managed by the workflow: videos whose sha256 is in
            it are not decoded again. It is updated regularly, so that an interrupted run can resume.

    Raises:
        TadError: the folder does not exist, or ids are unsafe or not unique.
    """
    k, n = shard
    files = {video_id: path for video_id, path in list_videos(videos).items() if shard_of(video_id, n) == k}
    forecast(out, ENTRY_BYTES * len(files) * (1 if cache is None else 2), what=f"probe of {len(files)} videos")
    known = _known(cache, _stamp(spec, {}))
    entries: Entries = {}
    decoded, saved = 0, time.monotonic()
    with Decoder(stall_seconds=spec.stall_seconds, max_pixels=spec.max_pixels) as decoder:
        for video_id, path in track(sorted(files.items()), f"probe {spec.dataset}"):
            if not (Path(videos) / path).is_file():  # a dangling link, or removed since it was listed
                entries[video_id] = {"path": path, "sha256": "", "bytes": 0, **damaged("missing"), "usable": False}
                log.warning("%s: missing", path)
                continue
            entries[video_id], is_new = _entry(Path(videos), path, known, decoder, spec)
            decoded += is_new
            if cache is not None and time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                write_json(cache, _document(spec, known | entries))  # known ones that are not reached yet stay known
                saved = time.monotonic()
    cached = len(entries) - decoded - sum(not e["sha256"] for e in entries.values())
    log.info("%d videos decoded, %d cached", decoded, cached)
    document = _document(spec, entries)
    if cache is not None:  # first: a kill between the two then costs no decoding
        write_json(cache, document)
    return write_json(out, document)


def unprobed(videos: Path, *, spec: ProbeSpec, cache: Path) -> Entries:
    """Return path, sha256 and bytes of the videos that have to be decoded, because `cache` does not know them."""
    known, files = _known(cache, _stamp(spec, {})), list_videos(videos)
    new: Entries = {}
    for video_id, path in files.items():
        file = Path(videos) / path
        if file.is_file() and (content := sha256(file)) not in known:
            new[video_id] = {"path": path, "sha256": content, "bytes": file.stat().st_size}
    return new


class _Seen(Decoder):
    """A decoder of one file that has just been scanned."""

    def __init__(self, scan: Scan, spec: ProbeSpec) -> None:
        super().__init__(stall_seconds=spec.stall_seconds, max_pixels=spec.max_pixels)
        self._scan = scan

    def scan(self, path: Path, reader: str) -> Scan:
        """Return the scan."""
        assert reader == "pyav", reader
        return self._scan


def judged(videos: Path, of_file: Mapping[str, Any], scan: Scan, spec: ProbeSpec) -> dict[str, Any]:
    """Return the manifest entry of a video that has been scanned with PyAV, the only reader of `spec`.

    Args:
        videos: folder of the videos.
        of_file: path, sha256 and bytes of the video.
        scan: its scan.
        spec: settings.
    """
    facts = examine(videos / of_file["path"], _Seen(scan, spec), spec=spec)
    return facts | dict(of_file) | {"usable": _usable(facts, spec)}


def remember(entries: Entries, *, spec: ProbeSpec, cache: Path) -> None:
    """Add entries to `cache`, so that `probe` does not decode these videos."""
    write_json(
        cache, _document(spec, _known(cache, _stamp(spec, {})) | entries)
    )  # known ones are found by their sha256


def _entry(
    videos: Path, path: str, known: Mapping[str, dict[str, Any]], decoder: Decoder, spec: ProbeSpec
) -> tuple[dict[str, Any], bool]:
    """Return the entry of an existing file, and whether it had to be decoded; log a warning if it is not sound."""
    content = sha256(videos / path)
    cached = known.get(content)
    facts = examine(videos / path, decoder, spec=spec) if cached is None else cached
    if facts["status"] != "ok":
        excluded = " (excluded)" if facts["status"] == "flawed" and spec.on_flawed == "exclude" else ""
        log.warning("%s: %s%s: %s", path, facts["status"], excluded, facts["cause"])
    for note in cached.get("notes", ()) if cached else ():  # `examine` has logged those of others
        log.warning("%s: %s", Path(path).name, note)
    size = (videos / path).stat().st_size
    of_file = {"path": path, "sha256": content, "bytes": size, "usable": _usable(facts, spec)}
    return facts | of_file, cached is None


def _document(spec: ProbeSpec, entries: Entries) -> dict[str, Any]:
    videos = {video_id: dict(sorted(entry.items())) for video_id, entry in sorted(entries.items())}
    return {"stamp": _stamp(spec, entries), "videos": videos}
