"""Figures of a diagnosis, each with a one-sentence explanation in its title."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tad.core.files import publish

# from right to wrong: green, then warm colours where the segment is right, cold ones where it is not
COLOURS = {
    "true positive": "#2f7d4f",
    "double detection": "#e3a72f",
    "wrong label": "#c2571a",
    "localization": "#4a90b8",
    "confusion": "#8f6bb3",
    "background": "#8a8f98",
}
MEANINGS = {
    "true positive": "right",
    "double detection": "right segment and label,\ninstance already detected",
    "wrong label": "right segment,\nwrong label",
    "localization": "right label,\nboundaries too far off",
    "confusion": "wrong label,\nboundaries off",
    "background": "no instance there",
}
TITLES = {
    "coverage": "share of the video that the instance covers",
    "length": "length of the instance, seconds",
    "instances": "instances of the class in the video",
    "gap": "seconds to the nearest other moment",
}
LEAST = 0.05  # points of mAP; a smaller gain is rounded to zero in a figure
SCORE, MISSED, GREY = "#2f7d4f", "#c2571a", "#8a8f98"


def _finish(figure: Any, path: Path, sentence: str) -> Path:
    figure.suptitle(sentence, x=0.01, ha="left", fontsize=11)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
    with publish(path) as partial:
        figure.savefig(partial, format="png", dpi=110, metadata={"Software": None})
    return path


def draw_errors(document: Mapping[str, Any], path: Path, title: str) -> Path:
    """Draw the error profile of the best detections, and the gain in mAP without each kind of error."""
    from matplotlib.figure import Figure

    errors = document["errors"]
    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(5, 4))
    ranks = range(1, len(errors["profile"]) + 1)
    bottom = [0.0] * len(errors["profile"])
    for k, kind in enumerate(errors["kinds"]):
        values = [100 * row[k] for row in errors["profile"]]
        label = f"{kind}: {MEANINGS[kind]}".replace("\n", " ")
        left.bar(ranks, values, bottom=bottom, color=COLOURS[kind], label=label)
        bottom = [a + b for a, b in zip(bottom, values, strict=True)]
    left.set_xticks(list(ranks), [f"{r}" for r in ranks])
    left.set_xlabel("detections by score, in groups of G, the number of instances (1: best G)")
    left.set_ylabel("% of the group")
    left.set_ylim(0, 100)
    figure.legend(loc="outside lower left", ncols=3, frameon=False, fontsize=8.5)
    kinds = errors["kinds"][1:]
    gains = [100 * errors["gain"][kind]["mAP"] for kind in kinds]
    bars = right.barh(range(len(kinds)), gains, color=[COLOURS[kind] for kind in kinds])
    right.bar_label(bars, fmt="%+.1f", padding=3)
    right.set_yticks(range(len(kinds)), [f"{kind}\n({MEANINGS[kind]})" for kind in kinds], fontsize=8.5)
    right.invert_yaxis()
    right.set_xlim(0, max([1.0, *gains]) * 1.2)
    right.set_xlabel(f"gain in average mAP without these errors\n({100 * errors['mAP']:.1f} with them)")
    return _finish(figure, path, f"{title}. {worst(errors)}")


def worst(errors: Mapping[str, Any]) -> str:
    """Name the most costly kind of error in a sentence."""
    if not any(map(sum, errors["profile"])):
        return "There are no detections: every instance is missed."
    kind = max(errors["kinds"][1:], key=lambda kind: errors["gain"][kind]["mAP"])
    gain = 100 * errors["gain"][kind]["mAP"]
    if gain < LEAST:
        return f"No kind of false detection lowers the score (average mAP {100 * errors['mAP']:.1f})."
    what = MEANINGS[kind].replace("\n", " ")
    return f"Removing {kind} errors ({what}) would gain most: {gain:+.1f} mAP."


def _bars(axes: Any, rows: list[dict[str, Any]], key: str, colour: str, level: float) -> None:
    there = [row for row in rows if row["count"]]
    labels = []
    for row in there:
        border = f"> {row['low']:.3g}" if row["high"] is None else f"≤ {row['high']:.3g}"
        labels.append(f"{border}\n({row['count']})")
    bars = axes.bar(range(len(there)), [100 * row[key] for row in there], color=colour)
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}  # keeps the dashed line off the numbers
    axes.bar_label(bars, fmt="%.0f", fontsize=8.5, padding=2, bbox=behind)
    axes.set_xticks(range(len(there)), labels, fontsize=8)
    axes.axhline(100 * level, color=GREY, linestyle="--", linewidth=1)
    axes.set_ylim(0, 109)


Draw = Callable[[Mapping[str, Any], Path, str], Path]


def _by_characteristic(key: str, colour: str, name: str, sentence: str) -> Draw:
    def draw(document: Mapping[str, Any], path: Path, title: str) -> Path:
        from matplotlib.figure import Figure

        facts = {fact: rows for fact in TITLES if (rows := document["characteristics"].get(fact))}
        level = document["characteristics"][key]
        figure = Figure(figsize=(4.2 * max(len(facts), 1) + 0.5, 4), layout="constrained")
        for axes, (fact, rows) in zip(figure.subplots(1, len(facts), squeeze=False)[0], facts.items(), strict=True):
            _bars(axes, rows, key, colour, level)
            axes.set_xlabel(f"{TITLES[fact]}\n(number of instances)", fontsize=9)
            axes.set_ylabel(name)
        return _finish(figure, path, f"{title}. {sentence.format(100 * level)}")

    return draw


draw_sensitivity = _by_characteristic(
    "normalised_mAP",
    SCORE,
    "normalised mAP, %",
    "Instances with bars above the dashed line ({:.1f}: all instances) are detected better than average.",
)
draw_missed = _by_characteristic(
    "missed",
    MISSED,
    "% not detected",
    "Share of instances without a matching detection of any score; dashed: all instances ({:.1f} %).",
)


def draw_calibration(document: Mapping[str, Any], path: Path, title: str) -> Path:
    """Draw the reliability diagram: the share of true positives against the score."""
    from matplotlib.figure import Figure

    calibration = document["calibration"]
    figure = Figure(figsize=(6.5, 5), layout="constrained")
    axes = figure.subplots()
    scores, rights = ([row[key] for row in calibration["bins"]] for key in ("score", "right"))
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", label="perfect calibration")
    axes.plot(scores, rights, color=SCORE, marker="o", label="detections, in ten bins of score")
    for row in calibration["bins"]:
        text = f"{row['count']:,}"
        axes.annotate(text, (row["score"], row["right"]), xytext=(5, -11), textcoords="offset points", fontsize=8)
    axes.set_xlabel("score (numbers: detections in the bin)")
    axes.set_ylabel("share of true positives, mean over the thresholds")
    axes.set_ylim(-0.05, 1.02)
    axes.legend(frameon=False)
    text = "There are no detections."
    if calibration["refused"]:
        text = f"No calibration: {calibration['refused']}."
    elif scores:
        text = f"Share of true positives against score; expected calibration error {calibration['error']:.3f}."
    return _finish(figure, path, f"{title}.\n{text}")


FIGURES = {
    "errors": draw_errors,
    "sensitivity": draw_sensitivity,
    "missed": draw_missed,
    "calibration": draw_calibration,
}


def draw_all(document: Mapping[str, Any], folder: Path, title: str) -> list[Path]:
    """Write `errors.png`, `sensitivity.png`, `missed.png` and `calibration.png` to the folder."""
    return [draw(document, Path(folder) / f"{name}.png", title) for name, draw in FIGURES.items()]
