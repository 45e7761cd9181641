"""Read THUMOS14's official text files, or a conversion to JSON, into an annotation table."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from tad.annotations.table import Instance, Table, Video, among, exclude
from tad.core.errors import TadError
from tad.datasets._parse import beside, labels_of, read_database, read_durations, seconds
from tad.datasets._text import lines_of, read_text
from tad.datasets.thumos14_settings import Known, Settings

LABELS = (
    "BaseballPitch",
    "BasketballDunk",
    "Billiards",
    "CleanAndJerk",
    "CliffDiving",
    "CricketBowling",
    "CricketShot",
    "Diving",
    "FrisbeeCatch",
    "GolfSwing",
    "HammerThrow",
    "HighJump",
    "JavelinThrow",
    "LongJump",
    "PoleVault",
    "Shotput",
    "SoccerPenalty",
    "TennisSwing",
    "ThrowDiscus",
    "VolleyballSpiking",
)
AMBIGUOUS = "Ambiguous"
# The subset names of the three vocabularies in use. OpenTAD calls the official validation set training and the official
# test set validation, so the split follows from the video's name, and the subset only has to be one of these.
SUBSETS: Mapping[str, str] = MappingProxyType(
    {"Validation": "train", "Test": "test", "training": "train", "train": "train", "testing": "test"}
)
SPLITS = {"video_validation_": "train", "video_test_": "test"}
# Video → the largest variant (number of test videos) that excludes it, and the reason.
LEFT_OUT: Mapping[str, tuple[int, str]] = MappingProxyType(
    {
        "video_test_0001292": (212, "only Ambiguous segments, no instance of the 20 classes"),
        "video_test_0000270": (211, "wrong annotations: 29 HammerThrow that the video does not show, 22 past its end"),
        "video_test_0001496": (210, "wrong annotations: 18 CricketShot that the video does not show"),
    }
)
VARIANTS = (213, 212, 211, 210)
FILE = re.compile(r"(?P<label>[A-Za-z]+)_(?P<part>val|test)\.txt")


def _split(video_id: str, where: str) -> str:
    for prefix, split in SPLITS.items():
        if video_id.startswith(prefix):
            return split
    raise TadError(
        f"{where}: '{video_id}' is not a THUMOS14 video (video_validation_… or video_test_…); for own data use csv"
    )


def _text_files(folder: Path, *, partly: bool = False) -> dict[str, dict[str, Path]]:
    """Map part (val, test) and label to the files in a folder and its subfolders; `partly` allows a missing part."""
    parts = ("val", "test")
    found: dict[str, dict[str, Path]] = {part: {} for part in parts}
    for path in sorted(folder.rglob("*.txt")):
        match = FILE.fullmatch(path.name)
        if match is None:
            continue
        label, part = match["label"], match["part"]
        if label not in (*LABELS, AMBIGUOUS):
            raise TadError(f"{path}: '{label}' is not a class of THUMOS14; {among(label, [*LABELS, AMBIGUOUS])}")
        if label in found[part]:
            raise TadError(f"{path}: {found[part][label]} is the same file again; keep one of them")
        found[part][label] = path
    wanted = [part for part in parts if found[part]] or list(parts)
    for part in wanted if partly else parts:
        files = found[part]
        missing = [label for label in (*LABELS, AMBIGUOUS) if label not in files]
        if missing:
            names = ", ".join(f"{label}_{part}.txt" for label in missing)
            raise TadError(f"{folder}: {names} missing; unpack the official {part} annotations into this folder")
    return {part: files for part, files in found.items() if files}


def _lines(path: Path, part: str) -> Iterator[tuple[str, Instance]]:
    """Yield video id and segment of each line `video start end`; the label is in the file name."""
    label = path.name.partition("_")[0]
    for number, line in enumerate(lines_of(read_text(path)), 1):
        where, words = f"{path}: line {number}", line.split()
        if not words:
            continue
        if len(words) != 3:
            raise TadError(f"{where}: '{line.strip():.60}' is not 'video start end'; download the file again")
        if _split(words[0], where) != {"val": "train", "test": "test"}[part]:
            raise TadError(f"{where}: video '{words[0]}' does not belong to the {part} files; remove the line")
        yield (
            words[0],
            Instance(seconds(words[1], where), seconds(words[2], where), label, f"{path.name} line {number}"),
        )


def _read_folder(folder: Path, durations: Mapping[str, float], *, partly: bool = False) -> dict[str, Video]:
    instances: dict[str, list[Instance]] = {}
    for part, files in _text_files(folder, partly=partly).items():
        for label in (*LABELS, AMBIGUOUS):
            for video_id, instance in _lines(files[label], part):
                instances.setdefault(video_id, []).append(instance)
    return {
        video_id: Video(
            split=_split(video_id, str(folder)),
            duration=durations.get(video_id),
            instances=tuple(i for i in found if i.label != AMBIGUOUS),
            ambiguous=tuple((i.start, i.end) for i in found if i.label == AMBIGUOUS),
        )
        for video_id, found in sorted(instances.items())
    }


def read_folder(folder: Path) -> Table:
    """Read a folder of the official text files into a table, even if it has only the validation or the test part.

    Raises:
        TadError: a file of a part is missing, or a line is not `video start end`.
    """
    return Table("thumos14", LABELS, _read_folder(folder, {}, partly=True), known=Known().model_dump())


def _read_json(source: Path, durations: Mapping[str, float]) -> dict[str, Video]:
    videos = read_database(source, splits=SUBSETS, ambiguous=AMBIGUOUS)
    return {
        video_id: Video(
            split=_split(video_id, str(source)),
            duration=video.duration if video.duration is not None else durations.get(video_id),
            instances=video.instances,
            ambiguous=video.ambiguous,
            rate=video.rate,
        )
        for video_id, video in videos.items()
    }


def _select(source: Path, table: Table, variant: int) -> Table:
    """Apply a variant of the test set; every video that it excludes is listed, whether or not the file has it."""
    out = {video_id: why for video_id, (largest, why) in LEFT_OUT.items() if variant <= largest}
    lacking = [video_id for video_id in LEFT_OUT if video_id not in out and video_id not in table.videos]
    total = len(table.split("test"))
    if lacking and total >= min(VARIANTS):  # a smaller file is a subset and matches no variant
        hint = f"set variant: {total}, or use the official text files"
        raise TadError(f"{source}: variant {variant} needs {', '.join(lacking)}, which the file lacks; {hint}")
    return exclude(replace(table, excluded=out), out)


def read(source: Path, settings: Settings) -> Table:
    """Read THUMOS14 into a table: official validation videos are train, official test videos are test.

    Args:
        source: a folder with the official text files (`HighJump_val.txt`, `HighJump_test.txt`, …, in subfolders too),
            or the JSON of ActionFormer, OpenTAD or G-TAD.
        settings: see thumos14_settings.py; `variant` selects the test videos (see `LEFT_OUT`), `duration_file` is read
            by `tad.datasets._parse.read_durations`.

    Raises:
        TadError: a file is invalid; the message names the file, the video and entry or line, and the remedy.
    """
    source = Path(source)
    durations = read_durations(beside(source, settings.duration_file)) if settings.duration_file else {}
    videos = _read_folder(source, durations) if source.is_dir() else _read_json(source, durations)
    unknown = set(labels_of(videos)) - set(LABELS)
    if unknown:
        label = min(unknown)
        video_id = next(v for v, video in videos.items() if any(i.label == label for i in video.instances))
        raise TadError(f"{source}: video '{video_id}': unknown label '{label}'; {among(label, list(LABELS))}")
    table = Table("thumos14", LABELS, videos, known=settings.known.model_dump())
    return _select(source, table, settings.variant)
