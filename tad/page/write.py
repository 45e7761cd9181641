"""Write the page's folder: index.html, its scripts and style, the data as scripts, and the copies of the videos.

Browsers refuse to read data files beside a page that is opened from the disk, but not scripts; so every file of data is
a script that calls one function with JSON. JSON is written in ASCII, and nothing of it is ever parsed as HTML.
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from tad import __version__
from tad.core import claims
from tad.core.errors import TadError
from tad.core.files import PARTIAL, digest, fsync_folder, fsync_tree, sweep, write_json
from tad.core.processes import own_token
from tad.core.storage import storing
from tad.provenance.stamps import IN_FOLDER

ASSETS = Path(__file__).parent / "assets"
TEMPLATE = "index.html.j2"
SCRIPTS = ("store.js", "labels.js", "lanes.js", "charts.js", "page.js")
STYLE = "page.css"


def assets_digest() -> str:
    """Return the digest of the template, the scripts and the style."""
    return digest({name: (ASSETS / name).read_text(encoding="utf-8") for name in (TEMPLATE, STYLE, *SCRIPTS)})


def _script(path: Path, *values: Any) -> None:
    """Write a script that hands JSON to the page."""
    arguments = ",".join(
        json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False) for value in values
    )
    path.write_text(f"TAD.receive({arguments});\n", encoding="ascii")


def _place(source: Path, target: Path) -> None:
    """Link a file that lies on the same disk, else copy it: a folder of copies should not cost its space twice."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def check_folder(out: Path) -> None:
    """Refuse to replace anything but an earlier page or an empty folder.

    Raises:
        TadError: `out` is a file, or a folder with other files.
    """
    if out.exists() and not (out / "data" / "index.js").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise TadError(f"{out}: exists and is not an earlier page; name another folder, or remove it")


def write_page(
    out: Path,
    title: str,
    index: Mapping[str, Any],
    videos: Iterable[tuple[str, Mapping[str, Any]]],
    labelled: list[Any],
    *,
    media: Mapping[str, Path],
    stamp: Mapping[str, Any] | None = None,
) -> Path:
    """Write the page into the folder `out`, replacing an earlier page there at once.

    Args:
        out: the folder.
        title: of the page.
        index, videos, labelled: see `tad.page.contents`.
        media: the names of files of videos on the page, and where they lie now.
        stamp: what made the page, see `tad.provenance.stamps`.

    Raises:
        TadError: `out` exists and is not an earlier page.
    """
    out = Path(out)
    check_folder(out)
    partial = out.with_name(f".{out.name}{PARTIAL}{own_token()}")
    former = partial.with_name(f".former{partial.name}")
    try:
        with storing(out, partial):
            out.parent.mkdir(parents=True, exist_ok=True)
            sweep(out.parent)
            _write(partial, title, index, videos, labelled, media)
            if stamp is not None:
                write_json(partial / IN_FOLDER, {"stamp": stamp})
            fsync_tree(partial)
        with storing(out, partial), claims.holding(out):
            _exchange(partial, out, former)
            fsync_folder(out.parent)
    finally:
        for folder in (partial, former):
            shutil.rmtree(folder, ignore_errors=True)
    return out


def _exchange(partial: Path, out: Path, former: Path) -> None:
    """Rename the finished folder to `out`, and an earlier one to `former`; there is never half of a page."""
    earlier = out.exists()
    if earlier:
        os.replace(out, former)
    try:
        os.replace(partial, out)
    except OSError:
        if earlier:
            os.replace(former, out)
        raise


def _write(
    folder: Path,
    title: str,
    index: Mapping[str, Any],
    videos: Iterable[tuple[str, Mapping[str, Any]]],
    labelled: list[Any],
    media: Mapping[str, Path],
) -> None:
    for name in ("data", "media", "assets"):
        (folder / name).mkdir(parents=True)
    for name in (STYLE, *SCRIPTS):
        shutil.copyfile(ASSETS / name, folder / "assets" / name)
    # the key tells apart the unsaved work on different pages, which browsers keep in one place
    key = digest([title, [v["id"] for v in index["videos"]], index["labels"]])
    _script(folder / "data" / "index.js", "index", {**index, "title": title, "key": key})
    for number, (_, segments) in enumerate(videos):
        _script(folder / "data" / f"video-{number}.js", "video", number, segments)
    _script(folder / "data" / "labels.js", "labels", labelled)
    for name, source in media.items():
        _place(source, folder / "media" / name)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((ASSETS / TEMPLATE).read_text(encoding="utf-8"))
    html = template.render(title=title, style=STYLE, scripts=SCRIPTS, version=__version__)
    (folder / "index.html").write_text(html, encoding="utf-8")
