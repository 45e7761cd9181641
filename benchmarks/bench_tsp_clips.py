"""Compare the segments that TSP takes training clips from with its published tables → Markdown.

    python benchmarks/bench_tsp_clips.py FOLDER [--quick]

FOLDER is a checkout of https://github.com/HumamAlwassel/TSP (read at 9809875). Its files data/*/*_tsp_groundtruth.csv
hold the instances and the background between them. Ours are cut from the instances of the same files.
"""

import argparse
import csv
from collections import Counter
from pathlib import Path
from typing import Any

from tad.training.tsp.clips import BACKGROUND, segment_table

CLIP = 16 / 15  # seconds: 16 frames at 15 per second
TABLES = {  # name → file below data/, and the minimum length of background in clips
    "THUMOS14 validation": ("thumos14/thumos14_valid_tsp_groundtruth.csv", 1.0),
    "THUMOS14 test": ("thumos14/thumos14_test_tsp_groundtruth.csv", 1.0),
    "ActivityNet training": ("activitynet/activitynet_v1-3_train_tsp_groundtruth.csv", 5.0),
    "ActivityNet validation": ("activitynet/activitynet_v1-3_valid_tsp_groundtruth.csv", 5.0),
}
Rows = Counter[tuple[str, float, float, bool]]  # video, start and end rounded to 1 ms, whether an action


def published(path: Path) -> tuple[int, Rows, dict[str, list[tuple[float, float]]], dict[str, float]]:
    """Return the number of rows of a table, the rows that hold a clip, and the instances and duration of each video."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    long: Rows = Counter()
    instances: dict[str, list[tuple[float, float]]] = {}
    durations: dict[str, float] = {}
    for row in rows:
        video, start, end = row["video-name"], float(row["t-start"]), float(row["t-end"])
        action = row["temporal-region-label"] == "Action"
        durations[video] = float(row["video-duration"])
        end = min(end, durations[video])
        if action:
            instances.setdefault(video, []).append((start, end))
        if end - start >= CLIP:
            long[video, round(start, 3), round(end, 3), action] += 1
    return len(rows), long, instances, durations


def ours(instances: dict[str, list[tuple[float, float]]], durations: dict[str, float], shortest_gap: float) -> Rows:
    """Return the segments that our pre-training takes clips from."""
    names = sorted(durations)
    entries: list[dict[str, Any]] = [
        {"instances": [[start, end, "action"] for start, end in instances.get(video, [])]} for video in names
    ]
    table = segment_table(
        entries, [durations[video] for video in names], {"action": 0}, clip_seconds=[CLIP] * len(names),
        short="drop", shortest_gap=shortest_gap,
    )  # fmt: skip
    found: Rows = Counter()
    for index, (first, last), label in zip(table.videos_S, table.bounds_S2, table.labels_S, strict=True):
        found[names[index], round(float(first), 3), round(float(last) + CLIP, 3), label != BACKGROUND] += 1
    return found


def main() -> None:
    """Print the comparison of each table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="checkout of TSP")
    parser.add_argument("--quick", action="store_true", help="only the first table")
    given = parser.parse_args()
    print("| table | rows in the file | with a clip | ours | equal |\n|---|---:|---:|---:|---:|")
    for name, (file, shortest_gap) in list(TABLES.items())[: 1 if given.quick else None]:
        path = given.folder / "data" / file
        if not path.is_file():
            raise SystemExit(f"{path}: no such file; see the top of bench_tsp_clips.py")
        count, theirs, instances, durations = published(path)
        found = ours(instances, durations, shortest_gap)
        print(f"| {name} | {count:,} | {theirs.total():,} | {found.total():,} | {(theirs & found).total():,} |")


if __name__ == "__main__":
    main()
