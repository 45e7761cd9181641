"""Published weights of the backbones: the record of each file, and the files that a backbone needs.

A backbone's YAML lists its files under `weights`; nothing here imports torch or reads inside a file.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, ValidationError, model_validator

from tad.core.errors import TadError
from tad.core.files import digest, sha256
from tad.settings import plugins
from tad.settings.base import Plugin, Spec, explain
from tad.settings.paths import path_of

if TYPE_CHECKING:
    from tad.settings.config import Config

SUFFIXES = (".safetensors", ".pt", ".pth", ".pyth", ".tflite")
PACKAGE = "package"  # in place of a path: the weights that an installed Python package holds
LISTED = 4
TOKENIZER = ".tokenizer.json"  # in place of the suffix of a text encoder's weights


class WeightFile(Spec):
    """An entry of `weights` in a backbone's YAML; which fields are set depends on what has been published."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+=-]*$", description="file name; unique among all backbones")
    url: str = Field(default="", pattern=r"^(https?://[^\s]+)?$", description="where to download it")
    package: str = Field(default="", pattern=r"^\w*$", description="instead of url: import name of the package with it")
    inside: str = Field(default="", pattern=r"^[\w./+=-]*$", description="with package: path of the file inside")
    install: str = Field(default="", description="with package: the command that installs it")
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
    alternative: bool = Field(default=False, description="alternative to another entry; fetched by its own name only")

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if bool(self.url) == bool(self.package):
            raise ValueError("give either `url`, or `package` for a file that a Python package holds")
        if bool(self.package) != bool(self.inside) or bool(self.package) != bool(self.install):
            raise ValueError("`package`, `inside` and `install` belong together")
        if self.package and (PurePosixPath(self.inside).is_absolute() or ".." in PurePosixPath(self.inside).parts):
            raise ValueError(f"inside: {self.inside}: must lie inside the package")
        return self

    @property
    def fact(self) -> str:
        """The strongest public fact about the content: `sha256`, `git_blob`, `sha256_prefix`, or nothing."""
        return next((key for key in ("sha256", "git_blob", "sha256_prefix") if getattr(self, key)), "")

    def fits(self, settings: Mapping[str, Any]) -> bool:
        """Return whether the file fits a backbone with these settings."""
        return all(settings.get(key) in values for key, values in self.settings.items())


def published(backbone: str) -> list[WeightFile]:
    """Return the weight files listed in a backbone's YAML; empty for a backbone that is always trained locally.

    Raises:
        TadError: an entry is not a valid `WeightFile`.
    """
    entries = []
    for k, entry in enumerate(plugins.document("backbones", backbone).get("weights", [])):
        try:
            entries.append(WeightFile.model_validate(entry))
        except ValidationError as error:
            raise TadError(f"{plugins.file_of('backbones', backbone)}: weights.{k}: {explain(error)}") from None
    return entries


def packaged(entry: WeightFile) -> Path | None:
    """Return where an installed Python package holds this file; None if the package is not installed.

    The package is located, not imported.
    """
    spec = importlib.util.find_spec(entry.package) if entry.package else None
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    return Path(folders[0]) / entry.inside if folders else None


def located(weights: str, backbone: Plugin) -> Path:
    """Return the path that a feature set's setting `weights` means; `package` means a file of an installed package.

    Raises:
        TadError: no package holds weights for these settings, or it is not installed.
    """
    if weights != PACKAGE:
        return Path(weights)
    for entry in wanted(backbone.name, backbone.settings):
        if entry.package:
            path = packaged(entry)
            if path is None or not path.is_file():
                raise TadError(f"{backbone.name}: its weights come in a Python package: {entry.install}")
            return path
    names = sorted(name for name in plugins.names("backbones") if any(entry.package for entry in published(name)))
    raise TadError(
        f"{backbone.name}: weights: package: no Python package holds its weights, only those of {', '.join(names)}"
    )


def weights_of(config: "Config", dataset: str, features: str) -> Path:
    """Return the path of the weights of a feature set's backbone, whether they exist or not.

    Raises:
        TadError: they come in a package that is not installed.
    """
    row = config.feature_set(features)
    if row.weights == "pretrain":
        return path_of("pretrain", root=config.root, dataset=dataset, features=features)
    return config.root / located(row.weights, config.backbone(features, dataset))


def wanted(backbone: str, settings: Mapping[str, Any]) -> list[WeightFile]:
    """Return the files that a backbone with these settings needs, without alternatives."""
    return [entry for entry in published(backbone) if entry.fits(settings) and not entry.alternative]


def weight_files(path: Path, backbone: Plugin | None = None) -> list[Path]:
    """Return the file itself, or the weight files in a folder, sorted.

    With `backbone`, files that its YAML lists for other settings are skipped, so the weights of all depths (or streams)
    can share a folder.

    Raises:
        TadError: there is no weight file.
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
    """Return 16 hex digits of the digest of a weight file, or of the files that `weight_files` returns for a folder.

    Raises:
        TadError: there is no weight file.
    """
    sums = [sha256(file) for file in weight_files(path, backbone)]
    return sums[0][:16] if len(sums) == 1 else digest(sums, 16)


def lacking(path: Path, backbone: Plugin) -> list[WeightFile]:
    """Return the published files that a backbone with these settings lacks at `path`.

    A folder with unlisted files or alternatives is a user's choice and lacks nothing.
    """
    needs = wanted(backbone.name, backbone.settings)
    if path.is_file():
        return []
    here = {file.name for file in path.iterdir() if file.suffix in SUFFIXES} if path.is_dir() else set()
    usual = {entry.name for entry in published(backbone.name) if not entry.alternative}
    return [] if here - usual else [entry for entry in needs if entry.name not in here]


def fetch_command(entries: Sequence[WeightFile], folder: Path | str) -> str:
    """Return the command that downloads these files to `folder`; empty if there are no files."""
    return f"`tad weights fetch {' '.join(entry.name for entry in entries)} --to {folder}`" if entries else ""


def missing_weights(root: Path, path: str, backbone: Plugin) -> list[str]:
    """Return an instruction for weights missing at `path` (relative to `root`): location and download command.

    The list is empty if nothing is missing.
    """
    if path == PACKAGE:
        try:
            located(path, backbone)
        except TadError as error:
            return [str(error)]
        return []
    entries = lacking(root / path, backbone)
    folder = Path(path).parent if Path(path).suffix in SUFFIXES else Path(path)
    if not entries:
        place = root / path
        if place.is_file() or (place.is_dir() and any(file.suffix in SUFFIXES for file in place.iterdir())):
            return []
        return [f"put the weights of {backbone.name} at {path} (none are published for its settings)"]
    if installs := [entry.install for entry in entries if entry.package]:
        how = f"or write weights: package; they come with {'; '.join(installs)}"
        return [f"put the weights of {backbone.name} at {path} ({how})"]
    where = f"{fetch_command(entries, folder)}; published at {', '.join(entry.url for entry in entries)}"
    return [f"put the weights of {backbone.name} at {path} ({where})"]


def tokenizer_beside(weights: Path, backbone: Plugin) -> tuple[Path, Path]:
    """Return the file of weights and that of its tokeniser, `<name>.tokenizer.json` beside `<name>.safetensors`.

    Raises:
        TadError: one of them is missing.
    """
    (file, *more) = weight_files(weights, backbone)
    if more:
        raise TadError(f"{weights}: several weight files ({file.name}, {more[0].name}); name one in `weights`")
    tokenizer = file.with_name(file.stem + TOKENIZER)
    if not tokenizer.is_file():
        raise TadError(
            f"{tokenizer}: no such file; put the published tokenizer.json of {backbone.settings['model']} there"
            " (`tad weights list image_text`)"
        )
    return file, tokenizer
