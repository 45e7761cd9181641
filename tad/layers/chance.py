"""Random numbers per video that do not depend on micro-batches or on the number of processes."""

# B given videos, of a batch of V

import torch
from torch import Tensor, nn

from tad.layers.types import Part


class PerVideo(nn.Module):
    """Base of modules that draw random numbers during training, from torch's default generator only.

    For a micro-batch (`of_part`) the module still draws for the whole batch and uses the rows of the micro-batch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.videos = 0  # of the whole batch; 0: no micro-batches
        self.rows_B: Tensor | None = None  # a tensor, so that a compiled graph holds for every part

    def uniform(self, x: Tensor, *shape: int) -> Tensor:
        """Draw float32 in [0, 1) of shape (B, *shape), for the B videos of x."""
        if self.rows_B is None:
            return torch.rand(x.shape[0], *shape, device=x.device)
        return torch.rand(self.videos, *shape, device=x.device)[self.rows_B]

    def normal(self, x: Tensor, *shape: int) -> Tensor:
        """Draw standard normal float32 of shape (B, *shape), for the B videos of x."""
        if self.rows_B is None:
            return torch.randn(x.shape[0], *shape, device=x.device)
        return torch.randn(self.videos, *shape, device=x.device)[self.rows_B]


class Dropout(PerVideo):
    """Dropout whose random numbers are per video."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    @property
    def active(self) -> bool:
        """Whether elements are dropped."""
        return self.training and self.probability > 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.active:
            return x
        keep = 1 - self.probability
        return x * (self.uniform(x, *x.shape[1:]) < keep).to(x.dtype) / keep


def of_part(module: nn.Module, part: Part | None, *, given: int, device: torch.device) -> None:
    """Set which rows of a batch the next `given` videos are, in all `PerVideo` modules; None: the whole batch."""
    rows_B = None
    if part is not None and part.videos != given:
        rows_B = torch.arange(part.first, part.first + given, device=device)
    for layer in module.modules():
        if isinstance(layer, PerVideo):
            layer.videos, layer.rows_B = (part.videos if part else 0), rows_B
