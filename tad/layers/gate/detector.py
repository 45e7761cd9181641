"""Base of detectors with an optional generative attention gate, which is trained in two passes per epoch."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from tad.core.errors import TadError
from tad.layers.contract import DetectorBase
from tad.layers.gate.attention import FeatureCVAE, Gate, Gated, GenerativeAttention
from tad.layers.masked import Mask
from tad.layers.types import MAIN, Explained, Phase

BETAS = (0.8, 0.999)  # of the VAE's Adam, as published


class GateWeights(Protocol):
    """Settings of a gate; see `tad.detectors._settings.GateSettings`."""

    @property
    def hidden(self) -> int: ...

    @property
    def lr(self) -> float: ...

    @property
    def kl_weight(self) -> float: ...

    @property
    def background_weight(self) -> float: ...

    @property
    def reconstruction_weight(self) -> float: ...

    @property
    def ramp_epochs(self) -> int: ...


def sum_of(parts: list[Tensor]) -> Tensor:
    """Add up one or more tensors."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


class GatedDetector(DetectorBase):
    """Base of detectors that support `gate: generative`.

    Attributes:
        gates: one gate per feature map, or none.
        phases: one pass without gates; with gates a pass for the VAE, then one for everything else.
        phase: the current pass.
        ramp: current share of the reconstruction loss weight.
    """

    def __init__(self, weights: GateWeights, *, gated: bool) -> None:
        """Set the weights of the gates' losses, and whether there are gates."""
        super().__init__()
        self.gate_settings = weights
        self.gates = nn.ModuleList()
        self.phase, self.ramp = MAIN.name, 1.0
        if gated:
            self.phases = (Phase("vae", lr=weights.lr, betas=BETAS), MAIN)

    def add_gate(self, channels: int, *, length: int, cells: int = 0, masked: bool, normalised: bool = True) -> None:
        """Add the gate of another feature map, if gates are on; see `GenerativeAttention` and `Gate`."""
        if len(self.phases) == 1:
            return
        hidden, kl_weight = self.gate_settings.hidden, self.gate_settings.kl_weight
        attention = GenerativeAttention(channels, length=length, cells=cells, hidden=hidden, masked=masked)
        vae = FeatureCVAE(channels, cells=cells)
        self.gates.append(Gate(attention, vae, normalised=normalised, kl_weight=kl_weight))

    def _gates(self) -> list[Gate]:
        return [gate for gate in self.gates if isinstance(gate, Gate)]

    def attend(self, maps: list[Tensor], masks: Sequence[Mask]) -> list[Gated]:
        """Return foreground and background of every map; empty without gates."""
        return [gate.attend(x, mask) for gate, x, mask in zip(self._gates(), maps, masks, strict=bool(self.gates))]

    def vae_losses(self, maps: list[Tensor], masks: Sequence[Mask], seen: list[Any] | None = None) -> Tensor:
        """Return the loss of the VAEs' pass, (B,); their inputs and reconstructions are appended to `seen`."""
        results = [gate.explained(x, mask) for gate, x, mask in zip(self._gates(), maps, masks, strict=True)]
        losses, attentions, again = ([*part] for part in zip(*results, strict=True))
        if seen is not None:
            seen.append(Explained(maps, attentions, again, [*masks]))
        return sum_of(losses)

    def explain_like(self, explained: Explained) -> list[Tensor]:
        """Reconstruct the maps that another detector's VAEs were given with this detector's VAEs.

        Raises:
            TadError: this detector has no gates, or gates of other widths.
        """
        widths = [gate.vae.channels for gate in self._gates()]
        if widths != [attention.shape[1] for attention in explained.attentions]:
            raise TadError(f"gates of widths {widths} cannot reconstruct maps of other widths or another number")
        pairs = zip(self._gates(), explained.maps, explained.attentions, strict=True)
        return [gate.vae.explain(x, attention_BCT)[0] for gate, x, attention_BCT in pairs]

    def reconstruction_losses(self, gated: list[Gated], targets: list[Tensor], masks: Sequence[Mask]) -> Tensor:
        """Return the squared error (B,) between features generated from the attention and `targets`."""
        parts = zip(self._gates(), gated, targets, masks, strict=True)
        return sum_of([gate.reconstruction_loss(g.attention_BCT, x, mask) for gate, g, x, mask in parts])

    def enter(self, phase: str, epoch: int, epochs: int) -> None:
        """Switch to a pass of an epoch (counted from 0)."""
        whole = self.gate_settings.ramp_epochs or epochs
        self.phase, self.ramp = phase, min(epoch + 1, whole) / whole

    def gate_losses(self, background: Tensor, reconstruction: Tensor) -> Tensor:
        """Return the weighted sum of the gate's loss terms."""
        settings = self.gate_settings
        weights = settings.background_weight, settings.reconstruction_weight * self.ramp
        return weights[0] * background + weights[1] * reconstruction

    def of_phase(self, groups: list[dict[str, Any]], phase: str) -> list[dict[str, Any]]:
        """Keep only the parameters that are trained in a pass."""
        vae = {id(parameter) for gate in self._gates() for parameter in gate.vae.parameters()}
        return [
            {**group, "params": [p for p in group["params"] if (id(p) in vae) == (phase != MAIN.name)]}
            for group in groups
        ]
