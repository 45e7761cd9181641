"""EPIC-KITCHENS action detection: pairs of a verb and a noun, from two files of detections or a challenge submission.

The challenge (C2) scores entries with a verb, a noun and a segment three times: as actions, as verbs and as nouns. The
action score is the main one. Verbs and nouns are detected by separately trained detectors, so their segments differ:
each verb is paired with each noun of the video that overlaps it enough. A pair's score is the product of both scores,
and its segment is the mean of both segments.
"""

# N nouns, V verbs, P pairs of a video

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tad.annotations.table import Table
from tad.core.errors import TadError
from tad.core.files import write_json
from tad.metrics.columns import Columns, hint, label_text
from tad.metrics.files import Detections, Scored, read_detections, score_detections
from tad.metrics.frames import require_probabilities
from tad.metrics.results_file import read_results
from tad.settings.stages import EvalSpec

PROTOCOL = "epic-action"
MOST = 2000  # best pairs kept per video: as many as published detectors return verbs or nouns
COUNTS: Mapping[str, int] = {"verb": 97, "noun": 300}
NUMBERED = re.compile(r"(?:verb|noun|id)?[ _]?(\d+)")
PAIR = re.compile(r"\s*(\d+)\s*,\s*(\d+)\s*")


def class_ids(columns: Columns, target: str, names: Sequence[str], path: Path) -> Columns:
    """Replace labels by class ids; a label is a class name, a number, or of the form `verb 3` or `id_003`.

    Raises:
        TadError: a label of another form, or an id that does not exist.
    """
    known = {label_text(name): k for k, name in enumerate(names)}
    ids = []
    for label in columns.labels:
        match = NUMBERED.fullmatch(label_text(label))
        number = known.get(label_text(label), int(match[1]) if match else -1)
        if not 0 <= number < COUNTS[target]:
            remedy = hint(label, names) if names else f"put EPIC_100_{target}_classes.csv beside the annotations"
            raise TadError(f"{path}: '{label}' is not a {target} of EPIC-KITCHENS-100; {remedy}")
        ids.append(str(number))
    return Columns(columns.video_ids, tuple(ids), columns.video, columns.label, columns.segments, columns.scores)


def pairs(verbs: Columns, nouns: Columns, *, tiou: float) -> Columns:
    """Pair the verbs and nouns of each video (see above) and keep the best `MOST` pairs, by descending score.

    Args:
        verbs, nouns: detections whose labels are class ids.
        tiou: minimum tIoU of a pair.

    Raises:
        TadError: scores that are not probabilities, so that their product has no meaning.
    """
    for columns, what in ((verbs, "verbs"), (nouns, "nouns")):
        if len(columns):
            require_probabilities(columns.scores, f"the score of a pair (of the {what})")
    video_ids = tuple(dict.fromkeys((*verbs.video_ids, *nouns.video_ids)))
    rows = [{video_id: row for row, video_id in enumerate(columns.video_ids)} for columns in (verbs, nouns)]
    labels: dict[tuple[int, int], int] = {}
    video, label, segments, scores = [], [], [], []
    for v, video_id in enumerate(video_ids):
        own = [
            np.flatnonzero(columns.video == row[video_id]) if video_id in row else np.zeros(0, np.int64)
            for columns, row in zip((verbs, nouns), rows, strict=True)
        ]
        first, second = _overlapping(verbs.segments[own[0]], nouns.segments[own[1]], tiou)
        first, second = own[0][first], own[1][second]
        product = verbs.scores[first] * nouns.scores[second]
        best = np.argsort(-product, kind="stable")[:MOST]
        first, second = first[best], second[best]
        keys = zip(verbs.label[first].tolist(), nouns.label[second].tolist(), strict=True)
        label += [labels.setdefault(key, len(labels)) for key in keys]
        video += [v] * len(best)
        segments.append((verbs.segments[first] + nouns.segments[second]) / 2)
        scores.append(product[best])
    return Columns(
        video_ids,
        tuple(f"{verbs.labels[a]},{nouns.labels[b]}" for a, b in labels),
        np.array(video, np.int32),
        np.array(label, np.int32),
        np.concatenate([np.zeros((0, 2)), *segments]),
        np.concatenate([np.zeros(0), *scores]),
    )


def _overlapping(verbs: Any, nouns: Any, tiou: float) -> tuple[Any, Any]:
    """Return indices (P,) of the verbs (V, 2) and nouns (N, 2) whose tIoU is at least `tiou`, by verb, then noun."""
    inter = np.minimum(verbs[:, None, 1], nouns[:, 1]) - np.maximum(verbs[:, None, 0], nouns[:, 0])
    union = (verbs[:, None, 1] - verbs[:, None, 0]) + (nouns[:, 1] - nouns[:, 0]) - inter
    first, second = np.nonzero((inter > 0) & (inter >= tiou * union))
    return first, second


def read_submission(path: Path) -> Columns:
    """Read a C2 submission (verb, noun, action, score, segment) or a results file; labels are `verb,noun`.

    Raises:
        TadError: as `read_results`; and an action that is not a pair of class ids, or contradicts its verb and noun.
    """
    columns, _ = read_results(path, label=_action)
    labels = []
    for label in columns.labels:
        match = PAIR.fullmatch(label)
        if not match or int(match[1]) >= COUNTS["verb"] or int(match[2]) >= COUNTS["noun"]:
            raise TadError(
                f"{path}: action '{label}' is not a pair 'verb,noun' of class ids; if these are verbs only, add the"
                " detections of nouns with --nouns"
            )
        labels.append(f"{int(match[1])},{int(match[2])}")
    return Columns(columns.video_ids, tuple(labels), columns.video, columns.label, columns.segments, columns.scores)


def _action(entry: Mapping[str, Any]) -> Any:
    if "action" not in entry:
        return entry["label"]
    pair = f"{entry['verb']},{entry['noun']}" if {"verb", "noun"} <= set(entry) else entry["action"]
    if str(entry["action"]).replace(" ", "") != str(pair).replace(" ", ""):
        raise TadError(f"action '{entry['action']}' differs from verb and noun {pair}; use the same class ids in both")
    return entry["action"]


def half(actions: Columns, target: str) -> Columns:
    """Return the verbs or the nouns of actions: the same entries with one half of their labels."""
    labels = tuple(label.split(",")[target == "noun"] for label in actions.labels)
    return Columns(actions.video_ids, labels, actions.video, actions.label, actions.segments, actions.scores)


def score_actions(
    tables: Mapping[str, Table],
    names: Mapping[str, Sequence[str]],
    detections: Path,
    nouns: Path | None,
    *,
    settings: EvalSpec,
    tiou: float,
) -> tuple[Scored, Columns]:
    """Score actions, verbs and nouns as the challenge's script does.

    Args:
        tables, names: see `tad.datasets._epic_actions.Actions`.
        detections: detections of verbs, if `nouns` is given; else a submission to the challenge.
        nouns: detections of nouns.
        tiou: minimum tIoU of a verb and a noun.

    Returns:
        The score of the actions, with those of verbs and nouns among its measures; and the actions.

    Raises:
        TadError: as `class_ids`, `pairs`, `read_submission` and `tad.metrics.evaluate`.
    """
    paths = {"action": detections, "verb": detections, "noun": nouns or detections}
    columns: dict[str, Columns] = {}
    for target in ("verb", "noun") if nouns is not None else ():
        columns[target] = class_ids(read_detections(paths[target]).columns, target, names[target], paths[target])
    if nouns is not None:
        columns["action"] = pairs(columns["verb"], columns["noun"], tiou=tiou)
    else:
        columns["action"] = read_submission(detections)
        columns |= {target: half(columns["action"], target) for target in ("verb", "noun")}
    scored = {
        target: score_detections(
            Detections(own, [], {}, False, {}), paths[target], tables[target], split="test", settings=settings
        )
        for target, own in columns.items()
    }
    measures = scored["action"].measures
    for target in ("verb", "noun"):
        result = scored[target].result
        per_tiou = dict(zip((f"{t:g}" for t in result.tiou), result.mean_ap.tolist(), strict=True))
        measures[target] = {"average_mAP": result.average_mean_ap, "mAP": per_tiou}
    if nouns is not None:
        measures["pairs"] = {"least_tiou": tiou, "most_per_video": MOST}
    return scored["action"], columns["action"]


def write_submission(actions: Columns, path: Path, *, levels: Sequence[int] = (0, 0, 0)) -> Path:
    """Write the actions as a challenge submission.

    Args:
        levels: the challenge's levels of supervision for pretraining, training labels and training data (0 to 5).
    """
    results: dict[str, list[dict[str, Any]]] = {video_id: [] for video_id in actions.video_ids}
    rows = zip(
        actions.video.tolist(), actions.label.tolist(), actions.segments.tolist(), actions.scores.tolist(), strict=True
    )
    for video, label, segment, score in rows:
        verb, noun = map(int, actions.labels[label].split(","))
        entry = {"verb": verb, "noun": noun, "action": f"{verb},{noun}", "score": score, "segment": segment}
        results[actions.video_ids[video]].append(entry)
    head = {"version": "0.2", "challenge": "action_detection"}
    statement = dict(zip(("sls_pt", "sls_tl", "sls_td"), levels, strict=True))
    return write_json(path, {**head, **statement, "results": results})
