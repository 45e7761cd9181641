"""The gradient of a batch, in as many parts as memory asks for and by as many processes as there are.

Losses are sums over videos divided by a number that follows from the labels alone, or that all parts count before the
first of them is computed, and every video has random numbers of its own. So the parts' gradients add up to the batch's:
how it is divided changes the order of additions, no more.
"""

import gc
import logging
import math
from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from tad.errors import TadError
from tad.specs import TrainSpec
from tad.training.data import MODEL, Batch, Windows, generator
from tad.training.parallel import Ranks
from tad.training.strategy import Strategy, Weights
from tad.training.unlabelled import MixedWindows

log = logging.getLogger(__name__)
SIGNS = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def exhausted(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice: a GPU's, or the machine's."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


class Gradients:
    """Gradients and losses of whole batches.

    Attributes:
        at_once: videos that a process computes together; halved whenever memory does not suffice.
    """

    def __init__(
        self,
        detector: Any,
        *,
        spec: TrainSpec,
        seed: int,
        device: torch.device,
        ranks: Ranks,
        windows: Windows | MixedWindows,
        strategy: Strategy,
        averages: Weights,
    ) -> None:
        """`windows`: where batches are from; `strategy`: what is minimised; `averages`: the averaged weights of now."""
        self.detector, self.spec, self.seed, self.device, self.ranks = detector, spec, seed, device, ranks
        self.strategy, self.windows, self.averages = strategy, windows, averages
        self.at_once = math.ceil(windows.size / ranks.count)

    def add_up(self, batch: Batch, positives: int, *, step: int) -> dict[str, Tensor]:
        """Give the detector's parameters the gradient of the whole batch; returns this process's share of its losses.

        Where memory does not suffice in one of the processes, all throw away what they have, compute half as many
        videos at once from now on, and begin again with the normaliser and buffers of before.

        Args:
            batch: this process's rows of it.
            positives: of the whole batch.
            step: selects the random stream.

        Raises:
            TadError: memory does not suffice for one video.
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

    def loss(self, detector: Any, batch: Batch, purpose: int, number: int) -> float:
        """The total loss of a detector on a batch, with the random stream of (purpose, number); no gradient."""
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
        """What to tell the user where even one video at once is too much."""
        return (
            f"training step {step}: out of memory on {self.device} with {self.at_once} videos at once and"
            f" train.max_length {self.spec.max_length}; lower it or the detector's widths, or set train.precision"
            " bfloat16"
        )

    def _parts(self, batch: Batch, size: int, *random: int) -> Iterator[tuple[Any, ...]]:
        """Each part of a batch; all parts see the same random stream, of which they use their videos'."""
        seed = int(generator(self.seed, *random).integers(2**63))
        for part in batch.parts(size, self.device):
            torch.manual_seed(seed)
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.spec.precision == "bfloat16"):
                yield part

    def _losses(self, detector: Any, batch: Batch, size: int, *random: int) -> Iterator[dict[str, Tensor]]:
        """Losses of each part of a batch."""
        for part in self._parts(batch, size, *random):
            yield self.strategy.loss(detector, *part)

    def _counted(self, batch: Batch, step: int) -> bool:
        """Have what a loss of a part cannot know of its batch counted by all parts, where the detector asks for it;
        False where memory did not suffice."""
        whole = self.ranks.count == 1 and self.at_once >= len(batch.video_ids)
        if whole or not getattr(self.detector, "counts_ahead", False):
            return True
        count, fits = torch.zeros((), device=self.device), True
        try:
            for part in self._parts(batch, self.at_once, MODEL, step):
                count += self.strategy.refined(self.detector, *part)
        except (RuntimeError, MemoryError) as error:
            if not exhausted(error):
                raise
            fits = False
        if not self.ranks.all(fits, self.device):
            return False
        self.detector.normalise_refined(int(self.ranks.add(count)))
        return True

    def _of_parts(self, batch: Batch, step: int) -> dict[str, Tensor] | None:
        """Add the gradients of this process's videos to the parameters; None where memory did not suffice."""
        sums: dict[str, Tensor] = {}
        try:
            further = self.strategy.further(self.detector, batch, self.at_once, step=step, averages=self.averages)
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
        self.windows.features.leave_gpu()  # what features took there is better used by the network
        if self.at_once == 1:
            raise TadError(self.too_large(step))
        self.at_once = math.ceil(self.at_once / 2)
        self._release()
        log.warning(
            "training step %d: out of memory on %s; repeated and continued with %d of a batch's %d videos at once;"
            " their gradients are added up: train.batch_size stays what it is",
            step, self.device, self.at_once, self.windows.size,
        )  # fmt: skip

    def _release(self) -> None:
        """Give back what no tensor uses any more."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
