"""A copy of a video with its detections drawn on it: names of the present actions, and below a timeline of them all."""

# H rows, W columns

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tad.core.files import publish
from tad.page.proxies import Writer, find_encoder, thinned
from tad.video.base import VideoError
from tad.video.pyav_reader import PyavReader

HEIGHT = 480  # rows of the picture at most
MOST_LANES, MOST_TAGS = 6, 5
LANE, MARGIN = 14, 6
GOLDEN = 0.381966  # of the circle of hues
Picture = NDArray[np.uint8]


def _colour(number: int) -> tuple[int, int, int]:
    import colorsys

    red, green, blue = colorsys.hls_to_rgb((0.07 + number * GOLDEN) % 1, 0.45, 0.75)
    return round(255 * red), round(255 * green), round(255 * blue)


def _lanes(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the classes that get a lane: those with the best scores."""
    best: dict[str, float] = {}
    for entry in entries:
        best[entry["label"]] = max(entry["score"], best.get(entry["label"], 0.0))
    return sorted(best, key=lambda label: (-best[label], label))[:MOST_LANES]


class _Drawing:
    """What is drawn on the frames of one video."""

    def __init__(self, entries: Sequence[Mapping[str, Any]], duration: float, width: int) -> None:
        from matplotlib import get_data_path
        from PIL import ImageFont

        font = str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")
        self.small, self.large = ImageFont.truetype(font, 10), ImageFont.truetype(font, 16)
        self.entries, self.duration, self.width = entries, max(duration, 0.001), width
        self.colours = {label: _colour(k) for k, label in enumerate(sorted({e["label"] for e in entries}))}
        self.strip = self._draw_strip(_lanes(entries))
        self._tags: tuple[tuple[int, ...], Picture | None] = ((), None)

    def x(self, time: float) -> int:
        """Return the column of a time on the timeline."""
        return round(min(max(time / self.duration, 0.0), 1.0) * (self.width - 1))

    def _draw_strip(self, lanes: Sequence[str]) -> Picture:
        from PIL import Image, ImageDraw

        height = LANE * max(len(lanes), 1) + 2 * MARGIN
        image = Image.new("RGB", (self.width, height + height % 2), (24, 26, 30))
        pen = ImageDraw.Draw(image)
        for row, label in enumerate(lanes):
            top = MARGIN + row * LANE
            for entry in sorted((e for e in self.entries if e["label"] == label), key=lambda e: e["score"]):
                share = 0.35 + 0.65 * min(max(float(entry["score"]), 0.0), 1.0)
                fill = tuple(round(share * c) for c in self.colours[label])
                start, end = self.x(entry["segment"][0]), self.x(entry["segment"][1])
                pen.rectangle((start, top + 1, max(end, start + 1), top + LANE - 3), fill=fill)
            pen.text((3, top), label, font=self.small, fill=(235, 235, 235), stroke_width=1, stroke_fill=(24, 26, 30))
        return np.asarray(image, np.uint8)

    def _present(self, time: float) -> tuple[int, ...]:
        """Return the best detections of each class at a time."""
        at = [k for k, e in enumerate(self.entries) if e["segment"][0] <= time < e["segment"][1]]
        best: dict[str, int] = {}
        for k in sorted(at, key=lambda k: -self.entries[k]["score"]):
            best.setdefault(self.entries[k]["label"], k)
        return tuple(list(best.values())[:MOST_TAGS])

    def on(self, picture: Picture, time: float) -> Picture:
        """Return a frame (H, W, 3) with the names of the actions, above the timeline."""
        from PIL import Image, ImageDraw

        image = Image.fromarray(picture)
        pen = ImageDraw.Draw(image)
        top = MARGIN
        for k in self._present(time):
            entry = self.entries[k]
            text = f"{entry['label']}  {entry['score']:.2f}"
            left, upper, right, lower = pen.textbbox((MARGIN + 5, top + 3), text, font=self.large)
            pen.rectangle((left - 5, upper - 3, right + 5, lower + 3), fill=self.colours[entry["label"]])
            pen.text((MARGIN + 5, top + 3), text, font=self.large, fill=(255, 255, 255))
            top = round(lower) + 8
        strip = self.strip.copy()
        now = self.x(time)
        strip[:, max(now - 1, 0) : now + 1] = 255
        return np.concatenate([np.asarray(image, np.uint8), strip])


def write_overlay(source: Path, entries: Sequence[Mapping[str, Any]], out: Path, *, duration: float | None) -> str:
    """Write a video with detections drawn on it.

    Args:
        source: the video.
        entries: its detections: label, score and segment in seconds.
        out: the MP4 file to write, in H.264 where PyAV has the encoder (else a player needs VP9 in MP4).
        duration: seconds of the video; by default the end of the last detection.

    Returns:
        Why the copy ends early; empty if it is complete.

    Raises:
        VideoError: no frame can be read.
    """
    from PIL import Image

    encoder = find_encoder()._replace(suffix=".mp4")
    length = duration or max((entry["segment"][1] for entry in entries), default=1.0)
    drawing: _Drawing | None = None
    with publish(out) as partial, PyavReader(source) as video:
        writer = Writer(partial, encoder, 10 * HEIGHT)
        try:
            for time, picture in thinned(iter(video)):
                scale = min(1.0, HEIGHT / picture.shape[0])
                size = [max(2, round(side * scale / 2) * 2) for side in (picture.shape[1], picture.shape[0])]
                drawing = drawing or _Drawing(entries, length, size[0])
                small = np.asarray(Image.fromarray(picture).resize((size[0], size[1])), np.uint8)
                writer.add(time, drawing.on(small, time))
        except VideoError as error:
            if not writer.count:
                raise
            return error.cause
        finally:
            writer.close()
    return ""
