"""A page of two runs on a small data set with hostile labels, made by the stages as the workflow makes it."""

import random
from pathlib import Path
from typing import Any

import video_tools as vt

from tad.annotations.table import Instance, Table, Video, write_table
from tad.core.files import write_json
from tad.provenance.stamps import stamp
from tad.settings.stages import EvaluateStageSpec
from tad.settings.stages.page import PageStageSpec
from tad.stages.evaluate import evaluate
from tad.stages.page import page

HOSTILE = (
    "<script>window.harmed = 1</script>",
    "</script><script>window.harmed = 2</script>",
    '"><img src=x onerror="window.harmed = 3">',
    "'; window.harmed = 4; //",
    "${window.harmed = 5}`",
    "javascript:window.harmed=6",
    "\u202egnp.exe\u202c \u2066isolate\u2069",
    "__proto__",
    'comma, "quote"; semicolon',
    '=HYPERLINK("http://x")',
    "<svg/onload=window.harmed=7>&lt;b&gt;",
    "line\u2028separator 漢字 é",
)
SECONDS, RATE = 12.0, 25
EVAL = {"protocol": "activitynet", "tiou": (0.3, 0.5, 0.7), "on_missing": "count"}


def detect(table: Table, seed: int, *, per_video: int = 30) -> dict[str, list[dict[str, Any]]]:
    """Detections of the test videos: some near an instance, some anywhere."""
    draw = random.Random(seed)
    found: dict[str, list[dict[str, Any]]] = {}
    for video_id, video in table.split("test").items():
        entries = []
        for k in range(per_video):
            near = video.instances[k % len(video.instances)] if video.instances and k % 3 else None
            start = near.start + draw.gauss(0, 0.15) if near else draw.uniform(0, SECONDS - 2)
            end = near.end + draw.gauss(0, 0.15) if near else start + draw.uniform(0.3, 2)
            label = near.label if near and k % 5 else draw.choice(table.labels)
            score = round(draw.uniform(0.3, 1) if near else draw.uniform(0.01, 0.7), 4)
            start = max(0.0, start)
            entries.append({"label": label, "score": score, "segment": [start, max(end, start + 0.1)]})
        found[video_id] = sorted(entries, key=lambda e: -e["score"])
    return found


def hostile_table(labels: tuple[str, ...] = HOSTILE, videos: int = 4) -> Table:
    """Videos with three instances of each of some labels, one of them without any, and one train video."""
    draw = random.Random(0)
    entries: dict[str, Video] = {"train 'one'": Video("train", 5.0, (Instance(1.0, 2.25, labels[0]),))}
    for v in range(videos):
        rows = [labels[(v * 5 + k) % len(labels)] for k in range(6)] if v else []
        starts = sorted(round(draw.uniform(0, SECONDS - 2), 3) for _ in rows)
        instances = tuple(
            Instance(s, round(s + draw.uniform(0.5, 1.9), 3), label) for s, label in zip(starts, rows, strict=True)
        )
        entries[f"video_{v} <b>&"] = Video("test", SECONDS, instances)
    return Table("toys", tuple(sorted(labels)), entries, {"gone <i>": "withdrawn </script>"})


def write_run(
    folder: Path, name: str, table: Path, found: dict[str, Any], labels: tuple[str, ...]
) -> tuple[Path, Path]:
    """Detections and map.json of a run."""
    detections, score = folder / f"{name}.json", folder / f"{name}.map.json"
    made = stamp("suppress", {"run": name}, {})
    write_json(detections, {"stamp": made, "labels": list(labels), "results": found, "excluded": {}})
    evaluate(detections, table, score, spec=EvaluateStageSpec(run=name, dataset="toys", eval=EVAL))
    return detections, score


def page_spec(runs: tuple[str, ...], **page_settings: Any) -> PageStageSpec:
    return PageStageSpec(run=runs[0], dataset="toys", runs=runs, eval=EVAL, page=page_settings)


def make_page(
    folder: Path, table: Table, runs: dict[str, dict[str, Any]], *, media: bool = True, **settings: Any
) -> Path:
    """Write videos, annotations, detections and scores, and the page of the runs."""
    annotations = write_table(table, folder / "toys.json", stamp("annotate", {"dataset": "toys"}, {}))
    if media:
        for number, video_id in enumerate(table.split("test")):
            if number != 2:  # one is missing
                vt.encode(folder / "videos" / f"{video_id}.mp4", round(SECONDS * RATE), rate=RATE, width=96, height=72)
    written = [write_run(folder, name, annotations, found, table.labels) for name, found in runs.items()]
    return page(
        [one for one, _ in written], annotations, [score for _, score in written], folder / "page",
        spec=page_spec(tuple(runs), **settings), cache=folder / "kept", videos=folder / "videos" if media else None,
    )  # fmt: skip
