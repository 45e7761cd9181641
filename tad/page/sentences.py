"""The diagnosis in whole sentences: what costs most, which instances are missed, and what the scores are worth."""

# G instances, D detections

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tad.metrics.diagnosis import LOCALIZATION, Diagnosis

FEW = 5  # a statement about fewer instances would be about chance
SIZES = {"XS": "very short", "S": "short", "M": "middle", "L": "long", "XL": "very long"}
CALIBRATED = 0.05


def sentences(diagnosis: Diagnosis, document: Mapping[str, Any]) -> list[str]:
    """Return sentences about a diagnosis.

    Args:
        diagnosis: the diagnosis.
        document: the same as `Diagnosis.document` returns it.
    """
    return [*_gains(diagnosis, document["errors"]), *_borders(diagnosis), *_missed(document), *_calibration(document)]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _gains(diagnosis: Diagnosis, errors: Mapping[str, Any]) -> Iterator[str]:
    if not diagnosis.right_HD.any():
        yield "No detection matches an instance." if diagnosis.right_HD.size else "There are no detections."
        return
    gains = sorted(((gain["mAP"], kind) for kind, gain in errors["gain"].items()), reverse=True)
    (first, kind), (second, next_kind) = gains[:2]
    if first <= 0:
        yield "No kind of error costs mAP: every detection above the last match is right."
        return
    yield (
        f"The most costly kind of error is {kind}: without these detections average mAP would be"
        f" {_percent(errors['mAP'] + first)} instead of {_percent(errors['mAP'])}; next is {next_kind}"
        f" (+{_percent(second)})."
    )
    share = errors["share"]["true positive"]
    yield f"Of the best {errors['depth']} detections per instance, {_percent(share)} % are right."


def _borders(diagnosis: Diagnosis) -> Iterator[str]:
    """Say by how much localization errors miss the start and the end of the nearest instance of their label."""
    chosen = np.flatnonzero((diagnosis.kinds_HD == LOCALIZATION).any(axis=0) & diagnosis.top_D)
    detail = diagnosis.detail
    shifts = []
    for d in chosen[:5000].tolist():  # enough for a median
        same = (detail.videos == diagnosis.matches.video[d]) & (detail.classes == diagnosis.label_D[d])
        if same.any():
            rows = detail.instances[same]
            near = rows[np.abs(rows - detail.segments[d]).sum(axis=1).argmin()]
            shifts.append(detail.segments[d] - near)
    if len(shifts) < FEW:
        return
    if diagnosis.result.near is not None:
        apart, bias = (float(np.median(x)) for x in (np.abs(np.array(shifts)[:, 0]), np.array(shifts)[:, 0]))
        word = "late" if bias > 0 else "early"
        yield f"Localization errors miss the moment by {apart:.2f} s; they tend to be {word}, by {abs(bias):.2f} s."
        return
    start, end = np.median(np.abs(np.array(shifts)), axis=0).tolist()
    tendency = np.median(np.array(shifts), axis=0).tolist()
    side, other = ("starts", "ends") if start >= end else ("ends", "starts")
    most, least = (start, end) if start >= end else (end, start)
    bias = tendency[0] if start >= end else tendency[1]
    word = "late" if bias > 0 else "early"
    yield (
        f"Localization errors miss {side} by {most:.2f} s and {other} by {least:.2f} s (medians);"
        f" {side} tend to be {word}, by {abs(bias):.2f} s."
    )


def _missed(document: Mapping[str, Any]) -> Iterator[str]:
    characteristics = document["characteristics"]
    if not characteristics["missed"]:
        yield "Every instance is matched by a detection at every threshold."
        return
    missed = _percent(characteristics["missed"])
    yield f"{missed} % of the instances are matched by no detection (mean over the thresholds)."
    buckets = [row for row in characteristics.get("length", ()) if row["count"] >= FEW]
    if len(buckets) > 1:
        row = max(buckets, key=lambda r: r["missed"])
        upper = "" if row["high"] is None else f" up to {row['high']:.3g} s"
        lower = f" of more than {row['low']:.3g} s" if row["low"] else ""
        yield (
            f"Most are missed among {SIZES[row['size']]} instances ({row['count']}{lower}{upper}):"
            f" {_percent(row['missed'])} %."
        )
    classes = sorted(((share, label) for label, share in characteristics["missed_per_class"].items()), reverse=True)
    if len(classes) > 1 and classes[0][0] > 0:
        yield f"The class with most missed instances is {classes[0][1]} ({_percent(classes[0][0])} %)."


def _calibration(document: Mapping[str, Any]) -> Iterator[str]:
    calibration = document["calibration"]
    if calibration["refused"]:
        yield f"{calibration['refused'].capitalize()}."
        return
    if not calibration["bins"]:
        return
    error = calibration["error"]
    if error <= CALIBRATED:
        yield f"Scores are close to probabilities of being right (expected calibration error {error:.3f})."
        return
    weight = sum(b["count"] for b in calibration["bins"]) or 1
    bias = sum(b["count"] * (b["score"] - b["right"]) for b in calibration["bins"]) / weight
    word = "too high" if bias > 0 else "too low"
    yield f"As probabilities, scores are {word}: they differ from the share of right ones by {error:.3f} on average."
