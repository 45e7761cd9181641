"""Detect actions while they happen: `tad stream demo-causal camera` prints one JSON line for each finished instance.

A file, a camera, a network stream or standard input → frames → encoder → causal detector → suppression, each with a
state of fixed size. What was printed is never changed after.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, cast

from tad.commands.apply import Trained, trained_run
from tad.commands.stream_choice import choose_threshold, chosen_score
from tad.commands.stream_emission import Emitter, Instance
from tad.core.errors import TadError
from tad.core.printable import printable
from tad.settings.config import Config
from tad.settings.stages import DetectStageSpec, ExtractSpec, TrainStageSpec
from tad.video.base import VideoError
from tad.video.live import BrokenError, Source, open_source, rate_of, source_of
from tad.video.sampling import offset, sampled

log = logging.getLogger(__name__)
TIOU = 0.3  # of the suppression, as in the literature on online detection
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds before connecting again; doubled each time


@dataclass(frozen=True)
class Rules:
    """Which instances are emitted; see `Emitter`."""

    score: float
    tiou: float


class Session:
    """A causal run with its encoder and detector loaded, for one stream after the other.

    Raises:
        TadError: the run cannot be used on streams, or its weights do not fit.
    """

    def __init__(self, settings: Config, trained: Trained, device: Any) -> None:
        from tad.stages.extract import encoder_of
        from tad.training.data.inputs import recipe_of
        from tad.training.io.models import load_model
        from tad.weights.published import weights_identity

        row, plan = settings.run(trained.run), trained.plan
        _refuse(settings, trained.run)
        weights = trained.weights[row.features]
        self.spec = cast(ExtractSpec, settings.spec("extract", dataset=row.dataset, features=row.features))
        self.device = device
        self.encoder = encoder_of(self.spec, weights, device)
        recipe = {"recipe": self.spec.model_dump(mode="json"), "weights": weights_identity(weights, self.spec.backbone)}
        self.model = load_model(
            trained.model, dataset=plan.dataset, features=plan.features, plugin=plan.detector, resize=plan.resize,
            dim=self.encoder.dim, recipe=recipe_of(recipe), device=device,
        )  # fmt: skip
        self.min_length = plan.detect.min_length

    def emitted(self, source: Source, name: str, rules: Rules, *, after: float = 0.0) -> Iterator[Instance]:
        """Open a source and yield its instances until it ends; `after`: seconds that lie before its first frame.

        Raises:
            BrokenError: the source cannot be opened, or broke. VideoError: likewise, for a file.
        """
        from tad.detectors._points.online import OnlineDetector
        from tad.extraction.live import LiveFeatures

        clip = self.spec.clip
        with open_source(source) as reader:
            native = rate_of(reader)
            rate = clip.rate or native
            features = LiveFeatures(self.encoder, self.spec, self.device)
            detector = OnlineDetector(self.model.detector, threshold=rules.score, min_length=self.min_length)
            emitter: Emitter | None = None
            arrived, start = 0.0, 0.0

            def watched() -> Iterator[Any]:
                nonlocal arrived, start
                for frame in reader:
                    arrived, start = frame.start + frame.time, frame.start
                    yield frame

            frames = watched()
            head = list(islice(frames, 1))  # tells when the picture begins
            images = sampled(chain(head, frames), policy=clip.policy, rate=rate, native_rate=native, start=start)
            for image in images:
                if emitter is None:
                    grid = features.grid(rate, after + offset(policy=clip.policy, start=start))
                    emitter = Emitter(self.model.labels, grid, name=name, tiou=rules.tiou)
                for row_C in features.push(image):
                    yield from emitter.push(detector.push(row_C[None]), after + arrived)
            for row_C in features.finish() if emitter else []:
                assert emitter is not None
                yield from emitter.push(detector.push(row_C[None]), after + arrived)


def _refuse(settings: Config, run: str) -> None:
    """Refuse a run that needs whole videos.

    Raises:
        TadError: it does.
    """
    row, name, where = settings.run(run), settings.trainings(run)[0], f"runs.{run}"
    plan = cast(DetectStageSpec, settings.spec("detect", run=name))
    train = cast(TrainStageSpec, settings.spec("train", run=name)).train
    if not plan.detector.settings.get("causal"):
        raise TadError(
            f"{where}: its detector {plan.detector.name} needs whole videos; train a run that uses the past only, with"
            " detector: {name: actionformer, causal: true}, or the same with tridet"
        )
    if settings.parts(row.features) != [row.features]:
        raise TadError(f"{where}: joined features cannot be streamed yet; train a run on one of their parts")
    needs = {
        "train.resize": plan.resize,
        "detect.fuse": plan.detect.fuse,
        "detect.window_stride": plan.detect.window_stride,
    }
    needs |= {"train.class_agnostic": train.class_agnostic}
    for name, value in needs.items():
        if value:
            raise TadError(f"{where}: {name}: {value}: needs whole videos; stream a run without it")


def stream(
    run: str,
    source: str = "",
    *,
    choose: bool = False,
    on: str = "held-out",
    score: float | None = None,
    tiou: float = TIOU,
    name: str = "",
    retries: int = 5,
    config: Path = Path("config.yaml"),
    device: str = "cpu",
) -> Iterator[str]:
    """Print a JSON line for each finished instance in a stream, as soon as it is known; yield lines about `choose`.

    Args:
        run: name of a trained run with a causal detector; of several seeds the first is used.
        source: a file, `camera` or a device file, a URL, or `-` for standard input.
        choose: instead: choose the score from which instances are emitted, on videos that are not the test videos.
        on: with `choose`: `held-out` or `train`.
        score: emit instances with higher scores; None: the chosen one.
        tiou: emit no instance that overlaps an emitted one of its class by this much.
        name: name of the stream in the lines (default: from the source).
        retries: how often a broken camera or network stream is opened again before the command gives up.
        config: the configuration file.
        device: see `tad.core.device.leased`.

    Raises:
        TadError: the run cannot be used on streams; no score was chosen; or the source cannot be opened, or broke.
    """
    settings = Config.read(config)
    if choose == bool(source):
        raise TadError("give a source (a file, camera, a URL, or -), or --choose to choose the score first")
    if choose:
        _refuse(settings, run)
        yield from choose_threshold(settings, run, tiou=tiou, on=on, device=device)
        return
    given = source_of(source)  # before the network is loaded
    try:
        for one in instances(settings, run, given, score=score, tiou=tiou, name=name, retries=retries, device=device):
            print(printable(one.line()), flush=True)  # not by the caller: Ctrl-C while it prints is caught here too
    except KeyboardInterrupt:
        log.info("%s: stopped; what was printed stands", given.name)


def instances(
    settings: Config,
    run: str,
    source: Source,
    *,
    score: float | None,
    tiou: float = TIOU,
    name: str = "",
    retries: int = 5,
    device: str = "cpu",
) -> Iterator[Instance]:
    """Yield the instances of a stream; arguments and errors as for `stream`."""
    from tad.core.device import leased

    _refuse(settings, run)
    if score is not None and not 0 <= score < 1:
        raise TadError(f"--score {score:g}: scores are probabilities; give a number from 0 to 1, such as 0.5")
    trained = trained_run(run, settings, device)
    rules = Rules(chosen_score(settings, run) if score is None else score, tiou)
    called = name or (Path(source.address).stem if source.kind == "file" else source.name)
    with leased(device, threads=1) as target:
        session = Session(settings, trained, target)
        began, failures, pause = time.monotonic(), 0, FIRST_PAUSE
        while True:
            after, count = time.monotonic() - began if failures else 0.0, 0
            try:
                for one in session.emitted(source, called, rules, after=after):
                    count += 1
                    yield one
                if not source.endless:
                    return
                cause = f"{source.name}: ended"
            except (BrokenError, VideoError) as error:
                cause = str(error)
                if not source.reconnects or (not failures and not count and "cannot be opened" in cause):
                    raise
            failures, pause = (1, FIRST_PAUSE) if count else (failures + 1, min(2 * pause, LONGEST_PAUSE))
            if failures > retries:
                raise TadError(f"{cause}; gave up after {retries} attempts to open it again")
            log.warning("%s; opening it again in %.0f s (attempt %d of %d)", cause, pause, failures, retries)
            with suppress(InterruptedError):
                time.sleep(pause)
