"""All map.json → one Markdown table per set of tIoU thresholds, written to a file and printed."""

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from tad.errors import TadError
from tad.files import publish, read_json

FEW = 6  # of longer lists of thresholds only these are shown, as papers do
SHOWN = ("0.5", "0.75", "0.95")
FACTS = ("run", "dataset", "features", "detector")


def read_score(path: Path) -> dict[str, Any]:
    """A map.json.

    Raises:
        TadError: another kind of file.
    """
    value = read_json(path)
    if not isinstance(value, dict) or not {"average_mAP", "mAP", "videos", "protocol", *FACTS} <= set(value):
        raise TadError(f"{path}: not a map.json; remove it and run 'tad evaluate' again")
    return value


def percent(fraction: float) -> str:
    """A fraction in percent."""
    return f"{100 * fraction:.2f}"


def spread(deviation: float | None) -> str:
    """The standard deviation over seeds, where there are several."""
    return "" if deviation is None else f" ± {percent(deviation)}"


def row(score: dict[str, Any], shown: list[str]) -> list[str]:
    """The cells of one run."""
    videos, protocol, deviation = score["videos"], score["protocol"], score.get("std", {})
    counted = f"{videos['evaluated']} of {videos['in_split']}"
    return [
        *(str(score[fact]) for fact in FACTS),
        *(percent(score["mAP"][tiou]) + spread(deviation.get("mAP", {}).get(tiou)) for tiou in shown),
        f"**{percent(score['average_mAP'])}**{spread(deviation.get('average_mAP'))}",
        counted,
        protocol["name"] + ("" if protocol["complete"] else " (other videos)"),
        str(score["epoch_rule"]),
        ", ".join(str(seed) for seed in score["seeds"]) if "seeds" in score else str(score["seed"]),
    ]


def table(scores: list[dict[str, Any]]) -> str:
    """Markdown: runs with the same thresholds share a table, in the order of dataset and run."""
    groups = defaultdict(list)
    for score in sorted(scores, key=lambda s: (s["dataset"], s["run"])):
        groups[tuple(score["mAP"])].append(score)
    parts = []
    for tious, members in groups.items():
        shown = [t for t in tious if t in SHOWN] if len(tious) > FEW else list(tious)
        average = f"average ({tious[0]} to {tious[-1]})"
        head = [*FACTS, *(f"mAP@{t}" for t in shown), average, "videos", "protocol", "epoch", "seed"]
        rule = [*("---" for _ in FACTS), *("---:" for _ in (*shown, average)), *["---"] * 3, "---:"]
        cells = [head, rule, *(row(score, shown) for score in members)]
        parts.append("\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in cells))
    return "\n\n".join(parts) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Write and print the table; 1 and one line on standard error for files that are no scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scores", type=Path, nargs="*", help="map.json of each run")
    parser.add_argument("--out", type=Path, required=True)
    a = parser.parse_args(argv)
    try:
        text = table([read_score(path) for path in a.scores]) if a.scores else "No run has a score yet.\n"
    except TadError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    with publish(a.out) as partial:
        partial.write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
