"""Interface of a video transformer that adapters are put into: its parts, without its pooling."""

# M clips, C channels, F frames of a clip, H rows, W columns, N tokens (time steps · patches), D width

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Trunk(nn.Module, ABC):
    """A video transformer in pre-norm blocks, each an attention and an MLP branch around a residual connection.

    Attributes:
        width: D.
        clip: frames of a clip; attention does not reach beyond it.
        tubelet: frames of a time step.
        blocks: its blocks, in order.
        mean, std: normalisation of RGB values in 0..1.
    """

    width: int
    clip: int
    tubelet: int
    blocks: nn.ModuleList
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @abstractmethod
    def embed(self, x_MCFHW: Tensor) -> Tensor:
        """Return the tokens (M, N, D) of normalised clips, with their position code."""

    @abstractmethod
    def attend(self, block: nn.Module, x_MND: Tensor) -> Tensor:
        """Return what the attention branch of a block adds."""

    @abstractmethod
    def widen(self, block: nn.Module, x_MND: Tensor) -> Tensor:
        """Return what the MLP branch of a block adds."""

    def finish(self, x_MND: Tensor) -> Tensor:
        """Return the tokens after the last block's norm; by default they have none."""
        return x_MND
