"""`tad weights fetch`: downloads published weight files, or reuses them from PyTorch's cache, and verifies them."""

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from tad.core.errors import TadError
from tad.core.files import publish
from tad.core.progress import transfer
from tad.settings import plugins
from tad.weights.download import Patience, fetch_file
from tad.weights.published import WeightFile, packaged, wanted
from tad.weights.store import PINS, ROOT, Sums, all_entries, problem_of, read_pins, sums_of, write_pin

log = logging.getLogger(__name__)


def _asked_for(name: str) -> list[tuple[str, WeightFile]]:
    """Return the entries for the name of a backbone, whose YAML alone is read, or of a file.

    Raises:
        TadError: the name is unknown, or the backbone has no published weights.
    """
    backbones = plugins.names("backbones")
    if name not in backbones:
        entries = all_entries()
        if name in entries:
            return [entries[name]]
        hint = plugins.nearest(name, [*entries, *backbones])
        raise TadError(f"no weight file or backbone is called '{name}'; {hint}")
    chosen = wanted(name, plugins.defaults("backbones", name))
    if not chosen:
        raise TadError(f"{name}: no weights are published; train it locally (weights: pretrain in config.yaml)")
    return [(name, entry) for entry in chosen]


def torch_hub() -> Path:
    """Return PyTorch's download folder: `$TORCH_HOME/hub/checkpoints`, by default in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME", "") or "~/.cache"
    home = os.environ.get("TORCH_HOME", "") or str(Path(cache) / "torch")
    return Path(home).expanduser() / "hub" / "checkpoints"


def _in_hub(entry: WeightFile) -> Path | None:
    names = dict.fromkeys([entry.name, PurePosixPath(unquote(urlsplit(entry.url).path)).name])
    return next((torch_hub() / name for name in names if (torch_hub() / name).is_file()), None)


def _accept(path: Path, out: Path, entry: WeightFile, remedy: str) -> Sums:
    """Verify a file to be placed at `out`, and return its checksums.

    Raises:
        TadError: it does not match its published or pinned checksum.
    """
    sums, pin = sums_of(path), read_pins(out.parent).get(out.name)
    problem = problem_of(sums, entry, pin)
    if problem:
        if "pinned is" in problem:
            remedy += f", or remove its line from {out.parent / PINS} if the change is intended"
        raise TadError(f"{path}: {problem}; {remedy}")
    if pin is None and not entry.fact:
        log.warning("%s: no checksum is published; accepted and pinned: sha256 %s", out.name, sums.sha256)
    return sums


def _from_hub(entry: WeightFile, out: Path) -> bool:
    """Place a file from PyTorch's download cache at `out` (as a hard link if possible), if its checksum matches."""
    hub = _in_hub(entry)
    if hub is None:
        return False
    try:
        _accept(hub, out, entry, "downloading it again")
    except TadError as error:
        log.warning("%s", error)
        return False
    with publish(out) as partial:
        try:
            os.link(hub.resolve(), partial)
        except OSError:  # another file system, or one without hard links
            shutil.copyfile(hub, partial)
    log.info("%s: taken from %s", out, hub)
    return True


def _from_package(entry: WeightFile) -> Path:
    """Return the file that an installed Python package holds.

    Raises:
        TadError: the package is not installed, or its file has another checksum.
    """
    path = packaged(entry)
    if path is None or not path.is_file():
        raise TadError(f"{entry.name}: comes in a Python package: {entry.install}; then set weights: package")
    _accept(path, path, entry, f"install the package again: {entry.install}")
    log.info("%s: in the package %s, checksum verified; set weights: package", path, entry.package)
    return path


def _fetch_one(entry: WeightFile, folder: Path, patience: Patience | None) -> Path:
    if entry.package:
        return _from_package(entry)
    out = folder / entry.name
    if out.is_file():
        write_pin(out, _accept(out, out, entry, "move it away and fetch again"), entry.url)
        log.info("%s: already exists, checksum verified", out)
        return out
    if not _from_hub(entry, out):
        known = bool(entry.fact) or out.name in read_pins(folder)
        remedy = "the download was discarded; try again, or download the file manually"
        with transfer(entry.name) as progress:
            fetch_file(
                entry.url, out, check=lambda path: _check_download(path, out, entry, remedy), size=entry.bytes,
                checkable=known, patience=patience, progress=progress,
            )  # fmt: skip
        log.info("%s: fetched from %s", out, entry.url)
    write_pin(out, sums_of(out), entry.url)
    return out


def _check_download(path: Path, out: Path, entry: WeightFile, remedy: str) -> None:
    try:
        _accept(path, out, entry, remedy)
    except TadError as error:
        raise TadError(f"{entry.url}: {str(error).removeprefix(f'{path}: ')}") from None


def fetch(names: Sequence[str], *, to: Path | None = None, patience: Patience | None = None) -> list[Path]:
    """Download weight files, given by their names or by a backbone's name (files for its default settings).

    A file that already exists, or one downloaded by PyTorch (`torch_hub`), is used if its checksum matches.

    Args:
        names: names of files or backbones.
        to: folder to write to; default: `data/weights/<backbone>`.
        patience: time-outs and retries.

    Returns:
        The files, each verified, or pinned on first use if no checksum was published.

    Raises:
        TadError: a name is unknown, a download failed (see `tad.weights.download.fetch_file`), or a file does not match
            its published or pinned checksum.
    """
    files = {entry.name: (backbone, entry) for name in names for backbone, entry in _asked_for(name)}
    return [_fetch_one(entry, to or ROOT / backbone, patience) for backbone, entry in files.values()]
