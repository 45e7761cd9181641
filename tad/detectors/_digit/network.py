"""Network of DiGIT: from features to classes and segments of queries."""

# B videos, T snippets, C channels, S points of all levels, Q queries, K classes, L layers of the decoder

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tad.detectors._digit.attention import DeformableAttention, Memory, QueryAttention
from tad.detectors._digit.decoder import Decoder
from tad.detectors._digit.encoder import Embedding, EncoderLayer, pyramid
from tad.detectors._digit.time import sine_code
from tad.detectors.digit_settings import Settings
from tad.layers.kernels import at_least_float32


@dataclass(frozen=True, slots=True)
class Outputs:
    """What the network says about a batch; a segment is its centre and the logarithm of its length, in seconds.

    Attributes:
        logits_LBQK: class logits of the queries, after each layer.
        segments_LBQ2: their segments.
        real_BQ: which queries exist.
        points_BS: logits of the encoder's points: whether there is an action of any class.
        anchors_BS2: segments of the points, which depend on the time alone.
        real_BS: which points are not padding.
    """

    logits_LBQK: Tensor
    segments_LBQ2: Tensor
    real_BQ: Tensor
    points_BS: Tensor
    anchors_BS2: Tensor
    real_BS: Tensor


class Network(nn.Module):
    """Encoder, selection of queries, and decoder. For the settings see digit_settings.py."""

    def __init__(self, settings: Settings, *, feature_dim: int, num_classes: int) -> None:
        super().__init__()
        channels, hidden = settings.embed_dim, settings.mlp_dim
        self.settings = settings
        self.embedding = Embedding(feature_dim, channels, kernel=settings.embed_kernel)
        self.encoder = nn.ModuleList(
            EncoderLayer(
                channels, hidden=hidden, kernel=settings.kernel, dilations=settings.dilations,
                depthwise=settings.depthwise, dropout=settings.dropout,
            )
            for _ in range(settings.encoder_layers)
        )  # fmt: skip
        self.level_codes = nn.Embedding(settings.levels, channels)
        self.point = nn.Sequential(nn.Linear(channels, channels), nn.LayerNorm(channels), nn.Linear(channels, 1))
        self.content = nn.Sequential(nn.Linear(channels, channels), nn.LayerNorm(channels))
        self.memory = nn.Sequential(nn.Linear(channels, channels), nn.LayerNorm(channels))
        self.decoder = Decoder(
            channels, layers=settings.decoder_layers, classes=num_classes, border_layers=settings.border_layers,
            hidden=hidden, heads=settings.heads, points=settings.points, levels=settings.levels,
            dropout=settings.dropout,
        )  # fmt: skip
        self._initialise()

    def _initialise(self) -> None:
        """Draw matrices as published: Glorot, except in the heads, whose first scores are those of a rare class."""
        heads = {id(m) for m in (self.point[-1], self.decoder.classes, *self.decoder.borders.modules())}
        heads |= {id(m) for a in self.modules() if isinstance(a, DeformableAttention) for m in a.modules()}
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv1d | nn.Embedding) and id(module) not in heads:
                nn.init.xavier_uniform_(module.weight)
            if isinstance(module, QueryAttention):
                nn.init.zeros_(module.inputs.bias)
                nn.init.zeros_(module.output.bias)
        prior = self.settings.class_prior
        for head in (self.point[-1], self.decoder.classes):
            assert isinstance(head, nn.Linear)
            nn.init.constant_(head.bias, -math.log((1 - prior) / prior))

    def count(self, points: Tensor) -> Tensor:
        """Return the number of queries of videos with so many points."""
        # the share is a tensor because the exporter of graphs rounds Python's numbers to single precision
        share = torch.tensor(self.settings.query_share, dtype=torch.float64, device=points.device)
        return (points.double() * share).long().clamp(min=1, max=self.settings.max_queries)

    def most(self, length: int) -> int:
        """Return the largest number of queries of a video that is padded to `length` snippets."""
        points = sum(length >> level for level in range(self.settings.levels))
        return min(max(int(points * self.settings.query_share), 1), self.settings.max_queries)

    def forward(self, x_BTC: Tensor, lengths_B: Tensor, queries: int | None = None) -> Outputs:
        """Run the network.

        Args:
            x_BTC: features, zero on the padding; T is a multiple of 2 ** (levels - 1).
            lengths_B: int64, on the device of the features.
            queries: Q, at least as many as a video has; None: as many as T snippets have.
        """
        settings = self.settings
        time_T = torch.arange(x_BTC.shape[1], device=x_BTC.device)
        real_BT1 = (time_T < lengths_B[:, None])[:, :, None]
        x_BTC = self.embedding(x_BTC, real_BT1)
        dtype = torch.promote_types(x_BTC.dtype, torch.float32)
        x_BTC = x_BTC + sine_code(torch.tensor(settings.fps, dtype=dtype, device=x_BTC.device), settings.embed_dim)
        for layer in self.encoder:
            x_BTC = layer(x_BTC, real_BT1)
        middle_BT1 = ((time_T.to(dtype) + 0.5) * settings.seconds).expand(len(lengths_B), -1)[:, :, None]
        sequences, lengths = pyramid(at_least_float32(x_BTC) * real_BT1, lengths_B, settings.levels)
        middles, _ = pyramid(middle_BT1, lengths_B, settings.levels)
        anchors, reals, firsts = [], [], [0]
        for level, (middle_BS1, length_B) in enumerate(zip(middles, lengths, strict=True)):
            log_length = math.log(settings.base_scale / settings.fps * 2**level)
            anchors.append(F.pad(middle_BS1, (0, 1), value=log_length))
            reals.append(torch.arange(middle_BS1.shape[1], device=x_BTC.device) < length_B[:, None])
            firsts.append(firsts[-1] + middle_BS1.shape[1])
        coded = [x_BSC + code_C for x_BSC, code_C in zip(sequences, self.level_codes.weight, strict=True)]
        all_BSC, anchors_BS2, real_BS = torch.cat(coded, dim=1), torch.cat(anchors, dim=1), torch.cat(reals, dim=1)
        points_BS = at_least_float32(self.point(all_BSC * real_BS[:, :, None])[:, :, 0])
        index_BQ, real_BQ = self.select(points_BS, real_BS, self.most(x_BTC.shape[1]) if queries is None else queries)
        chosen_BSC, first_BQ2 = (
            torch.gather(x, 1, index_BQ[:, :, None].expand(-1, -1, x.shape[2])) for x in (all_BSC, anchors_BS2)
        )
        memory = Memory(self.memory(all_BSC), tuple(firsts[:-1]), torch.stack(lengths, dim=1))
        seconds_B = lengths_B.to(dtype) * settings.seconds
        queries_BQC = self.content(chosen_BSC.detach())
        logits, segments = self.decoder(queries_BQC, first_BQ2, seconds_B, memory, real_BQ)
        return Outputs(logits, segments, real_BQ, points_BS, anchors_BS2, real_BS)

    def select(self, points_BS: Tensor, real_BS: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """Return the points with the best scores, (B, Q) with Q = `most`, in their order in time, and which are real.

        A video has as many queries as its own points allow, so that padding changes nothing.
        """
        score_BS = points_BS.detach().masked_fill(~real_BS, -torch.inf)
        score_BS = F.pad(score_BS, (0, most), value=-torch.inf)  # there may be fewer points than places for queries
        exporting = torch.compiler.is_exporting()  # a graph has no stable sort
        order = score_BS.topk(most, dim=1) if exporting else score_BS.sort(dim=1, descending=True, stable=True)
        best_BQ = order.indices[:, :most]
        real_BQ = torch.arange(most, device=points_BS.device) < self.count(real_BS.sum(dim=1))[:, None]
        last = points_BS.shape[1] - 1
        index_BQ = torch.where(real_BQ, best_BQ, last + 1).sort(dim=1).values
        return index_BQ.clamp(max=last), real_BQ
