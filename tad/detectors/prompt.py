"""Training-free detection of classes that are given as texts: similarity curve → segments.

Snippets are embeddings of an image-text encoder, and so are the classes. A class's curve is the cosine of each snippet
with its text. Segments are the runs of snippets above a threshold; a score is the mean inside minus a weighted mean
around, times the probability of the class in the video. The idea is that of FreeZAD (arXiv:2501.13795); numbers and
code are ours (docs/methods/prompt.md).
"""

# B videos, T snippets, C values of an embedding, K classes, N segments, H thresholds, P points

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tad.core.errors import TadError
from tad.detectors._runs import dense_runs, rounded
from tad.detectors.prompt_settings import Settings
from tad.layers.contract import DetectorBase
from tad.layers.types import Candidates, Part, Raw, Targets


def similarities(feats_TC: Tensor, texts_KC: Tensor, *, smooth: int = 1) -> Tensor:
    """Return the cosines (K, T) of snippets and texts, averaged over `smooth` snippets (fewer at the ends)."""
    curves_KT = F.normalize(texts_KC, dim=1) @ F.normalize(feats_TC, dim=1).T
    if smooth == 1:
        return curves_KT
    padding = smooth // 2
    smoothed_KT: Tensor = F.avg_pool1d(curves_KT[None], smooth, stride=1, padding=padding, count_include_pad=False)[0]
    return smoothed_KT


def stretched(curves_KT: Tensor) -> Tensor:
    """Stretch each class's curve to 0..1 over the video; a constant curve becomes 0."""
    low_K1, high_K1 = curves_KT.amin(dim=1, keepdim=True), curves_KT.amax(dim=1, keepdim=True)
    return (curves_KT - low_K1) / (high_K1 - low_K1).clamp(min=torch.finfo(curves_KT.dtype).tiny)


def runs_above(curve_T: Tensor, threshold: float) -> list[tuple[int, int]]:
    """Return the maximal runs [first, last) of snippets whose value exceeds the threshold."""
    above_T = F.pad((curve_T > threshold).int(), (1, 1)).diff()
    return list(zip((above_T == 1).nonzero()[:, 0].tolist(), (above_T == -1).nonzero()[:, 0].tolist(), strict=True))


def contrast(curve_T: Tensor, first: int, last: int, *, margin: float) -> float:
    """Return the mean of a curve inside [first, last) minus its weighted mean around.

    Around are `margin` times the segment's length on each side, at least one snippet, as far as the video goes; the
    d-th neighbour has the weight 1 / log2(d + 1). Without neighbours the mean outside is 0.
    """
    reach = max(round(margin * (last - first)), 1)
    before, after = curve_T[max(first - reach, 0) : first].flip(0), curve_T[last : last + reach]
    weights_D = 1 / torch.log2(torch.arange(2, reach + 2, dtype=curve_T.dtype, device=curve_T.device))
    total = weights_D[: len(before)].sum() + weights_D[: len(after)].sum()
    outside = (before * weights_D[: len(before)]).sum() + (after * weights_D[: len(after)]).sum()
    inside = curve_T[first:last].mean()
    return float(inside - outside / total) if total > 0 else float(inside)


class Detector(DetectorBase):
    """See prompt_settings.py; its only weights are the classes' embeddings, which stage train computes from texts."""

    graphable = True
    graph_raw = ("logits",)

    def __init__(self, settings: Settings, *, feature_dim: int, num_classes: int, max_length: int) -> None:
        super().__init__()
        self.settings = settings
        self.feature_dim, self.num_classes, self.max_length = feature_dim, num_classes, max_length
        self.register_buffer("texts_KC", torch.zeros(num_classes, feature_dim))
        self.texts_KC: Tensor

    def padded(self, length: int) -> int:
        """Return the length itself: every length is accepted."""
        return length

    def loss(
        self, feats_BTC: Tensor, lengths_B: Tensor, targets: list[Targets], part: Part | None = None,
        seen: list[Any] | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Refuse: there is nothing to train.

        Raises:
            TadError: always.
        """
        raise TadError("detector prompt is not trained; its classes are the texts of `classes: {text: …}`")

    def raw(self, feats_BTC: Tensor, lengths_B: Tensor) -> list[Raw]:
        """Return the curves (K, T) of each video, before they are stretched."""
        self.expect_width(feats_BTC)
        rows: list[Raw] = []
        for row, length in enumerate(lengths_B.tolist()):
            if length:
                feats_TC = feats_BTC[row, :length].float()
                curves_KT = similarities(feats_TC, self.texts_KC, smooth=self.settings.smooth)
                rows.append(Raw([row], lengths_B[row : row + 1], curves_KT))
        return rows

    def decode_candidates(
        self, raw: list[Raw], videos: int, *, score_threshold: float, topk: int, min_length: float
    ) -> list[Candidates]:
        """Return the segments of the most probable classes of each video, best first."""
        found: list[list[tuple[float, float, float, int]]] = [[] for _ in range(videos)]
        for one in raw:
            found[one.rows[0]] = self._segments(one.outputs)
        results = []
        for segments in found:
            best = sorted((s for s in segments if s[2] > score_threshold), key=lambda s: -s[2])[:topk]
            good = [s for s in best if s[1] - s[0] > min_length]  # in this order, as for every detector
            table_N4 = torch.tensor(good).view(-1, 4).to(self.texts_KC.device)
            results.append(Candidates(table_N4[:, :2], table_N4[:, 2], table_N4[:, 3].long()))
        return results

    @property
    def graph_lengths(self) -> tuple[int, int]:
        """Return 1 twice: a sequence is not padded."""
        return 1, 1

    def dense(self, feats_BTC: Tensor, lengths_B: Tensor) -> dict[str, Tensor]:
        """Compute the outputs of one sequence for all snippets and thresholds; see `DetectorBase.dense`.

        A point is a snippet, and a threshold in descending order; its segment is the run that starts there. Scores of
        points without one, of a run that another threshold finds too, and of classes that the gate excludes are 0.
        Logits are the cosines.
        """
        curves_KT = similarities(feats_BTC[0], self.texts_KC, smooth=self.settings.smooth)
        raw = {"logits": curves_KT.T.repeat_interleave(len(set(self.settings.thresholds)), dim=0)[None]}
        return raw | self.decode_dense(raw, lengths_B)

    def decode_dense(self, raw: Mapping[str, Tensor], lengths_B: Tensor) -> dict[str, Tensor]:
        """Decode the cosines at all points of one sequence."""
        thresholds = sorted(set(self.settings.thresholds), reverse=True)
        curves_KT = raw["logits"][0, :: len(thresholds)].T
        classes, length = curves_KT.shape
        chance_K = self._chances(curves_KT, rounded(self.settings.peak, lengths_B))
        scaled_KT = stretched(curves_KT) if self.settings.scale == "range" else curves_KT
        heights_HK = curves_KT.new_tensor(thresholds)[:, None].expand(-1, classes)
        runs = dense_runs(scaled_KT.repeat(len(thresholds), 1), heights_HK.flatten(), margin=self.settings.margin)
        new_HKT, ends_HKT, apart_HKT = (
            x.view(len(thresholds), classes, length) for x in (runs.starts_RT, runs.ends_RT, runs.contrast_RT)
        )
        ends_HKT = torch.where(new_HKT, ends_HKT, 0)
        twice = [(ends_HKT[:k] == ends_HKT[k]).any(dim=0) & new_HKT[k] for k in range(1, len(thresholds))]
        again_HKT = torch.stack([torch.zeros_like(new_HKT[0]), *twice])
        scores_HKT = torch.where(new_HKT & ~again_HKT, chance_K[:, None] * (1 + apart_HKT) / 2, 0.0)
        last_PK = ends_HKT.permute(2, 0, 1).reshape(-1, classes).to(curves_KT.dtype) - 0.5
        first_T = torch.arange(length, device=curves_KT.device).to(curves_KT.dtype) - 0.5
        first_P = first_T.repeat_interleave(len(thresholds))
        return {
            "scores": scores_HKT.permute(2, 0, 1).reshape(-1, classes)[None],
            "segments": torch.stack([first_P[:, None].expand_as(last_PK), last_PK], dim=2)[None],
            "level": torch.zeros_like(first_P, dtype=torch.long),
        }

    def _chances(self, curves_KT: Tensor, count_1: Tensor) -> Tensor:
        """Return the probability of each class by its mean over the best `count` snippets; 0 outside the gate."""
        best_KT = curves_KT.sort(dim=1, descending=True).values
        taken_T = torch.arange(curves_KT.shape[1], device=curves_KT.device) < count_1
        peaks_K = (best_KT * taken_T).sum(dim=1) / count_1
        gate, classes = self.settings.gate, len(peaks_K)
        if not gate:
            return (1 + peaks_K) / 2
        chance_K = torch.softmax(peaks_K / self.settings.temperature, dim=0)
        return chance_K * F.one_hot(chance_K.topk(min(gate, classes)).indices, classes).sum(dim=0)

    def _segments(self, curves_KT: Tensor) -> list[tuple[float, float, float, int]]:
        """Return (start, end, score, class) of all segments of a video, in snippets.

        Snippet t covers [t - 1/2, t + 1/2]. A score lies in (0, 1): half of 1 plus the contrast, times the probability.
        """
        settings, length = self.settings, curves_KT.shape[1]
        peaks_K = curves_KT.topk(max(round(settings.peak * length), 1), dim=1).values.mean(dim=1)
        chance_K = torch.softmax(peaks_K / settings.temperature, dim=0) if settings.gate else (1 + peaks_K) / 2
        scaled_KT = stretched(curves_KT) if settings.scale == "range" else curves_KT
        segments = set()
        count = min(settings.gate or len(chance_K), len(chance_K))
        for label in chance_K.topk(count).indices.tolist():
            for threshold in settings.thresholds:
                for first, last in runs_above(scaled_KT[label], threshold):
                    apart = contrast(scaled_KT[label], first, last, margin=settings.margin)
                    segments.add((first - 0.5, last - 0.5, float(chance_K[label]) * (1 + apart) / 2, label))
        return sorted(segments)
