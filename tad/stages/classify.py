"""Features and annotations → class scores of whole videos, from a small classifier trained on the train split.

Inputs: index of features (merge, convert or join), annotations (annotate).
Output: `results/<run>/video_scores.json`: per video of the test split one probability per class.
Settings: `tad.specs.ClassifyStageSpec`.
"""

import logging
from pathlib import Path

from tad.annotations import Table
from tad.cache import FeatureReader
from tad.device import name_of, reproducible, resolve
from tad.errors import TadError
from tad.files import write_json
from tad.provenance import stamp
from tad.specs import ClassifyStageSpec
from tad.training.classifier import Trainer
from tad.training.features import Features
from tad.training.inputs import read_inputs, select

log = logging.getLogger(__name__)


def _labelled(reader: FeatureReader, table: Table, spec: ClassifyStageSpec) -> list[tuple[str, int, list[int]]]:
    """Train videos that show something: (id, snippets, class ids)."""
    classes = {label: k for k, label in enumerate(table.labels)}
    found = []
    for video_id in select(table, "train", reader, spec.exclude)[0]:
        own = sorted({classes[instance.label] for instance in table.videos[video_id].instances})
        if own:
            found.append((video_id, reader.grid(video_id).length, own))
    if not found:
        raise TadError(f"{reader.path}: no video of split 'train' has an instance, so there is nothing to learn from")
    return found


def _right(scores: dict[str, list[float]], table: Table) -> dict[str, float | int]:
    """How many of the scored videos show the class with the highest score; those without instances do not count."""
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

    The test split's labels are only counted against the finished scores (`accuracy`); nothing is chosen by them.

    Args:
        features: index made by merge, convert or join.
        annotations: table made by annotate.
        out: the scores to write.
        device: see `tad.device.resolve`. threads: CPU threads; 0: torch's choice.

    Raises:
        TadError: inputs of another dataset or feature set, a video without features, no instance to learn from.
    """
    target = resolve(device, threads=threads)
    read = read_inputs(features, annotations, dataset=spec.dataset, named=spec.features)
    table = read.table
    with FeatureReader(features) as reader, reproducible(target):
        videos = _labelled(reader, table, spec)
        tested = select(table, spec.split, reader, spec.exclude)[0]
        trainer = Trainer(
            Features(reader), channels=reader.dim, classes=len(table.labels), spec=spec.classify, seed=spec.seed,
            device=target,
        )  # fmt: skip
        trainer.fit(videos)
        scores = {video_id: trainer.scores(video_id, reader.grid(video_id).length).tolist() for video_id in tested}
    accuracy = _right(scores, table)
    write_json(
        out,
        {
            "stamp": stamp("classify", spec.model_dump(mode="json"), read.identities, device=name_of(target)),
            "labels": list(table.labels),
            "accuracy": {"split": spec.split, **accuracy},
            "results": scores,
        },
    )
    log.info("%s: %d videos scored, the best class is right for %.1f %%", out, len(scores), 100 * accuracy["top1"])
    return Path(out)
