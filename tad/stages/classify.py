"""Stage classify: trains a small video classifier on the train split and scores whole videos with it.

Inputs: feature index (merge, convert or join), annotations (annotate).
Output: `results/<run>/video_scores.json`: one probability per class for each video of the test split.
Settings: `tad.settings.stages.ClassifyStageSpec`.
"""

import logging
from pathlib import Path

from tad.annotations.table import Table
from tad.core.device import name_of, reproducible, resolve
from tad.core.errors import TadError
from tad.core.files import write_json
from tad.core.storage import forecast
from tad.features.store import FeatureReader
from tad.provenance.stamps import stamp
from tad.settings.stages import ClassifyStageSpec
from tad.training.data.in_memory import Features
from tad.training.data.inputs import read_inputs, select
from tad.training.methods.classifier import Trainer

log = logging.getLogger(__name__)
NUMBER_BYTES = 22  # of a score in JSON


def _labelled(reader: FeatureReader, table: Table, spec: ClassifyStageSpec) -> list[tuple[str, int, list[int]]]:
    """Return the train videos with instances as (id, number of snippets, class ids)."""
    classes = {label: k for k, label in enumerate(table.labels)}
    videos = []
    for video_id in select(table, "train", reader, spec.exclude)[0]:
        own = sorted({classes[instance.label] for instance in table.videos[video_id].instances})
        if own:
            videos.append((video_id, reader.grid(video_id).length, own))
    if not videos:
        raise TadError(
            f"{reader.path}: no video of split 'train' has an instance to learn from; check the annotations and the"
            " exclusions"
        )
    return videos


def _accuracy(scores: dict[str, list[float]], table: Table) -> dict[str, float | int]:
    """Return the top-1 accuracy of video scores, over the videos with instances."""
    shown = {v: {i.label for i in table.videos[v].instances} for v in scores if table.videos[v].instances}
    hits = sum(table.labels[max(range(len(scores[v])), key=scores[v].__getitem__)] in own for v, own in shown.items())
    return {"videos": len(shown), "top1": hits / max(len(shown), 1)}


def classify(
    features: Path,
    annotations: Path,
    out: Path,
    *,
    spec: ClassifyStageSpec,
    device: str = "cpu",
    threads: int = 0,
) -> Path:
    """Train a video-level classifier and score the test split with it.

    The test split's labels are only used to report the `accuracy` of the finished scores; nothing is selected by them.

    Args:
        features: feature index made by merge, convert or join.
        annotations: table made by annotate.
        out: the scores to write.
        spec: settings.
        device: see `tad.core.device.resolve`.
        threads: CPU threads; 0: `spec.classify.threads`.

    Raises:
        TadError: inputs belong to another dataset or feature set; a video has no features; or the train split has no
            instance.
    """
    target = resolve(device, threads=threads or spec.classify.threads)
    read = read_inputs(features, annotations, dataset=spec.dataset, named=spec.features)
    table = read.table
    with FeatureReader(features) as reader, reproducible(target):
        videos = _labelled(reader, table, spec)
        tested = select(table, spec.split, reader, spec.exclude)[0]
        forecast(Path(out), NUMBER_BYTES * len(tested) * (len(table.labels) + 1), what="classify")
        trainer = Trainer(
            Features(reader), channels=reader.dim, classes=len(table.labels), spec=spec.classify, seed=spec.seed,
            device=target,
        )  # fmt: skip
        trainer.fit(videos)
        scores = {video_id: trainer.scores(video_id, reader.grid(video_id).length).tolist() for video_id in tested}
    accuracy = _accuracy(scores, table)
    write_json(
        out,
        {
            "stamp": stamp("classify", spec.model_dump(mode="json"), read.identities, device=name_of(target)),
            "labels": list(table.labels),
            "accuracy": {"split": spec.split, **accuracy},
            "results": scores,
        },
    )
    log.info("%s: %d videos scored, top-1 accuracy %.1f %%", out, len(scores), 100 * accuracy["top1"])
    return Path(out)
