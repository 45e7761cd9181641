"""`tad weights fetch`: published weight files → here, whole and verified, from the web or from PyTorch's own store."""

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from tad import plugins
from tad.download import Patience, fetch_file
from tad.errors import TadError
from tad.files import publish
from tad.progress import transfer
from tad.weight_store import PINS, ROOT, Sums, all_entries, problem_of, read_pins, sums_of, write_pin
from tad.weights import WeightFile, wanted

log = logging.getLogger(__name__)


def _asked_for(name: str) -> list[tuple[str, WeightFile]]:
    """The entries that a file's or a backbone's name stands for.

    Raises:
        TadError: an unknown name, or a backbone without published weights.
    """
    entries = all_entries()
    if name in entries:
        return [entries[name]]
    backbones = plugins.names("backbones")
    if name not in backbones:
        hint = plugins.nearest(name, [*entries, *backbones])
        raise TadError(f"no weights and no backbone are called '{name}'; {hint}")
    chosen = wanted(name, plugins.document("backbones", name)["settings"])
    if not chosen:
        raise TadError(f"{name}: no weights are published; it is trained here (weights: pretrain in config.yaml)")
    return [(name, entry) for entry in chosen]


def torch_hub() -> Path:
    """Where PyTorch keeps downloaded weights: `$TORCH_HOME/hub/checkpoints`, by default in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME", "") or "~/.cache"
    home = os.environ.get("TORCH_HOME", "") or str(Path(cache) / "torch")
    return Path(home).expanduser() / "hub" / "checkpoints"


def _in_hub(entry: WeightFile) -> Path | None:
    names = dict.fromkeys([entry.name, PurePosixPath(unquote(urlsplit(entry.url).path)).name])
    return next((torch_hub() / name for name in names if (torch_hub() / name).is_file()), None)


def _accept(path: Path, out: Path, entry: WeightFile, remedy: str) -> Sums:
    """The sums of a file that may stand at `out`.

    Raises:
        TadError: it is not what was published or pinned.
    """
    sums, pin = sums_of(path), read_pins(out.parent).get(out.name)
    problem = problem_of(sums, entry, pin)
    if problem:
        if "pinned is" in problem:
            remedy += f", or take its line out of {out.parent / PINS} if the change is meant"
        raise TadError(f"{path}: {problem}; {remedy}")
    if pin is None and not entry.fact:
        log.warning("%s: no hash is published; accepted as it is and pinned: sha256 %s", out.name, sums.sha256)
    return sums


def _from_hub(entry: WeightFile, out: Path) -> bool:
    """Put a file of PyTorch's own store at `out` (a hard link where possible), if there is one and it verifies."""
    hub = _in_hub(entry)
    if hub is None:
        return False
    try:
        _accept(hub, out, entry, "it is fetched anew")
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


def _fetch_one(entry: WeightFile, folder: Path, patience: Patience | None) -> Path:
    out = folder / entry.name
    if out.is_file():
        write_pin(out, _accept(out, out, entry, "move it away and fetch again"), entry.url)
        log.info("%s: already there and as it should be", out)
        return out
    if not _from_hub(entry, out):
        known = bool(entry.fact) or out.name in read_pins(folder)
        remedy = "nothing was kept; try again, or get the file by hand"
        with transfer(entry.name) as told:
            fetch_file(
                entry.url, out, check=lambda path: _check_download(path, out, entry, remedy), size=entry.bytes,
                checkable=known, patience=patience, told=told,
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
    """Bring weight files here, by their own names or by a backbone's (what its default settings need).

    A file that is there already, put by hand or by PyTorch (`torch_hub`), is taken when it verifies.

    Args:
        to: the folder; `data/weights/<backbone>` by default.

    Returns:
        the files, each verified, or pinned on first use where no hash was ever published.

    Raises:
        TadError: an unknown name, a download that failed (see `tad.download.fetch_file`), or bytes that are not what
            was published or pinned.
    """
    files = {entry.name: (backbone, entry) for name in names for backbone, entry in _asked_for(name)}
    return [_fetch_one(entry, to or ROOT / backbone, patience) for backbone, entry in files.values()]
