"""CVAT: XML exports "CVAT for video 1.1". A track is an instance for each stretch of frames in which it is visible."""

from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

from tad.annotations.table import Table
from tad.core.errors import TadError
from tad.datasets._formats._collect import Collector, read_xml

TOOL = "CVAT"


def _visible(track: Element, where: str) -> Iterator[tuple[int, int]]:
    """Yield the first frame and the frame after the last one of each visible stretch of a track."""
    shapes: list[tuple[int, bool]] = []
    for shape in track:
        text = shape.get("frame", "")
        if text:
            if not text.isascii() or not text.isdigit():
                raise TadError(f"{where}: frame '{text:.20}' is not a number; export it from CVAT again")
            shapes.append((int(text), shape.get("outside") == "1"))
    start: int | None = None
    last = 0
    for frame, outside in sorted(shapes):
        if start is not None and outside:
            yield start, frame
            start = None
        elif start is None and not outside:
            start = frame
        last = frame
    if start is not None:
        yield start, last + 1


def _tasks(root: Element) -> dict[str, Element]:
    """Return the tasks by id; a project has several."""
    return {task.findtext("id") or "": task for task in root.iter("task")}


def _source(task: Element, path: Path) -> str:
    name = task.findtext("source") or task.findtext("name") or ""
    if not name.strip():
        raise TadError(f"{path}: task {task.findtext('id')}: neither source nor name; export it from CVAT again")
    return name


def read(path: Path) -> Table:
    """Read "CVAT for video 1.1" into a table; times are frames of the video, and the label is that of the track.

    Raises:
        TadError: the file is an export for images, or a track belongs to no task.
    """
    root = read_xml(path, "annotations", TOOL)
    tasks = _tasks(root)
    if root.find("image") is not None and root.find("track") is None:
        raise TadError(f"{path}: is an export for images; export the task as 'CVAT for video 1.1'")
    if not tasks:
        raise TadError(f"{path}: names no task and so no video; export the task as 'CVAT for video 1.1'")
    found = Collector("cvat", path, unit="frames")
    names = {key: _source(task, path) for key, task in tasks.items()}
    for name in names.values():
        found.video(name)
    for track in root.iter("track"):
        entry = f"track {track.get('id', '?')}"
        task = track.get("task_id") or (next(iter(names)) if len(names) == 1 else "")
        if task not in names:
            raise TadError(f"{found.where(entry)}: belongs to no task of the file; export the project again")
        for start, end in _visible(track, found.where(entry)):
            found.add(names[task], start, end, track.get("label"), entry)
    return found.table()
