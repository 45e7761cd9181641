"""The training loop: steps over batches of windows, resumable after any step with bit-equal results.

A saved state holds the weights, the averaged weights, the optimiser, the loss normaliser and the best epoch so far.
Everything else is a function of the settings and the step number: learning rate, order of videos, windows, and the
model's random stream, which is reseeded at every step. So neither an interruption nor an evaluation in between changes
the remaining steps.
"""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tad.core import formats
from tad.core.errors import TadError
from tad.core.notices import TRANSIENT
from tad.core.storage import forecast
from tad.layers.contract import DetectorBase
from tad.layers.types import MAIN, Phase
from tad.settings.stages import TrainSpec
from tad.training.data.windows import Batch, Windows
from tad.training.io import tensors as checkpoint
from tad.training.loop.ahead import read_ahead
from tad.training.loop.compile import compile_networks
from tad.training.loop.curves import Curves
from tad.training.loop.gradients import Gradients, exhausted
from tad.training.loop.judge import RULES, Judge
from tad.training.loop.optim import Ema, clip_gradients, warn_of_initial_weights
from tad.training.loop.parallel import Ranks
from tad.training.loop.phases import Phases
from tad.training.loop.strategy import Strategy

if TYPE_CHECKING:
    from tad.training.data.unlabelled import MixedWindows

log = logging.getLogger(__name__)
STATE_COPIES = 5  # weights, their averages, two moments of the optimiser, the best epoch


@dataclass
class Result:
    """Result of a training: the selected averaged weights, their epoch (counted from 1), and the selection rule."""

    weights: dict[str, Tensor]
    epoch: int
    rule: str


@dataclass(frozen=True)
class Saving:
    """Where and how often the state is saved.

    Attributes:
        path: state file.
        key: digest of everything that the training depends on; a state with another key is ignored.
        seconds: minimum time between two states within an epoch; a sixth of it at the end of an epoch.
    """

    path: Path
    key: str
    seconds: float


class Engine:
    """One training run of a detector, or one process of a distributed run."""

    def __init__(
        self,
        detector: DetectorBase,
        windows: "Windows | MixedWindows",
        *,
        spec: TrainSpec,
        seed: int,
        device: torch.device,
        saving: Saving,
        judged: Windows | None = None,
        ranks: Ranks | None = None,
        strategy: Strategy | None = None,
    ) -> None:
        """`judged`: windows of the videos whose loss selects the epoch; None selects the last epoch."""
        self.spec, self.seed, self.device, self.saving = spec, seed, device, saving
        self.windows, self.ranks = windows, ranks or Ranks()
        self.detector = detector.to(device).train()
        self.phases = Phases(self.detector, spec, iterations=len(windows))
        self.epochs = self.phases.epochs
        self.judge = Judge(self.detector, judged, epochs=self.epochs) if judged else None
        if spec.compile:
            compile_networks(self.detector, device)
        self.ema = Ema(self.detector, spec.ema_decay)
        self.total = self.phases.total
        self.gradients = Gradients(
            self.detector,
            spec=spec,
            seed=seed,
            device=device,
            ranks=self.ranks,
            windows=windows,
            strategy=strategy or Strategy(),
            averages=lambda: self.ema.values,
        )
        self.step = 0
        self._saved = time.monotonic()

    # -- one step ------------------------------------------------------------------------------------------------------

    def _train_step(self, batch: Batch, positives: int) -> dict[str, float]:
        """Run one optimiser step and return its losses, gradient norm and learning rate.

        Raises:
            TadError: the loss or gradient is not finite; the weights are left unchanged.
        """
        optimizer = self.phases.enter(self.step)
        losses = self.gradients.accumulate(batch, positives, step=self.step)
        norm = clip_gradients(self.detector.parameters(), self.spec.clip_grad)
        names = [*losses, "gradient norm"]
        summed = self.ranks.add(torch.stack([value.reshape(()) for value in losses.values()]))
        values = torch.cat([summed, norm.detach().float().reshape(1)]).tolist()
        if not all(math.isfinite(value) for value in values):
            losses_text = ", ".join(f"{name} {value:g}" for name, value in zip(names, values, strict=True))
            epoch, videos = self.phases.of(self.step)[0] + 1, ", ".join(batch.video_ids)
            raise TadError(
                f"training step {self.step} (epoch {epoch}, videos {videos}): not finite: {losses_text};"
                f" lower train.lr or inspect these videos. {self._last_good()}"
            )
        optimizer.step()
        if self.phases.of(self.step)[1] == self.phases.all[-1]:  # frozen phases would bias the EMA
            self.ema.update(self.detector)
        self.step += 1
        return dict(zip(names, values, strict=True)) | {"learning rate": optimizer.param_groups[0]["lr"]}

    def _last_good(self) -> str:
        path = self.saving.path
        return f"The last good state is in {path}" if path.is_file() else "No state has been saved yet"

    # -- states --------------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the current state; a run with any number of processes can resume from it."""
        tensors = {
            **checkpoint.with_prefix("model", self.detector.state_dict()),
            **checkpoint.with_prefix("ema", self.ema.values),
            **self.phases.tensors(),
            **checkpoint.with_prefix("normaliser", self.detector.training_state()),
        }
        facts = {"key": self.saving.key, "step": self.step, "at_once": self.gradients.at_once}
        if self.judge and self.judge.weights:
            tensors |= checkpoint.with_prefix("best", self.judge.weights)
            facts["best"] = [self.judge.epoch, self.judge.loss]
        checkpoint.write_tensors(self.saving.path, tensors, {"state": facts, **formats.mark("training-state")})
        self._saved = time.monotonic()

    def resume(self) -> None:
        """Resume from the saved state if it has the same settings, code and data.

        Raises:
            TadError: the state has a format that this version cannot read.
        """
        self._read_state()
        self.ranks.wait()  # before the first process overwrites the state

    def _read_state(self) -> None:
        path = self.saving.path
        if not path.is_file():
            return
        try:
            tensors, metadata = checkpoint.read_tensors(path)
            facts = checkpoint.read_json_field(path, metadata, "state", dict)
            formats.check(metadata, path, kind="training-state")
        except TadError as error:
            if not formats.replaceable(error):
                raise
            log.warning("%s; training restarts from the first step", error, extra=TRANSIENT)
            return
        if facts["key"] != self.saving.key:
            log.warning(
                "%s: state of another training (settings, code or data); training restarts from the first step",
                path,
                extra=TRANSIENT,
            )
            return
        self.detector.load_state_dict(checkpoint.without_prefix("model", tensors))
        self.ema.load(checkpoint.without_prefix("ema", tensors))
        self.phases.load(tensors)
        self.detector.load_training_state(checkpoint.without_prefix("normaliser", tensors))
        if self.judge and "best" in facts:
            self.judge.weights = checkpoint.without_prefix("best", tensors)
            self.judge.epoch, self.judge.loss = facts["best"]
        self.step = facts["step"]
        self.gradients.at_once = min(self.gradients.at_once, facts["at_once"])
        log.info("resumed after step %d of %d from %s", self.step, self.total, path)

    def _save_if_due(self, *, epoch_ends: bool) -> None:
        wait = self.saving.seconds / 6 if epoch_ends else self.saving.seconds
        if self.ranks.first and time.monotonic() - self._saved >= wait:
            self.save()

    def restart_averages(self) -> None:
        """Restart the averaged weights from the detector's current weights."""
        self.ema = Ema(self.detector, self.spec.ema_decay)

    # -- selection -----------------------------------------------------------------------------------------------------

    def _judge(self, epoch: int) -> None:
        if self.judge and self.ranks.first:
            self.judge.evaluate(epoch, self.ema.values, self.gradients.loss)

    # -- the loop ------------------------------------------------------------------------------------------------------

    def run(self, tensorboard: Path) -> Result:
        """Train from the current step to the end.

        Raises:
            TadError: the loss is not finite, or memory is exhausted.
        """
        warn_of_initial_weights(self.spec.ema_decay, self.total)
        self._forecast()
        iterations = len(self.windows)
        parts: list[dict[str, float]] = []
        started, first = time.monotonic(), self.step
        try:
            with Curves(tensorboard, step=self.step) if self.ranks.first else nullcontext() as curves:
                for batch, positives in self._batches():
                    parts.append(self._train_step(batch, positives))
                    if curves:
                        curves.add(parts[-1], step=self.step - 1)
                    epoch, phase = self.phases.of(self.step - 1)
                    ends = self.step % iterations == 0
                    if ends:
                        pace = (time.monotonic() - started) / (self.step - first)
                        self._report(epoch, phase, parts, pace * (self.total - self.step))
                        if phase == self.phases.all[-1]:
                            self._judge(epoch)
                        parts.clear()
                    self._save_if_due(epoch_ends=ends)
        except (RuntimeError, MemoryError) as error:
            if not exhausted(error):
                raise
            raise TadError(f"{self.gradients.too_large(self.step)}. {self._last_good()}") from None
        if self.judge and self.judge.weights:
            return Result(self.judge.weights, self.judge.epoch, RULES[self.spec.selection])
        return Result(self.ema.values, self.epochs, RULES["last"])

    def _forecast(self) -> None:
        """Log the space for the state, its successor while it is written, and the weights (twice: cached, published).

        Raises:
            StorageError: not even the weights fit.
        """
        weights = sum(t.numel() * t.element_size() for t in self.detector.state_dict().values())
        state = STATE_COPIES * weights
        if self.ranks.first:
            forecast(self.saving.path, 2 * state + 2 * weights, what="train", least=2 * weights)

    def _batches(self) -> Iterator[tuple[Batch, int]]:
        """Iterate over the batches of all further steps."""
        return read_ahead(lambda: map(self._batch, range(self.step, self.total)))

    def _batch(self, step: int) -> tuple[Batch, int]:
        """Return a step's batch and the number of positives in the whole batch; called by a prefetch thread."""
        batch = self.windows.training_batch(*divmod(step, len(self.windows)), self.ranks.share)
        return batch, self.detector.positives(batch.lengths_B, batch.targets)

    def _report(self, epoch: int, phase: Phase, parts: list[dict[str, float]], left: float) -> None:
        mean = {name: float(np.mean([part[name] for part in parts])) for name in parts[0]}
        text = ", ".join(f"{name} {value:.4g}" for name, value in mean.items())
        which = f", {phase.name}" if phase != MAIN else ""
        log.info("epoch %d of %d%s: %s; about %.0f s left", epoch + 1, self.epochs, which, text, left)
