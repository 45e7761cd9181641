"""Local weight files: their state, verified against published checksums, or against pins if none were published.

The file `pins.json` beside them records the sha256 of each accepted file, so that later changes of a file without a
published checksum are detected.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tad.core import formats
from tad.core.errors import TadError
from tad.core.files import read_json, write_json
from tad.settings import plugins
from tad.settings.stages import Plugin
from tad.weights.download import looks_like_page
from tad.weights.published import SUFFIXES, WeightFile, packaged, published, weight_files

ROOT = Path("data/weights")
PINS = "pins.json"
BLOCK = 1 << 20
WIDEST = 40  # characters of a column
CHECKS = {"sha256": "sha256", "git_blob": "git blob", "sha256_prefix": "sha256 prefix", "": "first use"}


@dataclass(frozen=True)
class Sums:
    """Size, sha256, git blob id and first bytes of a file."""

    size: int
    sha256: str
    git_blob: str
    head: bytes


def sums_of(path: Path) -> Sums:
    """Compute all checksums of a file in one pass."""
    size = path.stat().st_size
    plain, blob, head = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False), b""
    with open(path, "rb") as handle:
        while block := handle.read(BLOCK):
            head = head or block[:512]
            plain.update(block)
            blob.update(block)
    return Sums(size, plain.hexdigest(), blob.hexdigest(), head)


def read_pins(folder: Path) -> dict[str, dict[str, Any]]:
    """Return `sha256`, `bytes` and `url` of the accepted files in a folder, by file name.

    Raises:
        TadError: the pins file is damaged.
    """
    path = folder / PINS
    if not path.is_file():
        return {}
    pins = read_json(path)
    pins = formats.unmarked(pins, path, kind="pins") if isinstance(pins, dict) else pins
    whole = isinstance(pins, dict) and all(isinstance(p, dict) and "sha256" in p for p in pins.values())
    if not whole:
        raise TadError(f"{path}: not a list of pins (file: sha256, bytes, url); restore it, or remove it to pin again")
    return dict(pins)


def write_pin(path: Path, sums: Sums, url: str) -> None:
    """Record the checksum of an accepted file in its folder."""
    pins = read_pins(path.parent)
    entry = {"sha256": sums.sha256, "bytes": sums.size, "url": url}
    if pins.get(path.name) != entry:
        content = {**formats.mark("pins"), **dict(sorted({**pins, path.name: entry}.items()))}
        write_json(path.parent / PINS, content, seal=False)  # users remove lines from it


def problem_of(sums: Sums, entry: WeightFile | None, pin: dict[str, Any] | None) -> str:
    """Return how a file differs from its published or pinned checksum; empty if it does not."""
    if looks_like_page(sums.head):
        return "is a web page, not weights"
    if entry is not None:
        if entry.bytes is not None and sums.size != entry.bytes:
            return f"has {sums.size} bytes, published are {entry.bytes}"
        if entry.sha256 and sums.sha256 != entry.sha256:
            return f"has sha256 {sums.sha256}, published is {entry.sha256}"
        if entry.git_blob and sums.git_blob != entry.git_blob:
            return f"has git blob id {sums.git_blob}, published is {entry.git_blob}"
        if entry.sha256_prefix and not sums.sha256.startswith(entry.sha256_prefix):
            return f"has sha256 {sums.sha256}, published is one that begins with {entry.sha256_prefix}"
    if pin is not None and sums.sha256 != pin["sha256"]:
        return f"has sha256 {sums.sha256}, pinned is {pin['sha256']}"
    return ""


def state_of(path: Path, entry: WeightFile | None) -> tuple[str, str]:
    """Return the state of a file (`verified`, `pinned`, `unpinned` or `BAD`) and a remark."""
    sums, pin = sums_of(path), read_pins(path.parent).get(path.name)
    problem = problem_of(sums, entry, pin)
    if problem:
        return "BAD", problem
    if entry is not None and entry.fact:
        return "verified", f"{CHECKS[entry.fact]} as published"
    if pin is not None:
        return "pinned", "as it was first accepted; no hash is published"
    return "unpinned", f"nothing to compare with; sha256 {sums.sha256}"


def all_entries() -> dict[str, tuple[str, WeightFile]]:
    """Return all published files by name, each with the first backbone that lists it."""
    entries: dict[str, tuple[str, WeightFile]] = {}
    for backbone in plugins.names("backbones"):
        for entry in published(backbone):
            entries.setdefault(entry.name, (backbone, entry))
    return entries


def expect_published(path: Path, backbone: Plugin) -> None:
    """Check files with the name of a published file against its checksum, or its pin if none was published.

    Files with other names are a user's own and are not checked.

    Raises:
        TadError: a file does not match, or there is no weight file.
    """
    entries = {entry.name: entry for entry in published(backbone.name)}
    for file in weight_files(path, backbone):
        state, remark = state_of(file, entries[file.name]) if file.name in entries else ("", "")
        if state == "BAD":
            raise TadError(f"{file}: {remark}; fetch it again, or give your own weights another name")


# ── list ──


def _row(backbone: str, entry: WeightFile, root: Path) -> dict[str, Any]:
    path = packaged(entry) or root / backbone / entry.name
    partial = path.with_name(path.name + ".partial")
    state, remark = "absent", entry.install
    if path.is_file():
        state, remark = state_of(path, entry)
    elif partial.is_file() and partial.stat().st_size:
        state, remark = "partial", f"{partial.stat().st_size} bytes; fetch resumes from there"
    facts = entry.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    size = path.stat().st_size if path.is_file() else entry.bytes
    return {"backbone": backbone, "path": str(path), "state": state, "remark": remark, **facts, "bytes": size}


def list_weights(root: Path = ROOT, backbones: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return a row for each published weight file: its record, its local path and its state.

    Args:
        root: folder with one folder per backbone.
        backbones: only of these; default: of all.

    Raises:
        TadError: no backbone has this name.
    """
    known = plugins.names("backbones")
    for name in backbones:
        if name not in known:
            raise TadError(f"no backbone is called '{name}'; {plugins.nearest(name, known)}")
    return [_row(backbone, entry, root) for backbone in backbones or known for entry in published(backbone)]


def listed(rows: Sequence[dict[str, Any]]) -> Iterable[str]:
    """Format the rows of `list_weights` as lines of text."""
    for backbone in dict.fromkeys(row["backbone"] for row in rows):
        own = [row for row in rows if row["backbone"] == backbone]
        yield f"{backbone}: {Path(own[0]['path']).parent}"
        fits = [", ".join(f"{key} {'|'.join(map(str, vs))}" for key, vs in row.get("for", {}).items()) for row in own]
        licence, width = (min(max(map(len, texts)), WIDEST) for texts in ([r["licence"] for r in own], fits))
        for row, fit in zip(own, fits, strict=True):
            check = CHECKS[next(key for key in CHECKS if not key or key in row)]
            about = f"~{row['about_mb']:.1f} MB" if "about_mb" in row else "?"
            size = f"{row['bytes'] / 1e6:.1f} MB" if row["bytes"] else about
            kind = "  (alternative)" if row.get("alternative") else ""
            facts = f"{row['state']:<9} {size:>9}  {check:<13}  {row['licence'][:WIDEST]:<{licence}}  {fit:<{width}}"
            yield f"  {facts}  {row['name']}{kind}"
            if row["remark"] and row["state"] not in ("verified", "pinned"):
                yield f"    {row['remark']}"


# ── verify ──


@dataclass(frozen=True)
class Verdict:
    """Result of verifying a file: state (`verified`, `pinned`, `unpinned` or `BAD`) and a remark."""

    path: Path
    state: str
    remark: str


def verify(places: Sequence[Path] = ()) -> list[Verdict]:
    """Verify all weight files in these folders (or these files) against published checksums and pins.

    Raises:
        TadError: a path does not exist.
    """
    entries = all_entries()
    if not places:
        places = sorted(path for path in ROOT.iterdir() if path.is_dir()) if ROOT.is_dir() else []
    verdicts = []
    for place in places:
        if not place.exists():
            raise TadError(f"{place}: no such file or folder; give the location of the weights")
        files = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.suffix in SUFFIXES)
        for path in files:
            state, remark = state_of(path, entries[path.name][1] if path.name in entries else None)
            verdicts.append(Verdict(path, state, remark))
    return verdicts
