"""Published weights of the backbones: what is known of each file, and which of them a backbone reads.

A backbone's YAML lists its files under `weights`; nothing here imports torch or reads inside a file.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from tad import plugins
from tad.errors import TadError
from tad.files import digest, sha256
from tad.specs import Plugin, Spec, explain

SUFFIXES = (".safetensors", ".pt", ".pth", ".pyth")
LISTED = 4


class WeightFile(Spec):
    """One entry of `weights` in a backbone's YAML; which facts there are depends on what was ever published."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+=-]*$", description="file name; unique among all backbones")
    url: str = Field(pattern=r"^https?://[^\s]+$")
    bytes: int | None = Field(default=None, ge=1, description="exact size")
    about_mb: float | None = Field(default=None, gt=0, description="10^6 bytes, where no exact size was published")
    sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    sha256_prefix: str = Field(default="", pattern=r"^([0-9a-f]{8,63})?$", description="as file names carry it")
    git_blob: str = Field(default="", pattern=r"^([0-9a-f]{40})?$", description="id of the file in a git repository")
    licence: str
    source: str = Field(description="what it was trained on, and by whom")
    accuracy: str = Field(default="", description="as published")
    settings: dict[str, tuple[Any, ...]] = Field(
        default={}, alias="for", description="setting of the backbone → values that the file goes with; others: any"
    )
    alternative: bool = Field(default=False, description="stands in for another entry: fetched by its own name only")

    @property
    def fact(self) -> str:
        """The strongest public fact about the content: `sha256`, `git_blob`, `sha256_prefix`, or nothing."""
        return next((key for key in ("sha256", "git_blob", "sha256_prefix") if getattr(self, key)), "")

    def fits(self, settings: Mapping[str, Any]) -> bool:
        """Whether the file goes with a backbone of these settings."""
        return all(settings.get(key) in values for key, values in self.settings.items())


def published(backbone: str) -> list[WeightFile]:
    """The weight files that a backbone's YAML lists; a backbone that is always trained here has none.

    Raises:
        TadError: an entry that is not as `WeightFile` says.
    """
    found = []
    for k, entry in enumerate(plugins.document("backbones", backbone).get("weights", [])):
        try:
            found.append(WeightFile.model_validate(entry))
        except ValidationError as error:
            raise TadError(f"tad/backbones/{backbone}.yaml: weights.{k}: {explain(error)}") from None
    return found


def wanted(backbone: str, settings: Mapping[str, Any]) -> list[WeightFile]:
    """The files that a backbone of these settings is usually given: all of them together, alternatives left out."""
    return [entry for entry in published(backbone) if entry.fits(settings) and not entry.alternative]


def weight_files(path: Path, backbone: Plugin | None = None) -> list[Path]:
    """The file itself; of a folder, the weight files in it, sorted.

    With `backbone`, files that its YAML lists for other settings are left out, so that the weights of all depths (or
    streams) may share a folder.

    Raises:
        TadError: there is none.
    """
    path = Path(path)
    files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES) if path.is_dir() else [path]
    if backbone is not None and path.is_dir():
        listed = {entry.name: entry for entry in published(backbone.name)}
        files = [f for f in files if f.name not in listed or listed[f.name].fits(backbone.settings)]
    if not files or not files[0].is_file():
        raise TadError(f"{path}: no such weight file{_how_to_fetch(path, backbone)}")
    return files


def _how_to_fetch(path: Path, backbone: Plugin | None) -> str:
    if backbone is None:
        return "; `tad weights list` says what is published where"
    folder = path.parent if path.suffix in SUFFIXES else path
    command = fetch_command(wanted(backbone.name, backbone.settings), folder)
    return f"; {command} fetches what is published" if command else "; it is trained here: weights: pretrain"


def weights_identity(path: Path, backbone: Plugin | None = None) -> str:
    """16 hex digits of the content of a weight file, or of the files that `weight_files` finds in a folder.

    Raises:
        TadError: there is none.
    """
    sums = [sha256(file) for file in weight_files(path, backbone)]
    return sums[0][:16] if len(sums) == 1 else digest(sums, 16)


def lacking(path: Path, backbone: Plugin) -> list[WeightFile]:
    """What a backbone of these settings still needs at `path`: of a folder with files that no YAML lists, or with
    alternatives, nothing: they are somebody's choice."""
    needs = wanted(backbone.name, backbone.settings)
    if path.is_file():
        return []
    here = {file.name for file in path.iterdir() if file.suffix in SUFFIXES} if path.is_dir() else set()
    usual = {entry.name for entry in published(backbone.name) if not entry.alternative}
    return [] if here - usual else [entry for entry in needs if entry.name not in here]


def fetch_command(entries: Sequence[WeightFile], folder: Path | str) -> str:
    """The command that fetches these files into `folder`; empty if there are none."""
    return f"`tad weights fetch {' '.join(entry.name for entry in entries)} --to {folder}`" if entries else ""


def missing_weights(root: Path, path: str, backbone: Plugin) -> list[str]:
    """The sentence about weights that are not at `path` (relative to `root`): where they go, and the command that
    fetches them; nothing when they are there."""
    entries = lacking(root / path, backbone)
    folder = Path(path).parent if Path(path).suffix in SUFFIXES else Path(path)
    if not entries:
        place = root / path
        if place.is_file() or (place.is_dir() and any(file.suffix in SUFFIXES for file in place.iterdir())):
            return []
        return [f"put the weights of {backbone.name} at {path} (none are published for its settings)"]
    where = f"{fetch_command(entries, folder)}; published at {', '.join(entry.url for entry in entries)}"
    return [f"put the weights of {backbone.name} at {path} ({where})"]
