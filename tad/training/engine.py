"""Windows → trained weights: the loop over steps, resumable after any of them with bit-equal results.

The state after step i is written whole (weights, averages, optimiser, loss normaliser, best epoch so far); the rest is
a function of the settings and i: learning rate, order of videos, windows, and the model's random stream, which is
seeded anew at every step. So neither an interruption nor an evaluation in between can change what follows.
"""

import copy
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from tad.errors import TadError
from tad.specs import TrainSpec
from tad.training import checkpoint
from tad.training.data import HELD_OUT, MODEL, Batch, Windows, ahead, generator
from tad.training.optim import Ema, adamw, clip_gradients, learning_rate

log = logging.getLogger(__name__)
RULES = {"last": "last epoch", "held-out": "held-out train videos", "test": "test split (peeked)"}


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
    """One training run of a detector."""

    def __init__(
        self,
        detector: Any,
        windows: Windows,
        *,
        spec: TrainSpec,
        seed: int,
        device: torch.device,
        saving: Saving,
        judged: Windows | None = None,
    ) -> None:
        """`judged`: the videos whose loss selects the epoch; None: the last epoch is taken."""
        self.spec, self.seed, self.device, self.saving = spec, seed, device, saving
        self.windows, self.judged = windows, judged
        self.detector = detector.to(device).train()
        self.judge = copy.deepcopy(self.detector).eval() if judged else None
        self.fresh = {name: value.clone() for name, value in self.detector.training_state().items()}
        if spec.compile:
            for part in self.detector.children():  # the networks; labelling depends on data and stays as it is
                part.compile()  # in place: names of parameters stay
        self.optimizer = adamw(self.detector, lr=spec.lr, weight_decay=spec.weight_decay)
        self.ema = Ema(self.detector, spec.ema_decay)
        self.epochs = spec.warmup_epochs + spec.epochs
        self.total = self.epochs * len(windows)
        self.step, self.best_epoch, self.best_loss = 0, 0, math.inf
        self.best: dict[str, Tensor] = {}
        self._saved = time.monotonic()

    # -- one step ------------------------------------------------------------------------------------------------------

    def _rate(self, step: int) -> float:
        warmup = self.spec.warmup_epochs * len(self.windows)
        return learning_rate(step, base=self.spec.lr, eta_min=self.spec.eta_min, warmup=warmup, total=self.total)

    def _losses(self, loss: Callable[..., dict[str, Tensor]], batch: Batch, *random: int) -> dict[str, Tensor]:
        torch.manual_seed(int(generator(self.seed, *random).integers(2**63)))
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.spec.precision == "bfloat16"):
            return loss(batch.feats_BTC, batch.lengths_B, batch.targets)

    def _train_step(self, batch: Batch) -> dict[str, float]:
        """One update; the loss parts, gradient norm and learning rate.

        Raises:
            TadError: loss or gradient not finite; the weights are then those of the step before.
        """
        rate = self._rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        losses = self._losses(self.detector.loss, batch, MODEL, self.step)
        losses["total"].backward()  # type: ignore[no-untyped-call]
        norm = clip_gradients(self.detector.parameters(), self.spec.clip_grad)
        names = [*losses, "gradient norm"]
        values = torch.stack([v.detach().float().reshape(()) for v in (*losses.values(), norm)]).tolist()
        if not all(math.isfinite(value) for value in values):
            found = ", ".join(f"{name} {value:g}" for name, value in zip(names, values, strict=True))
            epoch, videos = self.step // len(self.windows) + 1, ", ".join(batch.video_ids)
            raise TadError(
                f"training step {self.step} (epoch {epoch}, videos {videos}): not finite: {found};"
                f" lower train.lr or look at these videos. {self._last_good()}"
            )
        self.optimizer.step()
        self.ema.update(self.detector)
        self.step += 1
        return dict(zip(names, values, strict=True)) | {"learning rate": rate}

    def _last_good(self) -> str:
        path = self.saving.path
        return f"The last good state is kept in {path}" if path.is_file() else "No state had been written yet"

    # -- states --------------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the state after the steps so far."""
        tensors = {
            **checkpoint.prefixed("model", self.detector.state_dict()),
            **checkpoint.prefixed("ema", self.ema.values),
            **checkpoint.prefixed("optimizer", checkpoint.optimizer_tensors(self.optimizer)),
            **checkpoint.prefixed("normaliser", self.detector.training_state()),
            **checkpoint.prefixed("best", self.best),
        }
        loss = self.best_loss if self.best else 0.0
        facts = {"key": self.saving.key, "step": self.step, "best_epoch": self.best_epoch, "best_loss": loss}
        checkpoint.write_tensors(self.saving.path, tensors, {"state": facts})
        self._saved = time.monotonic()

    def resume(self) -> None:
        """Continue from the saved state if there is one of the same settings, code and data."""
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
        checkpoint.load_optimizer(self.optimizer, checkpoint.under("optimizer", tensors))
        self.detector.load_training_state(checkpoint.under("normaliser", tensors))
        self.best = checkpoint.under("best", tensors)
        self.step, self.best_epoch = facts["step"], facts["best_epoch"]
        self.best_loss = facts["best_loss"] if self.best else math.inf
        log.info("resumed after step %d of %d from %s", self.step, self.total, path)

    def _save_if_due(self, *, epoch_ends: bool) -> None:
        wait = self.saving.seconds / 6 if epoch_ends else self.saving.seconds
        if time.monotonic() - self._saved >= wait:
            self.save()

    # -- selection -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _judge(self, epoch: int) -> None:
        """Keep the averaged weights if their loss on the judged videos is the lowest so far.

        Only from half of the epochs on: earlier averages still hold much of the initial weights. The normaliser starts
        afresh and the random stream is always the same, so that epochs are compared on equal terms.
        """
        if self.judge is None or self.judged is None or epoch < self.epochs // 2:
            return
        self.judge.load_state_dict(self.ema.values)
        self.judge.load_training_state({name: value.clone() for name, value in self.fresh.items()})
        losses = []
        for k, batch in enumerate(self.judged.fixed_batches()):
            values = self._losses(self.judge.loss, batch.to(self.device), HELD_OUT, k)
            losses.append((float(values["total"]), len(batch.video_ids)))
        loss = sum(value * count for value, count in losses) / sum(count for _, count in losses)
        if not math.isfinite(loss):
            raise TadError(f"epoch {epoch + 1}: loss {loss} on the judged videos; lower train.lr. {self._last_good()}")
        log.info("epoch %d: loss %.4f on %d judged videos", epoch + 1, loss, len(self.judged.items))
        if loss < self.best_loss:
            self.best_loss, self.best_epoch = loss, epoch + 1
            self.best = {name: value.detach().cpu().clone() for name, value in self.ema.values.items()}

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
        writer = SummaryWriter(str(tensorboard), purge_step=self.step)
        iterations = len(self.windows)
        parts: list[dict[str, float]] = []
        started, first = time.monotonic(), self.step
        make = lambda step: self.windows.training_batch(*divmod(step, iterations))  # noqa: E731
        try:
            for batch in ahead(make, range(self.step, self.total)):
                parts.append(self._train_step(batch.to(self.device)))
                for name, value in parts[-1].items():
                    writer.add_scalar(f"train/{name}", value, self.step - 1)
                epoch, k = divmod(self.step - 1, iterations)
                if k == iterations - 1:
                    pace = (time.monotonic() - started) / (self.step - first)
                    self._report(epoch, parts, pace * (self.total - self.step))
                    self._judge(epoch)
                    parts.clear()
                self._save_if_due(epoch_ends=k == iterations - 1)
        except torch.OutOfMemoryError:
            raise TadError(
                f"out of memory on {self.device} with train.batch_size {self.spec.batch_size} and train.max_length"
                f" {self.spec.max_length}; lower one of them or set train.precision bfloat16. {self._last_good()}"
            ) from None
        finally:
            writer.close()
        if self.best:
            return Result(self.best, self.best_epoch, RULES[self.spec.selection])
        return Result(self.ema.values, self.epochs, RULES["last"])

    def _report(self, epoch: int, parts: list[dict[str, float]], left: float) -> None:
        mean = {name: float(np.mean([part[name] for part in parts])) for name in parts[0]}
        text = ", ".join(f"{name} {value:.4g}" for name, value in mean.items())
        log.info("epoch %d of %d: %s; about %.0f s left", epoch + 1, self.epochs, text, left)
