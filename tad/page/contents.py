"""Contents of the page: an index that is read at once, and the segments of each video, which are read on demand.

All values are plain JSON. Times are seconds, scores are as in the results file, and AP is a fraction. Detections are
columns, because a page of a large data set holds a hundred thousand of them.
"""

# D detections, G instances, H tIoU thresholds, K classes, V videos

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tad.annotations.moments import moment_of
from tad.annotations.table import Instance, Table
from tad.core.errors import TadError
from tad.metrics.columns import Columns, label_text
from tad.metrics.diagnosis import Diagnosis
from tad.metrics.evaluation import Evaluation
from tad.metrics.files import Scored
from tad.metrics.threshold import with_best_f1
from tad.page.costs import Error, curves, missed, worst
from tad.page.sentences import sentences

UNSCORED = "-"  # an instance or a detection that the protocol does not score, such as a duplicate
NO_ROWS = np.zeros(0, np.int64)
FIRST_THRESHOLD = 0.3  # where the score slider stands if no score has a best F1, as a share of its range
JsonObject = dict[str, Any]


class Media(NamedTuple):
    """A video's file on the page (empty if there is none), frames per second of that file, and why it is missing."""

    file: str = ""
    rate: float = 0.0
    why: str = ""


@dataclass(frozen=True)
class Run:
    """A scored run: its name, its evaluation, and the content of its map.json."""

    name: str
    scored: Scored
    score: Mapping[str, Any]


class Lane(NamedTuple):
    """Detections of one run in one video, best first.

    Attributes:
        start, end, score: (D,) numbers. label: (D,) index into the page's labels.
        kinds: per threshold, a text of one character per detection, the index into `tad.metrics.diagnosis.KINDS`, or
            `UNSCORED` if its class has no instance; empty without ground truth.
        matched: per threshold, a text of one character per instance of the video: 1 if a detection matches it, 0 if
            none does, `UNSCORED` if it does not count; empty without ground truth.
        total: number of detections in the results file, of which the lane holds the best.
    """

    start: list[float]
    end: list[float]
    score: list[float]
    label: list[int]
    kinds: list[str]
    matched: list[str]
    total: int

    def document(self) -> JsonObject:
        """Return the lane with the short keys of the page's scripts; lengths are shorter to write than ends."""
        length = [round(end - start, 3) for start, end in zip(self.start, self.end, strict=True)]
        values = (self.start, length, *self[2:])
        return dict(zip(("s", "d", "p", "l", "k", "f", "n"), values, strict=True))


def _columns(
    segments: NDArray[np.float64], scores: NDArray[np.float64], label: NDArray[Any], rows: NDArray[Any]
) -> tuple[list[float], list[float], list[float], list[int]]:
    ends = np.sort(segments[rows], axis=1)  # some protocols score reversed segments; they are drawn forward
    start, end = (np.round(ends[:, k], 3).tolist() for k in (0, 1))
    return start, end, np.round(scores[rows], 4).tolist(), label[rows].tolist()


def middle(tiou: Sequence[float]) -> int:
    """Return the index of the threshold at which the page opens: 0.5, else the middle one."""
    near = [h for h, t in enumerate(tiou) if abs(t - 0.5) < 1e-9]
    return near[0] if near else (len(tiou) - 1) // 2


class _Studied:
    """A run with everything that the page derives from its evaluation."""

    def __init__(self, run: Run, table: Table, labels: Mapping[str, int]) -> None:
        self.run, self.result, self.table = run, run.scored.result, table
        durations = {video_id: video.duration or 0.0 for video_id, video in table.videos.items()}
        self.diagnosis = Diagnosis(self.result, durations=durations)
        self.document = self.diagnosis.document(run.scored.rules.buckets)
        self.label_K = np.array([labels[name] for name in self.result.labels], np.int64)
        self.rows = {v: rows for v, rows in enumerate(_grouped(self.result.matches.video, self.result.videos))}
        self.index = {video_id: v for v, video_id in enumerate(self.result.matches.video_ids)}
        columns = run.scored.detections.columns
        self.total = _totals(columns)
        self.label_of = np.array([labels[label_text(name)] for name in columns.labels], np.int64)
        here = np.array([video_id in self.index for video_id in columns.video_ids], np.bool_)
        uncounted = np.flatnonzero(columns.relabelled(self.result.labels, videos=here) < 0)
        grouped = _grouped(columns.video[uncounted], len(columns.video_ids))
        self.others = {v: uncounted[rows] for v, rows in zip(columns.video_ids, grouped, strict=True)}
        detected_HG = np.zeros((len(self.result.tiou), len(self.result.detail.classes)), np.bool_)
        for h, taken in enumerate(self.result.detail.taken):
            detected_HG[h, taken[taken >= 0]] = True
        self.detected_HG = detected_HG
        self.instance = {
            (int(v), self.result.labels[k], float(start), float(end)): g
            for g, (v, k, (start, end)) in enumerate(
                zip(
                    self.result.detail.videos.tolist(),
                    self.result.detail.classes.tolist(),
                    self.result.detail.instances.tolist(),
                    strict=True,
                )
            )
        }

    def lane(self, video_id: str, most: int) -> Lane:
        """Return the best detections of a video, with those of classes that do not count."""
        v = self.index.get(video_id, -1)
        rows, detail = self.rows.get(v, NO_ROWS), self.result.detail
        columns = self.run.scored.detections.columns
        others = self.others.get(video_id, NO_ROWS)
        segments = np.concatenate([detail.segments[rows], columns.segments[others]])
        scores = np.concatenate([detail.scores[rows], columns.scores[others]])
        label = np.concatenate([self.label_K[self.diagnosis.label_D[rows]], self.label_of[columns.label[others]]])
        best = np.argsort(-scores, kind="stable")[:most]
        kinds = []
        for h in range(len(self.result.tiou)):
            text = [*map(str, self.diagnosis.kinds_HD[h, rows].tolist()), *[UNSCORED] * len(others)]
            kinds.append("".join(text[k] for k in best.tolist()))
        drawn = _columns(segments, scores, label, best)
        return Lane(*drawn, kinds, self._found(v, video_id), self.total.get(video_id, 0))

    def _found(self, v: int, video_id: str) -> list[str]:
        name = self.run.scored.proposals
        numbers = [
            self.instance.get((v, name or i.label, *self._span(i))) for i in self.table.videos[video_id].instances
        ]
        return [
            "".join(UNSCORED if g is None else str(int(self.detected_HG[h, g])) for g in numbers)
            for h in range(len(self.result.tiou))
        ]

    def _span(self, instance: Instance) -> tuple[float, float]:
        """Return the times under which an instance was scored."""
        near = self.result.near
        if near is None:
            return instance.start, instance.end
        time = moment_of(instance.start, instance.end, near.moment)
        return time, time

    def errors(self, h: int, most: int) -> list[Error]:
        both = [*worst(self.diagnosis, h), *missed(self.diagnosis, h)]
        return sorted(both, key=lambda e: (-e.cost, -e.score, e.video, e.start))[:most]

    def index_entry(self, labels: Sequence[str], h: int, most: int) -> JsonObject:
        """Return the run's part of the index."""
        result, score = self.result, self.run.score
        place = {name: k for k, name in enumerate(result.labels)}
        columns = [place.get(name) for name in labels]
        curve_K = curves(self.diagnosis, h)
        return {
            "name": self.run.name,
            "average_mAP": result.average_mean_ap,
            "interval": (score.get("interval") or {}).get("average_mAP"),
            "mAP": result.mean_ap.tolist(),
            "AP": [None if k is None else np.round(result.ap[:, k], 4).tolist() for k in columns],
            "instances": [0 if k is None else result.instances[k] for k in columns],
            "curves": [None if k is None else curve_K[k] for k in columns],
            "errors": self.document["errors"],
            "characteristics": self.document["characteristics"],
            "calibration": self.document["calibration"],
            "matching": self.run.scored.rules.matching,
            "sentences": sentences(self.diagnosis, self.document),
            "facts": [list(fact) for fact in facts(score)],
            "warnings": [str(line) for line in score.get("warnings", [])],
            "missing": [[v, str(why)] for v, why in (score.get("missing_videos") or {}).get("videos", {}).items()],
            "excluded": [[v, str(why)] for v, why in (score.get("excluded") or {}).items()],
            "worst": [
                {**e._asdict(), "video": result.matches.video_ids[e.video], "label": int(self.label_K[e.label])}
                for e in self.errors(h, most)
            ],
        }


def _grouped(video_D: NDArray[Any], videos: int) -> list[NDArray[np.int64]]:
    """Return, for each video, the rows of its detections."""
    order = np.argsort(video_D, kind="stable")
    return np.split(order, np.searchsorted(video_D[order], np.arange(1, videos)))


def _totals(columns: Columns) -> dict[str, int]:
    counts = np.bincount(columns.video, minlength=len(columns.video_ids)).tolist()
    return dict(zip(columns.video_ids, counts, strict=True))


def _opening(result: Evaluation, h: int, low: float, top: float) -> float:
    """Return where the score slider stands when the page opens: at the score that `tad apply` uses, the best F1."""
    try:
        return with_best_f1(result, h).score
    except TadError:  # scores are no probabilities, or nothing is right
        return low + FIRST_THRESHOLD * (top - low)


def _range(scores: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """Return the ends of the score slider: 0 and 1 for probabilities, else the range of the scores."""
    every = np.concatenate([*scores, np.zeros(1)])
    return float(every.min()), max(float(every.max()), 1.0)


def facts(score: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the names and values of a score's provenance."""
    rules, videos = score.get("protocol", {}), score.get("videos", {})
    yield "protocol", str(rules.get("name", "unknown")) + ("" if rules.get("complete", True) else " (other videos)")
    if videos:
        yield "videos", f"{videos['evaluated']} of {videos['in_split']} in the split"
    yield "instances", str(score.get("instances", "unknown"))
    for name in ("detector", "features", "epoch_rule", "epoch", "seed", "seeds", "labels", "external_scores"):
        if name in score:
            yield name.replace("_", " "), _text(score[name])
    hashes = score.get("hashes", {})
    yield "recipe", str(hashes.get("recipe", "unknown"))
    for stage, code in sorted((hashes.get("code") or {}).items()):
        yield f"code of {stage}", str(code)
    if "stamp" in score:
        yield "versions", ", ".join(f"{name} {v}" for name, v in score["stamp"].get("versions", {}).items())


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(inner)}" for name, inner in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    return "none" if value in (False, None, "") else str(value)


def page_of_runs(
    runs: Sequence[Run],
    table: Table,
    split: str,
    *,
    media: Mapping[str, Media],
    most: int,
    worst_shown: int,
    others: int = 0,
) -> tuple[JsonObject, Iterator[tuple[str, JsonObject]], list[Any]]:
    """Return the page of scored runs on the same split.

    Args:
        runs: at least one; the first is the page's own.
        table: the annotations. split: the evaluated split.
        media: the copies of the videos, by video id.
        most: detections of a video that the page holds, of each run. worst_shown: errors that it lists, of each run.
        others: number of videos of other splits that the page shows too, without detections.

    Returns:
        The index; the videos with their segments, in the order of the index; and all videos of the data set as rows
        of (id, split, duration, instances), which the page needs to write a complete file of labels.
    """
    names = [label_text(name) for run in runs for name in run.scored.detections.columns.labels]
    scored = [name for run in runs for name in run.scored.result.labels]
    labels = list(dict.fromkeys([*table.labels, *scored, *names]))
    place = {name: k for k, name in enumerate(labels)}
    studied = [_Studied(run, table, place) for run in runs]
    tiou = runs[0].scored.result.tiou
    h = middle(tiou)
    entries = [own.index_entry(labels, h, worst_shown) for own in studied]
    costs: dict[str, float] = {}
    for error in (e for own in studied for e in own.errors(h, len(own.result.detail.scores))):
        video_id = studied[0].result.matches.video_ids[error.video]
        costs[video_id] = costs.get(video_id, 0.0) + error.cost / len(runs)
    shown = sorted(runs[0].scored.truth, key=lambda v: (-costs.get(v, 0.0), v))
    rest = sorted((v for v in table.videos if v not in runs[0].scored.truth), key=lambda v: (table.videos[v].split, v))
    rest = rest[:others]
    low, top = _range([own.run.scored.detections.columns.scores for own in studied])
    index = {
        "labels": labels,
        "tiou": list(tiou),
        "thresholds": list(runs[0].scored.result.names),
        "measure": "within" if runs[0].scored.result.near else "at tIoU",
        "at": h,
        "drafts": False,
        "threshold": _opening(runs[0].scored.result, h, low, top),
        "low": low,
        "top": top,
        "runs": entries,
        "videos": [
            {**_video(v, table, media.get(v, Media(why="its video is not part of this page"))), "cost": costs.get(v, 0)}
            for v in [*shown, *rest]
        ],
        "split": split,
    }

    def segments() -> Iterator[tuple[str, JsonObject]]:
        for video_id in [*shown, *rest]:
            video = table.videos[video_id]
            truth = [[i.start, i.end, place[i.label]] for i in video.instances]
            unmatched = [UNSCORED * len(truth)] * len(tiou)
            empty = Lane([], [], [], [], [""] * len(tiou), unmatched, 0)
            lanes = [(empty if video_id in rest else own.lane(video_id, most)).document() for own in studied]
            yield video_id, {"truth": truth, "ambiguous": [list(s) for s in video.ambiguous], "runs": lanes}

    return index, segments(), _labelled(table, place)


def page_of_drafts(
    name: str,
    columns: Columns,
    labels: Sequence[str],
    durations: Mapping[str, float | None],
    *,
    excluded: Mapping[str, str],
    media: Mapping[str, Media],
    threshold: float,
    most: int,
    facts: Sequence[tuple[str, str]] = (),
    known: Table | None = None,
) -> tuple[JsonObject, Iterator[tuple[str, JsonObject]], list[Any]]:
    """Return the page of detections in videos without ground truth; see `page_of_runs`.

    Args:
        name: the run that was applied.
        columns: the detections.
        labels: the run's labels.
        durations: seconds of each video, None if unknown.
        excluded: videos that could not be read, with the cause.
        media: the copies of the videos.
        threshold: detections with at least this score become drafts of labels.
        most: detections of a video that the page holds.
        facts: names and values for the page's list of facts.
        known: annotated videos, whose labels the saved file holds too.
    """
    every = list(dict.fromkeys([*labels, *(known.labels if known else ()), *columns.labels]))
    place = np.array([every.index(label) for label in columns.labels], np.int64)
    rows_V = _grouped(columns.video, len(columns.video_ids))
    table = Table("", tuple(every), {})
    low, top = _range([columns.scores])
    videos = [
        {
            **_video(v, table, media.get(v, Media(why="its video is not part of this page"))),
            "duration": durations.get(v),
        }
        for v in columns.video_ids
    ]
    run = {"name": name, "sentences": [], "facts": [list(fact) for fact in facts], "warnings": [], "worst": []}
    run |= {"missing": [], "excluded": [[v, str(why)] for v, why in excluded.items()]}
    index = {
        "labels": every, "tiou": [], "at": 0, "drafts": True, "threshold": threshold, "low": low, "top": top,
        "runs": [run], "videos": videos, "known": known is not None,
    }  # fmt: skip

    def segments() -> Iterator[tuple[str, JsonObject]]:
        for v, video_id in enumerate(columns.video_ids):
            rows = rows_V[v]
            best = rows[np.argsort(-columns.scores[rows], kind="stable")][:most]
            label = place[columns.label] if len(columns) else columns.label
            lane = Lane(*_columns(columns.segments, columns.scores, label, best), [], [], len(rows))
            yield video_id, {"truth": [], "ambiguous": [], "runs": [lane.document()]}

    return index, segments(), _labelled(known, {name: k for k, name in enumerate(every)}) if known else []


def _labelled(table: Table, place: Mapping[str, int]) -> list[Any]:
    """Return all videos of a table as rows of (id, split, duration, instances)."""
    return [
        [v, video.split, video.duration, [[i.start, i.end, place[i.label]] for i in video.instances]]
        for v, video in table.videos.items()
    ]


def _video(video_id: str, table: Table, media: Media) -> JsonObject:
    known = table.videos.get(video_id)
    return {
        "id": video_id,
        "split": known.split if known else "",
        "duration": known.duration if known else None,
        **media._asdict(),
    }
