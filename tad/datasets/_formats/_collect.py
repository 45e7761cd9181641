"""Collect the instances of one annotation file into a table, and helpers shared by the readers and writers."""

import unicodedata
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tad.annotations.table import Instance, Table, Video
from tad.core.errors import TadError
from tad.core.ids import VIDEO_EXTENSIONS
from tad.core.strict_json import type_name
from tad.datasets._names import VideoNames
from tad.datasets._parse import labels_of
from tad.datasets._text import read_text, tidy
from tad.datasets._times import Times, rate_of

SHORTEST = 0.001  # seconds; files of tools have milliseconds, and an instance must not become a point in them


class Collector:
    """Collect instances by video; times are parsed by `times`, names of videos are converted to ids by `VideoNames`."""

    def __init__(self, tool: str, path: Path, *, unit: str = "") -> None:
        self.tool, self.path = tool, path
        self.times, self.names = Times(unit), VideoNames()
        self.counted: Counter[str] = Counter()  # accepted deviations, for the log
        self.notes: list[str] = []  # sentences about the whole file, for the log
        self._instances: dict[str, list[Instance]] = {}
        self._durations: dict[str, float] = {}
        self._rates: dict[str, float] = {}

    def where(self, entry: str = "") -> str:
        """Return the file, and an entry in it, for messages."""
        return f"{self.path}: {entry}" if entry else str(self.path)

    def video(self, name: str, *, duration: Any = None, rate: Any = None) -> str:
        """Add a video and return its id.

        Args:
            name: file name or id; empty: the name of the annotation file.
            duration: seconds, if the file states it.
            rate: frames per second, if the file states it.
        """
        video_id = self.names.read(tidy(name.replace("%20", " ")) or _stem(self.path), str(self.path))
        self._instances.setdefault(video_id, [])
        if (seconds := _positive(duration)) is not None:
            self._durations[video_id] = seconds
        if rate not in (None, ""):
            try:
                self._rates[video_id] = rate_of(rate, self.where(f"video '{video_id}'"))
            except TadError:
                if self.times.unit == "frames":
                    raise
        return video_id

    def has_rates(self) -> bool:
        """Return whether the file states the frame rate of every video."""
        return set(self._rates) >= set(self._instances)

    def add(self, name: str, start: Any, end: Any, label: Any, entry: str, *, score: Any = None) -> None:
        """Add an instance. Equal start and end mean a point in time.

        Raises:
            TadError: the label is not text, or a time cannot be read.
        """
        where = self.where(entry)
        if not isinstance(label, str) or not tidy(label):
            raise TadError(f"{where}: no label ({label!r:.40}); give every segment one, or delete the segment")
        video_id = self.video(name)
        times = self.times.read(start, where), self.times.read(end, where)
        text = tidy(" ".join(label.split()))
        value = float(score) if isinstance(score, int | float) and not isinstance(score, bool) else None
        self._instances[video_id].append(Instance(*times, text, entry, value))

    def table(self) -> Table:
        """Return the table. Videos have no split yet (""), and times in frames are marked as such."""
        if not self._instances:
            raise TadError(f"{self.path}: no video is named in it; is this the right file?")
        in_frames = self.times.unit == "frames"
        videos = {
            video_id: Video(
                "",
                self._durations.get(video_id),
                tuple(found),
                rate=self._rates.get(video_id),
                in_frames=in_frames and bool(found),
            ).in_seconds()
            for video_id, found in self._instances.items()
        }
        notes = (*self.notes, *(f"{count} {what}" for what, count in (+self.counted).items()))
        return Table(self.tool, tuple(label for label in labels_of(videos) if label), videos, notes=notes)


def _stem(path: Path) -> str:
    """Return the name of the video that an annotation file belongs to: `clip` for clip.srt and clip.mp4.srt."""
    return path.stem


def _positive(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if 0 < number < 1e9 else None


def read_xml(path: Path, root: str, tool: str) -> ET.Element:
    """Parse an XML file.

    Raises:
        TadError: it is not XML, has another root element, or declares entities, which no annotation tool does.
    """
    text = read_text(path)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise TadError(f"{path}: declares a document type, which {tool} does not write; export it again")
    try:
        found = ET.fromstring(text)
    except (ET.ParseError, ValueError) as error:
        raise TadError(f"{path}: not valid XML ({error}); export it from {tool} again") from None
    if found.tag != root:
        raise TadError(f"{path}: the root element is <{found.tag}>, but in a file of {tool} it is <{root}>")
    return found


def expect(value: Any, kind: type, what: str, path: Path, tool: str) -> Any:
    """Return `value` if it is of this kind.

    Raises:
        TadError: it is not; the message says what was expected in a file of the tool.
    """
    if not isinstance(value, kind):
        raise TadError(f"{path}: {what} is {type_name(value)}, not a {kind.__name__} as {tool} writes it")
    return value


def writable(table: Table, path: Path) -> Table:
    """Return the table if every format can hold it.

    Raises:
        TadError: times are in frames, or a label has a control character.
    """
    for video_id, video in table.videos.items():
        if video.in_frames and video.instances:
            raise TadError(f"{path}: the times of video '{video_id}' are frames; give its rate before writing them")
        for instance in video.instances:
            bad = [letter for letter in instance.label if unicodedata.category(letter) in ("Cc", "Cs")]
            if bad or not instance.label.strip():
                shown = instance.label.encode("unicode_escape").decode()
                raise TadError(f"{path}: label '{shown}' is empty or has a control character; rename it")
    return table


def milliseconds(instance: Instance) -> tuple[int, int]:
    """Return start and end in milliseconds; an instance with a length keeps at least one."""
    start, end = round(instance.start * 1000), round(instance.end * 1000)
    return start, max(end, start + 1) if instance.end > instance.start else end


def media_name(video_id: str, files: Mapping[str, Path]) -> str:
    """Return the file name of a video, or its id if the file is unknown."""
    return files[video_id].name if video_id in files else video_id


def is_video(name: str) -> bool:
    """Return whether a name ends like that of a video file."""
    return Path(name).suffix.lower() in VIDEO_EXTENSIONS
