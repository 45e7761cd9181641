"""What a detector learns before its own task, from all videos and without labels: a training of its own."""

import logging
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tad.errors import TadError
from tad.layers.types import Part, Targets
from tad.training.data import Windows
from tad.training.engine import Engine, Saving

log = logging.getLogger(__name__)


class Pretext(nn.Module):
    """A detector as one that learns its pretext task; what this task does not use gets no gradient and stays."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.detector = detector

    def loss(
        self, feats_BTC: Tensor, lengths_B: Tensor, targets: list[Targets], part: Part | None = None
    ) -> dict[str, Tensor]:
        """The pretext task's; targets do not count."""
        losses: dict[str, Tensor] = self.detector.pretext_loss(feats_BTC, lengths_B, part)
        return losses

    def positives(self, lengths_B: Tensor, targets: list[Targets]) -> int:
        """There is nothing to count."""
        return 0

    def normalise(self, positives: int) -> None:
        """Losses are divided video by video."""

    def parameter_groups(self, weight_decay: float) -> list[dict[str, object]]:
        """The detector's, of all its passes."""
        phases = getattr(self.detector, "phases", ())
        if len(phases) < 2:
            return list(self.detector.parameter_groups(weight_decay))
        return [group for phase in phases for group in self.detector.parameter_groups(weight_decay, phase.name)]

    def training_state(self) -> dict[str, Tensor]:
        """Nothing besides the weights."""
        return {}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Restores `training_state`."""
        assert not state


def learn_pretext(engine: Engine, windows: Windows, *, saving: Saving, tensorboard: Path) -> None:
    """Train an engine's detector on its pretext task, at the recipe's learning rate, for `train.pretext_epochs`.

    Its last state is kept until the training that follows has ended, so that one that is cut off early finds it.

    Raises:
        TadError: a detector without such a task; as `Engine.run`.
    """
    if not hasattr(engine.detector, "pretext_loss"):
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
    engine.begin_again()
