"""`tad.evaluate`: scores of detections, from files or from objects in memory."""

# D detections, V videos, K labels

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from tad.annotations.checks import refuse_labels
from tad.annotations.table import Instance, Table, Video
from tad.api.detections import Detections, pandas_module
from tad.core.errors import TadError
from tad.datasets._any import read_checked, split_of
from tad.metrics import Evaluation
from tad.metrics import protocol as protocol_of
from tad.metrics.columns import Columns, collect, id_text, label_text
from tad.metrics.files import Detections as Found
from tad.metrics.files import read_detections, score_detections
from tad.settings.base import explain
from tad.settings.sections import EvalSpec

Truth = Mapping[str, Sequence[tuple[float, float, str]]]


@dataclass(frozen=True)
class Scores:
    """The scores of an evaluation, as fractions.

    Attributes:
        evaluation: the full result of the evaluation, see `tad.metrics.evaluation.Evaluation`.
        measures: the results of the measures besides mAP.
    """

    evaluation: Evaluation
    measures: dict[str, Any]

    @property
    def average_mAP(self) -> float:
        """mAP averaged over the thresholds."""
        return self.evaluation.average_mean_ap

    @property
    def mAP(self) -> dict[Any, float]:
        """Threshold → mAP. Thresholds are numbers; those of moments are texts such as 2f and 0.5s."""
        return dict(zip(self._thresholds, self.evaluation.mean_ap.tolist(), strict=True))

    @property
    def _thresholds(self) -> tuple[Any, ...]:
        return self.evaluation.names if self.evaluation.near else self.evaluation.tiou

    @property
    def AP(self) -> dict[str, dict[Any, float]]:
        """Label → threshold → average precision."""
        rows = self.evaluation.ap.T.tolist()
        return {
            label: dict(zip(self._thresholds, row, strict=True))
            for label, row in zip(self.evaluation.labels, rows, strict=True)
        }

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the percentile interval of the average mAP under a bootstrap over videos, as in map.json.

        Raises:
            TadError: a level that is not between 0 and 1.
        """
        from tad.metrics.bootstrap import draw, resample

        if not 0 < level < 1:
            raise TadError(f"interval: level {level}: must lie between 0 and 1")
        matches = self.evaluation.matches
        values = resample(matches, draw(len(matches.video_ids)))
        values = values.mean(axis=1) if self.evaluation.weights is None else values @ self.evaluation.weights
        low, high = np.nanpercentile(values, [50 * (1 - level), 50 * (1 + level)])
        return float(low), float(high)

    def to_pandas(self) -> Any:
        """Return a pandas DataFrame of AP, one row per label and one column per threshold.

        Raises:
            TadError: pandas is not installed.
        """
        pandas = pandas_module()
        columns = list(self.evaluation.names)
        return pandas.DataFrame(self.evaluation.ap.T, index=list(self.evaluation.labels), columns=columns)

    def __repr__(self) -> str:
        values = self.evaluation.mean_ap.tolist()
        rows = "  ".join(f"{t}: {100 * value:.2f}" for t, value in zip(self.evaluation.names, values, strict=True))
        return f"<average mAP {100 * self.average_mAP:.2f} %  ({rows})>"


def _table(annotations: Path | str | Truth, counted: Sequence[str], moment: Any) -> tuple[Table, bool]:
    """Return the annotations as a table, and whether they are in memory; `moment` as for `read_checked`."""
    if isinstance(annotations, (str, Path)):
        return read_checked(Path(annotations), counted=tuple(counted), moment=moment), False
    videos: dict[str, Video] = {}
    for video, rows in annotations.items():
        video_id = id_text(str(video))
        if video_id in videos:
            raise TadError(f"annotations: video {video_id!r:.80} is given twice, in two Unicode forms; merge the two")
        instances = (Instance(float(a), float(b), label_text(str(label))) for a, b, label in rows)
        videos[video_id] = Video("test", None, tuple(instances))
    labels = sorted({instance.label for video in videos.values() for instance in video.instances})
    table = Table("annotations", tuple(labels), videos)
    refuse_labels(table, source="annotations")
    return table, True


def _found(detections: Any) -> tuple[Found, str]:
    """Return the detections as columns, and their name in messages."""
    if isinstance(detections, (str, Path)):
        return read_detections(Path(detections)), str(detections)
    if isinstance(detections, Columns):
        columns = detections
    elif isinstance(detections, Mapping):
        columns = collect(detections.get("results", detections).items())
    elif isinstance(detections, Detections):
        by_video: dict[str, list[dict[str, Any]]] = {video: [] for video in detections.videos}
        for row in detections:
            entry = {"label": row.label, "score": row.score, "segment": [row.start, row.end]}
            by_video[row.video].append(entry)
        columns = collect(by_video.items())
    else:
        raise TadError(
            f"evaluate: detections of type {type(detections).__name__}; give a results file, {{video: [{{'label', "
            "'score', 'segment'}}]}}, or columns (tad.Columns)"
        )
    return Found(columns, [], {}, False, {}), "detections"


def evaluate(
    detections: Any,
    annotations: Path | str | Truth,
    *,
    protocol: str = "activitynet",
    tiou: Sequence[float] = (),
    split: str = "",
    **settings: Any,
) -> Scores:
    """Score detections against annotations.

    Args:
        detections: a results file in ActivityNet's format; or {video: [{"label", "score", "segment": [start, end]}]} in
            seconds, what `Run.detect` returns, or `tad.Columns` over NumPy arrays, which are not copied.
        annotations: a file or folder in any format that `tad annotate` reads; or {video: [(start, end, label)]} in
            seconds, with every video to evaluate.
        protocol: one of `tad/metrics/protocols.yaml`.
        tiou: thresholds; default: those of the protocol.
        split: train, val or test; default: the split that the detections belong to.
        settings: further fields of the section `eval`, such as `measures`.

    Raises:
        TadError: an input is invalid; the message names the file or the video, and the value.
    """
    rules = protocol_of(protocol)
    chosen = list(tiou or rules.tiou)
    if not chosen and not rules.of_moments:
        raise TadError(f"protocol {protocol} defines no thresholds; give some, for example tiou=[0.3, 0.5, 0.7]")
    table, in_memory = _table(annotations, rules.counted, settings.get("moment", "") if rules.of_moments else None)
    columns, name = _found(detections)
    split = "test" if in_memory else split or split_of(table, columns.columns.video_ids, Path(name))
    try:
        thresholds = {} if rules.of_moments else {"tiou": tuple(chosen)}
        spec = EvalSpec.model_validate({"protocol": protocol, **thresholds, **settings})
    except ValidationError as error:
        raise TadError(f"evaluate: {explain(error)}") from None
    scored = score_detections(columns, Path(name), table, split=split, settings=spec)
    return Scores(scored.result, scored.measures)
