"""`tad.load`: a trained run that detects actions in videos."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tad.api.detections import Detection, Detections
from tad.core.errors import TadError
from tad.core.files import read_json
from tad.settings.config import Config
from tad.settings.paths import command_of, path_of

if TYPE_CHECKING:
    from tad.commands.stream_emission import Instance


@dataclass(frozen=True)
class Run:
    """A trained run of a configuration.

    Attributes:
        name: its name in the configuration.
        config: the configuration file.
        device: `auto`, `cpu`, `cuda` or `cuda:<index>`.
        released: the folder of a released run; empty for a run of one's own.
    """

    name: str
    config: Path
    device: str = "auto"
    released: str = ""

    def detect(self, videos: Path | str | Sequence[Path | str]) -> Detections:
        """Detect actions in a video, in all videos of a folder, or in several of either.

        Features are cached beside the run, so a second call with the same video only computes the detector.

        Raises:
            TadError: the run is not trained, no video can be read, or two videos have the same name.
        """
        from tad.commands.apply import apply, work_of

        given = [videos] if isinstance(videos, (str, Path)) else list(videos)
        if not given:
            raise TadError("detect: no video is given; give a path, a folder, or a list of them")
        settings = Config.read(self.config)
        work = work_of(settings, settings.trainings(self.name)[0], released=bool(self.released))
        with tempfile.TemporaryDirectory() as folder:
            out, paths = Path(folder) / "detections.json", [Path(one) for one in given]
            list(apply(self.released or self.name, paths, out, config=self.config, device=self.device))
            document = read_json(out)
        entries = read_json(work / "00-of-01.json")["videos"]
        lengths = {video: float(entries.get(video, {}).get("duration") or 0.0) for video in document["results"]}
        rows = tuple(
            Detection(video, entry["segment"][0], entry["segment"][1], entry["label"], entry["score"])
            for video, own in sorted(document["results"].items())
            for entry in own
        )
        return Detections(rows, lengths, document["excluded"])

    def stream(
        self, source: str | Path, *, score: float | None = None, tiou: float = 0.3, name: str = "", retries: int = 5
    ) -> "Iterator[Instance]":
        """Yield the actions in a stream as soon as they have ended, with `label`, `start`, `end`, `score`, `emitted`
        and `latency`; the run's detector must be causal.

        Args:
            source: a file, `camera` or a device file, a URL, or `-` for standard input.
            score: yield instances with higher scores; None: the score chosen by `tad stream RUN --choose`.
            tiou: yield no instance that overlaps an earlier one of its class by this much.
            name: name of the stream.
            retries: how often a broken camera or network stream is opened again.

        Raises:
            TadError: the run needs whole videos, no score was chosen, or the source cannot be opened, or broke.
        """
        from tad.commands.stream import instances
        from tad.video.live import source_of

        given, device = source_of(str(source)), self.device
        settings = Config.read(self.config)
        return instances(settings, self.name, given, score=score, tiou=tiou, name=name, retries=retries, device=device)


def load(run: Path | str, *, device: str = "auto") -> Run:
    """Load a trained run by its folder below `results/`, or a released run by its folder.

    Args:
        run: for example `results/kitchen`; the configuration is the `config.yaml` beside `results/`. Or the folder that
            `tad export` wrote.
        device: `auto`, `cpu`, `cuda` or `cuda:<index>`.

    Raises:
        TadError: there is no such folder, no configuration beside it, or the run is not trained.
    """
    from tad.commands.release import Released, is_release

    folder = Path(run)
    if is_release(str(folder)):
        released = Released(folder)
        return Run(released.run, released.config, device, str(folder))
    if folder.parent.name != "results":
        raise TadError(f"{folder}: not the folder of a run; give results/<name of the run>")
    config = folder.parent.parent / "config.yaml"
    if not config.is_file():
        raise TadError(f"{config}: no such file; a run is loaded with the configuration that made it")
    settings = Config.read(config)
    settings.run(folder.name)  # an unknown name is refused here
    model = path_of("train", root=settings.root, run=settings.trainings(folder.name)[0])
    if not model.is_file():
        score = path_of("evaluate", root=settings.root, run=folder.name)
        raise TadError(f"{model}: no such file; train it with `{command_of(score, root=settings.root)}`")
    return Run(folder.name, config, device)
