"""The score from which a stream's instances are emitted: chosen by F1 on videos that are not the test videos."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from tad.annotations.table import Instance as Annotated
from tad.annotations.table import Table, read_table
from tad.commands.stream_emission import Instance, of_candidates
from tad.commands.sweep import choose
from tad.core import formats
from tad.core.errors import TadError
from tad.core.files import read_json, write_json
from tad.nms.online import overlap
from tad.provenance.stamps import identity_of
from tad.settings.config import Config
from tad.settings.paths import command_of, path_of
from tad.settings.stages import DetectStageSpec

SCORES = tuple(round(0.05 * k, 2) for k in range(1, 20))
RIGHT = 0.5  # tIoU from which an emitted instance counts as right
KIND = "stream"


def read_choice(path: Path) -> dict[str, Any]:
    """Return a stored choice: `score`, `model` (its identity), and the measurements behind it.

    Raises:
        TadError: the file is damaged, or of another format.
    """
    chosen: dict[str, Any] = formats.unmarked(read_json(path), path, kind=KIND)
    score = chosen.get("score")
    if not isinstance(score, float) or not 0 <= score < 1:
        raise TadError(f"{path}: score: {score!r}: needs a number from 0 to 1; {formats.FORMATS[KIND].remedy}")
    return chosen


def write_choice(path: Path, chosen: dict[str, Any]) -> Path:
    """Store a choice, as `read_choice` reads it."""
    return write_json(path, {**formats.mark(KIND), **chosen})


def chosen_score(settings: Config, run: str) -> float:
    """Return the score that `tad stream RUN --choose` chose for the run's present model.

    Raises:
        TadError: none was chosen.
    """
    name = settings.trainings(run)[0]
    path, model = (path_of(what, root=settings.root, run=name) for what in ("stream", "train"))
    remedy = f"choose it with `tad stream {run} --choose`, or give --score"
    if not path.is_file():
        raise TadError(f"runs.{run}: no score was chosen from which instances are emitted; {remedy}")
    chosen = read_choice(path)
    if chosen.get("model") != identity_of(model):
        raise TadError(f"{path}: its score was chosen for another model; {remedy}")
    return float(chosen["score"])


def matched(instances: list[Instance], table: Table, videos: Iterable[str]) -> list[tuple[Instance, Annotated]]:
    """Return the correct emitted instances, each with the annotated instance that it alone is matched to."""
    pairs = []
    for video in videos:
        free = list(table.videos[video].instances)
        for one in sorted((i for i in instances if i.video == video), key=lambda i: -i.score):
            overlaps = [
                overlap(one.start, one.end, other.start, other.end) if other.label == one.label else 0.0
                for other in free
            ]
            if overlaps and max(overlaps) >= RIGHT:
                pairs.append((one, free.pop(overlaps.index(max(overlaps)))))
    return pairs


def f1(instances: list[Instance], table: Table, videos: list[str]) -> tuple[float, int, int, int]:
    """Return F1, and the number of right, emitted and annotated instances."""
    right = len(matched(instances, table, videos))
    annotated = sum(len(table.videos[video].instances) for video in videos)
    return 2 * right / max(len(instances) + annotated, 1), right, len(instances), annotated


def choose_threshold(settings: Config, run: str, *, tiou: float, on: str, device: str) -> Iterator[str]:
    """Run the detector on stored features as on streams with each of `SCORES`; store the score with the best F1.

    Raises:
        TadError: the features or annotations do not exist, or no videos were held out.
    """
    import numpy as np

    from tad.core.device import leased
    from tad.detectors._points.online import OnlineDetector
    from tad.features.store import FeatureReader
    from tad.training.data.inputs import read_inputs, recipe_of
    from tad.training.io.models import load_model

    name = settings.trainings(run)[0]
    plan, trained = (
        cast(DetectStageSpec, settings.spec("detect", run=name)),
        path_of("train", root=settings.root, run=name),
    )
    features = path_of("features", root=settings.root, dataset=plan.dataset, features=plan.features)
    annotations = settings.table_file(name)
    for path in (trained, features, annotations):
        if not path.is_file():
            raise TadError(f"{path}: no such file; make it with `{command_of(path, root=settings.root)}`")
    table = read_table(annotations)
    chosen = choose(table, trained, features, on=cast(Any, on))
    read = read_inputs(features, annotations, dataset=plan.dataset, named=plan.features)
    with leased(device) as target, FeatureReader(features) as reader:
        model = load_model(
            trained, dataset=plan.dataset, features=plan.features, plugin=plan.detector, resize=plan.resize,
            dim=reader.dim, recipe=recipe_of(read.features), device=target,
        )  # fmt: skip
        videos = [video for video in chosen.video_ids if video in set(reader.video_ids)]
        found = {
            video: OnlineDetector(model.detector, threshold=SCORES[0], min_length=plan.detect.min_length).push(
                reader.read(video)
            )
            for video in videos
        }
        grids = {video: reader.grid(video) for video in videos}
    tried: list[tuple[float, float, int, int, int]] = []
    for score in SCORES:
        emitted = [
            one
            for video in videos
            for one in of_candidates(
                (f for f in found[video] if f.score > float(np.float32(score))), model.labels, grids[video],
                half_clip=0.0, name=video, tiou=tiou,
            )
        ]  # fmt: skip
        tried.append((score, *f1(emitted, table, videos)))
    highest = max(value for _, value, *_ in tried)
    tied = [one for one in tried if one[1] == highest]
    score, value, right, shown, annotated = tied[len(tied) // 2]  # the middle one, away from both mistakes
    document = {
        "model": identity_of(trained), "score": score, "tiou": tiou, "f1": value,
        "right": right, "emitted": shown, "instances": annotated, "videos": len(videos), "on": chosen.meaning,
    }  # fmt: skip
    write_choice(path_of("stream", root=settings.root, run=name), document)
    yield (
        f"score above {score:g}: best F1 {value:.3f} at tIoU {RIGHT:g} ({right} of {shown} emitted instances are right,"
        f" of {annotated}, in {len(videos)} videos; {chosen.meaning})"
    )
