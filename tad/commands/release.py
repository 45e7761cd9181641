"""Released runs: `tad export RUN` writes a folder with all that `tad apply` needs, and the detector as ONNX.

The folder holds no path outside it, so it may be copied to another machine:

    release.json              what it is, the settings of every stage, checksums, held-out detections
    config.yaml               the rows of the run, its features and its data set
    results/<run>/model.safetensors
    weights/<features>/       weights of the encoder, or results/features/… if the workflow trained it
    detector.onnx             the detector for other programs (docs/export.md)
"""

import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tad import __version__
from tad.commands.apply_outputs import held_out
from tad.core import formats
from tad.core.errors import TadError
from tad.core.files import publish, read_json, sha256, write_json
from tad.core.strict_json import parse_json
from tad.metrics.threshold import HeldOut
from tad.provenance.stamps import first_difference, read_stamp, safetensors_metadata
from tad.settings.adapters import AdaptersSpec, encoders_of
from tad.settings.base import Plugin
from tad.settings.config import Config
from tad.settings.paths import command_of, path_of
from tad.settings.rows import FeatureRow, RunRow
from tad.weights.published import PACKAGE, weight_files, weights_identity, weights_of

log = logging.getLogger(__name__)
if TYPE_CHECKING:
    from tad.layers.contract import DetectorBase

FILE, ONNX, README, CONFIG = "release.json", "detector.onnx", "README.md", "config.yaml"
KIND = "release"
# keys of a run's row that apply needs
OF_RUN = ("dataset", "features", "detector", "adapters", "train", "detect", "nms")
TEXT = """# {run}

A trained detector of {count} actions in videos: {labels}.

    pip install '{package}=={version}'
    tad apply {folder} VIDEO --out detections.json

{onnx}Files are listed with their checksums in release.json.
"""
PACKAGE_NAME = "temporal-action-detection"
# backbone → extra of this package that it needs
EXTRAS: Mapping[str, str] = {
    "vit_tiny": "modern",
    "videomae": "modern", "vjepa2": "modern", "transformers_image": "modern", "image_text": "modern",
    "timm_image": "images", "efficientnet_lite0": "encoders", "transnetv2": "encoders",
}  # fmt: skip
ONNX_TEXT = "`detector.onnx` is the detector without the encoder, see docs/export.md.\n"


def is_release(run: str) -> bool:
    """Return whether the name of a run is the folder of a released run."""
    return (Path(run) / FILE).is_file()


def _stages(settings: Config, run: str) -> dict[str, Any]:
    """Return the settings of the stages that `tad apply` runs."""
    row = settings.run(run)
    specs = {"probe": settings.spec("probe", dataset=row.dataset)}
    parts = settings.parts(row.features)
    for part in parts:
        names = {"dataset": row.dataset, "features": part}
        stages = {"extract": ("extract", "merge"), "index": ("index",)}.get(settings.feature_set(part).made_by, ())
        specs |= {f"{stage} {part}": settings.spec(stage, **names) for stage in stages}
    if parts != [row.features]:
        specs["join"] = settings.spec("join", dataset=row.dataset, features=row.features)
    specs |= {stage: settings.spec(stage, run=run) for stage in ("detect", "suppress")}
    values: dict[str, Any] = {name: spec.model_dump(mode="json") for name, spec in specs.items()}
    return values


def _paths_in(value: Any, where: str) -> Iterator[str]:
    """Yield the keys of settings whose values are paths of this machine."""
    if isinstance(value, str) and value.startswith(("/", "~")):
        yield where
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _paths_in(inner, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for k, inner in enumerate(value):
            yield from _paths_in(inner, f"{where}[{k}]")


class _Writer:
    """Writes the folder of a released run."""

    def __init__(self, run: str, out: Path, settings: Config) -> None:
        self.run, self.out, self.settings = run, out, settings
        self.row: RunRow = settings.run(run)
        for why, instead in self._unreleased():
            raise TadError(f"runs.{run}: {why}; {instead}")
        self.training = settings.trainings(run)[0]
        self.model = path_of("train", root=settings.root, run=self.training)
        if not self.model.is_file():
            raise TadError(f"{self.model}: no such file; train it with `{self._made(self.model)}`")
        if out.exists() and not is_release(str(out)) and (not out.is_dir() or any(out.iterdir())):
            raise TadError(f"{out}: exists and is no released run; name another folder, or remove it")

    def _made(self, path: Path) -> str:
        return command_of(path, root=self.settings.root)

    def _unreleased(self) -> Iterator[tuple[str, str]]:
        """Yield why the run cannot be released, and what to do instead."""
        row = self.row
        if row.external:
            yield "needs scores of whole videos (`external`)", "export a run without `external`"
        if other := str(row.detect.get("fuse") or ""):
            yield f"averages its network's outputs with those of '{other}' (`fuse`)", "export a run without `fuse`"
        for part in self.settings.parts(row.features):
            if of := self.settings.feature_set(part).run:
                yield f"its features come from the encoder of run '{of}'", "export a run on other features"

    @property
    def needed(self) -> list[str]:
        """The feature sets of the folder's configuration."""
        return list(dict.fromkeys([*self.settings.parts(self.row.features), *encoders_of(self.settings, self.run)]))

    def copy(self, source: Path, name: str) -> None:
        """Copy a file into the folder."""
        target = self.out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with publish(target, size=source.stat().st_size) as partial:
            shutil.copyfile(source, partial)

    def features(self, name: str) -> dict[str, Any]:
        """Copy a feature set's weights; return its row, with the path of the copy."""
        row: FeatureRow = self.settings.feature_set(name)
        values: dict[str, Any] = row.model_dump(mode="json", exclude_unset=True)
        if row.made_by == "convert":
            return values | {"source": "features"}
        if row.made_by == "index":
            values.pop("weights", None)  # only trainings start from them
            return values
        if row.made_by != "extract" or row.weights == PACKAGE:
            return values
        backbone = self.settings.backbone(name, self.row.dataset)
        if row.weights == "pretrain":
            source = weights_of(self.settings, self.row.dataset, name)
            if not source.is_file():
                raise TadError(f"{source}: no such weights; make them with `{self._made(source)}`")
            self.copy(source, str(path_of("pretrain", dataset=self.row.dataset, features=name)))
            return values
        source = self.settings.root / row.weights
        for file in weight_files(source, backbone):
            self.copy(file, f"weights/{name}/{file.name}")
        return values | {"weights": f"weights/{name}" + (f"/{source.name}" if source.is_file() else "")}

    def encoder(self, name: str) -> dict[str, Any]:
        """Return the facts about the encoder of a feature set."""
        row = self.settings.feature_set(name)
        if row.made_by == "index":
            return {"frames": row.frames and row.frames.model_dump(mode="json")}
        if row.made_by != "extract":
            return {"imported": True, "dim": row.width, "clip": row.clip, "published": row.published}
        backbone = self.settings.backbone(name, self.row.dataset)
        identity = weights_identity(weights_of(self.settings, self.row.dataset, name), backbone)
        facts = {"backbone": backbone.model_dump(mode="json"), "weights": identity}
        return facts | {"recipe": self.settings.recipe(name, self.row.dataset)}

    def package(self) -> str:
        """Return the name of this package for pip, with the extras that the encoders need."""
        encoders = [name for name in self.needed if self.settings.feature_set(name).made_by == "extract"]
        names = {self.settings.backbone(name, self.row.dataset).name for name in encoders}
        extras = sorted({EXTRAS[name] for name in names if name in EXTRAS})
        return PACKAGE_NAME + (f"[{','.join(extras)}]" if extras else "")

    def config(self) -> dict[str, Any]:
        """Return the configuration of the folder."""
        parts = self.settings.parts(self.row.features)
        features = {name: self.features(name) for name in self.needed}
        if parts != [self.row.features]:
            features[self.row.features] = {"join": list(parts)}
        run = self.row.model_dump(mode="json", exclude_unset=True, include=set(OF_RUN))
        values = {
            "datasets": {self.row.dataset: {"format": self.settings.format(self.row.dataset)}},
            "features": features,
            "runs": {self.run: run},
        }
        for where in _paths_in(values, "config"):
            raise TadError(
                f"{where.removeprefix('config.')}: a path of this machine, which cannot be released; remove it"
            )
        return values


def export(run: str, *, out: Path, onnx: bool = True, config: Path = Path("config.yaml")) -> Iterator[str]:
    """Write a released run into the folder `out`, and yield lines about it.

    Args:
        run: name of a trained run; of several seeds the first is released.
        out: a new or empty folder, or one with an earlier release, which is replaced.
        onnx: write the detector as ONNX too.
        config: the configuration file.

    Raises:
        TadError: the run is not trained, needs scores of whole videos, or its settings name paths of this machine; the
            encoder's weights are missing; `out` holds other files; or ONNX is wanted and its packages are missing.
    """
    out, settings = Path(out), Config.read(config)
    writer = _Writer(run, out, settings)
    if onnx:
        from tad.detectors._graph import check_installed

        check_installed()
    values = writer.config()
    if is_release(str(out)):
        (out / FILE).unlink()  # an interrupted replacement must not look complete
    writer.copy(writer.model, str(path_of("train", run=run)))
    with publish(out / CONFIG) as partial:
        partial.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    copied = Config.read(out / CONFIG)
    stages = _stages(copied, run)
    _expect_equal(stages, {**_stages(settings, writer.training)}, run, config)
    labels = _labels(writer.model)
    why = ""
    if onnx:
        why = _write_onnx(writer, stages, labels)
        (out / ONNX).unlink(missing_ok=True) if why else None
    text = "" if why or not onnx else ONNX_TEXT
    with publish(out / README) as partial:
        listed = ", ".join(labels[:20]) + (", …" if len(labels) > 20 else "")
        content = TEXT.format(
            run=run, count=len(labels), labels=listed, version=__version__, folder=out.name, onnx=text,
            package=writer.package(),
        )  # fmt: skip
        partial.write_text(content, encoding="utf-8")
    files = sorted(path for path in out.rglob("*") if path.is_file() and "apply" not in path.relative_to(out).parts)
    document = {
        **formats.mark(KIND),
        "run": run,
        "tad": __version__,
        "labels": labels,
        "model": str(read_stamp(writer.model)["identity"]),
        "encoders": {name: writer.encoder(name) for name in writer.needed},
        "settings": stages,
        "held_out": _held_out(writer).document(),
        "files": {str(path.relative_to(out)): {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in files},
    }
    write_json(out / FILE, document)
    size = sum(path.stat().st_size for path in files)
    yield f"{out}: {len(files)} files, {size / 1e6:.1f} MB"
    if why:
        yield f"{ONNX} was left out: {why}"
    if not {settings.feature_set(part).made_by for part in writer.needed} <= {"extract", "index"}:
        yield "its features come from elsewhere, so it cannot be applied to videos; detector.onnx takes such features"
    else:
        yield f"next, here or on another machine: tad apply {out} VIDEO --out detections.json"


def _expect_equal(found: Mapping[str, Any], wanted: Mapping[str, Any], run: str, source: Path) -> None:
    """Compare the settings of a release with others, except for the name of the run and excluded videos."""

    def bare(stages: Mapping[str, Any]) -> dict[str, Any]:
        return {s: {k: v for k, v in spec.items() if k not in ("run", "exclude")} for s, spec in stages.items()}

    ours, theirs = bare(found), bare(wanted)
    if ours != theirs:
        name, have, other = first_difference("settings", ours, theirs)
        raise TadError(
            f"{source}: runs.{run}: {name} is {have!r:.80} in a release and {other!r:.80} here; set it in the rows of"
            " the run or its features"
        )


def _held_out(writer: _Writer) -> HeldOut:
    """Return the detections on held-out videos; the reason why there are none would name files of this machine."""
    known = held_out(writer.settings, writer.training, writer.model)
    return HeldOut.none("the run had no scored held-out videos when it was released") if known.why else known


def _labels(model: Path) -> list[str]:

    return [str(label) for label in parse_json(safetensors_metadata(model)["labels"])]


def _write_onnx(writer: _Writer, stages: Mapping[str, Any], labels: list[str]) -> str:
    """Write detector.onnx; return why it cannot be, or an empty text."""
    from tad.detectors._graph import write_graph
    from tad.layers.contract import Ungraphable

    spec = stages["detect"]
    detect = dict(spec["detect"])
    if spec.get("adapters"):
        detect["min_length"] *= spec["adapters"]["frames_per_position"]  # the graph's segments are in frames
    facts = {
        "run": writer.run, "labels": labels, "detect": detect, "nms": stages["suppress"]["nms"],
        "resize": spec["resize"], "tad": __version__, **formats.mark("onnx"),
    }  # fmt: skip
    if index := stages.get(f"index {writer.row.features}"):
        facts["frames"] = index["frames"]  # their rate, size and modality
    log.info("%s: written and compared with the network; this takes a minute", writer.out / ONNX)
    try:
        write_graph(_detector(writer, spec.get("adapters"), len(labels)), writer.out / ONNX, facts=facts)
    except Ungraphable as error:
        return str(error)
    return ""


def _detector(writer: _Writer, adapters: Mapping[str, Any] | None, classes: int) -> "DetectorBase":
    """Build the detector of a run with its weights, and its encoder if it has adapters."""
    from tad.settings import plugins
    from tad.training.io.tensors import read_tensors

    tensors, metadata = read_tensors(writer.model)
    sizes = {"feature_dim": int(metadata["feature_dim"]), "num_classes": classes}
    sizes["max_length"] = int(parse_json(metadata["detector"])["max_length"])
    plugin = Plugin.model_validate(writer.settings.detector(writer.training))
    detector: DetectorBase
    if adapters:
        from tad.training.adapted import build_adapted

        spec = AdaptersSpec.model_validate(adapters)
        detector = build_adapted(
            plugin, spec, weights_of(writer.settings, writer.row.dataset, spec.encoder), lr=1.0, **sizes
        )
    else:
        detector = plugins.build("detectors", plugin.name, plugin.settings, **sizes)
    detector.load_state_dict(tensors)
    return detector


class Released:
    """A released run that is checked and can be applied.

    Attributes:
        folder: the folder.
        run: name of the run in its configuration.
        config: the configuration file.
        held_out: detections on held-out videos by score, to choose thresholds with.
    """

    def __init__(self, folder: Path) -> None:
        """Read the folder and compare all of its files with their checksums.

        Raises:
            TadError: a file is missing or differs, or this version of `tad` resolves other settings.
        """
        self.folder = folder
        document = formats.unmarked(read_json(folder / FILE), folder / FILE, kind=KIND)
        try:
            self._check_files(document["files"])
            self.run, self.config = str(document["run"]), folder / CONFIG
            self.held_out = HeldOut.of(document["held_out"])
            wanted, version = document["settings"], str(document["tad"])
        except TadError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise TadError(
                f"{folder / FILE}: not written by tad export ({error!r:.80}); copy the folder again"
            ) from None
        found = _stages(Config.read(self.config), self.run)
        if found != wanted:
            name, have, other = first_difference("settings", found, wanted)
            raise TadError(
                f"{folder}: released by tad {version:.20} with {name} {other!r:.80}, but this version has {have!r:.80};"
                f" install temporal-action-detection=={version:.20}"
            )

    def _check_files(self, files: Mapping[str, Mapping[str, Any]]) -> None:
        """Compare all files with their checksums; CONFIG must be one of them.

        Raises:
            TadError: a file is missing or differs.
        """
        for name, facts in {CONFIG: files[CONFIG], **files}.items():
            path = self.folder / name
            if not path.is_file():
                raise TadError(f"{path}: missing in the released run; copy the whole folder again")
            if path.stat().st_size != facts["bytes"] or sha256(path) != facts["sha256"]:
                raise TadError(f"{path}: does not match its checksum in {FILE}; copy the folder again")
