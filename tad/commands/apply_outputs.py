"""Outputs of `tad apply`: results file, labels for annotation tools, subtitles, chapters, a page, or a video.

| `--to` | `--out` is |
|---|---|
| json | a results file in ActivityNet's format, with all detections unless a threshold is given |
| csv, boris | a file; the CSV file is in the format of `csv` data sets, all videos in split train |
| soccernet | of a run of moments: a file per video, with the events of a half |
| srt, vtt, eaf, chapters, overlay | a file if there is one video and the name has the extension, else a folder |
| page | a folder: the detections as drafts of labels, see docs/page.md |

With several formats, `--out` is a folder with one file or folder of each.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from tad.annotations.table import Instance, Table, Video, read_table
from tad.core.errors import TadError
from tad.core.files import publish, read_json, write_json
from tad.provenance.stamps import expect, identity_of, read_stamp
from tad.settings.config import Config
from tad.settings.paths import command_of, path_of
from tad.settings.plugins import nearest
from tad.settings.stages import EvaluateStageSpec

if TYPE_CHECKING:
    from tad.metrics.threshold import HeldOut

SHOWN = 3  # detections of a video that are printed
TOOLS = {"csv": "csv", "srt": "srt", "vtt": "vtt", "eaf": "elan", "boris": "boris", "soccernet": "soccernet"}
NAMES = {
    "json": "detections.json", "csv": "labels.csv", "boris": "project.boris", "srt": "srt", "vtt": "vtt", "eaf": "eaf",
    "chapters": "chapters", "overlay": "overlay", "page": "page", "soccernet": "soccernet",
}  # fmt: skip
SUFFIXES = {"srt": ".srt", "vtt": ".vtt", "eaf": ".eaf", "chapters": ".txt", "overlay": ".mp4", "soccernet": ".json"}
USUAL = 0.3  # threshold of a run that was not scored
LASTING = ("srt", "vtt", "eaf", "chapters", "overlay")  # formats without moments, which are shown for `MOMENT` there
MOMENT = 1.0  # seconds
SEPARATE = ("boris", "chapters")  # formats that cannot hold overlapping segments (of a class, of all)
PAGE_DETECTIONS, PAGE_HEIGHT = 300, 240


class Cut(NamedTuple):
    """A score threshold, and a sentence that says where it comes from."""

    score: float
    reason: str


@dataclass(frozen=True)
class Applied:
    """Detections in given videos: the results file, the videos' files and durations, and the cache folder.

    `known`: annotated videos, whose labels the page saves together with the corrected drafts.
    """

    settings: Config
    name: str
    model: Path
    labels: list[str]
    detections: Path
    files: dict[str, Path]
    durations: dict[str, float | None]
    work: Path
    known: Table | None = None


@dataclass(frozen=True)
class Request:
    """The requested outputs."""

    kinds: tuple[str, ...]
    out: Path
    score: float | None
    precision: float | None
    confidence: float

    @classmethod
    def checked(
        cls, to: str, out: Path, *, score: float | None, precision: float | None, confidence: float
    ) -> "Request":
        """Check the options before anything is computed.

        Raises:
            TadError: an unknown format, two thresholds, or `out` cannot be written.
        """
        kinds = tuple(dict.fromkeys(part.strip() for part in to.split(",") if part.strip()))
        for kind in kinds:
            if kind not in NAMES:
                raise TadError(f"--to {kind}: {nearest(kind, list(NAMES))}")
        if not kinds:
            raise TadError(f"--to: name a format: {', '.join(NAMES)}")
        if score is not None and not 0 <= score <= 1:
            raise TadError(f"--score {score:g}: scores are probabilities; give a number from 0 to 1, such as 0.5")
        if score is not None and precision is not None:
            raise TadError(f"--score {score:g} and --precision {precision:g}: give one of them")
        request = cls(kinds, out, score, precision, confidence)
        for kind in kinds:
            target = request.target(kind)
            if kind == "page":
                from tad.page.write import check_folder

                check_folder(target)
            elif kind not in SUFFIXES and target.is_dir():
                raise TadError(f"--out {target}: is a folder, but {kind} is one file; name a file")
            elif kind in SUFFIXES and target.is_file() and target.suffix.lower() != SUFFIXES[kind]:
                raise TadError(f"--out {target}: exists; name a folder, or a file that ends in {SUFFIXES[kind]}")
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise TadError(f"--out {target}: {error.strerror}; name a place where you can write") from None
        return request

    def target(self, kind: str) -> Path:
        """Return the file or folder of a format."""
        return self.out if len(self.kinds) == 1 else self.out / NAMES[kind]

    def detections(self, work: Path) -> Path:
        """Return the file that receives all detections; `work` is the cache folder."""
        if self.kinds == ("json",) and self.score is None and self.precision is None:
            return self.out
        return work / "detections.json"

    def threshold(self, known: Callable[[], "HeldOut"]) -> Cut | None:
        """Return the score threshold; None for a results file with all detections.

        Args:
            known: returns the detections on held-out videos, if the threshold is chosen by them.

        Raises:
            TadError: the guarantee of `--precision` cannot be given.
        """
        if self.score is not None:
            return Cut(self.score, f"score at least {self.score:g}")
        if self.kinds == ("json",) and self.precision is None:
            return None
        seen_before = known()
        try:
            if self.precision is not None:
                chosen = seen_before.with_precision(precision=self.precision, confidence=self.confidence)
            else:
                chosen = seen_before.with_best_f1()
        except TadError as error:
            if self.precision is not None:
                raise
            why = str(error).partition("; ")[0]
            return Cut(USUAL, f"score at least {USUAL:g} (no score can be chosen: {why}; --score sets it)")
        seen = f"{chosen.right} of {chosen.shown} right {seen_before.at} in {chosen.videos} held-out videos"
        seen += f", {100 * chosen.recall:.0f} % of their instances found"
        if self.precision is None:
            return Cut(
                chosen.score,
                f"score at least {chosen.score:g}, the best F1 ({seen}); `--precision 0.9` gives a guarantee",
            )
        guarantee = f"at least {100 * self.precision:g} % are right with {100 * self.confidence:g} % confidence"
        return Cut(
            chosen.score, f"score at least {chosen.score:g}: {guarantee}, in videos like the held-out ones ({seen})"
        )


def held_out(settings: Config, name: str, model: Path) -> "HeldOut":
    """Return the run's detections in the test videos by score, or why there are none; see `_held_out`."""
    from tad.metrics.threshold import HeldOut
    from tad.page.contents import middle

    try:
        result = _held_out(settings, name, model)
        return HeldOut.seen(result, middle(result.tiou))
    except TadError as error:
        return HeldOut.none(str(error))


def _held_out(settings: Config, name: str, model: Path) -> Any:
    """Return the evaluation of the run's detections in the test videos, on which it was not trained.

    Raises:
        TadError: there is none, it is out of date, or the epoch was chosen on these videos.
    """
    from tad.metrics.files import score_file

    detections, score = (path_of(stage, root=settings.root, run=name) for stage in ("suppress", "evaluate"))
    remedy = f"run `{command_of(score, root=settings.root)}`"
    for path in (detections, score):
        if not path.is_file():
            raise TadError(f"{path}: no such file, so there are no scored held-out videos; {remedy}")
    spec = cast(EvaluateStageSpec, settings.spec("evaluate", run=name))
    suppression = settings.spec("suppress", run=name).model_dump(mode="json")["nms"]
    expect(detections, stage="suppress", run=name, nms=suppression)
    inputs = read_stamp(score)["inputs"]
    if inputs.get("model") != identity_of(model) or inputs.get("detections") != identity_of(detections):
        raise TadError(f"{score}: belongs to another model than {model}; {remedy}")
    if "peeked" in str(read_json(score).get("epoch_rule", "")):
        raise TadError(
            f"{score}: the epoch was chosen on these videos, so they guarantee nothing; train without peeking"
        )
    return score_file(
        detections, read_table(settings.table_file(name)), run=name, split=spec.split, settings=spec.eval
    ).result


def write_all(applied: Applied, request: Request, cut: Cut | None) -> Iterator[str]:
    """Write every requested format, and yield lines about the detections."""
    document = read_json(applied.detections)
    least = cut.score if cut else 0.0
    results: dict[str, list[dict[str, Any]]] = {
        video_id: [row for row in rows if row["score"] >= least] for video_id, rows in document["results"].items()
    }
    yield from _lines(document, results, cut)
    table = Table(
        applied.name,
        tuple(applied.labels),
        {
            video_id: Video(
                "train",
                applied.durations.get(video_id),
                tuple(_instance(row) for row in rows),
            )
            for video_id, rows in results.items()
        },
        kind=applied.settings.dataset(applied.settings.run(applied.name).dataset).kind,
    )
    for kind in request.kinds:
        path = request.target(kind)
        if table.kind == "moments" and kind in LASTING:
            yield f"{kind}: has no moments; each is shown for {MOMENT:g} s"
        if kind == "json":
            if path != applied.detections:
                threshold = {"threshold": {"score": cut.score, "said": cut.reason}} if cut else {}
                write_json(path, {**document, "results": results, **threshold})
        elif kind == "page":
            yield f"page: {_page(applied, document, cut, path)}"
        elif kind == "overlay":
            yield from _overlays(applied, _lasting(results) if table.kind == "moments" else results, path)
        else:
            shown = replace(table, videos=_lasting_videos(table)) if kind in LASTING else table
            yield from _labels(kind, shown, path, applied.files)


def _lasting(results: Mapping[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Return detections of moments as segments, for formats that show segments only."""
    return {v: [{**row, "segment": [t, t + MOMENT]} for row in rows for t in (row["segment"][0],)]
            for v, rows in results.items()}  # fmt: skip


def _lasting_videos(table: Table) -> dict[str, Video]:
    """Return the videos of a table with moments as segments; other tables keep theirs."""
    if table.kind != "moments":
        return table.videos
    return {
        v: replace(video, instances=tuple(replace(i, end=i.start + MOMENT) for i in video.instances))
        for v, video in table.videos.items()
    }


def _time(segment: Sequence[float]) -> str:
    start, end = segment
    return f"{start:.2f} s" if start == end else f"{start:.1f}-{end:.1f} s"


def _instance(row: Mapping[str, Any]) -> Instance:
    start, end = row["segment"]
    return Instance(start, end, row["label"], score=row["score"])


def _labels(kind: str, table: Table, path: Path, files: Mapping[str, Path]) -> Iterator[str]:
    """Write labels for a tool; segments that the format cannot hold beside a better one are left out, and counted."""
    from tad.datasets._formats.table import write

    if kind in SEPARATE:
        separated = {v: replace(video, instances=_apart(video.instances, kind)) for v, video in table.videos.items()}
        left = sum(len(table.videos[v].instances) - len(video.instances) for v, video in separated.items())
        table = replace(table, videos=separated)
        if left:
            yield f"{kind}: {left} detections that overlap a better one were left out, as the format cannot hold them"
    if kind == "chapters":
        for video_id, target in _per_video(kind, list(table.videos), path):
            _write_chapters(table.videos[video_id], target)
        return
    write(table, path, tool=TOOLS[kind], files=files)


def _apart(instances: Sequence[Instance], kind: str) -> tuple[Instance, ...]:
    """Return the instances, best first, that overlap no better one (of their class, for BORIS), in milliseconds."""
    from tad.datasets._formats._collect import milliseconds

    separated: list[tuple[Instance, int, int]] = []
    for one in sorted(instances, key=lambda i: -(i.score or 0.0)):
        first, last = milliseconds(one)
        rivals = [spans for other, *spans in separated if kind == "chapters" or other.label == one.label]
        if all(last <= start or first >= end for start, end in rivals):
            separated.append((one, first, last))
    return tuple(one for one, _, _ in sorted(separated, key=lambda row: row[1:]))


def _per_video(kind: str, video_ids: Sequence[str], path: Path) -> Iterator[tuple[str, Path]]:
    """Yield each video's output: `path` for a single video if it has the extension, else a file in that folder."""
    suffix = SUFFIXES[kind]
    if len(video_ids) == 1 and path.suffix.lower() == suffix:
        yield video_ids[0], path
        return
    path.mkdir(parents=True, exist_ok=True)
    for video_id in video_ids:
        yield video_id, path / f"{video_id}{suffix}"


def _write_chapters(video: Video, path: Path) -> None:
    """Write FFmpeg's metadata file: `ffmpeg -i video.mp4 -i chapters.txt -map_metadata 1 -codec copy out.mp4`."""

    from tad.datasets._formats._collect import milliseconds

    def escaped(text: str) -> str:
        return "".join(f"\\{c}" if c in "=;#\\\n" else c for c in text)

    lines = [";FFMETADATA1"]
    for one in video.instances:
        start, end = milliseconds(one)
        lines += ["[CHAPTER]", "TIMEBASE=1/1000", f"START={start}", f"END={end}", f"title={escaped(one.label)}"]
    with publish(path) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _page(applied: Applied, document: Mapping[str, Any], cut: Cut | None, path: Path) -> Path:
    """Write the page of drafts, and return its file to open."""
    from tad.metrics.columns import collect
    from tad.page.contents import Media, page_of_drafts
    from tad.page.proxies import proxies
    from tad.page.write import write_page

    wanted = {video_id: applied.files[video_id] for video_id in document["results"] if video_id in applied.files}
    media: dict[str, Media] = {}
    files: dict[str, Path] = {}
    for number, (video_id, copy, proxy) in enumerate(
        proxies(wanted, applied.work / ".kept" / "page", height=PAGE_HEIGHT)
    ):
        name = f"{number}{copy.suffix}" if copy else ""
        media[video_id] = Media(name, proxy.rate, proxy.cause)
        files |= {name: copy} if copy else {}
    drafts = cut or Cut(USUAL, f"score at least {USUAL:g}")
    stamped = read_stamp(applied.detections)
    facts = [("run", applied.name), ("drafts", drafts.reason), ("detections", str(stamped["identity"]))]
    facts += [("model", identity_of(applied.model)), ("tad", str(stamped["tad"]))]
    index, videos, labelled = page_of_drafts(
        applied.name, collect(document["results"].items()), applied.labels, applied.durations,
        excluded=document["excluded"], media=media, threshold=drafts.score, most=PAGE_DETECTIONS, facts=facts,
        known=applied.known,
    )  # fmt: skip
    index |= {"subtitle": f"{len(index['videos'])} videos; drafts: {drafts.reason}"}
    write_page(path, applied.name, index, videos, labelled, media=files)
    return path / "index.html"


def _overlays(applied: Applied, results: Mapping[str, list[dict[str, Any]]], path: Path) -> Iterator[str]:
    from tad.page.overlay import write_overlay

    for video_id, target in _per_video("overlay", [v for v in results if v in applied.files], path):
        cause = write_overlay(
            applied.files[video_id], results[video_id], target, duration=applied.durations.get(video_id)
        )
        yield f"{target}" + (f": ends early, as the video is damaged ({cause})" if cause else "")


def _lines(document: Mapping[str, Any], results: Mapping[str, list[dict[str, Any]]], cut: Cut | None) -> Iterator[str]:
    """Summarise the detections, one line per video; hint at videos in which nothing scores high."""
    if cut:
        yield f"detections with {cut.reason}"
    for video_id, rows in sorted(results.items()):
        best = [f"{r['label']} {_time(r['segment'])} ({r['score']:.2f})" for r in rows[:SHOWN]]
        every = document["results"][video_id]
        if cut and every and not rows:
            top = max(row["score"] for row in every)
            shown = f"{top:.2f}" if top >= 0.01 else f"{top:.1g}"
            yield (
                f"{video_id}: all {len(every)} scores are weak (best {shown}, threshold {cut.score:g}): either no"
                " action of the run's classes happens here, or the video is unlike those that it was trained on (view,"
                f" frame rate, resolution); look with --to page --score {top / 2:.1g}"
            )
        else:
            count = f"{len(rows)} detection{'' if len(rows) == 1 else 's'}"
            yield f"{video_id}: {count}" + (f", first {', '.join(best)}" if best else "")
    for video_id, cause in sorted(document["excluded"].items()):
        yield f"{video_id}: excluded: {cause}"
