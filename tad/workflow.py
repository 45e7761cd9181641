"""What the rules ask: paths, settings, code and content keys for wildcards; torch-free, one object per parse."""

import atexit
import os
from collections.abc import Iterable
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from tad import provenance
from tad.config import Config
from tad.distill import teachers_of
from tad.errors import TadError
from tad.files import HashCache, digest, read_json
from tad.fuse import fused_with
from tad.labels import missing_split, split_file
from tad.video.listing import list_videos, shard_of
from tad.weights import weight_files

IMPORTED = "published checkpoint"  # the epoch rule that tad.training.published writes, whose import would bring torch
KINDS = {"imported": "convert", "extracted": "extract", "joined": "join", "framed": "index"}  # of features, by stage
SCRIPTS = {"render": "workflow_scripts/render_demo.py", "table": "workflow_scripts/results_table.py"}


class Workflow:
    """The configuration as the rules see it. Methods take Snakemake's wildcards, and only jobs of the DAG call them.

    Raises:
        TadError: (from the constructor) a configuration that cannot be right; (from methods) files that are missing.
    """

    def __init__(
        self, values: dict[str, Any], basedir: str | Path, hashes: Path = Path(".snakemake/tad_hashes.json")
    ) -> None:
        self.config = Config(values)
        self.basedir = Path(basedir)
        self.hashes = HashCache(hashes)
        atexit.register(self.hashes.save)
        self._spec = cache(self._spec_uncached)
        self._code = cache(self._code_uncached)
        self._video_keys = cache(self._video_keys_uncached)

    # ── names ──

    def pattern(self, kind: str) -> str:
        """A regular expression of the configured names: `datasets`, `features` (of which `imported`, `extracted`,
        `joined`, `framed`), `runs` (what is trained, so each seed of those with several) or `summaries` (runs with
        several seeds)."""
        names = list(getattr(self.config.file, kind, self.config.file.runs))
        if kind in KINDS:
            names = list(self.config.made_by(KINDS[kind]))
        elif kind == "runs":
            names = [name for run in names for name in self.config.trainings(run)]
        elif kind == "summaries":
            names = [run for run in names if len(self.config.trainings(run)) > 1]
        return "|".join(sorted(names)) or "(?!)"

    def ready_runs(self) -> list[str]:
        """The runs whose videos, annotations and weights are all there (or made by the workflow)."""
        return [run for run in self.config.file.runs if not self._missing(run)]

    def _missing(self, run: str) -> list[str]:
        """What a run still needs, that of the run it is fused with and what its teachers learn from included: a
        trained model needs no teacher any more."""
        row = self.config.run(run)
        needs = self.config.missing(row.dataset, row.features) + self.config.missing_scores(run)
        if other := fused_with(self.config, run):
            needs += self._missing(other.partition("/")[0])
        if not all(_model(training).is_file() for training in self.config.trainings(run)):
            for teacher in sorted(set(teachers_of(self.config, run).values())):
                needs += self._missing(teacher.partition("/")[0])
        return list(dict.fromkeys(needs))

    def require_targets(self, targets: Iterable[str]) -> None:
        """Raise what is missing for the runs whose files are asked for and are not there, before the DAG is built."""
        for target in targets:
            if not target.startswith("results/"):
                continue
            run = target.removeprefix("results/").split("/")[0]
            if run in self.config.file.runs and not Path(target).exists() and (needs := self._missing(run)):
                raise TadError("; ".join(needs))

    @cached_property
    def device(self) -> str:
        """The device asked for; `auto` is settled where the job runs."""
        return self.config.file.device

    @cached_property
    def gpus(self) -> int:
        """GPUs that a job takes: 1 with CUDA asked for or visible, else 0 (so that a cap never slows a CPU machine)."""
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all") not in ("", "-1") and Path("/dev/nvidia0").exists()
        return int(self.device.startswith("cuda") or (self.device == "auto" and visible))

    # ── settings and code ──

    def _names(self, wildcards: Any) -> tuple[str, str, str]:
        return tuple(str(getattr(wildcards, name, "")) for name in ("run", "dataset", "features"))  # type: ignore[return-value]

    def _spec_uncached(self, stage: str, run: str, dataset: str, features: str) -> Any:
        return self.config.spec(stage, run=run, dataset=dataset, features=features)

    def spec(self, stage: str, wildcards: Any) -> str:
        """The stage's whole settings as canonical JSON: what Snakemake compares is what the command receives."""
        return str(self._spec(stage, *self._names(wildcards)).json_text())

    def _code_uncached(self, stage: str, run: str, dataset: str, features: str) -> str:
        return provenance.code(stage, self._spec(stage, run, dataset, features).model_dump(mode="json"))

    def code(self, stage: str, wildcards: Any) -> str:
        """The fingerprint of all code behind the stage."""
        return str(self._code(stage, *self._names(wildcards)))

    def _script_code(self, name: str) -> str:
        return f"{name}@{provenance.file_fingerprint(self.basedir / SCRIPTS[name])}"

    def render_code(self, _wildcards: Any) -> str:
        """The fingerprint of the demo's renderer."""
        return self._script_code("render")

    def table_code(self, _wildcards: Any) -> str:
        """The fingerprint of the table's script."""
        return self._script_code("table")

    # ── annotations and videos ──

    def _generated(self, dataset: str) -> bool:
        return dataset in self.config.generated

    def _render_settings(self, dataset: str) -> dict[str, Any]:
        return self.config.resolve_dataset(dataset).sections["render"]

    def render_settings(self, wildcards: Any) -> str:
        """Arguments of the renderer."""
        return " ".join(f"--{key} {value}" for key, value in sorted(self._render_settings(wildcards.dataset).items()))

    def rendered(self, wildcards: Any) -> list[str]:
        """The renderer's receipt, for datasets that the workflow makes."""
        return [f"results/data/{wildcards.dataset}/dataset.json"] if self._generated(wildcards.dataset) else []

    def annotation_source(self, wildcards: Any) -> str:
        """The annotation file or folder of a dataset."""
        if self._generated(wildcards.dataset):
            return f"results/data/{wildcards.dataset}/annotations.json"
        self.config.require_files(wildcards.dataset, "annotations")
        return self.config.dataset(wildcards.dataset).annotations

    def annotation_content(self, wildcards: Any) -> str:
        """A content key of the annotation files, those that settings `…_file` name included: a file replaced by one
        with an older date is noticed too."""
        if self._generated(wildcards.dataset):
            return "rendered"
        source = Path(self.config.dataset(wildcards.dataset).annotations)
        folder = source if source.is_dir() else source.parent
        settings = self.config.resolve_dataset(wildcards.dataset).sections["settings"]
        named = {key: folder / value for key, value in settings.items() if key.endswith("_file") and value}
        return digest({key: self._content(path) for key, path in {"annotations": source, **named}.items()})

    def _content(self, path: Path) -> str:
        if path.is_file():
            return self.hashes.key(path)
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else []
        return digest({str(p.relative_to(path)): self.hashes.key(p) for p in files})

    def video_folder(self, wildcards: Any) -> str:
        """The folder with a dataset's videos."""
        if self._generated(wildcards.dataset):
            return f"results/data/{wildcards.dataset}/videos"
        self.config.require_files(wildcards.dataset, "videos")
        return self.config.dataset(wildcards.dataset).videos

    def _rendered_keys(self, dataset: str) -> dict[str, str]:
        """Video id → content key as rendered, or "" before rendering."""
        receipt = Path(f"results/data/{dataset}/dataset.json")
        if receipt.is_file():
            return {v: str(facts["content_key"]) for v, facts in read_json(receipt)["videos"].items()}
        return {f"demo_{k:02d}": "" for k in range(int(self._render_settings(dataset)["videos"]))}

    def _video_keys_uncached(self, dataset: str) -> dict[str, str]:
        """Video id → content key. A rendered file that is as it was rendered counts as `rendered`, before it exists and
        after, so that the first run's plan and the second's agree."""
        folder = Path(self.video_folder(_Wildcards(dataset=dataset)))
        listed = list_videos(folder) if folder.is_dir() else {}
        present = dict(zip(listed, self.hashes.keys(folder / path for path in listed.values()), strict=True))
        if not self._generated(dataset):
            return present
        made = self._rendered_keys(dataset)
        as_made = {v for v, key in made.items() if not key or present.get(v) == key}
        absent = {v: "absent" for v in made if v not in present}
        return absent | present | dict.fromkeys(as_made, "rendered")

    def video_content(self, wildcards: Any) -> str:
        """A content key of the videos of one shard; the dates of files do not count."""
        shards = self.config.dataset(wildcards.dataset).shards
        number = int(str(wildcards.shard).split("-")[0])
        keys = self._video_keys(wildcards.dataset)
        return digest({v: key for v, key in sorted(keys.items()) if shard_of(v, shards) == number})

    def _shards(self, dataset: str) -> list[str]:
        count = self.config.dataset(dataset).shards
        return [f"{k:02d}-of-{count:02d}" for k in range(count)]

    def manifests(self, wildcards: Any) -> list[str]:
        """All manifest shards of a dataset."""
        return [f"results/videos/{wildcards.dataset}/{shard}.json" for shard in self._shards(wildcards.dataset)]

    # ── features ──

    def weights(self, wildcards: Any) -> str:
        """The weights of a feature set's backbone: made by pretrain, or put there by the user."""
        row = self.config.file.features[wildcards.features]
        if row.weights == "pretrain":
            return f"results/features/{wildcards.dataset}/{wildcards.features}/backbone.safetensors"
        self.config.require(wildcards.dataset, wildcards.features)
        return row.weights

    def weights_content(self, wildcards: Any) -> str:
        """A content key of weights that the user put there; other files in their folder do not count."""
        row = self.config.file.features[wildcards.features]
        if row.weights == "pretrain":
            return "pretrain"
        files = weight_files(Path(row.weights), self.config.backbone(wildcards.features, wildcards.dataset))
        return digest({path.name: self.hashes.key(path) for path in files})

    def start_weights(self, wildcards: Any) -> list[str]:
        """What a run on frames begins with: the weights that the user put there for its feature set, if any."""
        row = self.config.run(wildcards.run)
        entry = self.config.file.features[row.features]
        return [entry.weights] if entry.made_by == "index" and entry.weights != "pretrain" else []

    def start_content(self, wildcards: Any) -> str:
        """A content key of these weights."""
        row = self.config.run(wildcards.run)
        if not self.start_weights(wildcards):
            return ""
        return self.weights_content(_Wildcards(dataset=row.dataset, features=row.features))

    def feature_source(self, wildcards: Any) -> str:
        """The folder or file of published features."""
        self.config.require(wildcards.dataset, wildcards.features)
        return self.config.file.features[wildcards.features].source

    def feature_content(self, wildcards: Any) -> str:
        """A content key of published features."""
        return self._content(Path(self.config.file.features[wildcards.features].source))

    def shards(self, wildcards: Any) -> list[str]:
        """All feature shards of a feature set."""
        folder = f"results/features/{wildcards.dataset}/{wildcards.features}"
        return [f"{folder}/{shard}.h5" for shard in self._shards(wildcards.dataset)]

    def joined_parts(self, wildcards: Any) -> list[str]:
        """The indices that a feature set is joined from, in the order of its channels."""
        self.config.require(wildcards.dataset, wildcards.features)
        parts = self.config.parts(wildcards.features)
        return [f"results/features/{wildcards.dataset}/{part}.h5" for part in parts]

    # ── runs ──

    def features_of(self, wildcards: Any) -> str:
        """The feature index that a run reads."""
        row = self.config.run(wildcards.run)
        self.config.require(row.dataset, row.features)
        return f"results/features/{row.dataset}/{row.features}.h5"

    def fused_models(self, wildcards: Any) -> list[str]:
        """The model of the run whose raw outputs are averaged with this one's, if there is one."""
        other = fused_with(self.config, wildcards.run)
        return [f"results/{other}/model.safetensors"] if other else []

    def fused_features(self, wildcards: Any) -> list[str]:
        """The feature index that it reads."""
        other = fused_with(self.config, wildcards.run)
        return [self.features_of(_Wildcards(run=other))] if other else []

    def final(self, wildcards: Any) -> bool:
        """Whether nothing that is newer than the run's model makes it out of date: a published checkpoint, or a student
        without what its teachers learn from.

        Raises:
            TadError: what lies in the model's place was not made by `tad`.
        """
        model = _model(wildcards.run)
        if not model.is_file():
            return False
        return provenance.read_stamp(model).get("epoch_rule") == IMPORTED or self._untaught(wildcards.run)

    def _untaught(self, run: str) -> bool:
        teachers = teachers_of(self.config, run).values()
        return any(self._missing(teacher.partition("/")[0]) for teacher in teachers)

    def _teachers(self, run: str) -> list[str]:
        """The trainings that a run learns from; none where it is trained and what they learn from is not there."""
        base, teachers = run.partition("/")[0], list(teachers_of(self.config, run).values())
        if _model(run).is_file() and self._untaught(run):
            return []
        for teacher in teachers:
            if needs := self._missing(teacher.partition("/")[0]):
                raise TadError(f"run {base} learns from run {teacher}: {'; '.join(needs)}")
        return teachers

    def teachers(self, wildcards: Any) -> list[str]:
        """The models of a run's teachers, which are trained first."""
        return [str(_model(teacher)) for teacher in self._teachers(wildcards.run)]

    def teacher_features(self, wildcards: Any) -> list[str]:
        """The feature index that each of them reads."""
        return [self.features_of(_Wildcards(run=teacher)) for teacher in self._teachers(wildcards.run)]

    def video_scores(self, wildcards: Any) -> list[str]:
        """The class scores of whole videos that a run's detections are combined with: none, its own, or a file."""
        self.config.require_scores(wildcards.run)
        source = self.config.external_scores(wildcards.run)
        return [f"results/{wildcards.run}/video_scores.json" if source == "own" else source] if source else []

    def video_scores_content(self, wildcards: Any) -> str:
        """The content of such a file; empty for scores that the workflow makes."""
        source = self.config.external_scores(wildcards.run)
        return "" if source in ("", "own") else self._content(self.config.root / source)

    def labels_content(self, wildcards: Any) -> str:
        """The content of the file that says which of a run's train videos have labels; empty without one."""
        labels = self.config.run(wildcards.run).labels
        if needs := missing_split(self.config.root, wildcards.run, labels):
            raise TadError(needs[0])
        file = split_file(labels)
        return self._content(self.config.root / file) if file else ""

    def seed_scores(self, wildcards: Any) -> list[str]:
        """The scores of each seed of a run."""
        return [f"results/{name}/map.json" for name in self.config.trainings(wildcards.run)]

    def seed_detections(self, wildcards: Any) -> list[str]:
        """The detections of each seed of a run."""
        return [f"results/{name}/detections.json" for name in self.config.trainings(wildcards.run)]

    def annotations_of(self, wildcards: Any) -> str:
        """The annotation table that a run reads."""
        row = self.config.run(wildcards.run)
        self.config.require(row.dataset, row.features)
        return f"results/annotations/{self.config.run(wildcards.run).dataset}.json"


def _model(run: str) -> Path:
    return Path(f"results/{run}/model.safetensors")


class _Wildcards:
    def __init__(self, **values: str) -> None:
        self.__dict__.update(values)
