"""Detections as an object with tables, files and a picture."""

# D detections

import csv
import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tad.core.errors import TadError
from tad.core.files import publish
from tad.core.printable import csv_cell, csv_quoting


def pandas_module() -> Any:
    """Import pandas, which only tables need.

    Raises:
        TadError: it is not installed.
    """
    try:
        return importlib.import_module("pandas")
    except ModuleNotFoundError:
        raise TadError("to_pandas: pandas is not installed; pip install pandas") from None


class Detection(NamedTuple):
    """A detected action: its video, start and end in seconds on the player's time line, label and score (0 to 1)."""

    video: str
    start: float
    end: float
    label: str
    score: float


@dataclass(frozen=True)
class Detections(Sequence[Detection]):
    """The detections of one or more videos, each video's by descending score.

    Attributes:
        rows: (D,) the detections.
        videos: the videos that were read, with their durations in seconds, including those without detections.
        excluded: the videos that could not be read, with the cause.
    """

    rows: tuple[Detection, ...]
    videos: Mapping[str, float]
    excluded: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Detection]:
        return iter(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __repr__(self) -> str:
        best = f", best {self.rows[0].label} ({self.rows[0].score:.2f})" if len(self.videos) == 1 and self.rows else ""
        left = f", {len(self.excluded)} excluded" if self.excluded else ""
        count = f"{len(self.rows)} detection{'s' * (len(self.rows) != 1)}"
        return f"<{count} in {len(self.videos)} video{'s' * (len(self.videos) != 1)}{left}{best}>"

    def above(self, score: float) -> "Detections":
        """Return the detections with at least this score."""
        return Detections(tuple(row for row in self.rows if row.score >= score), self.videos, self.excluded)

    def of(self, video: str) -> "Detections":
        """Return the detections of one video.

        Raises:
            TadError: no such video was read.
        """
        if video not in self.videos:
            raise TadError(f"no video is called '{video}'; these were read: {', '.join(sorted(self.videos))}")
        return Detections(tuple(row for row in self.rows if row.video == video), {video: self.videos[video]}, {})

    def to_pandas(self) -> Any:
        """Return a pandas DataFrame with the columns video, start, end, label and score.

        Raises:
            TadError: pandas is not installed.
        """
        pandas = pandas_module()
        return pandas.DataFrame(list(self.rows), columns=list(Detection._fields))

    def to_csv(self, path: Path | str) -> Path:
        """Write a CSV file with the columns video, start, end, label, score and unit (seconds), readable as labels."""
        path = Path(path)
        with publish(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
            texts = (value for row in self.rows for value in row if isinstance(value, str))
            writer = csv.writer(file, quoting=csv_quoting(texts))
            writer.writerow((*Detection._fields, "unit"))
            for row in self.rows:  # no spreadsheet computes a text; the reader of your own labels drops the apostrophe
                writer.writerow([*(csv_cell(value) if isinstance(value, str) else value for value in row), "seconds"])
        return path

    def plot(self, video: str = "", *, threshold: float = 0.1) -> Any:
        """Draw a video's detections over time, one row per label, darker for higher scores: a matplotlib Figure.

        Args:
            video: id of the video; may be left out if there is only one.
            threshold: detections with lower scores are not drawn.

        Raises:
            TadError: several videos, and none is named; or an unknown one.
        """
        from matplotlib.figure import Figure

        if not video and len(self.videos) != 1:
            raise TadError(f"plot: name one of the videos: {', '.join(sorted(self.videos))}")
        own = self.of(video or next(iter(self.videos)))
        shown = [row for row in own if row.score >= threshold]
        labels = list(dict.fromkeys(row.label for row in shown))
        figure = Figure(figsize=(11, 1.2 + 0.45 * max(len(labels), 1)), layout="constrained")
        axes = figure.add_subplot()
        for row in reversed(shown):
            at = labels.index(row.label)
            axes.broken_barh([(row.start, row.end - row.start)], (at - 0.35, 0.7), color="#c2571a", alpha=row.score)
        axes.set_yticks(range(len(labels)), labels)
        axes.invert_yaxis()
        axes.set_xlim(0, next(iter(own.videos.values())) or max((row.end for row in shown), default=1.0))
        axes.set_xlabel("seconds")
        axes.set_title(next(iter(own.videos)))
        return figure
