"""Windows → trained weights: the loop over steps, resumable after any of them with bit-equal results.

The state after step i is written whole (weights, averages, optimiser, loss normaliser, best epoch so far); the rest is
a function of the settings and i: learning rate, order of videos, windows, and the model's random stream, which is
seeded anew at every step. So neither an interruption nor an evaluation in between can change what follows.
"""

import logging
import math
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from tad.ahead import ahead
from tad.errors import TadError
from tad.layers.types import MAIN, Phase
from tad.specs import TrainSpec
from tad.training import checkpoint
from tad.training.compiled import compile_networks
from tad.training.data import Batch, Windows
from tad.training.gradients import Gradients, exhausted
from tad.training.optim import Ema, clip_gradients
from tad.training.parallel import Ranks
from tad.training.phases import Phases
from tad.training.selection import RULES, Judge
from tad.training.strategy import Strategy
from tad.training.unlabelled import MixedWindows

log = logging.getLogger(__name__)


@dataclass
class Result:
    """What training ends with: the chosen averaged weights, after which epoch (from 1) and by which rule."""

    weights: dict[str, Tensor]
    epoch: int
    rule: str


@dataclass(frozen=True)
class Saving:
    """Where and how often the state is written: `seconds` apart within an epoch, a sixth of it at ends of epochs."""

    path: Path
    key: str
    seconds: float


class Engine:
    """One training run of a detector, or one process's part of it."""

    def __init__(
        self,
        detector: Any,
        windows: Windows | MixedWindows,
        *,
        spec: TrainSpec,
        seed: int,
        device: torch.device,
        saving: Saving,
        judged: Windows | None = None,
        ranks: Ranks | None = None,
        strategy: Strategy | None = None,
    ) -> None:
        """`judged`: the videos whose loss selects the epoch; None: the last epoch is taken."""
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
        """One update; the loss parts, gradient norm and learning rate.

        Raises:
            TadError: loss or gradient not finite; the weights are then those of the step before.
        """
        optimizer = self.phases.enter(self.step)
        losses = self.gradients.add_up(batch, positives, step=self.step)
        norm = clip_gradients(self.detector.parameters(), self.spec.clip_grad)
        names = [*losses, "gradient norm"]
        summed = self.ranks.add(torch.stack([value.reshape(()) for value in losses.values()]))
        values = torch.cat([summed, norm.detach().float().reshape(1)]).tolist()
        if not all(math.isfinite(value) for value in values):
            found = ", ".join(f"{name} {value:g}" for name, value in zip(names, values, strict=True))
            epoch, videos = self.phases.of(self.step)[0] + 1, ", ".join(batch.video_ids)
            raise TadError(
                f"training step {self.step} (epoch {epoch}, videos {videos}): not finite: {found};"
                f" lower train.lr or look at these videos. {self._last_good()}"
            )
        optimizer.step()
        if self.phases.of(self.step)[1] == self.phases.all[-1]:  # what stands still would outweigh what moves
            self.ema.update(self.detector)
        self.step += 1
        return dict(zip(names, values, strict=True)) | {"learning rate": optimizer.param_groups[0]["lr"]}

    def _last_good(self) -> str:
        path = self.saving.path
        return f"The last good state is kept in {path}" if path.is_file() else "No state had been written yet"

    # -- states --------------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the state after the steps so far; any number of processes can continue from it."""
        tensors = {
            **checkpoint.prefixed("model", self.detector.state_dict()),
            **checkpoint.prefixed("ema", self.ema.values),
            **self.phases.tensors(),
            **checkpoint.prefixed("normaliser", self.detector.training_state()),
        }
        facts = {"key": self.saving.key, "step": self.step, "at_once": self.gradients.at_once}
        if self.judge and self.judge.weights:
            tensors |= checkpoint.prefixed("best", self.judge.weights)
            facts["best"] = [self.judge.epoch, self.judge.loss]
        checkpoint.write_tensors(self.saving.path, tensors, {"state": facts})
        self._saved = time.monotonic()

    def resume(self) -> None:
        """Continue from the saved state if there is one of the same settings, code and data."""
        self._read_state()
        self.ranks.wait()  # before one of them writes the next state

    def _read_state(self) -> None:
        path = self.saving.path
        if not path.is_file():
            return
        try:
            tensors, metadata = checkpoint.read_tensors(path)
            facts = checkpoint.read_json_field(path, metadata, "state", dict)
        except TadError as error:
            log.warning("%s; training starts from the beginning", error)
            return
        if facts["key"] != self.saving.key:
            log.warning("%s: of another training; training starts from the beginning", path)
            return
        self.detector.load_state_dict(checkpoint.under("model", tensors))
        self.ema.load(checkpoint.under("ema", tensors))
        self.phases.load(tensors)
        self.detector.load_training_state(checkpoint.under("normaliser", tensors))
        if self.judge and "best" in facts:
            self.judge.weights = checkpoint.under("best", tensors)
            self.judge.epoch, self.judge.loss = facts["best"]
        self.step = facts["step"]
        self.gradients.at_once = min(self.gradients.at_once, facts["at_once"])
        log.info("resumed after step %d of %d from %s", self.step, self.total, path)

    def _save_if_due(self, *, epoch_ends: bool) -> None:
        wait = self.saving.seconds / 6 if epoch_ends else self.saving.seconds
        if self.ranks.first and time.monotonic() - self._saved >= wait:
            self.save()

    def begin_again(self) -> None:
        """Take the detector's present weights for its first ones."""
        self.ema = Ema(self.detector, self.spec.ema_decay)

    # -- selection -----------------------------------------------------------------------------------------------------

    def _judge(self, epoch: int) -> None:
        if self.judge and self.ranks.first:
            self.judge.look(epoch, self.ema.values, self.gradients.loss)

    # -- the loop ------------------------------------------------------------------------------------------------------

    def run(self, tensorboard: Path) -> Result:
        """Train from the present step to the end.

        Raises:
            TadError: loss not finite, out of memory.
        """
        if (share := self.spec.ema_decay**self.total) > 0.05:
            log.warning(
                "%.0f %% of the averaged weights will still be the initial ones after %d steps with train.ema_decay %g;"
                " train longer or lower it", 100 * share, self.total, self.spec.ema_decay,
            )  # fmt: skip
        writer = SummaryWriter(str(tensorboard), purge_step=self.step) if self.ranks.first else None
        iterations = len(self.windows)
        parts: list[dict[str, float]] = []
        started, first = time.monotonic(), self.step
        try:
            for batch, positives in ahead(partial(map, self._batch, range(self.step, self.total)), depth=1):
                parts.append(self._train_step(batch, positives))
                self._write(writer, parts[-1])
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
        finally:
            if writer:
                writer.close()
        if self.judge and self.judge.weights:
            return Result(self.judge.weights, self.judge.epoch, RULES[self.spec.selection])
        return Result(self.ema.values, self.epochs, RULES["last"])

    def _write(self, writer: SummaryWriter | None, values: dict[str, float]) -> None:
        for name, value in values.items() if writer else ():
            writer.add_scalar(f"train/{name}", value, self.step - 1)  # type: ignore[union-attr]

    def _batch(self, step: int) -> tuple[Batch, int]:
        """What step `step` learns from, and the positive points of the whole batch; made by a thread ahead of time."""
        batch = self.windows.training_batch(*divmod(step, len(self.windows)), self.ranks.share)
        return batch, self.detector.positives(batch.lengths_B, batch.targets)

    def _report(self, epoch: int, phase: Phase, parts: list[dict[str, float]], left: float) -> None:
        mean = {name: float(np.mean([part[name] for part in parts])) for name in parts[0]}
        text = ", ".join(f"{name} {value:.4g}" for name, value in mean.items())
        which = f", {phase.name}" if phase != MAIN else ""
        log.info("epoch %d of %d%s: %s; about %.0f s left", epoch + 1, self.epochs, which, text, left)
