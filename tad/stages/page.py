"""Stage page: an offline HTML folder with a player, ground truth, detections, errors, and an editor of labels.

Inputs: detections (suppress) and scores (evaluate) of one run or several on the same split; annotations (annotate or
    check); the folder of videos, if there is one.
Output: `results/<run>/page/`, whose `index.html` is opened in a browser; no server and no network are needed.
Settings: `tad.settings.stages.page.PageStageSpec`.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from tad.annotations.table import read_table
from tad.core.errors import TadError
from tad.core.files import read_json
from tad.core.storage import forecast
from tad.metrics.files import score_file
from tad.page.contents import JsonObject, Media, Run, page_of_runs
from tad.page.proxies import proxies
from tad.page.write import write_page
from tad.provenance.stamps import expect, stamp
from tad.settings.stage_table import TABLES
from tad.settings.stages.page import PageStageSpec
from tad.video.listing import list_videos

log = logging.getLogger(__name__)
COPY_BYTES = 40_000  # of a second of a copied video, in the cache and in the page each


def page(
    detections: Sequence[Path],
    annotations: Path,
    scores: Sequence[Path],
    out: Path,
    *,
    spec: PageStageSpec,
    cache: Path,
    videos: Path | None = None,
) -> Path:
    """Write the page of one or several runs.

    Args:
        detections: made by suppress, in the order of `spec.runs`.
        annotations: table made by annotate or check.
        scores: map.json of each run, in the same order.
        out: the folder to write.
        spec: settings.
        cache: folder for copies of videos.
        videos: folder of the videos; without it the page has no player.

    Raises:
        TadError: inputs belong to another run or dataset, or cannot be scored.
    """
    if not len(detections) == len(scores) == len(spec.runs):
        raise TadError(
            f"{len(detections)} detections and {len(scores)} scores for {len(spec.runs)} runs"
            f" ({', '.join(spec.runs)}); give one of each, in this order"
        )
    annotated = expect(annotations, stage=TABLES, dataset=spec.dataset)
    table = read_table(annotations)
    runs, inputs = [], {"annotations": str(annotated["identity"])}
    for name, detected, score in zip(spec.runs, detections, scores, strict=True):
        inputs[f"score of {name}"] = str(expect(score, stage="evaluate", run=name)["identity"])
        scored = score_file(detected, table, run=name, split=spec.split, settings=spec.eval)
        runs.append(Run(name, scored, read_json(score)))
    index, segments, labelled = page_of_runs(
        runs, table, spec.split, media={}, most=spec.page.detections, worst_shown=spec.page.errors,
        others=spec.page.others,
    )  # fmt: skip
    copied = sum(float(entry["duration"] or 0) for entry in index["videos"][: spec.page.copies]) if videos else 0
    forecast(out, 2 * COPY_BYTES * copied, what=f"page with copies of {copied:.0f} s of video")
    files = _add_media(index, spec, videos, cache)
    index |= {"subtitle": f"{spec.dataset}, split {spec.split}, protocol {spec.eval.protocol}"}
    stamped = stamp("page", spec.model_dump(mode="json"), inputs)
    made = write_page(out, spec.run, index, segments, labelled, media=files, stamp=stamped)
    count, copies = len(index["videos"]), len(files)
    log.info("%s: page of %d videos, %d of which can be played; open index.html in it in a browser", out, count, copies)
    return made


def _add_media(index: JsonObject, spec: PageStageSpec, videos: Path | None, cache: Path) -> dict[str, Path]:
    """Make copies of the videos with the most costly errors; return the files by their names on the page."""
    listed = list_videos(videos) if videos is not None else {}
    wanted = [entry["id"] for entry in index["videos"] if entry["id"] in listed][: spec.page.copies]
    folder = videos or Path()
    files: dict[str, Path] = {}
    media: dict[str, Media] = {}
    copies = proxies({video_id: folder / listed[video_id] for video_id in wanted}, cache, height=spec.page.height)
    for number, (video_id, path, proxy) in enumerate(copies):
        name = f"{number}{path.suffix}" if path else ""
        media[video_id] = Media(name, proxy.rate, proxy.cause)
        files |= {name: path} if path else {}
    for entry in index["videos"]:
        if entry["id"] in media:
            entry |= media[entry["id"]]._asdict()
        elif entry["id"] in listed:
            entry["why"] = f"the page has copies of {spec.page.copies} videos (page.copies)"
        else:
            entry["why"] = "there is no video file" if videos else "the data set has no videos"
    broken = [video_id for video_id, one in media.items() if not one.file]
    if broken:
        log.warning("%d videos cannot be shown, first '%s': %s", len(broken), broken[0], media[broken[0]].why)
    return files
