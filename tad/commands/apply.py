"""Detect actions in any videos with a trained run: `tad apply demo my_video.mp4 --out detections.json`.

It runs the stages of the workflow one after the other, with the run's settings, backbone and detector. Intermediate
results are cached in `results/<run>/apply/`, so an interrupted command resumes, and only new videos are decoded.
"""

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tad.annotations.table import Table, Video, write_table
from tad.commands.apply_outputs import Applied, Cut, Request, held_out, write_all
from tad.core.errors import MissingError, TadError
from tad.core.files import content_key, digest, read_json
from tad.provenance.stamps import expect, stamp
from tad.settings.adapters import encoders_of
from tad.settings.config import Config
from tad.settings.paths import command_of, path_of
from tad.settings.stages import (
    DetectStageSpec,
    ExtractSpec,
    IndexSpec,
    JoinSpec,
    MergeSpec,
    ProbeSpec,
    SuppressStageSpec,
)
from tad.video.listing import list_videos
from tad.weights.published import missing_weights, weights_of

if TYPE_CHECKING:
    from tad.commands.release import Released
    from tad.metrics.threshold import HeldOut
    from tad.video.scanning import Scan

STILL = 3  # looks at files that no longer grow, before `--every` ends
PATIENCE = 60.0  # seconds that a file may rest, at least


def _folder(videos: Sequence[Path], work: Path) -> Path:
    """Return the folder of the videos; for files, or several folders, a folder with links to them."""
    for path in videos:
        if not path.exists():
            raise TadError(f"{path}: no such video or folder of videos; give the path of one that exists")
    if len(videos) == 1 and videos[0].is_dir():
        return videos[0]
    folder = work / "video"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for path in videos:
        files = [path / name for name in list_videos(path).values()] if path.is_dir() else [path]
        for file in files:
            link = folder / file.name
            if link.is_symlink():
                raise TadError(
                    f"{file}: a second video of this name ({link.resolve()}); rename one, or apply the run to them"
                    " separately"
                )
            link.symlink_to(file.resolve())
    listed = set(list_videos(folder).values())
    for path in videos:
        if path.is_file() and path.name not in listed:
            raise TadError(f"{path}: the extension is not that of a video; if it is one, rename it, such as to .mp4")
    return folder


def _weights(settings: Config, dataset: str, features: str) -> Path:
    """Return the weights of the backbone of a feature set.

    Raises:
        TadError: it has no backbone, or the weights do not exist.
    """
    row = settings.file.features[features]
    if row.made_by == "convert":
        raise TadError(f"features.{features}: imported features; apply a run that extracts its own features")
    if row.made_by == "encode":
        raise TadError(f"features.{features}: made by the encoder of run {row.run}; apply a run that extracts features")
    path = weights_of(settings, dataset, features)
    if not path.exists():
        if row.weights == "pretrain":
            raise TadError(f"{path}: no such weights; make them with `{command_of(path, root=settings.root)}`")
        how = missing_weights(settings.root, row.weights, settings.backbone(features, dataset))
        raise MissingError(f"{path}: no such weights; {'; '.join(how)}")
    return path


@dataclass(frozen=True)
class _Given:
    """The given videos, and the folder where their features are cached."""

    settings: Config
    dataset: str
    folder: Path
    manifest: Path
    work: Path
    device: str
    growing: bool = False

    def features(self, name: str, weights: dict[str, Path]) -> Path:
        """Extract a feature set and return its index; for a joined one, extract and join its parts.

        Of frames only the index is written; they are decoded during detection.
        """
        from tad.stages.join import join

        parts = self.settings.parts(name)
        if self.settings.feature_set(name).made_by == "index":
            return self._indexed(name)
        if parts == [name]:
            return self._extracted(name, weights[name], self.work)
        indices = [self._extracted(part, weights[part], self.work / part) for part in parts]
        spec = cast(JoinSpec, self.settings.spec("join", dataset=self.dataset, features=name))
        return join(indices, self.work / "features.h5", spec=spec)

    def _indexed(self, name: str) -> Path:
        from tad.stages.index import index

        spec = cast(IndexSpec, self.settings.spec("index", dataset=self.dataset, features=name))
        return index([self.manifest], self.folder, self.work / "features.h5", spec=spec)

    def _extracted(self, name: str, weights: Path, work: Path) -> Path:
        from tad.stages.extract import extract
        from tad.stages.merge import merge

        names = {"dataset": self.dataset, "features": name}
        shard = extract(
            self.manifest, self.folder, weights, work / "00-of-01.h5",
            spec=cast(ExtractSpec, self.settings.spec("extract", **names)), cache=work / ".kept" / "features",
            device=self.device, growing=self.growing,
        )  # fmt: skip
        spec = cast(MergeSpec, self.settings.spec("merge", **names))
        return merge([shard], [self.manifest], work / "features.h5", spec=spec)


def _table(work: Path, manifest: Path, labels: list[str], settings: Config, dataset: str) -> Path:
    """Write an annotation table with the manifest's videos as test split, without instances."""
    entries = read_json(manifest)["videos"]
    videos = {video_id: Video("test", entry.get("duration")) for video_id, entry in entries.items()}
    spec = settings.spec("annotate", dataset=dataset).model_dump(mode="json")
    stamped = stamp("annotate", spec, {"videos": digest(sorted(videos))})
    return write_table(Table(dataset, tuple(labels), videos), work / "annotations.json", stamped)


@dataclass(frozen=True)
class Trained:
    """A run that can be applied: its model, checked against the settings, and the weights of its encoders.

    `weights` has those of each extracted feature set, and those of the encoder that adapters are in.
    """

    settings: Config
    run: str
    name: str
    model: Path
    weights: dict[str, Path]
    plan: DetectStageSpec
    labels: list[str]
    device: str
    work: Path
    released: "Released | None" = None

    def held_out(self) -> "HeldOut":
        """Return the detections on held-out videos that thresholds are chosen by."""
        return self.released.held_out if self.released else held_out(self.settings, self.name, self.model)

    def detect(self, videos: Sequence[Path], out: Path, *, growing: bool = False) -> Applied:
        """Write the detections in `videos`; `growing`: reuse the features of files that have only grown at their ends.

        Raises:
            TadError: no video can be read.
        """
        from tad.stages.detect import detect
        from tad.stages.probe import probe
        from tad.stages.suppress import suppress

        settings, row = self.settings, self.settings.run(self.run)
        work = self.work
        folder = _folder(videos, work)
        probing = cast(ProbeSpec, settings.spec("probe", dataset=row.dataset))
        self._decode_once(folder, probing, growing)
        manifest = probe(folder, work / "00-of-01.json", spec=probing, cache=work / ".kept" / "manifest.json")
        entries: dict[str, dict[str, Any]] = read_json(manifest)["videos"]
        if not any(entry["usable"] for entry in entries.values()):
            why = "; ".join(f"{video_id}: {entry['cause']}" for video_id, entry in entries.items()) or "there is none"
            remedy = "repair or download it again" if entries else "give a folder with videos (.mp4, .avi, .mkv, …)"
            raise TadError(f"{', '.join(map(str, videos))}: no video can be read ({why}); {remedy}")
        given = _Given(settings, row.dataset, folder, manifest, work, self.device, growing)
        index = given.features(row.features, self.weights)
        table = _table(work, manifest, self.labels, settings, row.dataset)
        encoder = self.weights[row.adapters.encoder] if row.adapters else None
        candidates = detect(
            index, self.model, table, work / "candidates.h5", spec=self.plan, device=self.device, encoder=encoder,
            any_length=True,
        )  # fmt: skip
        spec = cast(SuppressStageSpec, settings.spec("suppress", run=self.name))
        suppress(candidates, out, spec=spec, device=self.device)
        files = {video_id: folder / path for video_id, path in list_videos(folder).items()}
        durations = {video_id: entry.get("duration") for video_id, entry in entries.items()}
        return Applied(settings, self.name, self.model, self.labels, out, files, durations, work)

    def _decode_once(self, folder: Path, probing: ProbeSpec, growing: bool) -> None:
        """Extract the features of new videos while they are decoded for probing, and cache both results.

        `probe` and `extract` then find them cached. What cannot be read in this way (other readers, frames above 8 MB,
        a damaged file, a rate other than the header states, further parts of a joined set) they decode as always.
        """
        from tad.stages.extract import extract_unprobed
        from tad.stages.probe import judged, remember, unprobed

        first, *others = self.settings.parts(self.settings.run(self.run).features)
        if probing.reader != "pyav" or self.settings.feature_set(first).made_by != "extract":
            return
        known, dataset = self.work / ".kept" / "manifest.json", self.settings.run(self.run).dataset
        before = {v: content_key(folder / path) for v, path in list_videos(folder).items() if (folder / path).is_file()}
        new = unprobed(folder, spec=probing, cache=known)
        if not new:
            return
        found: dict[str, dict[str, Any]] = {}

        def judge(video_id: str, scan: "Scan") -> dict[str, Any] | None:
            if content_key(folder / new[video_id]["path"]) != before[video_id]:
                return None
            found[video_id] = judged(folder, new[video_id], scan, probing)
            return found[video_id]

        try:
            extract_unprobed(
                new, folder, self.weights[first],
                spec=cast(ExtractSpec, self.settings.spec("extract", dataset=dataset, features=first)),
                cache=(self.work / first if others else self.work) / ".kept" / "features", judge=judge,
                max_pixels=probing.max_pixels, device=self.device, growing=growing,
            )  # fmt: skip
        finally:  # also when interrupted
            remember(found, spec=probing, cache=known)


def work_of(settings: Config, name: str, *, released: bool = False) -> Path:
    """Return the folder of cached results: below the current folder for a released run, which may be read-only."""
    return path_of("apply", root=Path() if released else settings.root, run=name)


def trained(run: str, config: Path, device: str) -> Trained:
    """Check everything that can be checked before hours of extraction.

    Args:
        run: name of a run, or the folder of a released one.
        config: the configuration file; a released run has its own.
        device: see `tad.core.device.leased`.
    """
    from tad.commands.release import Released, is_release

    released = Released(Path(run)) if is_release(run) else None
    if released:
        run, config = released.run, released.config
    settings = Config.read(config)
    return trained_run(run, settings, device, released)


def trained_runs(run: str, settings: Config, device: str) -> list[Trained]:
    """Return every training of a run, as `trained` returns the first one; all share the cached features.

    Raises:
        TadError: see `apply`.
    """
    work = work_of(settings, settings.trainings(run)[0])
    return [replace(trained_run(run, settings, device, None, name), work=work) for name in settings.trainings(run)]


def trained_run(run: str, settings: Config, device: str, released: "Released | None" = None, name: str = "") -> Trained:
    """Return a run that can be applied, after checking everything that can be checked before hours of extraction.

    Args:
        run: name of the run.
        settings: its configuration.
        device: see `tad.core.device.leased`.
        released: the released run that the configuration is of.
        name: one of the run's trainings; the first by default.

    Raises:
        TadError: the run's model or weights do not exist, its features were imported, it needs external scores,
            or it averages the outputs of two networks.
    """
    from tad.training.io.tensors import read_json_field, read_tensors

    row, name = settings.run(run), name or settings.trainings(run)[0]
    if row.external:
        raise TadError(f"runs.{run}: needs scores of whole videos (`external`); apply a run without `external`")
    model = path_of("train", root=settings.root, run=name)
    if not model.is_file():
        raise TadError(f"{model}: no such file; train it with `{command_of(model, root=settings.root)}`")
    weights = {part: _weights(settings, row.dataset, part) for part in encoders_of(settings, run)}
    plan = cast(DetectStageSpec, settings.spec("detect", run=name)).model_copy(update={"exclude": {}, "split": "test"})
    if plan.detect.fuse:
        raise TadError(
            f"runs.{run}: averages its outputs with those of '{plan.detect.fuse}'; apply a run without `fuse`"
        )
    detector = plan.detector.model_dump(mode="json")
    expect(model, stage="train", dataset=row.dataset, features=row.features, detector=detector)
    labels = [str(label) for label in read_json_field(model, read_tensors(model)[1], "labels", list)]
    work = work_of(settings, name, released=released is not None)
    return Trained(settings, run, name, model, weights, plan, labels, device, work, released)


def apply(
    run: str,
    videos: Path | Sequence[Path],
    out: Path,
    *,
    to: str = "json",
    score: float | None = None,
    precision: float | None = None,
    confidence: float = 0.9,
    every: str = "",
    config: Path = Path("config.yaml"),
    device: str = "cpu",
) -> Iterator[str]:
    """Write the detections in `videos` and yield a line for each video.

    Args:
        run: name of a trained run, of whose seeds the first is used, or folder of a released run.
        videos: videos or folders of videos.
        out: file or folder to write, see `tad.commands.apply_outputs`.
        to: formats, separated by commas.
        score: detections with a lower score are left out.
        precision: instead of `score`: the precision that the threshold guarantees.
        confidence: confidence level of this guarantee.
        every: look at growing files again after this time, such as 5s, until they rest.
        config: the configuration file.
        device: see `tad.core.device.leased`.

    Raises:
        TadError: the run's model or weights do not exist, its features were imported, it needs external scores of whole
            videos, no video can be read, or the threshold or format cannot be used.
    """
    given = [Path(videos)] if isinstance(videos, str | Path) else [Path(path) for path in videos]
    pause = _seconds(every) if every else 0.0
    applied = trained(run, Path(config), device)
    request = Request.checked(to, Path(out), score=score, precision=precision, confidence=confidence)
    threshold = request.threshold(applied.held_out)
    if not pause:
        yield from write_all(applied.detect(given, request.detections(applied.work)), request, threshold)
        return
    yield from _watch(applied, given, request, threshold, pause)


def _seconds(text: str) -> float:
    """Parse a time such as 5s, 0.5m or 5."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|h)?", text.strip())
    if match is None or not float(match[1]):
        raise TadError(f"--every {text}: give a time such as 5s or 2m")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2] or "s"]


def _watch(
    applied: Trained, videos: list[Path], request: Request, threshold: "Cut | None", pause: float
) -> Iterator[str]:
    """Detect again whenever a file has grown; end when all have rested."""
    seen: dict[str, str] = {}
    rested, limit = 0, max(STILL, round(PATIENCE / pause))
    while rested < limit:
        files = [file for path in videos for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
        now = {str(file): content_key(file) for file in files if file.is_file()}
        if now == seen:
            rested += 1
        else:
            rested, seen = 0, now
            try:
                found = applied.detect(videos, request.detections(applied.work), growing=True)
                yield from write_all(found, request, threshold)
            except TadError as error:  # a file that is being written may not be readable yet
                yield f"not yet: {error}"
        time.sleep(pause)
    yield f"nothing has grown for {rested * pause:g} s"
