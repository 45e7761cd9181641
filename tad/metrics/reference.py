"""Reference implementation of AP and recall in plain loops, class by class; `tad.metrics.matching` must match it."""

from collections.abc import Mapping, Sequence

Segment = tuple[float, float]
Scored = tuple[float, str, float, float]


def tiou(a: Segment, b: Segment) -> float:
    """Compute the intersection over union of two segments; of two points it is 1 if they are equal, else 0."""
    inter = min(a[1], b[1]) - max(a[0], b[0])
    return inter / ((a[1] - a[0]) + (b[1] - b[0]) - inter) if inter > 0 else float(a[0] == a[1] and a == b)


def in_order(detections: Sequence[Scored]) -> list[Scored]:
    """Sort detections (score, video id, start, end) of one class by descending score, then video, start, end."""
    return sorted(detections, key=lambda d: (-d[0], *d[1:]))


def average_precision(truth: Mapping[str, Sequence[Segment]], detections: Sequence[Scored], threshold: float) -> float:
    """Compute the AP of one class; instances by video id, detections as in `in_order`."""
    taken: set[tuple[str, int]] = set()
    hits: list[bool] = []
    for _, video, start, end in in_order(detections):
        instances = truth.get(video, ())
        by_overlap = sorted(range(len(instances)), key=lambda g: (tiou((start, end), instances[g]), g), reverse=True)
        hit = next(
            (g for g in by_overlap if tiou((start, end), instances[g]) >= threshold and (video, g) not in taken), None
        )
        hits.append(hit is not None)
        if hit is not None:
            taken.add((video, hit))
    precision = [sum(hits[: d + 1]) / (d + 1) for d in range(len(hits))]
    area = sum(max(precision[d:]) for d in range(len(hits)) if hits[d])
    return area / sum(len(instances) for instances in truth.values())


def recall(
    truth: Mapping[str, Sequence[Segment]], detections: Sequence[Scored], threshold: float, *, depth: int
) -> float:
    """Compute the recall of one class at the best depth · n detections of each video with n instances."""
    hits = 0
    for video, instances in truth.items():
        best = [d for d in in_order(detections) if d[1] == video][: depth * len(instances)]
        hits += sum(any(tiou(segment, d[2:]) >= threshold for d in best) for segment in instances)
    return hits / sum(len(instances) for instances in truth.values())
