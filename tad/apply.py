"""A trained run and any videos → their detections, in one command: `tad apply demo my_video.mp4 --out found.json`.

The same stages as in the workflow, one after the other, with the run's settings, backbone and detector. What they make
is kept in `results/<run>/apply/`, so that a command that was ended goes on, and only new videos are decoded.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tad.annotations import Table, Video, write_table
from tad.config import Config
from tad.errors import TadError
from tad.files import digest, read_json
from tad.provenance import expect, stamp
from tad.specs import DetectStageSpec, ExtractSpec, JoinSpec, MergeSpec, ProbeSpec, SuppressStageSpec
from tad.video.listing import list_videos

SHOWN = 3  # detections of a video that are printed


def _folder(videos: Path, work: Path) -> Path:
    """The folder of the videos; of one file, a folder with a link to it alone."""
    if videos.is_dir():
        return videos
    if not videos.is_file():
        raise TadError(f"{videos}: no such video or folder of videos")
    folder = work / "video"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    (folder / videos.name).symlink_to(videos.resolve())
    if not list_videos(folder):
        raise TadError(f"{videos}: not a video's name; give it the extension of what it is, such as .mp4")
    return folder


def _weights(settings: Config, dataset: str, features: str) -> Path:
    row = settings.file.features[features]
    if row.made_by == "convert":
        raise TadError(f"features.{features}: published for given videos; a run that extracts its own can be applied")
    if row.made_by == "index":
        raise TadError(f"features.{features}: frames; a run that extracts features can be applied")
    path = settings.root / row.weights
    if row.weights == "pretrain":
        path = settings.root / f"results/features/{dataset}/{features}/backbone.safetensors"
    if not path.exists():
        raise TadError(f"{path}: no such weights; make or fetch them as a dry run of the workflow says")
    return path


@dataclass(frozen=True)
class _Given:
    """Videos whose features are made, and where they are kept."""

    settings: Config
    dataset: str
    folder: Path
    manifest: Path
    work: Path
    device: str

    def features(self, name: str, weights: dict[str, Path]) -> Path:
        """The index of a feature set, of its parts' where it is joined."""
        from tad.stages.join import join

        parts = self.settings.parts(name)
        if parts == [name]:
            return self._extracted(name, weights[name], self.work)
        indices = [self._extracted(part, weights[part], self.work / part) for part in parts]
        spec = cast(JoinSpec, self.settings.spec("join", dataset=self.dataset, features=name))
        return join(indices, self.work / "features.h5", spec=spec)

    def _extracted(self, name: str, weights: Path, work: Path) -> Path:
        from tad.stages.extract import extract
        from tad.stages.merge import merge

        names = {"dataset": self.dataset, "features": name}
        shard = extract(
            self.manifest, self.folder, weights, work / "00-of-01.h5",
            spec=cast(ExtractSpec, self.settings.spec("extract", **names)), kept=work / ".kept" / "features",
            device=self.device,
        )  # fmt: skip
        spec = cast(MergeSpec, self.settings.spec("merge", **names))
        return merge([shard], [self.manifest], work / "features.h5", spec=spec)


def _table(work: Path, manifest: Path, labels: list[str], settings: Config, dataset: str) -> Path:
    """The videos of the manifest as a test split without instances."""
    found = read_json(manifest)["videos"]
    videos = {video_id: Video("test", entry.get("duration")) for video_id, entry in found.items()}
    spec = settings.spec("annotate", dataset=dataset).model_dump(mode="json")
    made = stamp("annotate", spec, {"videos": digest(sorted(videos))})
    return write_table(Table(dataset, tuple(labels), videos), work / "annotations.json", made)


def apply(
    run: str, videos: Path, out: Path, *, config: Path = Path("config.yaml"), device: str = "cpu"
) -> Iterator[str]:
    """Write the detections in `videos` and yield a line for each video.

    Args:
        run: name in `runs`, trained before; of several seeds the first.
        videos: a video or a folder of them.
        out: results file in ActivityNet's format.
        device: see `tad.device.leased`.

    Raises:
        TadError: the run's model or weights are not there, its features were published, it labels its detections with
            scores from outside, or no video can be read.
    """
    from tad.stages.detect import detect
    from tad.stages.probe import probe
    from tad.stages.suppress import suppress
    from tad.training.checkpoint import read_json_field, read_tensors

    settings = Config.read(config)
    row, name = settings.run(run), settings.trainings(run)[0]
    if row.external:
        raise TadError(f"runs.{run}: its labels come from scores of its own videos; apply a row without `external`")
    model = settings.root / "results" / name / "model.safetensors"
    if not model.is_file():
        raise TadError(f"{model}: no such file; train it with `snakemake {model}`")
    names = {"dataset": row.dataset, "features": row.features}
    weights = {part: _weights(settings, row.dataset, part) for part in settings.parts(row.features)}
    plan = cast(DetectStageSpec, settings.spec("detect", run=name)).model_copy(update={"exclude": {}, "split": "test"})
    expect(model, stage="train", **names, detector=plan.detector.model_dump(mode="json"))  # before hours of extraction
    labels = read_json_field(model, read_tensors(model)[1], "labels", list)
    work = settings.root / "results" / name / "apply"
    folder = _folder(Path(videos), work)
    manifest = probe(
        folder, work / "00-of-01.json",
        spec=cast(ProbeSpec, settings.spec("probe", dataset=row.dataset)), kept=work / ".kept" / "manifest.json",
    )  # fmt: skip
    entries = read_json(manifest)["videos"]
    if not any(entry["status"] == "ok" for entry in entries.values()):
        why = "; ".join(f"{video_id}: {entry['cause']}" for video_id, entry in entries.items()) or "there is none"
        raise TadError(f"{videos}: no video can be read ({why})")
    index = _Given(settings, row.dataset, folder, manifest, work, device).features(row.features, weights)
    table = _table(work, manifest, [str(label) for label in labels], settings, row.dataset)
    candidates = detect(index, model, table, work / "candidates.h5", spec=plan, device=device)
    suppress(candidates, out, spec=cast(SuppressStageSpec, settings.spec("suppress", run=name)), device=device)
    yield from _lines(out)


def _lines(out: Path) -> Iterator[str]:
    """What was found, video by video."""
    found = read_json(out)
    for video_id, rows in sorted(found["results"].items()):
        best = [f"{r['label']} {r['segment'][0]:.1f}-{r['segment'][1]:.1f} s ({r['score']:.2f})" for r in rows[:SHOWN]]
        yield f"{video_id}: {len(rows)} detections" + (f", first {', '.join(best)}" if best else "")
    for video_id, cause in sorted(found["excluded"].items()):
        yield f"{video_id}: left out: {cause}"
