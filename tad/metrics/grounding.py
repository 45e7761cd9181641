"""Temporal grounding (moment retrieval): windows of sentences, scored as Moment-DETR's standalone evaluation does.

Files are JSON lines, one query per line: `relevant_windows` in the annotations, `pred_relevant_windows` (start, end,
score) in the predictions. The first ten windows of a query in the file count; windows of equal score keep the order of
the file. Average precision is computed per query and averaged. R1 uses the first window in the file, whatever its
score, and divides the intersection by the joint span of both windows. Both are also reported for short, middle and long
windows.
"""

# H tIoU thresholds, Q queries, N resamples

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tad.annotations.checks import TOLERANCE
from tad.annotations.table import Table, Video
from tad.core.errors import TadError
from tad.core.strict_json import parse_json, type_name
from tad.metrics.bootstrap import LEVEL, RESAMPLES, SEED, draw, interval
from tad.metrics.columns import collect, id_text
from tad.metrics.evaluation import evaluate
from tad.metrics.overrun import outside_their_videos
from tad.metrics.protocols import protocol

log = logging.getLogger(__name__)

PROTOCOL = "moment-detr"
MOST = 10  # windows of a query that count
RANGES: Mapping[str, tuple[float, float]] = {"short": (0, 10), "middle": (10, 30), "long": (30, 150)}  # seconds (, ]

Windows = list[list[float]]
Array = NDArray[np.float64]


def read_queries(path: Path, key: str, width: int) -> dict[str, Windows]:
    """Read query id → windows, in the order of the file; surplus values of a window are ignored.

    Args:
        key: `relevant_windows` or `pred_relevant_windows`. width: the number of values that are read of each window.

    Raises:
        TadError: not JSON lines, a duplicate query, or an invalid window; the message names the file and the line.
    """
    queries: dict[str, Windows] = {}
    for where, entry in _lines(path):
        if not isinstance(entry, dict) or "qid" not in entry or not isinstance(entry.get(key), list):
            keys = ", ".join(entry) if isinstance(entry, dict) else type_name(entry)
            raise TadError(f"{where}: no 'qid' and '{key}' among {keys or 'nothing'}; give Moment-DETR's JSON lines")
        if not isinstance(entry["qid"], int | str) or isinstance(entry["qid"], bool):
            raise TadError(f"{where}: qid {entry['qid']!r:.40} is not a number or a text; give the id of the query")
        name = id_text(str(entry["qid"]))
        if name in queries:
            raise TadError(f"{where}: query {name} is listed twice; keep one line")
        for k, window in enumerate(entry[key]):
            numbers = window[:width] if isinstance(window, list) else []
            if len(numbers) < width or not all(_is_number(value) for value in numbers):
                what = "[start, end, score]" if width == 3 else "[start, end]"
                raise TadError(f"{where}: {key}[{k}] is {window!r:.60}, not {what}; write finite numbers")
        queries[name] = [[float(value) for value in window[:width]] for window in entry[key]]
    if not queries:
        raise TadError(f"{path}: contains no query; is this the right file?")
    return queries


def read_durations(path: Path) -> dict[str, float]:
    """Read query id → duration of its video in seconds, of the lines that state one (`duration`).

    Raises:
        TadError: a duration is neither a positive number nor null; the message names the line.
    """
    durations = {}
    for where, entry in _lines(path):
        duration: Any = entry.get("duration") if isinstance(entry, dict) else None
        if duration is None:
            continue
        if not _is_number(duration) or duration <= 0:
            raise TadError(f"{where}: duration {duration!r:.40} is not a number of seconds; write one, or leave it out")
        durations[id_text(str(entry.get("qid")))] = float(duration)
    return durations


def check_windows(
    truth: Mapping[str, Windows], found: Mapping[str, Windows], durations: Mapping[str, float]
) -> dict[str, Any]:
    """Count windows that end before they start or lie outside their video, and log a warning if there are any.

    Nothing is changed: Moment-DETR's script counts such windows, and one that ends before it starts can be a hit.

    Returns:
        Entries of map.json: `reversed` and `outside` with the counts of annotated and predicted windows, and `times`,
        see `outside_their_videos`.
    """
    backward, outside = {}, {}
    for what, queries in (("annotated", truth), ("predicted", found)):
        windows = [(query, window) for query, listed in queries.items() for window in listed]
        wrong = [(query, window) for query, window in windows if window[1] < window[0]]
        late = [q for q, w in windows if q in durations and max(w[:2]) > durations[q] + TOLERANCE]
        backward[what], outside[what] = len(wrong), len(late)
        if wrong:
            query, (start, end) = wrong[0][0], wrong[0][1][:2]
            log.warning(
                "%d of %d %s windows end before they start (first: query %s, %g to %g s); they count as in "
                "Moment-DETR's script, which can take them for hits; correct them",
                len(wrong), len(windows), what, query, start, end,
            )  # fmt: skip
        if late and what == "annotated":
            log.warning(
                "%d of %d annotated windows end after their video (first: query %s)", len(late), len(windows), late[0]
            )
    table = Table("", (), {query: Video("test", seconds, ()) for query, seconds in durations.items()})
    entries = ((q, [{"label": q, "score": w[2], "segment": w[:2]} for w in listed]) for q, listed in found.items())
    return {"reversed": backward, "outside": outside, "times": outside_their_videos(collect(entries), table, truth)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield "file: line number" and the JSON value of each line that is not blank."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TadError(f"{path}: cannot be read as text ({error}); give Moment-DETR's JSON lines") from None
    for number, line in enumerate(text.split("\n"), 1):  # as editors do: a text may hold U+2028
        if line.strip():
            try:
                value = parse_json(line, nan=True)
            except ValueError as error:
                raise TadError(
                    f"{path}: line {number}: not valid JSON ({error}); protocol {PROTOCOL} reads one query per line"
                ) from None
            yield f"{path}: line {number}", value


@dataclass(frozen=True)
class Retrieval:
    """Scores of the queries that have windows, as fractions.

    Attributes:
        tiou: (H,) thresholds. queries: (Q,) ids. ap: (H, Q) average precision per query.
        r1: (H, Q) whether the first window of a query is right.
    """

    tiou: tuple[float, ...]
    queries: tuple[str, ...]
    ap: Array
    r1: NDArray[np.bool_]

    def document(self) -> dict[str, Any]:
        """Return the entries of map.json."""
        names = [f"{t:g}" for t in self.tiou]
        return {
            "queries": len(self.queries),
            "average_mAP": float(self.ap.mean()),
            "mAP": dict(zip(names, self.ap.mean(axis=1).tolist(), strict=True)),
            "R1": dict(zip(names, self.r1.mean(axis=1).tolist(), strict=True)),
        }

    def interval(self) -> dict[str, Any]:
        """Return the bootstrap confidence interval of average mAP over queries."""
        counts_NQ = draw(len(self.queries))
        values_N = counts_NQ @ self.ap.mean(axis=0) / len(self.queries)
        facts = {"method": "percentile bootstrap over queries", "level": LEVEL, "resamples": RESAMPLES, "seed": SEED}
        return {**facts, "average_mAP": list(interval(values_N))}


def retrieval(truth: Mapping[str, Windows], found: Mapping[str, Windows], *, tiou: Sequence[float] = ()) -> Retrieval:
    """Score predictions. A query without predictions counts 0; Moment-DETR's script skips it or fails.

    Args:
        truth: query → windows (start, end); queries without windows do not count.
        found: query → predicted windows (start, end, score).
        tiou: thresholds; 0.5 to 0.95 by default.

    Raises:
        TadError: no query with windows, or no common query.
    """
    names = sorted(name for name, windows in truth.items() if windows)
    if not names:
        raise TadError("ground truth: no query has a window; is this the right file?")
    if found and not set(found) & set(truth):
        raise TadError(f"predictions: none of {len(found)} queries is among the {len(truth)} of the ground truth")
    rules = protocol(PROTOCOL)
    thresholds = list(tiou or rules.tiou)
    entries = (
        (name, [{"label": name, "score": w, "segment": [s, e]} for s, e, w in found.get(name, [])[:MOST]])
        for name in names
    )
    result = evaluate(  # each query is its own class in its own video
        {name: [(start, end, name) for start, end in truth[name]] for name in names},
        collect(entries), tiou=thresholds, labels=names, **rules.rules(),
    )  # fmt: skip
    first = np.array([_first(truth[name], found.get(name, [])) for name in names])
    return Retrieval(tuple(thresholds), tuple(names), result.ap, first >= np.array(thresholds)[:, None])


def _first(truth: Windows, found: Windows) -> float:
    """Return the intersection over joint span of the first window and the annotated window with the largest IoU."""
    if not found:
        return 0.0
    start, end = found[0][:2]
    overlaps = []
    for low, high in truth:
        inter = max(min(end, high) - max(start, low), 0.0)
        union = (high - low) + (end - start) - inter
        overlaps.append((inter / union if union else np.inf, inter, max(end, high) - min(start, low)))
    _, inter, span = max(overlaps, key=lambda row: row[0])  # ties: the first
    return inter / span if span else 0.0


def by_length(
    truth: Mapping[str, Windows], found: Mapping[str, Windows], *, tiou: Sequence[float] = ()
) -> dict[str, Any]:
    """Score short, middle and long windows separately; a query without windows of a length does not count there."""
    scores = {}
    for name, (low, high) in RANGES.items():
        inside = {query: [w for w in windows if low < w[1] - w[0] <= high] for query, windows in truth.items()}
        if any(inside.values()):
            scores[name] = retrieval(inside, found, tiou=tiou).document()
    return scores
