"""Random numbers per video: the same ones whether its batch is computed at once, in parts or by several processes."""

# B given videos, of a batch of V

import torch
from torch import Tensor, nn

from tad.layers.types import Part


class PerVideo(nn.Module):
    """Base of modules that draw random numbers while training, from torch's default generator and nothing else.

    A module that is given a part of a batch (`of_part`) draws for the whole batch all the same and uses its rows.
    """

    def __init__(self) -> None:
        super().__init__()
        self.videos = 0  # of the whole batch; 0: it is what is given
        self.rows_B: Tensor | None = None  # a tensor, so that a compiled graph holds for every part

    def uniform(self, x: Tensor, *shape: int) -> Tensor:
        """Float32 in [0, 1) of shape (B, *shape), for the B videos of x."""
        if self.rows_B is None:
            return torch.rand(x.shape[0], *shape, device=x.device)
        return torch.rand(self.videos, *shape, device=x.device)[self.rows_B]

    def normal(self, x: Tensor, *shape: int) -> Tensor:
        """Standard normal float32 of shape (B, *shape), for the B videos of x."""
        if self.rows_B is None:
            return torch.randn(x.shape[0], *shape, device=x.device)
        return torch.randn(self.videos, *shape, device=x.device)[self.rows_B]


class Dropout(PerVideo):
    """Zeroes elements with a probability and divides the others by its complement, while training."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    @property
    def active(self) -> bool:
        """Whether anything is zeroed."""
        return self.training and self.probability > 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.active:
            return x
        keep = 1 - self.probability
        return x * (self.uniform(x, *x.shape[1:]) < keep).to(x.dtype) / keep


def of_part(module: nn.Module, part: Part | None, *, given: int, device: torch.device) -> None:
    """Tell all modules inside which of a batch's videos the `given` next ones are; None, or all of them: the batch."""
    rows_B = None
    if part is not None and part.videos != given:
        rows_B = torch.arange(part.first, part.first + given, device=device)
    for layer in module.modules():
        if isinstance(layer, PerVideo):
            layer.videos, layer.rows_B = (part.videos if part else 0), rows_B
