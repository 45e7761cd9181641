"""Self-supervised pre-training of a detector on its pretext task, with all videos and without labels."""

import logging
from pathlib import Path
from typing import Any

from torch import Tensor

from tad.core.errors import TadError
from tad.layers.contract import DetectorBase
from tad.layers.types import MAIN, Part, Targets
from tad.training.data.windows import Windows
from tad.training.loop.engine import Engine, Saving

log = logging.getLogger(__name__)


class Pretext(DetectorBase):
    """Wrapper that trains a detector on its pretext task; parameters that the task does not use stay unchanged."""

    def __init__(self, detector: DetectorBase) -> None:
        super().__init__()
        self.detector = detector

    def padded(self, length: int) -> int:
        """Return the padded length of the wrapped detector."""
        return self.detector.padded(length)

    def loss(
        self, feats_BTC: Tensor, lengths_B: Tensor, targets: list[Targets], part: Part | None = None,
        seen: list[Any] | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Compute the losses of the pretext task; targets are ignored."""
        return self.detector.pretext_loss(feats_BTC, lengths_B, part)

    def parameter_groups(self, weight_decay: float, phase: str = MAIN.name) -> list[dict[str, Any]]:
        """Return the parameter groups of all the detector's phases."""
        return [
            group for each in self.detector.phases for group in self.detector.parameter_groups(weight_decay, each.name)
        ]


def learn_pretext(engine: Engine, windows: Windows, *, saving: Saving, tensorboard: Path) -> None:
    """Train an engine's detector on its pretext task for `train.pretext_epochs`, at the learning rate `train.lr`.

    The final state stays on disk until the main training has ended, so that an interrupted run need not repeat it.

    Raises:
        TadError: the detector has no pretext task; see also `Engine.run`.
    """
    if not engine.detector.pretext:
        raise TadError(f"train.pretext_epochs: {engine.spec.pretext_epochs}: this detector has no pretext task; set 0")
    changes = {
        "epochs": engine.spec.pretext_epochs, "warmup_epochs": 0, "eta_min": engine.spec.lr, "milestones": (),
        "ema_decay": 0.0, "selection": "last", "compile": False,
    }  # fmt: skip
    spec = engine.spec.model_copy(update=changes)
    log.info("pretext task: %d epochs on %d videos", spec.epochs, len(windows.items))
    before = Engine(
        Pretext(engine.detector), windows, spec=spec, seed=engine.seed, device=engine.device, saving=saving,
        ranks=engine.ranks,
    )  # fmt: skip
    before.resume()
    before.run(tensorboard / "pretext")
    if engine.ranks.first:
        before.save()
    engine.detector.zero_grad(set_to_none=True)
    engine.restart_averages()
