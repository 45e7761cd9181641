"""A frozen video transformer with temporal adapters: whole windows of frames → a feature per time step or position."""

# B windows, C channels, T frames, H rows, W columns, M clips of all windows, K clips of one, F frames of a clip,
# N tokens of a clip, D width, S time steps

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tad.core.errors import TadError
from tad.layers.adapters.adapter import TemporalAdapter
from tad.layers.adapters.trunk import Trunk
from tad.layers.chance import PerVideo


class Frozen:
    """A network that never learns, kept out of the parameters and the state of the module that uses it.

    So it is neither averaged, nor stored in checkpoints, nor sent between processes; copies of the module share it.
    """

    def __init__(self, trunk: Trunk) -> None:
        self.trunk = trunk.eval().requires_grad_(False)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Frozen":
        return self


class AdaptedEncoder(PerVideo):
    """Frozen transformer with adapters after the MLP of some blocks, or beside them (AdaTAD† in the paper).

    A window is cut into clips without overlap. Attention stays inside a clip; only the adapters look across. Beside the
    blocks, no gradient passes through the transformer: the output is the last chosen block's map plus the outputs of
    all adapters.

    Args:
        trunk: the transformer.
        places: blocks with an adapter, counted from 0; empty: the frozen transformer alone.
        side: the adapters stand beside the blocks.
        hidden: width of the adapters as a share of the transformer's.
        drop_path: rate of stochastic depth in the last block while training; it grows linearly from 0 in the first one.
            Not used with `side`.
        checkpointing: recompute each block in the backward pass instead of storing its activations.
    """

    def __init__(
        self,
        trunk: Trunk,
        *,
        places: Sequence[int],
        side: bool = False,
        hidden: float = 0.25,
        drop_path: float = 0.1,
        checkpointing: bool = True,
    ) -> None:
        super().__init__()
        depth = len(trunk.blocks)
        if wrong := [place for place in places if not 0 <= place < depth]:
            raise TadError(f"adapters.blocks: {wrong[0]}: the encoder has the blocks 0 to {depth - 1}")
        if side and not places:
            raise TadError("adapters.side: needs blocks; choose adapters.blocks: all, last_half or a list")
        self.frozen, self.side, self.checkpointing = Frozen(trunk), side, checkpointing
        width = max(int(trunk.width * hidden), 1)
        self.adapters = nn.ModuleDict(
            {str(place): TemporalAdapter(trunk.width, width) for place in sorted(set(places))}
        )
        self.rates = [drop_path * k / max(depth - 1, 1) for k in range(depth)]

    @property
    def trunk(self) -> Trunk:
        """The frozen transformer."""
        return self.frozen.trunk

    @property
    def width(self) -> int:
        """Width of the features, D."""
        return self.trunk.width

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "AdaptedEncoder":
        self.trunk._apply(fn, recurse)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    # -- windows to tokens ---------------------------------------------------------------------------------------------

    def _clips(self, x_BCTHW: Tensor) -> Tensor:
        trunk, (windows, channels, length, *size) = self.trunk, x_BCTHW.shape
        if length % trunk.clip:
            raise TadError(f"a window has {length} frames: must be a multiple of the encoder's clip, {trunk.clip}")
        x_BCKFHW = x_BCTHW.reshape(windows, channels, length // trunk.clip, trunk.clip, *size)
        return x_BCKFHW.transpose(1, 2).reshape(-1, channels, trunk.clip, *size)

    def _kept(self, x_BCTHW: Tensor, block: int) -> tuple[Tensor | None, Tensor | None]:
        """Draw which clips keep both branches of a block, as factors (M, 1, 1); None: all."""
        if not self.training or self.side or not self.rates[block]:
            return None, None
        keep, clips = 1 - self.rates[block], x_BCTHW.shape[2] // self.trunk.clip
        factors = [(self.uniform(x_BCTHW, clips) < keep).float().view(-1, 1, 1) / keep for _ in range(2)]
        return factors[0], factors[1]

    def _block(self, number: int, kept: tuple[Tensor | None, Tensor | None], windows: int, x_MND: Tensor) -> Tensor:
        """Run a block, and its adapter unless that stands beside it."""
        trunk, block = self.trunk, self.trunk.blocks[number]
        for branch, factor in zip((trunk.attend, trunk.widen), kept, strict=True):
            added_MND = branch(block, x_MND)
            x_MND = x_MND + (added_MND if factor is None else added_MND * factor.to(added_MND.dtype))
        if self.side or str(number) not in self.adapters:
            return x_MND
        return x_MND + self._adapter(number, windows, x_MND)

    def _adapter(self, number: int, windows: int, x_MND: Tensor) -> Tensor:
        added_MND: Tensor = self.adapters[str(number)](x_MND, windows, self.trunk.clip // self.trunk.tubelet)
        return added_MND

    def _stored_less(self, function: Callable[[Tensor], Tensor], x_MND: Tensor) -> Tensor:
        """Call a function, whose activations are recomputed in the backward pass if there is one."""
        if not self.checkpointing or not torch.is_grad_enabled():
            return function(x_MND)
        y_MND: Tensor = checkpoint(function, x_MND, use_reentrant=False, preserve_rng_state=False)
        return y_MND

    def tokens(self, x_BCTHW: Tensor) -> Tensor:
        """Return the tokens (M, N, D) of normalised windows, clip by clip."""
        trunk, windows = self.trunk, x_BCTHW.shape[0]  # not len, which would fix the size in a graph
        with torch.no_grad():
            x_MND = trunk.embed(self._clips(x_BCTHW))
        return trunk.finish(self._beside(x_BCTHW, x_MND) if self.side else self._inside(x_BCTHW, x_MND, windows))

    def _inside(self, x_BCTHW: Tensor, x_MND: Tensor, windows: int) -> Tensor:
        for number in range(len(self.trunk.blocks)):
            block = partial(self._block, number, self._kept(x_BCTHW, number), windows)
            learns = x_MND.requires_grad or str(number) in self.adapters
            x_MND = self._stored_less(block, x_MND) if learns else block(x_MND)
        return x_MND

    def _beside(self, x_BCTHW: Tensor, x_MND: Tensor) -> Tensor:
        windows, added = x_BCTHW.shape[0], []
        for number in range(max(map(int, self.adapters)) + 1):  # later blocks do not reach the output
            with torch.no_grad():
                x_MND = self._block(number, (None, None), windows, x_MND)
            if str(number) in self.adapters:
                added.append(self._stored_less(partial(self._adapter, number, windows), x_MND))
        return x_MND + sum(added)

    # -- tokens to features --------------------------------------------------------------------------------------------

    def steps(self, x_BCTHW: Tensor) -> Tensor:
        """Return one feature per time step, (B, D, S): the mean over the patches of normalised windows."""
        x_MND = self.tokens(x_BCTHW)
        steps = x_BCTHW.shape[2] // self.trunk.tubelet
        return x_MND.reshape(x_BCTHW.shape[0], steps, -1, self.width).mean(2).transpose(1, 2)

    def forward(self, x_BCTHW: Tensor, length: int) -> Tensor:
        """Return features (B, D, length): those of the time steps, interpolated linearly to `length` positions."""
        steps_BDS = self.steps(x_BCTHW).float()
        return F.interpolate(steps_BDS, size=length, mode="linear", align_corners=False)


def places_of(blocks: str | Iterable[int], depth: int) -> list[int]:
    """Return the blocks that `all`, `last_half`, `none` or a list means in a transformer of `depth` blocks."""
    named = {"all": range(depth), "last_half": range(depth // 2, depth), "none": range(0)}
    return list(named[blocks] if isinstance(blocks, str) else blocks)
