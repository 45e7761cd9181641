"""Input functions of the Snakemake rules: paths, settings, code fingerprints and content keys by wildcards.

The module does not import torch. Each parse of the Snakefile creates one `Workflow`.
"""

import atexit
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from tad.core.errors import MissingError, TadError
from tad.core.files import HashCache, digest
from tad.core.ids import LABEL_EXTENSIONS
from tad.core.lanes import MOST
from tad.provenance import fingerprint
from tad.provenance.sources import Sources
from tad.settings.config import Config
from tad.settings.include import with_types, written_in
from tad.settings.paths import RESULTS, path_of, run_of
from tad.weights.published import located, weight_files
from tad.workflow.missing import missing_of_run, require, require_files
from tad.workflow.pages import PageInputs
from tad.workflow.runs import RunInputs, Wildcards
from tad.workflow.videos import Videos

log = logging.getLogger(__name__)
KINDS = {
    "imported": "convert",
    "extracted": "extract",
    "joined": "join",
    "framed": "index",
    "encoded": "encode",
}  # features: kind → stage
SCRIPTS = {"render": "workflow_scripts/render_demo.py", "table": "workflow_scripts/results_table.py"}


def share_of_cores(cores: int, shards: int) -> int:
    """Return the cores of each shard's extraction; see `Workflow.share_of_cores`."""
    return max(min(cores // shards, MOST), 1)


class Workflow(PageInputs, RunInputs):
    """The configuration for the rules. Methods take Snakemake's wildcards and are called only for jobs of the DAG.

    Raises:
        TadError: the configuration is invalid (constructor), or files are missing (methods).
    """

    def __init__(
        self,
        values: dict[str, Any],
        basedir: str | Path,
        hashes: Path = Path(".snakemake/tad_hashes.json"),
        *,
        files: Sequence[Path] = (),
        dry: Callable[[], bool] = bool,
    ) -> None:
        """Read the configuration for one parse of the Snakefile.

        Args:
            values: `config` as merged by Snakemake.
            basedir: the folder of the Snakefile.
            hashes: the file in which content keys are cached.
            files: the configuration files merged into `values`, later ones taking precedence; by default `values`.
            dry: returns whether this is a dry run, see `tad.workflow.videos`; by default it is not.
        """
        written, folder, all_written = written_in(files) if files else (values, Path(), values)
        self.config = Config(with_types(values, all_written), written=written, folder=folder)
        self.basedir = Path(basedir)
        self.hashes = HashCache(hashes)
        self.videos = Videos(self.config, self.hashes, dry=dry)
        self.sources = Sources(fingerprint.ROOT)
        self.package = fingerprint.Code(self.sources)
        atexit.register(self.hashes.save)
        atexit.register(self.sources.save)
        self._spec = cache(self._spec_uncached)
        self._code = cache(self._code_uncached)

    # ── names ──

    def pattern(self, kind: str) -> str:
        """Return a regular expression that matches the configured names of a kind.

        The kinds are `datasets`, `features` (and its subsets `imported`, `extracted`, `joined`, `framed`, `encoded`),
        `runs` (all trainings, i.e. one per seed), `summaries` (runs with several seeds) and `pages` (both).
        """
        names = list(getattr(self.config.file, kind, self.config.file.runs))
        if kind in KINDS:
            names = list(self.config.made_by(KINDS[kind]))
        elif kind == "runs":
            names = [name for run in names for name in self.config.trainings(run)]
        elif kind == "pages":
            names = [name for run in names for name in {run, *self.config.trainings(run)}]
        elif kind == "summaries":
            names = [run for run in names if len(self.config.trainings(run)) > 1]
        return "|".join(sorted(names)) or "(?!)"

    def ready_runs(self) -> list[str]:
        """Return the runs of config.yaml itself whose videos, annotations and weights exist or come from the workflow.

        Included rows are made only when requested by name: plain `snakemake` must not train a whole model zoo.
        """
        own = [run for run in self.config.file.runs if not self.config.included.file_of("runs", run)]
        return [run for run in own if not missing_of_run(self.config, run)]

    def require_targets(self, targets: Iterable[str]) -> None:
        """Check, before the DAG is built, existing models, and the inputs of runs whose requested files do not exist.

        Models are checked here because Snakemake drops the error of an input function if the output exists.

        Raises:
            TadError: inputs of a run are missing, or the model of a requested run is unreadable. Without targets, all
                runs are requested. The unreadable models of other runs are only logged.
        """
        targets = list(targets)
        files = [target for target in targets if Path(target).parts[:1] == (RESULTS,)]
        requested = {run_of(target) for target in files} if files else set(self.config.file.runs)
        for run in self.config.file.runs:
            try:
                self.final(Wildcards(run=run))
            except TadError as error:
                if run in requested:
                    raise
                log.warning("%s", error)
        for target in targets:
            run = run_of(target)
            if run not in self.config.file.runs or Path(target).exists():
                continue
            if needs := missing_of_run(self.config, run):
                raise MissingError("; ".join(needs))

    @cached_property
    def device(self) -> str:
        """The configured device; `auto` is resolved where the job runs."""
        return self.config.file.device

    @cached_property
    def gpus(self) -> int:
        """GPUs per job: 1 if CUDA is configured or visible, else 0, so that a GPU limit never slows a CPU machine."""
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all") not in ("", "-1") and Path("/dev/nvidia0").exists()
        return int(self.device.startswith("cuda") or (self.device == "auto" and visible))

    # ── settings and code ──

    def _names(self, wildcards: Wildcards) -> tuple[str, str, str]:
        return tuple(str(getattr(wildcards, name, "")) for name in ("run", "dataset", "features"))  # type: ignore[return-value]

    def _spec_uncached(self, stage: str, run: str, dataset: str, features: str) -> Any:
        return self.config.spec(stage, run=run, dataset=dataset, features=features)

    def spec(self, stage: str, wildcards: Wildcards) -> str:
        """Return all settings of the stage as canonical JSON, which Snakemake compares and the command receives."""
        return str(self._spec(stage, *self._names(wildcards)).json_text())

    def _code_uncached(self, stage: str, run: str, dataset: str, features: str) -> str:
        return self.package.of_stage(stage, self._spec(stage, run, dataset, features).model_dump(mode="json"))

    def threads(self, stage: str, wildcards: Wildcards) -> int:
        """Return the CPU threads of train, detect, classify or pretrain, which are a setting and not the machine's."""
        settings = self._spec(stage, *self._names(wildcards))
        return int(getattr(settings, stage, settings).threads)

    def share_of_cores(self, wildcards: Wildcards, cores: int) -> int:
        """Return the cores of each shard's extraction: their share if they are fewer than the cores, at most `MOST`.

        The features do not depend on it.
        """
        return share_of_cores(cores, len(self.videos.shards(wildcards.dataset)))

    def code(self, stage: str, wildcards: Wildcards) -> str:
        """Return the fingerprint of all code that the stage uses."""
        return str(self._code(stage, *self._names(wildcards)))

    def _script_code(self, name: str) -> str:
        return f"{name}@{self.package.file_fingerprint(self.basedir / SCRIPTS[name])}"

    def render_code(self, _wildcards: Wildcards) -> str:
        """Return the fingerprint of the script that renders the demo."""
        return self._script_code("render")

    def table_code(self, _wildcards: Wildcards) -> str:
        """Return the fingerprint of the script that renders the table of results."""
        return self._script_code("table")

    # ── annotations and videos ──

    def render_settings(self, wildcards: Wildcards) -> str:
        """Return the command-line arguments of the renderer."""
        settings = self.videos.render_settings(wildcards.dataset)
        return " ".join(f"--{key} {value}" for key, value in sorted(settings.items()))

    def rendered(self, wildcards: Wildcards) -> list[str]:
        """Return the renderer's receipt for a generated dataset; empty for others."""
        return [str(path_of("rendered", dataset=wildcards.dataset))] if self.videos.generated(wildcards.dataset) else []

    def annotation_source(self, wildcards: Wildcards) -> str:
        """Return the annotation file or folder of a dataset."""
        if self.videos.generated(wildcards.dataset):
            return str(path_of("rendered_annotations", dataset=wildcards.dataset))
        require_files(self.config, wildcards.dataset, "annotations")
        return self.config.dataset(wildcards.dataset).annotations

    def annotation_content(self, wildcards: Wildcards) -> str:
        """Return a content key of the annotation files, including those named in `…_file` settings.

        Unlike a comparison of dates, it also detects a file that was replaced by an older one.
        """
        if self.videos.generated(wildcards.dataset):
            return "rendered"
        source = Path(self.config.dataset(wildcards.dataset).annotations)
        folder = source if source.is_dir() else source.parent
        settings = self.config.resolve_dataset(wildcards.dataset).sections["settings"]
        files = {key: value for key, value in settings.items() if key.endswith("_file") and value}
        named = {key: folder / Path(value).expanduser() for key, value in files.items()}
        keys = {"annotations": self.content(source, LABEL_EXTENSIONS)}
        return digest(keys | {key: self.content(path) for key, path in named.items()})

    def video_folder(self, wildcards: Wildcards) -> str:
        """Return the folder of a dataset's videos."""
        return self.videos.folder(wildcards.dataset)

    def video_content(self, wildcards: Wildcards) -> str:
        """Return a content key of the videos of one shard, independent of file dates."""
        return self.videos.content(wildcards.dataset, str(wildcards.shard))

    def manifests(self, wildcards: Wildcards) -> list[str]:
        """Return all manifest shards of a dataset."""
        dataset = wildcards.dataset
        return [str(path_of("probe", dataset=dataset, shard=shard)) for shard in self.videos.shards(dataset)]

    # ── features ──

    def weights(self, wildcards: Wildcards) -> str:
        """Return the weights of a feature set's backbone: the output of pretrain, or files supplied by the user."""
        row = self.config.file.features[wildcards.features]
        if row.weights == "pretrain":
            return str(path_of("pretrain", dataset=wildcards.dataset, features=wildcards.features))
        require(self.config, wildcards.dataset, wildcards.features)
        return str(located(row.weights, self.config.backbone(wildcards.features, wildcards.dataset)))

    def weights_content(self, wildcards: Wildcards) -> str:
        """Return a content key of user-supplied weights; other files in their folder are ignored."""
        row = self.config.file.features[wildcards.features]
        if row.weights == "pretrain":
            return "pretrain"
        backbone = self.config.backbone(wildcards.features, wildcards.dataset)
        return digest({p.name: self.hashes.key(p) for p in weight_files(located(row.weights, backbone), backbone)})

    def feature_source(self, wildcards: Wildcards) -> str:
        """Return the folder or file of published features."""
        require(self.config, wildcards.dataset, wildcards.features)
        return self.config.file.features[wildcards.features].source

    def feature_content(self, wildcards: Wildcards) -> str:
        """Return a content key of published features."""
        return self.content(Path(self.config.file.features[wildcards.features].source))

    def shards(self, wildcards: Wildcards) -> list[str]:
        """Return all feature shards of a feature set."""
        dataset, features = wildcards.dataset, wildcards.features
        shards = self.videos.shards(dataset)
        return [str(path_of("extract", dataset=dataset, features=features, shard=shard)) for shard in shards]

    def encoding_run(self, wildcards: Wildcards) -> Wildcards:
        """Return the training whose encoder computes a feature set, as wildcards."""
        spec = self._spec("encode", "", wildcards.dataset, wildcards.features)
        return Wildcards(dataset=wildcards.dataset, features=spec.frame_set, run=spec.run)

    def encoding_model(self, wildcards: Wildcards) -> str:
        """Return the model whose encoder computes a feature set."""
        return str(path_of("train", run=self.encoding_run(wildcards).run))

    def encoding_frames(self, wildcards: Wildcards) -> str:
        """Return the frame index of the videos that the encoder of a run sees."""
        names = self.encoding_run(wildcards)
        require(self.config, names.dataset, names.features)
        return str(path_of("features", dataset=names.dataset, features=names.features))

    def encoding_weights(self, wildcards: Wildcards) -> list[str]:
        """Return the frozen weights of that encoder."""
        return self.encoder_weights(self.encoding_run(wildcards))

    def joined_parts(self, wildcards: Wildcards) -> list[str]:
        """Return the feature indices that a joined feature set consists of, in the order of its channels."""
        require(self.config, wildcards.dataset, wildcards.features)
        parts = self.config.parts(wildcards.features)
        return [str(path_of("features", dataset=wildcards.dataset, features=part)) for part in parts]
