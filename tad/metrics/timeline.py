"""Draw ground truth and detections of one video over time, class by class, as a PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tad.core.files import publish
from tad.core.printable import figure_text

MOST_CLASSES = 8
TRUTH_COLOUR, DETECTION_COLOUR = "#2f7d4f", "#c2571a"


def choose(
    entries: Sequence[Mapping[str, Any]], *, label: str, instances: int, threshold: float
) -> list[Mapping[str, Any]]:
    """Choose the best detections of a class to draw: at most twice the instances (at least 3), above the threshold."""
    own = sorted((e for e in entries if e["label"] == label), key=lambda e: (-e["score"], *e["segment"]))
    return [e for e in own[: max(2 * instances, 3)] if e["score"] > threshold]


def timeline(
    path: Path,
    video_id: str,
    instances: Sequence[tuple[float, float, str]],
    entries: Sequence[Mapping[str, Any]],
    *,
    duration: float | None,
    title: str,
    threshold: float = 0.1,
) -> Path:
    """Draw two rows per class: its instances above, its best detections below, darker for higher scores.

    Args:
        path: the PNG to write.
        instances: (start, end, label) in seconds. entries: detections of the video, as in a results file.
        duration: seconds; by default the end of the last segment.
        title: first line of the title.
        threshold: detections with scores up to it are not drawn.
    """
    from matplotlib.figure import Figure

    counts = {label: sum(name == label for *_, name in instances) for *_, label in instances}
    for entry in entries:
        if entry["score"] > threshold:
            counts.setdefault(entry["label"], 0)
    best = {label: max((e["score"] for e in entries if e["label"] == label), default=0.0) for label in counts}
    labels = sorted(counts, key=lambda label: (-counts[label], -best[label], label))
    shown = labels[:MOST_CLASSES]
    figure = Figure(figsize=(11, 1.5 + 0.75 * max(len(shown), 1)), layout="constrained")
    axes = figure.add_subplot()
    last = 0.0
    for row, label in enumerate(shown):
        for start, end, name in instances:
            if name == label:
                axes.broken_barh([(start, end - start)], (row - 0.34, 0.32), color=TRUTH_COLOUR)
                last = max(last, end)
        for entry in choose(entries, label=label, instances=counts[label], threshold=threshold):
            start, end = entry["segment"]
            opacity = 0.25 + 0.75 * min(max(float(entry["score"]), 0.0), 1.0)
            box = axes.broken_barh([(start, end - start)], (row + 0.02, 0.32), color=DETECTION_COLOUR, alpha=opacity)
            box.set(edgecolor="white", linewidth=0.3)
            last = max(last, end)
    axes.set_yticks(range(len(shown)), list(map(figure_text, shown)))
    axes.set_ylim(max(len(shown), 1) - 0.5, -0.5)
    axes.set_xlim(0, duration or last or 1)
    axes.set_xlabel("seconds")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    hidden = f", {len(labels) - len(shown)} classes not shown" if len(labels) > len(shown) else ""
    text = figure_text(f"{title}\n{video_id}: detections scoring above {threshold}{hidden}")
    axes.set_title(text, fontsize=10, loc="left")
    for colour, name in ((TRUTH_COLOUR, "ground truth"), (DETECTION_COLOUR, "detections (darker: higher score)")):
        axes.barh([0], [0], color=colour, label=name)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    with publish(path) as partial:
        figure.savefig(partial, format="png", dpi=110, metadata={"Software": None})
    return Path(path)
