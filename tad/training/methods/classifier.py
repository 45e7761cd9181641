"""Video-level classifier on snippet features: a local alternative to external class scores.

Each snippet is scored on its own, and a video's score of a class is the mean over its best snippets, so short actions
are not lost in long backgrounds (top-k multiple-instance learning, as in weakly supervised detection: UntrimmedNets,
CVPR 2017; W-TALC, ECCV 2018).
"""

# B videos, T snippets, C channels, K classes

import logging
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tad.core.errors import TadError
from tad.settings.stages import ClassifySpec
from tad.training.data.in_memory import Features
from tad.training.data.windows import generator

log = logging.getLogger(__name__)
ORDER, DROP = 10, 11  # purposes of random streams, see `tad.training.data.windows.generator`
STD_EPSILON = 1e-6


class VideoClassifier(nn.Module):
    """Two-layer network on standardised snippets (T, C).

    Returns logits (K,): per class the mean over the ⌈share · T⌉ snippets with the highest scores.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, classes: int, *, hidden: int, dropout: float, share: float) -> None:
        super().__init__()
        self.share = share
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))
        self.layers = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, classes)
        )

    def forward(self, feats_TC: Tensor) -> Tensor:
        logits_TK: Tensor = self.layers((feats_TC - self.mean) / self.std)
        best = max(math.ceil(self.share * len(logits_TK)), 1)
        return logits_TK.topk(best, dim=0).values.mean(dim=0)


def _read(features: Features, video_id: str, length: int, most: int) -> Tensor:
    """Read snippets (T, C) float32: all of them, or `most` evenly spaced ones of a longer video."""
    feats_TC = features.read(video_id, 0, length)
    if length > most:
        feats_TC = feats_TC[torch.from_numpy(np.linspace(0, length - 1, most).round().astype(int))]
    return feats_TC.float()


class Trainer:
    """Trains a `VideoClassifier` on (video id, number of snippets, class ids) and scores videos with it.

    All random numbers depend only on the seed and the training step.
    """

    def __init__(
        self, features: Features, *, channels: int, classes: int, spec: ClassifySpec, seed: int, device: torch.device
    ) -> None:
        self.features, self.spec, self.seed, self.device = features, spec, seed, device
        torch.manual_seed(seed)
        self.model = VideoClassifier(
            channels, classes, hidden=spec.hidden, dropout=spec.dropout, share=spec.best_share
        ).to(device)
        self.classes = classes

    def _snippets(self, video_id: str, length: int) -> Tensor:
        return _read(self.features, video_id, length, self.spec.max_snippets).to(self.device)

    def _standardise(self, videos: Sequence[tuple[str, int, Sequence[int]]]) -> None:
        total, squares, count = torch.zeros_like(self.model.mean), torch.zeros_like(self.model.mean), 0
        for video_id, length, _ in videos:
            feats_TC = self._snippets(video_id, length)
            total += feats_TC.sum(dim=0)
            squares += feats_TC.square().sum(dim=0)
            count += len(feats_TC)
        self.model.mean = total / count
        self.model.std = (squares / count - self.model.mean.square()).clamp(min=0).sqrt() + STD_EPSILON

    def fit(self, videos: Sequence[tuple[str, int, Sequence[int]]]) -> None:
        """Train the classifier; the target distribution of a video is uniform over its classes.

        Raises:
            TadError: the loss is not finite.
        """
        spec = self.spec
        self._standardise(videos)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=spec.lr, weight_decay=spec.weight_decay)
        self.model.train()
        for epoch in range(spec.epochs):
            order = generator(self.seed, ORDER, epoch).permutation(len(videos))
            losses = []
            for first in range(0, len(order), spec.batch_size):
                chosen = order[first : first + spec.batch_size].tolist()
                torch.manual_seed(int(generator(self.seed, DROP, epoch, first).integers(2**63)))
                logits_BK = torch.stack([self.model(self._snippets(*videos[k][:2])) for k in chosen])
                target_BK = torch.zeros_like(logits_BK)
                for row, k in enumerate(chosen):
                    target_BK[row, list(videos[k][2])] = 1 / len(videos[k][2])
                loss = F.cross_entropy(logits_BK, target_BK)
                if not math.isfinite(value := float(loss.detach())):
                    raise TadError(f"classify: loss {value} in epoch {epoch + 1}; lower classify.lr")
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                losses.append(value)
            log.info("epoch %d of %d: loss %.4f", epoch + 1, spec.epochs, float(np.mean(losses)))

    @torch.no_grad()
    def scores(self, video_id: str, length: int) -> np.ndarray:
        """Return the class probabilities (K,) of a video, float64, with sum 1."""
        self.model.eval()
        result: np.ndarray = torch.softmax(self.model(self._snippets(video_id, length)).double(), 0).cpu().numpy()
        return result
