"""Size of a run for `tad plan`: videos, hours and splits; and the times of finished jobs."""

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tad.annotations.table import Table, read_table
from tad.commands.plan_trial import Effort, duration_of
from tad.core.errors import TadError
from tad.core.files import read_json
from tad.settings.config import Config
from tad.settings.paths import path_of
from tad.video.listing import list_videos, shard_of

MOST_HEADERS = 200  # videos whose header is read; the length of others follows from their bytes


@dataclass(frozen=True)
class Videos:
    """The videos of a dataset: id → path and id → seconds, and how many of the lengths were estimated from bytes."""

    paths: dict[str, Path]
    seconds: dict[str, float]
    estimated: int

    def of(self, shards: Iterable[str]) -> dict[str, float]:
        """Return the videos of some shards (`k-of-n`) with their seconds."""
        found: dict[str, float] = {}
        for shard in shards:
            k, _, n = shard.partition("-of-")
            found |= {v: s for v, s in self.seconds.items() if shard_of(v, int(n)) == int(k)}
        return found


def videos_of(config: Config, dataset: str) -> Videos:
    """Return the videos of a dataset, with lengths from manifests, else from headers.

    Raises:
        TadError: there are no videos.
    """
    made = dataset in config.generated
    folder = path_of("rendered_videos", root=config.root, dataset=dataset) if made else (
        config.root / config.dataset(dataset).videos
    )  # fmt: skip
    if made and not folder.is_dir():
        raise TadError(
            f"{folder}: the videos are not rendered yet; run `tad run {path_of('rendered', dataset=dataset)}`, then"
            " plan again"
        )
    paths = {video_id: folder / path for video_id, path in list_videos(folder).items()}
    if not paths:
        raise TadError(f"{folder}: no videos; put the videos of {dataset} there, then plan again")
    known = {
        video_id: float(entry["duration"])
        for manifest in path_of("probe", root=config.root, dataset=dataset, shard="x").parent.glob("*-of-*.json")
        for video_id, entry in read_json(manifest)["videos"].items()
        if entry.get("usable")
    }
    return _measured(paths, known)


def _measured(paths: dict[str, Path], known: dict[str, float]) -> Videos:
    seconds = {video_id: known[video_id] for video_id in paths if video_id in known}
    unknown = np.random.default_rng(0).permutation(sorted(paths.keys() - seconds.keys())).tolist()
    seconds |= {video_id: duration_of(paths[video_id]) for video_id in unknown[:MOST_HEADERS]}
    sizes = {video_id: path.stat().st_size if path.is_file() else 0 for video_id, path in paths.items()}
    read = sum(sizes[video_id] for video_id, length in seconds.items() if length)
    pace = sum(seconds.values()) / read if read else 0.0
    guessed = [video_id for video_id in paths if not seconds.get(video_id)]
    return Videos(paths, seconds | {v: pace * sizes[v] for v in guessed}, len(guessed))


def table_of(config: Config, run: str, folder: Path) -> tuple[Table, Path]:
    """Return the annotation table of a run and its file, which is made in `folder` if the workflow has not made it."""
    path = config.table_file(run)
    if not path.is_file():
        from tad.stages.annotate import annotate

        dataset = config.run(run).dataset
        source = path_of("rendered_annotations", root=config.root, dataset=dataset)
        if dataset not in config.generated:
            source = config.root / config.dataset(dataset).annotations
        path = annotate(source, folder / "table.json", spec=config.spec("annotate", dataset=dataset))  # type: ignore[arg-type]
    return read_table(path), path


def finished(rule: str, folder: Path, *, planned: set[str]) -> dict[str, Effort]:
    """Return the effort of finished jobs of a rule by name, from the benchmark files in the folder `logs` beside them.

    Args:
        rule: the rule.
        folder: folder of its outputs.
        planned: names of jobs that would run again, which do not count: their settings may have changed. A name is the
            file's, without `.<rule>.tsv`; empty for `<rule>.tsv`.
    """
    found = {}
    for path in sorted((folder / "logs").glob(f"*{rule}.tsv")):
        match = re.fullmatch(rf"(?:(.+)\.)?{rule}", path.stem)
        if match is None or (match[1] or "") in planned:
            continue
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        try:
            found[match[1] or ""] = Effort(float(rows[-1]["s"]), float(rows[-1]["cpu_time"]))
        except (IndexError, KeyError, ValueError):  # Snakemake writes NA for a job that ended at once
            continue
    return found
