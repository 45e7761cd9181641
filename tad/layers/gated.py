"""Detectors whose features pass a generative attention first, and the two passes that they then learn in."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from tad.errors import TadError
from tad.layers.chance import PerVideo
from tad.layers.generative import FeatureCVAE, Gate, Gated, GenerativeAttention
from tad.layers.masked import Mask
from tad.layers.types import MAIN, Explained, Phase

GATES = ("none", "generative")
BETAS = (0.8, 0.999)  # of the VAE's Adam, as published


def sum_of(parts: list[Tensor]) -> Tensor:
    """Of at least one tensor."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


class GatedDetector(PerVideo):
    """Base of the detectors that `gate: generative` can be switched on for.

    Attributes:
        gates: one per feature map, or none.
        phases: one pass, or first one for the VAE and then one for everything else.
        phase: the present pass.
        ramp: share of the reconstruction's weight that is reached.
    """

    def __init__(self, gate: str, settings: Mapping[str, Any]) -> None:
        """`settings`: hidden, lr, kl_weight, background_weight, reconstruction_weight, ramp_epochs."""
        super().__init__()
        if gate not in GATES:
            raise TadError(f"settings.gate: '{gate}': choose {' or '.join(GATES)}")
        self.gate_settings = dict(settings)
        self.gates = nn.ModuleList()
        self.phases: tuple[Phase, ...] = (MAIN,)
        self.phase, self.ramp = MAIN.name, 1.0
        if gate == "generative":
            self.phases = (Phase("vae", lr=float(settings["lr"]), betas=BETAS), MAIN)

    def add_gate(self, channels: int, *, length: int, cells: int = 0, masked: bool, normalised: bool = True) -> None:
        """Make the gate of one more feature map, if there are to be any; see `GenerativeAttention` and `Gate`."""
        if len(self.phases) == 1:
            return
        hidden, kl_weight = self.gate_settings["hidden"], self.gate_settings["kl_weight"]
        attention = GenerativeAttention(channels, length=length, cells=cells, hidden=hidden, masked=masked)
        vae = FeatureCVAE(channels, cells=cells)
        self.gates.append(Gate(attention, vae, normalised=normalised, kl_weight=kl_weight))

    def _gates(self) -> list[Gate]:
        return [gate for gate in self.gates if isinstance(gate, Gate)]

    def attend(self, maps: list[Tensor], masks: Sequence[Mask]) -> list[Gated]:
        """Foreground and background of every map; nothing without gates."""
        return [gate.attend(x, mask) for gate, x, mask in zip(self._gates(), maps, masks, strict=bool(self.gates))]

    def vae_losses(self, maps: list[Tensor], masks: Sequence[Mask], seen: list[Any] | None = None) -> Tensor:
        """What the VAEs learn from in their pass, (B,); `seen` gets what they made of the maps."""
        found = [gate.explained(x, mask) for gate, x, mask in zip(self._gates(), maps, masks, strict=True)]
        losses, attentions, again = ([*part] for part in zip(*found, strict=True))
        if seen is not None:
            seen.append(Explained(maps, attentions, again, [*masks]))
        return sum_of(losses)

    def explain_like(self, explained: Explained) -> list[Tensor]:
        """What this detector's own VAEs make of what another's were given.

        Raises:
            TadError: it has none, or for other widths.
        """
        widths = [gate.vae.channels for gate in self._gates()]
        if widths != [attention.shape[1] for attention in explained.attentions]:
            raise TadError(f"gates {widths} wide cannot explain maps of other widths or another number")
        pairs = zip(self._gates(), explained.maps, explained.attentions, strict=True)
        return [gate.vae.explain(x, attention_BCT)[0] for gate, x, attention_BCT in pairs]

    def reconstruction_losses(self, gated: list[Gated], targets: list[Tensor], masks: Sequence[Mask]) -> Tensor:
        """How far features that are generated from the attention are from `targets`, (B,)."""
        parts = zip(self._gates(), gated, targets, masks, strict=True)
        return sum_of([gate.reconstruction_loss(g.attention_BCT, x, mask) for gate, g, x, mask in parts])

    def enter(self, phase: str, epoch: int, epochs: int) -> None:
        """Give the losses of a pass of an epoch (from 0) from now on."""
        whole = self.gate_settings["ramp_epochs"] or epochs
        self.phase, self.ramp = phase, min(epoch + 1, whole) / whole

    def gate_losses(self, background: Tensor, reconstruction: Tensor) -> Tensor:
        """The weighted sum of what the gate adds to the loss."""
        settings = self.gate_settings
        weights = float(settings["background_weight"]), float(settings["reconstruction_weight"]) * self.ramp
        return weights[0] * background + weights[1] * reconstruction

    def of_phase(self, groups: list[dict[str, Any]], phase: str) -> list[dict[str, Any]]:
        """The parameters in these groups that learn in a pass."""
        vae = {id(parameter) for gate in self._gates() for parameter in gate.vae.parameters()}
        return [
            {**group, "params": [p for p in group["params"] if (id(p) in vae) == (phase != MAIN.name)]}
            for group in groups
        ]
