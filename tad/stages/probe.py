"""Videos of one shard → manifest: what each file holds by decoding, which reader is right for it, what is damaged.

Inputs: the folder with the videos (and, if given, the ids that the annotations expect).
Output: `results/videos/<dataset>/<k>-of-<n>.json`.
Settings: `tad.specs.ProbeSpec`.
"""

import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tad.errors import TadError
from tad.files import digest, read_json, sha256, write_json
from tad.progress import track
from tad.provenance import stamp
from tad.specs import ProbeSpec
from tad.video.listing import list_videos, shard_of
from tad.video.probing import Decoder, damaged, examine

log = logging.getLogger(__name__)
SECONDS_BETWEEN_SAVES = 30.0

Entries = dict[str, dict[str, Any]]


def _known(kept: Path | None, made: dict[str, Any]) -> Entries:
    """Entries of an earlier run with the same settings and code, by the sha256 of the file."""
    if kept is None or not kept.is_file():
        return {}
    try:
        before = read_json(kept)
        if any(before["stamp"][key] != made[key] for key in ("stage", "spec", "code")):
            return {}
        return {entry["sha256"]: entry for entry in before["videos"].values() if entry["sha256"]}
    except (TadError, KeyError, TypeError) as error:
        log.warning("%s: not usable (%s); every video is decoded again", kept, error)
        return {}


def _stamp(spec: ProbeSpec, entries: Entries) -> dict[str, Any]:
    contents = {video_id: [entry["sha256"], entry["path"]] for video_id, entry in sorted(entries.items())}
    return stamp("probe", spec.model_dump(mode="json"), {"videos": digest(contents, 16)})


def probe(
    videos: Path,
    out: Path,
    *,
    spec: ProbeSpec,
    shard: tuple[int, int] = (0, 1),
    expected: Iterable[str] = (),
    kept: Path | None = None,
) -> Path:
    """Write the manifest of the videos of shard `k` of `n` below the folder `videos`.

    Args:
        expected: ids that must have an entry; those without a file are listed as damaged, "missing".
        kept: an earlier manifest of this shard, outside the workflow's care: a video whose sha256 is in it is not
            decoded again. Rewritten at the end, and now and then on the way, so that killed work is not lost.

    Raises:
        TadError: no folder, unsafe or doubled ids.
    """
    k, n = shard
    found = {video_id: path for video_id, path in list_videos(videos).items() if shard_of(video_id, n) == k}
    missing = {video_id: "" for video_id in expected if shard_of(video_id, n) == k and video_id not in found}
    known = _known(kept, _stamp(spec, {}))
    entries: Entries = {}
    decoded, saved = 0, time.monotonic()
    with Decoder(stall_seconds=spec.stall_seconds, max_pixels=spec.max_pixels) as decoder:
        for video_id, path in track(sorted((found | missing).items()), f"probe {spec.dataset}"):
            file = Path(videos) / path
            if not path or not file.is_file():
                log.debug("%s: no file for this video in %s", video_id, videos)
                entries[video_id] = {"path": path, "sha256": "", "bytes": 0, **damaged("missing")}
                continue
            content = sha256(file)
            facts = known.get(content)
            if facts is None:
                facts, decoded = examine(file, decoder, spec=spec), decoded + 1
            entries[video_id] = {**facts, "path": path, "sha256": content, "bytes": file.stat().st_size}
            if facts["status"] != "ok":
                log.warning("%s: damaged: %s", path, facts["cause"])
            if kept is not None and time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                write_json(kept, _document(spec, entries))
                saved = time.monotonic()
    if missing:
        log.warning("%d expected videos have no file in %s (first: %s)", len(missing), videos, min(missing))
    log.info("decoded %d, kept %d", decoded, len(entries) - decoded - sum(not e["sha256"] for e in entries.values()))
    document = _document(spec, entries)
    write_json(out, document)
    if kept is not None:
        write_json(kept, document)
    return Path(out)


def _document(spec: ProbeSpec, entries: Entries) -> dict[str, Any]:
    videos = {video_id: dict(sorted(entry.items())) for video_id, entry in sorted(entries.items())}
    return {"stamp": _stamp(spec, entries), "videos": videos}
