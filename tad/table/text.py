"""Render blocks of scores as Markdown, or as CSV for other programs."""

import csv
import io
from collections.abc import Sequence

from tad.core.printable import csv_cell, markdown_cell
from tad.table.scores import NONE, Block, Score


def percent(fraction: float) -> str:
    """Format a fraction in percent, with two decimals."""
    return f"{100 * fraction:.2f}"


def spread(deviation: float | None) -> str:
    """Format the standard deviation over seeds; empty without one."""
    return "" if deviation is None else f" ± {percent(deviation)}"


def interval(score: Score) -> str:
    """Format the interval of the average, in percent."""
    if score.interval is None:
        return NONE
    low, high = score.interval.average_mAP
    return f"{percent(low)} to {percent(high)}"


def _cells(score: Score, block: Block) -> list[str]:
    deviation = score.std
    facts = score.facts()
    return [
        *map(markdown_cell, (score.run, score.detector, score.face or NONE)),
        *(percent(score.mAP[t]) + spread(deviation.mAP[t] if deviation else None) for t in block.shown),
        f"**{percent(score.average_mAP)}**{spread(deviation.average_mAP if deviation else None)}",
        interval(score),
        *(markdown_cell(facts[name]) for name in block.differing),
    ]


def markdown(blocks: Sequence[Block]) -> str:
    """Render one table per block, below a line with the facts that its runs share."""
    parts = []
    for block in blocks:
        head = ["run", "detector", "face", *(f"mAP@{t}" for t in block.shown), "average mAP", block.level]
        rule = ["---"] * 3 + ["---:"] * (len(head) - 3) + ["---"] * len(block.differing)
        lines = [[*head, *block.differing], rule, *(_cells(score, block) for score in block.scores)]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        parts.append(f"**{markdown_cell(block.title)}**: {markdown_cell(block.caption())}.\n\n{table}\n")
    return "\n".join(parts)


def _exact(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.4f}"


def _threshold(text: str) -> tuple[str, float]:
    """Return a sorting key of thresholds: tIoU, then frames, then seconds."""
    return text.lstrip("0123456789."), float(text.rstrip("fs"))


def comma_separated(blocks: Sequence[Block]) -> str:
    """Render one CSV line per run: scores in percent with four decimals, empty at thresholds that the run lacks."""
    scores = [score for block in blocks for score in block.scores]
    tious = sorted({t for score in scores for t in score.tious}, key=_threshold)
    facts = ["dataset", "split", "protocol", "complete", "detector", "face", *scores[0].facts(), "instances", "classes"]
    numbers = [f"{name}{part}" for name in ["average_mAP", *(f"mAP@{t}" for t in tious)]
               for part in ("", "_std", "_low", "_high")]  # fmt: skip
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["run", *facts, *numbers])
    for score in scores:
        own = [score.dataset, score.split, score.protocol.name, str(score.protocol.complete).lower(), score.detector,
               score.face, *score.facts().values(), score.instances, score.classes]  # fmt: skip
        low, high = score.interval.average_mAP if score.interval else (None, None)
        row = [score.average_mAP, score.std.average_mAP if score.std else None, low, high]
        for t in tious:
            ends = score.interval.mAP.get(t, (None, None)) if score.interval else (None, None)
            row += [score.mAP.get(t), score.std.mAP.get(t) if score.std else None, *ends]
        texts = [csv_cell(value) if isinstance(value, str) else value for value in (score.run, *own)]
        writer.writerow([*texts, *map(_exact, row)])
    return out.getvalue()
