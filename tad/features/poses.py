"""Reading of keypoint files: DeepLabCut (.h5, .csv), SLEAP (analysis .h5) and plain CSV.

Nothing in a file is run: DeepLabCut's .h5 files hold the names of their columns as a pickle, which is read by
`tad.core.unpickle`.
"""

# T frames, I individuals, P points

import io
import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tad.core.csv_rows import csv_rows
from tad.core.errors import DAMAGE, TadError, cause_of
from tad.core.h5 import open_h5, read_dataset, read_texts
from tad.core.limits import LimitError, refuse_bomb
from tad.core.unpickle import unpickle

Columns = dict[tuple[str, str], dict[str, np.ndarray]]  # (individual, point) → x, y and confidence, each (T,)
CONFIDENCE = ("confidence", "likelihood", "score")
FARTHEST = 1e9  # pixels; larger coordinates are damage
COLUMNS = 10_000  # of a table
LISTED = 5
PLAIN = re.compile(r"(?:(?P<individual>[^.]+)\.)?(?P<point>.+)_(?P<coord>x|y|confidence|likelihood|score)")


@dataclass(frozen=True)
class Poses:
    """Keypoints of a video.

    Attributes:
        xy_TIP2: positions in pixels, NaN where a point is missing.
        confidence_TIP: confidence of each point, 0 where it is missing; 1 for points of files without confidence.
    """

    xy_TIP2: np.ndarray
    confidence_TIP: np.ndarray


def _numbers(cells: Sequence[str], line: int) -> np.ndarray:
    try:
        return np.array([cell.strip() or "nan" for cell in cells], dtype=np.float64)
    except ValueError as error:
        raise ValueError(f"line {line}: {error}") from None


def _spread(rows: np.ndarray, frames: np.ndarray, stored: int) -> np.ndarray:
    """Return rows (T, columns) with each row at its frame number, and NaN at frames without a row.

    Raises:
        ValueError: the frame numbers do not increase, or the last one is far too large for the file.
    """
    if not len(frames):
        raise ValueError("has no frames")
    whole = np.isfinite(frames) & (frames == np.floor(frames)) & (frames >= 0)
    if not whole.all():
        raise ValueError(f"'{frames[~whole][0]:g}' is not a frame number")
    if (np.diff(frames) <= 0).any():
        at = int(np.argmax(np.diff(frames) <= 0))
        raise ValueError(f"frame {frames[at + 1]:g} comes after frame {frames[at]:g}; frames must increase")
    count = int(frames[-1]) + 1
    refuse_bomb(count * rows.shape[1] * rows.itemsize, stored, f"the frame number {count - 1}")
    placed = np.full((count, rows.shape[1]), np.nan)
    placed[frames.astype(np.int64)] = rows
    return placed


def _named(names: Sequence[tuple[str, str, str]], values: np.ndarray) -> Columns:
    """Sort columns (T, columns) by individual, point and coordinate.

    Raises:
        ValueError: a column appears twice.
    """
    columns: Columns = {}
    for k, (individual, point, coord) in enumerate(names):
        kind = "confidence" if coord in CONFIDENCE else coord
        own = columns.setdefault((individual, point), {})
        if kind in own:
            raise ValueError(f"has two columns '{kind}' of the point '{point}'")
        own[kind] = values[:, k]
    return columns


def _levels(names: Sequence[Sequence[Any]]) -> list[tuple[str, str, str]]:
    """Return DeepLabCut's column names (scorer, [individual,] point, coordinate) without the scorer."""
    triples = []
    for name in names:
        texts = list(name)
        if len(texts) not in (3, 4) or not all(isinstance(text, str) for text in texts):
            raise ValueError("has a column that is not named by scorer, bodyparts and coords")
        triples.append(("" if len(texts) == 3 else texts[1], texts[-2], texts[-1]))
    return triples


def _rows(lines: Iterable[tuple[int, list[str]]], width: int, picked: Sequence[int]) -> np.ndarray:
    """Return the numbers (rows, picked columns) of a table, NaN for empty cells.

    Raises:
        ValueError: a row has another width, or a cell is not a number; the message begins with the line.
    """
    flat = array("d")
    for number, cells in lines:
        if len(cells) != width:
            raise ValueError(f"line {number}: {len(cells)} columns, the header has {width}")
        flat.frombytes(_numbers([cells[k] for k in picked], number).tobytes())
    return np.array(flat).reshape(-1, len(picked))


def _csv(path: Path) -> Columns:
    """Read a CSV file: DeepLabCut's, with three or four header lines, or a plain one."""
    with open(path, encoding="utf-8", newline="") as handle:
        lines = csv_rows(handle)
        _, header = next(lines, (1, []))
        if len(header) > COLUMNS:
            raise LimitError(f"line 1: {len(header)} columns; tables of keypoints have at most {COLUMNS}")
        heads = [header]
        if header and header[0] == "scorer":
            while heads[-1][:1] != ["coords"]:
                number, cells = next(lines, (0, []))
                if len(heads) == 4 or len(cells) != len(header):
                    raise ValueError(f"line {number}: not a header of DeepLabCut (scorer, bodyparts, coords)")
                heads.append(cells)
        if len(heads) > 1:
            values = _rows(lines, len(header), range(len(header)))
            names = _levels(list(zip(*(head[1:] for head in heads), strict=True)))
            return _named(names, _spread(values[:, 1:], values[:, 0], path.stat().st_size))
        found = {k: match for k, name in enumerate(header) if (match := PLAIN.fullmatch(name.strip()))}
        if not found:
            raise ValueError("line 1: expected columns such as nose_x, nose_y and nose_confidence")
        counted = [header.index("frame")] if "frame" in header else []
        values = _rows(lines, len(header), [*found, *counted])
    frames = values[:, -1] if counted else np.arange(len(values), dtype=np.float64)
    names = [(match["individual"] or "", match["point"], match["coord"]) for match in found.values()]
    return _named(names, _spread(values[:, : len(found)], frames, path.stat().st_size))


def _deeplabcut(table: h5py.Dataset, group: h5py.Group, stored: int) -> Columns:
    """Read the table that pandas wrote: blocks of columns, whose names are in an attribute."""
    rows = read_dataset(group, "table")
    names: list[tuple[str, str, str]] = []
    blocks = []
    fields = rows.dtype.names or ()
    for field in fields:
        if field == "index":
            continue
        kind = table.attrs.get(f"{field}_kind")
        listed = unpickle(io.BytesIO(bytes(kind))) if isinstance(kind, bytes) else None
        block = rows[field].reshape(len(rows), -1)
        if not isinstance(listed, list) or len(listed) != block.shape[1] or block.dtype.kind not in "fiu":
            raise ValueError(f"the columns of '{field}' have no names")
        names += _levels(listed)
        blocks.append(block.astype(np.float64))
    if not blocks or "index" not in fields or rows["index"].dtype.kind not in "iu":
        raise ValueError("its rows are not numbered by frame; use a file that DeepLabCut's analyze_videos wrote")
    return _named(names, _spread(np.concatenate(blocks, axis=1), rows["index"].astype(np.float64), stored))


def _sleap(file: h5py.File) -> Columns:
    """Read SLEAP's analysis file: tracks (I, 2, P, T), or (T, I, P, 2) as newer versions can write them."""
    points, tracks = read_texts(file, "node_names"), read_dataset(file, "tracks")
    if tracks.ndim != 4 or tracks.dtype.kind != "f":
        raise ValueError(f"'tracks' has the shape {tracks.shape}, expected (tracks, 2, points, frames)")
    scores = read_dataset(file, "point_scores") if "point_scores" in file else None
    individuals = read_texts(file, "track_names") if "track_names" in file and file["track_names"].size else []
    if scores is not None and scores.ndim != 3:
        raise ValueError(f"'point_scores' has the shape {scores.shape}, expected (tracks, points, frames)")
    usual = (tracks.transpose(3, 0, 2, 1), None if scores is None else scores.transpose(2, 0, 1))
    for tracks_TIP2, scores_TIP in (usual, (tracks, scores)):
        named = not individuals or len(individuals) == tracks_TIP2.shape[1]
        scored = scores_TIP is None or scores_TIP.shape == tracks_TIP2.shape[:3]
        if named and scored and tracks_TIP2.shape[2:] == (len(points), 2):
            break
    else:
        raise ValueError(f"'tracks' has the shape {tracks.shape}, which does not fit its names and scores")
    if not len(tracks_TIP2):
        raise ValueError("has no frames")
    count = tracks_TIP2.shape[1]
    if count * len(points) > COLUMNS:
        raise LimitError(f"{count} tracks of {len(points)} points; at most {COLUMNS} points are read: clean the tracks")
    individuals = individuals or ([""] if count == 1 else [str(i) for i in range(count)])
    columns: Columns = {}
    for i, individual in enumerate(individuals):
        for p, point in enumerate(points):
            own = {"x": tracks_TIP2[:, i, p, 0], "y": tracks_TIP2[:, i, p, 1]}
            columns[individual, point] = own if scores_TIP is None else {**own, "confidence": scores_TIP[:, i, p]}
    if not columns:
        raise ValueError("has no track")
    return columns


def _h5(path: Path) -> Columns:
    with open_h5(path) as file:
        if "tracks" in file and "node_names" in file:
            return _sleap(file)
        for name in file:
            link = file.get(name, getlink=True)
            group = file[name] if isinstance(link, h5py.HardLink) else None
            if isinstance(group, h5py.Group) and isinstance(group.get("table", getlink=True), h5py.HardLink):
                table = group["table"]
                if isinstance(table, h5py.Dataset):
                    return _deeplabcut(table, group, path.stat().st_size)
    raise ValueError("is neither a table of DeepLabCut nor an analysis file of SLEAP")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _individuals(columns: Mapping[tuple[str, str], Any], wanted: Sequence[str], path: Path) -> list[str]:
    found = list(dict.fromkeys(individual for individual, _ in columns))
    if not wanted:
        if len(found) > 1:
            raise TadError(
                f"{path}: has the individuals {_listed(found)}; name those to use under keypoints.individuals"
            )
        return found
    if absent := [name for name in wanted if name not in found]:
        have = _listed([name for name in found if name]) or "one individual without a name"
        raise TadError(f"{path}: has no individual '{absent[0]}' but {have}; correct keypoints.individuals")
    return list(wanted)


def _chosen(columns: Columns, points: Sequence[str], wanted: Sequence[str], path: Path) -> Poses:
    individuals = _individuals(columns, wanted, path)
    frames = len(next(iter(next(iter(columns.values())).values())))
    xy_TIP2 = np.full((frames, len(individuals), len(points), 2), np.nan)
    confidence_TIP = np.zeros(xy_TIP2.shape[:3])
    for i, individual in enumerate(individuals):
        for p, point in enumerate(points):
            own = columns.get((individual, point), {})
            if "x" not in own or "y" not in own:
                have = _listed([name for name_of, name in columns if name_of == individual])
                raise TadError(
                    f"{path}: has no x and y of the point '{point}'; it has {have}; correct keypoints.points"
                )
            xy_TIP2[:, i, p] = np.stack([own["x"], own["y"]], axis=1)
            confidence_TIP[:, i, p] = own.get("confidence", np.ones(frames))
    far = np.abs(xy_TIP2[np.isfinite(xy_TIP2)]).max(initial=0.0)
    if far > FARTHEST:
        raise ValueError(f"has a coordinate of {far:g} pixels")
    absent = ~np.isfinite(xy_TIP2).all(axis=-1) | ~np.isfinite(confidence_TIP)
    xy_TIP2[absent], confidence_TIP[absent] = np.nan, 0.0
    return Poses(xy_TIP2, confidence_TIP)


def read_poses(path: Path, points: Sequence[str], individuals: Sequence[str] = ()) -> Poses:
    """Read the keypoints of a video.

    Args:
        path: `.h5` of DeepLabCut or SLEAP, or `.csv` of DeepLabCut or with a column for each coordinate.
        points: names of the points to return, in this order.
        individuals: names of the individuals to return; empty: the only one in the file.

    Raises:
        TadError: the file is damaged or of another kind, or lacks a point or an individual.
    """
    try:
        return _chosen(_csv(path) if path.suffix == ".csv" else _h5(path), points, individuals, path)
    except LimitError as error:
        raise TadError(f"{path}: {cause_of(error)}; export the keypoints again") from None
    except TadError:
        raise
    except DAMAGE as error:
        raise TadError(f"{path}: {cause_of(error)}; export the keypoints again") from None
