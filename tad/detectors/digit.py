"""DiGIT: a set of queries, each with a class and a segment of its own, so that nothing needs to be suppressed.

Kim, Lee, Hong, Lee: DiGIT: Multi-Dilated Gated Encoder and Central-Adjacent Region Integrated Decoder for Temporal
Action Detection Transformer, CVPR 2025.
"""

# B videos, T snippets, C channels, K classes, Q queries, N candidates

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tad.detectors._digit.assignment import borders
from tad.detectors._digit.losses import losses_of
from tad.detectors._digit.network import Network, Outputs
from tad.detectors.digit_settings import Settings
from tad.layers.chance import of_part
from tad.layers.contract import DetectorBase
from tad.layers.types import Candidates, Part, Raw, Targets


class Detector(DetectorBase):
    """The published DiGIT. For the settings see digit_settings.py.

    The network computes in seconds, of which a snippet lasts `stride` / `fps`; everything outside is in snippets.
    """

    graphable = True
    graph_raw = ("logits",)
    graph_bar = 1e-3  # the code of segments multiplies rounding errors in every layer

    def __init__(self, settings: Settings, *, feature_dim: int, num_classes: int, max_length: int) -> None:
        super().__init__()
        self.settings = settings
        self.feature_dim, self.num_classes, self.max_length = feature_dim, num_classes, max_length
        self.network = Network(settings, feature_dim=feature_dim, num_classes=num_classes)
        self.instances = torch.ones(())  # of the batch, which losses are divided by

    # -- lengths and times ---------------------------------------------------------------------------------------------

    @property
    def multiple(self) -> int:
        """Return what padded lengths are a multiple of, so that every level is half as long as the one before."""
        return int(2 ** (self.settings.levels - 1))

    def padded(self, length: int) -> int:
        """Round a length up to a multiple of the last level's stride; any length is accepted."""
        return -(-length // self.multiple) * self.multiple

    def batch(self, feats_BTC: Tensor, lengths_B: Tensor, longest: int) -> tuple[Tensor, Tensor]:
        """Return features that are padded with zeros, and the lengths on their device."""
        self.expect_width(feats_BTC)
        padded = self.padded(longest)
        lengths_B = lengths_B.to(feats_BTC.device)
        real_BT = torch.arange(padded, device=feats_BTC.device) < lengths_B[:, None]
        x_BTC = F.pad(feats_BTC[:, :padded], (0, 0, 0, max(padded - feats_BTC.shape[1], 0)))
        return x_BTC.masked_fill(~real_BT[:, :, None], 0.0), lengths_B

    def _in_seconds(self, target: Targets) -> Targets:
        """Return the instances of a window in seconds since its start; the middle of a snippet is its time."""
        segments_N2, doubtful_M2 = target.segments_N2, target.doubtful_M2
        return replace(
            target,
            segments_N2=(segments_N2 + 0.5) * self.settings.seconds,
            doubtful_M2=None if doubtful_M2 is None else (doubtful_M2 + 0.5) * self.settings.seconds,
        )

    def _in_snippets(self, segments: Tensor) -> Tensor:
        """Return start and end in snippets of segments given as centre and logarithm of the length, in seconds."""
        return borders(segments) / self.settings.seconds - 0.5

    # -- training ------------------------------------------------------------------------------------------------------

    def positives(self, lengths_B: Tensor, targets: list[Targets]) -> int:
        """Count the instances of a batch."""
        return sum(len(target.labels_N) for target in targets)

    def normalise(self, positives: int) -> None:
        """Set the number of instances that the losses of the batch are divided by."""
        self.instances = torch.tensor(float(max(positives, 1)))

    def training_state(self) -> dict[str, Tensor]:
        """Return the training state besides the weights: the number of instances."""
        return {"instances": self.instances}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Restore a state returned by `training_state`."""
        self.instances = state["instances"].cpu()

    def loss(
        self, feats_BTC: Tensor, lengths_B: Tensor, targets: list[Targets], part: Part | None = None,
        seen: list[Any] | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Return the losses of a batch (see `losses_of`); each layer's queries are assigned to the instances anew."""
        assert len(targets) == feats_BTC.shape[0] == lengths_B.shape[0]
        if part is None:
            self.normalise(self.positives(lengths_B, targets))
        of_part(self, part, given=len(targets), device=feats_BTC.device)
        longest = part.longest if part else int(lengths_B.max())
        x_BTC, lengths_B = self.batch(feats_BTC, lengths_B, self.max_length if self.fixed_length else longest)
        if self.training and self.settings.input_noise > 0:
            noise_BTC = self.settings.input_noise * self.normal(x_BTC, *x_BTC.shape[1:])
            x_BTC, _ = self.batch(x_BTC + noise_BTC, lengths_B, x_BTC.shape[1])
        outputs: Outputs = self.network(x_BTC, lengths_B)
        timed = [self._in_seconds(target) for target in targets]
        return losses_of(
            outputs, timed, settings=self.settings, instances=float(self.instances), means=self._means(lengths_B, part)
        )

    def _means(self, lengths_B: Tensor, part: Part | None) -> tuple[Tensor, Tensor]:
        """Return the average numbers of queries and of points of all videos of the batch."""
        assert part is None or part.lengths or part.videos == len(lengths_B), "a part must say the batch's lengths"
        all_V = lengths_B.new_tensor(part.lengths) if part and part.lengths else lengths_B
        points_V = torch.stack([-(-all_V // 2**level) for level in range(self.settings.levels)]).sum(dim=0)
        return self.network.count(points_V).double().mean(), points_V.double().mean()

    # -- inference -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def raw(self, feats_BTC: Tensor, lengths_B: Tensor) -> list[Raw]:
        """Return the last layer's logits and segments of the videos that are not empty."""
        rows = self.filled(lengths_B)
        if not rows:
            return []
        x_BTC, own_B = self.batch(feats_BTC[rows], lengths_B[rows], int(lengths_B.max()))
        outputs: Outputs = self.network(x_BTC, own_B)
        last = {"logits_BQK": outputs.logits_LBQK[-1], "segments_BQ2": outputs.segments_LBQ2[-1]}
        return [Raw(rows, lengths_B[rows], last | {"real_BQ": outputs.real_BQ})]

    @torch.no_grad()
    def decode_candidates(
        self, raw: list[Raw], videos: int, *, score_threshold: float, topk: int, min_length: float
    ) -> list[Candidates]:
        """Return the best queries of each video, with their best class or with all classes."""
        like = next(self.parameters())
        empty = torch.zeros(0, 2, device=like.device), like.new_zeros(0), like.new_zeros(0, dtype=torch.long)
        candidates = [Candidates(*empty) for _ in range(videos)]
        for part in raw:
            scores_BQK = self._scores(part.outputs["logits_BQK"], part.outputs["real_BQ"])
            for row, scores_QK, segments_Q2 in zip(part.rows, scores_BQK, part.outputs["segments_BQ2"], strict=True):
                pair_N = (scores_QK.flatten() > score_threshold).nonzero()[:, 0]
                scores_N, order_N = scores_QK.flatten()[pair_N].sort(descending=True, stable=True)
                pair_N, scores_N = pair_N[order_N[:topk]], scores_N[:topk]
                segments_N2 = self._in_snippets(segments_Q2[torch.div(pair_N, self.num_classes, rounding_mode="floor")])
                long_N = segments_N2[:, 1] - segments_N2[:, 0] > min_length
                chosen = segments_N2.float(), scores_N.float(), pair_N % self.num_classes
                candidates[row] = Candidates(*(x[long_N] for x in chosen))
        return candidates

    def _scores(self, logits_BQK: Tensor, real_BQ: Tensor) -> Tensor:
        """Return the probabilities of queries, 0 for those that do not exist and for classes that are not taken."""
        scores_BQK = torch.sigmoid(logits_BQK.float()) * real_BQ[:, :, None]
        if not self.settings.one_class:
            return scores_BQK
        return scores_BQK * F.one_hot(logits_BQK.argmax(dim=2), self.num_classes)

    @property
    def graph_lengths(self) -> tuple[int, int]:
        """Return `multiple` twice."""
        return self.multiple, self.multiple

    def dense(self, feats_BTC: Tensor, lengths_B: Tensor) -> dict[str, Tensor]:
        """Compute the outputs of one padded sequence for `max_queries` queries; see `DetectorBase.dense`."""
        length = feats_BTC.shape[1]
        real_BT = torch.arange(length, device=feats_BTC.device) < lengths_B[:, None]
        x_BTC = feats_BTC.masked_fill(~real_BT[:, :, None], 0.0)
        outputs: Outputs = self.network(x_BTC, lengths_B, self.settings.max_queries)
        raw = {"logits": outputs.logits_LBQK[-1]}
        segments_BQ12 = self._in_snippets(outputs.segments_LBQ2[-1])[:, :, None]
        level_Q = torch.zeros(raw["logits"].shape[1], dtype=torch.long, device=feats_BTC.device)
        return {**raw, **self.decode_dense(raw, lengths_B), "segments": segments_BQ12, "level": level_Q}

    def decode_dense(self, raw: Mapping[str, Tensor], lengths_B: Tensor) -> dict[str, Tensor]:
        """Choose the classes of queries by their logits."""
        points_B = torch.stack([-(-lengths_B // 2**level) for level in range(self.settings.levels)]).sum(dim=0)
        queries = torch.arange(raw["logits"].shape[1], device=lengths_B.device)
        return {"scores": self._scores(raw["logits"], queries < self.network.count(points_B)[:, None])}
