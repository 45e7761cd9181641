"""Gradient accumulation over the micro-batches of a batch and over processes.

A loss is a sum over videos, divided by a normaliser that depends on the labels alone or is counted over all
micro-batches before the first loss is computed. Every video has its own random stream. So the gradients of the
micro-batches add up to the gradient of the batch; how the batch is split only changes the order of additions.
"""

import gc
import logging
import math
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tad.core.errors import TadError
from tad.layers.contract import DetectorBase
from tad.settings.stages import TrainSpec
from tad.training.data.windows import MODEL, Batch, Windows, generator
from tad.training.loop.parallel import Ranks
from tad.training.loop.strategy import Strategy, Weights

if TYPE_CHECKING:
    from tad.training.data.unlabelled import MixedWindows

log = logging.getLogger(__name__)
SIGNS = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def exhausted(error: BaseException) -> bool:
    """Return whether an error means that GPU or host memory is exhausted."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


class Gradients:
    """Computes gradients and losses of whole batches.

    Attributes:
        at_once: micro-batch size in videos per process; halved whenever memory is exhausted.
    """

    def __init__(
        self,
        detector: DetectorBase,
        *,
        spec: TrainSpec,
        seed: int,
        device: torch.device,
        ranks: Ranks,
        windows: "Windows | MixedWindows",
        strategy: Strategy,
        averages: Weights,
    ) -> None:
        """`windows`: source of the batches; `strategy`: the training loss; `averages`: returns the averaged weights."""
        self.detector, self.spec, self.seed, self.device, self.ranks = detector, spec, seed, device, ranks
        self.strategy, self.windows, self.averages = strategy, windows, averages
        self.at_once = math.ceil(windows.size / ranks.count)

    def accumulate(self, batch: Batch, positives: int, *, step: int) -> dict[str, Tensor]:
        """Accumulate the gradient of the whole batch in the detector's parameters; return this process's losses.

        If memory is exhausted in any process, all of them discard their gradients, restore normaliser and buffers, and
        repeat the batch with half the micro-batch size, which then stays halved.

        Args:
            batch: this process's rows of the batch.
            positives: number of positives in the whole batch.
            step: training step; selects the random stream.

        Raises:
            TadError: memory does not suffice for a single video.
        """
        while True:
            buffers = {name: value.clone() for name, value in self.detector.named_buffers()}
            normaliser = {name: value.clone() for name, value in self.detector.training_state().items()}
            self.detector.zero_grad(set_to_none=True)
            self.detector.normalise(positives)
            losses = self._of_parts(batch, step) if self._counted(batch, step) else None
            if self.ranks.all(losses is not None, self.device):
                assert losses is not None
                self.ranks.add_gradients(self.detector.parameters())
                return losses
            self.detector.zero_grad(set_to_none=True)
            for name, value in self.detector.named_buffers():
                value.copy_(buffers[name])
            self.detector.load_training_state(normaliser)
            self._halve(step)

    def loss(self, detector: DetectorBase, batch: Batch, purpose: int, number: int) -> float:
        """Return the total loss of a detector on a batch, with the random stream (purpose, number) and no gradient."""
        size = self.at_once
        while True:
            try:
                return sum(float(part["total"]) for part in self._losses(detector, batch, size, purpose, number))
            except (RuntimeError, MemoryError) as error:
                if not exhausted(error) or size == 1:
                    raise
            size = math.ceil(size / 2)
            self._release()

    def too_large(self, step: int) -> str:
        """Return the error message for a single video that does not fit into memory."""
        return (
            f"training step {step}: out of memory on {self.device} with a micro-batch of {self.at_once} videos and"
            f" train.max_length {self.spec.max_length}; lower max_length or the detector's widths, or set"
            " train.precision: bfloat16"
        )

    def _parts(self, batch: Batch, size: int, *random: int) -> Iterator[tuple[Any, ...]]:
        """Iterate over micro-batches; all start from the same random stream, with separate numbers for each video."""
        seed = int(generator(self.seed, *random).integers(2**63))
        for part in batch.parts(size, self.device):
            torch.manual_seed(seed)
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.spec.precision == "bfloat16"):
                yield part

    def _losses(self, detector: DetectorBase, batch: Batch, size: int, *random: int) -> Iterator[dict[str, Tensor]]:
        """Compute the losses of each micro-batch."""
        for part in self._parts(batch, size, *random):
            yield self.strategy.loss(detector, *part)

    def _counted(self, batch: Batch, step: int) -> bool:
        """Count the refined positives of the batch if the detector needs them; return False if memory is exhausted."""
        whole = self.ranks.count == 1 and self.at_once >= len(batch.video_ids)
        if whole or not self.detector.counts_ahead:
            return True
        count, fits = torch.zeros((), device=self.device), True
        try:
            for part in self._parts(batch, self.at_once, MODEL, step):
                count += self.strategy.refined_positives(self.detector, *part)
        except (RuntimeError, MemoryError) as error:
            if not exhausted(error):
                raise
            fits = False
        if not self.ranks.all(fits, self.device):
            return False
        self.detector.normalise_by_refined(int(self.ranks.add(count)))
        return True

    def _of_parts(self, batch: Batch, step: int) -> dict[str, Tensor] | None:
        """Accumulate the gradients of this process's videos; return the losses, or None if memory is exhausted."""
        sums: dict[str, Tensor] = {}
        try:
            further = self.strategy.additional_losses(
                self.detector, batch, self.at_once, step=step, averages=self.averages
            )
            for losses in chain(self._losses(self.detector, batch, self.at_once, MODEL, step), further):
                if losses["total"].requires_grad:
                    losses["total"].backward()  # type: ignore[no-untyped-call]
                for name, value in losses.items():
                    sums[name] = sums.get(name, 0) + value.detach().float()
        except (RuntimeError, MemoryError) as error:
            if not exhausted(error):
                raise
            return None
        return sums

    def _halve(self, step: int) -> None:
        self.windows.features.release_gpu()  # the network needs the memory of the cached features
        if self.at_once == 1:
            raise TadError(self.too_large(step))
        self.at_once = math.ceil(self.at_once / 2)
        self._release()
        log.warning(
            "training step %d: out of memory on %s; repeating it with micro-batches of %d of the batch's %d videos;"
            " gradients are accumulated, so train.batch_size is unchanged",
            step, self.device, self.at_once, self.windows.size,
        )  # fmt: skip

    def _release(self) -> None:
        """Free unused cached memory."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
