"""`tad verify`: compare stored files with their checksums."""

import json
import logging
import os
import re
import shlex
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote

import h5py

from tad.core import checksums, formats
from tad.core.checksums import BlockFile
from tad.core.errors import DAMAGE, DamagedError, TadError
from tad.core.files import read_json
from tad.core.h5 import CheckedH5, open_h5
from tad.core.storage import readable
from tad.provenance.stamps import safetensors_metadata
from tad.settings.paths import RESULTS, command_of, wildcards_of

log = logging.getLogger(__name__)
SKIPPED = {".snakemake", ".git"}
PARTIAL = re.compile(r"\.partial-[0-9a-f-]+$")
LISTED = 3  # ranges and videos of one file
PNG = b"\x89PNG\r\n\x1a\n"


def _files(places: Iterable[Path]) -> Iterator[Path]:
    """Yield the regular files in some folders, each folder in the order of names. Links are not followed."""
    for place in places:
        if place.is_file():
            yield place
            continue
        if not place.is_dir():
            raise TadError(f"{place}: no such file or folder; give files or folders of results")
        for folder, folders, names in os.walk(place):
            folders[:] = sorted(set(folders) - SKIPPED)
            yield from (path for name in sorted(names) if not (path := Path(folder) / name).is_symlink())


def _videos_in(path: Path, ranges: list[tuple[int, int]]) -> list[str]:
    """Return the videos (or datasets) of an HDF5 file whose values lie in the ranges.

    Empty if there are none, or if damage lies in the structure or in a block with parts of it, on which HDF5 may crash.
    """
    videos: list[str] = []

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and (at := item.id.get_offset()) is not None:
            end = at + item.id.get_storage_size()
            if any(first < end and at <= last for first, last in ranges):
                videos.append(unquote(name.removesuffix("/feats")))

    try:
        with CheckedH5(path) as checked:
            checked.file.visititems(visit)
    except (*DAMAGE, TadError):
        return []
    return videos


def _listed(items: list[str]) -> str:
    return ", ".join(items[:LISTED]) + (f" and {len(items) - LISTED} more" if len(items) > LISTED else "")


def _blocks(path: Path) -> tuple[bool, list[tuple[int, int]]]:
    with BlockFile(path) as file:
        return file.sealed, file.damaged_ranges()


def _check_h5(path: Path) -> bool:
    sealed, ranges = _blocks(path)
    if ranges:
        videos = [f"'{name}'" for name in _videos_in(path, ranges)]
        where = _listed([f"{first} to {last}" for first, last in ranges])
        what = f"values of {_listed(videos)}" if videos else "headers and links"
        raise DamagedError(f"{path}: bytes {where} do not match their checksum ({what})")
    with open_h5(path) as file:
        for name in file:
            link = file.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink) and not (path.resolve().parent / link.filename).is_file():
                raise TadError(f"{path}: {link.filename}, the shard of '{unquote(name)}', is missing")
    return sealed


def _check_array(path: Path) -> bool:
    sealed, ranges = _blocks(path)
    if ranges:
        where = _listed([f"{first} to {last}" for first, last in ranges])
        raise DamagedError(f"{path}: bytes {where} do not match their checksum")
    mark = path.parent / "format.json"
    if path.parent.suffix == ".flow" and mark.is_file():
        formats.check(read_json(mark), path, kind="frame-flow", sealed=sealed)
    return sealed


def _check_json(path: Path) -> bool:
    sealed = checksums.verify_inline(path)
    read_json(path)
    return sealed


def _check_safetensors(path: Path) -> bool:
    return checksums.KEY in safetensors_metadata(path)


def _check_png(path: Path) -> bool:
    """Compare the checksums that the format itself has, one per chunk."""
    content, at = path.read_bytes(), len(PNG)
    while content.startswith(PNG) and at + 12 <= len(content):
        size, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        end = at + 8 + size
        if zlib.crc32(content[at + 4 : end]).to_bytes(4, "big") != content[end : end + 4]:
            break
        at = end + 4
        if kind == b"IEND" and at == len(content):
            return True
    raise DamagedError(f"{path}: bytes from {at} on do not match their checksum (picture)")


CHECKS: dict[str, Callable[[Path], bool]] = {
    ".h5": _check_h5, ".npy": _check_array, ".json": _check_json, ".safetensors": _check_safetensors,
    ".png": _check_png,
}  # fmt: skip


def _again(path: Path) -> str:
    """Return the commands that create a damaged file again."""
    name = shlex.quote(str(path))
    if any(part.startswith(".") and part not in (".", "..") for part in path.parts):
        return f"rm {name} (a cache: it is recreated when needed)"
    if path.suffix == ".npy":
        return f"rm {name} (a cache: it is recreated when needed)"
    if wildcards_of(path) is not None:
        return f"rm {name} && {command_of(path)}"
    return f"rm {name}, and run the command again that wrote it"


def _problem(path: Path, error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    text = text.removeprefix(f"{path}: ").partition("; ")[0]
    return f"{path}: {text}; {_again(path)}"


def verify(places: list[Path]) -> Iterator[str]:
    """Compare every stored file in some folders with its checksums.

    Args:
        places: files or folders; empty: `results`.

    Yields:
        One line per damaged file, which names the place in it and the commands that create it again; one line per file
        without checksums (written before they were introduced); and the number of files and bytes.

    Raises:
        TadError: files are damaged, or a place does not exist.
    """
    counts: Counter[str] = Counter()
    size = damaged = 0
    others: Counter[str] = Counter()
    for path in _files(places or [Path(RESULTS)]):
        if PARTIAL.search(path.name) or path.suffix not in CHECKS:
            others[path.suffix or path.name] += 1
            continue
        try:
            size += path.stat().st_size
            counts["files"] += 1
            if not CHECKS[path.suffix](path):
                counts["without"] += 1
                yield f"{path}: no checksum"
        except formats.FormatError as error:
            counts["without"] += 1
            yield f"{path}: {str(error).removeprefix(f'{path}: ')}"
        except (TadError, OSError, KeyError, RuntimeError, json.JSONDecodeError) as error:
            damaged += 1
            yield _problem(path, error)
    kinds = ", ".join(f"{count} {kind}" for kind, count in others.most_common())
    yield (
        f"{counts['files']} files, {size} bytes ({readable(size)}) read: {damaged} damaged, {counts['without']} without"
        f" checksums{f'; not checked, as they have none: {kinds}' if kinds else ''}"
    )
    if damaged:
        raise TadError(f"{damaged} of {counts['files']} files are damaged; the lines above say how to recreate them")
