"""Any detector on features, trained end to end with adapters in a frozen video transformer (AdaTAD).

Frames take the place of features, one per snippet: a row of height · width · 3 values from 0 to 255. The encoder turns
a window of them into features, and the inner detector does everything else. Segments outside are in frames, those of
the inner detector in positions of `each` frames.
"""

# B windows, T frames, H rows, W columns, C values of a frame, D channels of features, L positions, P padded frames

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tad.core.errors import TadError
from tad.detectors._adapted.views import DRAWS, centre, random_views
from tad.layers.adapters.encoder import AdaptedEncoder
from tad.layers.chance import of_part
from tad.layers.contract import DetectorBase
from tad.layers.types import MAIN, Candidates, Choice, Explained, Observed, Outputs, Part, Raw, Targets
from tad.settings.adapters import AdaptersSpec

CHANNELS = 3


class AdaptedDetector(DetectorBase):
    """A detector on features behind an encoder with adapters.

    Args:
        inner: the detector, for windows of max_length / frames_per_position positions.
        encoder: the encoder; the width of its features is that of the detector's.
        spec: settings of the adapters.
        rate: learning rate of the adapters in multiples of the recipe's.
    """

    windowed = True
    reads_frames = True

    def __init__(self, inner: DetectorBase, encoder: AdaptedEncoder, spec: AdaptersSpec, *, rate: float) -> None:
        super().__init__()
        self.inner, self.encoder, self.spec, self.rate = inner, encoder, spec, rate
        self.each, self.crop = spec.frames_per_position, int(spec.backbone.settings["crop"])
        self.feature_dim, self.num_classes = spec.height * spec.width * CHANNELS, inner.num_classes
        self.max_length, self.phases = inner.max_length * self.each, inner.phases
        self.rectified, self.graph_bar = inner.rectified, inner.graph_bar
        # class attributes of other detectors; here they are those of the detector inside
        self.exclusive, self.pretext, self.observable = inner.exclusive, inner.pretext, inner.observable  # type: ignore[misc]
        self.graphable, self.why_no_graph = inner.graphable, inner.why_no_graph  # type: ignore[misc]
        self.graph_outputs, self.graph_raw = inner.graph_outputs, inner.graph_raw  # type: ignore[misc]

    # -- frames to features --------------------------------------------------------------------------------------------

    def padded(self, length: int) -> int:
        """Return the frames of a window.

        Raises:
            TadError: the sequence is longer than a window.
        """
        if length > self.max_length:
            raise TadError(
                f"frames: {length}: the encoder sees windows of {self.max_length}; set detect.window_stride, or raise"
                " train.max_length"
            )
        return self.max_length

    def positions(self, lengths_B: Tensor) -> Tensor:
        """Return the number of positions that sequences of frames fill."""
        return torch.div(lengths_B + self.each - 1, self.each, rounding_mode="floor")

    def frames(self, feats_BTC: Tensor, lengths_B: Tensor) -> Tensor:
        """Return normalised windows (B, 3, T, crop, crop) of whole length; after the end, the last frame."""
        self.expect_width(feats_BTC)
        self.padded(feats_BTC.shape[1])
        device, spec = feats_BTC.device, self.spec
        time_T = torch.arange(self.max_length, device=device)
        last_B1 = lengths_B.to(device)[:, None] - 1
        x_BTHWC = feats_BTC.reshape(*feats_BTC.shape[:2], spec.height, spec.width, CHANNELS)
        if feats_BTC.shape[1] < self.max_length or int(lengths_B.min()) < self.max_length:
            index_BT = torch.minimum(time_T[None], last_B1)
            x_BTHWC = torch.stack([x_THWC[index_T] for x_THWC, index_T in zip(x_BTHWC, index_BT, strict=True)])
        x_BTHWC = x_BTHWC.float()
        if self.training:
            views = {"scale": spec.scale, "flip": spec.flip, "jitter": spec.jitter}
            x_BTHWC = random_views(x_BTHWC, self.uniform(feats_BTC, DRAWS), crop=self.crop, **views)  # type: ignore[arg-type]
        else:
            x_BTHWC = centre(x_BTHWC, self.crop)
        return self._normalised(x_BTHWC)

    def _normalised(self, x_BTHWC: Tensor) -> Tensor:
        trunk = self.encoder.trunk
        mean_C, std_C = (torch.tensor(values, device=x_BTHWC.device) for values in (trunk.mean, trunk.std))
        return ((x_BTHWC / 255 - mean_C) / std_C).permute(0, 4, 1, 2, 3)

    def features(self, feats_BTC: Tensor, lengths_B: Tensor, part: Part | None = None) -> tuple[Tensor, Tensor]:
        """Return features (B, L, D) of windows of frames, zero on the padding, and their lengths in positions."""
        of_part(self, part, given=len(feats_BTC), device=feats_BTC.device)
        with torch.no_grad():
            x_BCTHW = self.frames(feats_BTC, lengths_B)
        return self._encoded(x_BCTHW, lengths_B)

    def _encoded(self, x_BCTHW: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        length = self.max_length // self.each
        feats_BLD = self.encoder(x_BCTHW, length).transpose(1, 2)
        positions_B = self.positions(lengths_B)
        outside_BL = torch.arange(length, device=feats_BLD.device) >= positions_B.to(feats_BLD.device)[:, None]
        return feats_BLD.masked_fill(outside_BL[:, :, None], 0.0), positions_B

    def _part(self, part: Part | None) -> Part | None:
        if part is None:
            return None
        lengths = tuple(-(-length // self.each) for length in part.lengths)
        return replace(part, longest=-(-part.longest // self.each), lengths=lengths)

    def _to_positions(self, segments_N2: Tensor) -> Tensor:
        """Convert frames to positions; the middle of a position's frames is its time."""
        return segments_N2 if self.each == 1 else (segments_N2 - (self.each - 1) / 2) / self.each

    def _to_frames(self, segments_N2: Tensor) -> Tensor:
        return segments_N2 if self.each == 1 else segments_N2 * self.each + (self.each - 1) / 2

    def _targets(self, targets: list[Targets]) -> list[Targets]:
        return [
            replace(
                target,
                segments_N2=self._to_positions(target.segments_N2),
                shortest=target.shortest / self.each,
                doubtful_M2=None if target.doubtful_M2 is None else self._to_positions(target.doubtful_M2),
            )
            for target in targets
        ]

    def _candidates(self, candidates: list[Candidates]) -> list[Candidates]:
        return [replace(c, segments_N2=self._to_frames(c.segments_N2)) for c in candidates]

    # -- what a detector does ------------------------------------------------------------------------------------------

    def loss(
        self, feats_BTC: Tensor, lengths_B: Tensor, targets: list[Targets], part: Part | None = None,
        seen: list[Any] | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Compute the losses of the inner detector on the features of the windows."""
        feats_BLD, positions_B = self.features(feats_BTC, lengths_B, part)
        return self.inner.loss(feats_BLD, positions_B, self._targets(targets), self._part(part), seen)

    def candidates(
        self, feats_BTC: Tensor, lengths_B: Tensor, *, score_threshold: float, topk: int, min_length: float
    ) -> list[Candidates]:
        """Return the candidates of each window, in frames; `min_length` is in positions."""
        feats_BLD, positions_B = self.features(feats_BTC, lengths_B)
        return self._candidates(
            self.inner.candidates(
                feats_BLD, positions_B, score_threshold=score_threshold, topk=topk, min_length=min_length
            )
        )

    def raw(self, feats_BTC: Tensor, lengths_B: Tensor) -> list[Raw]:
        """Compute the raw outputs of the inner detector."""
        return self.inner.raw(*self.features(feats_BTC, lengths_B))

    def decode_candidates(
        self, raw: list[Raw], videos: int, *, score_threshold: float, topk: int, min_length: float
    ) -> list[Candidates]:
        """Decode the raw outputs, to frames."""
        options: dict[str, Any] = {"score_threshold": score_threshold, "topk": topk, "min_length": min_length}
        return self._candidates(self.inner.decode_candidates(raw, videos, **options))

    # -- training ------------------------------------------------------------------------------------------------------

    def positives(self, lengths_B: Tensor, targets: list[Targets]) -> int:
        """Count what the losses of a batch are normalised by."""
        return self.inner.positives(self.positions(lengths_B), self._targets(targets))

    def normalise(self, positives: int) -> None:
        """Update the normaliser."""
        self.inner.normalise(positives)

    @property
    def counts_ahead(self) -> bool:
        """Whether the inner detector counts ahead; the encoder is then run twice."""
        return self.inner.counts_ahead

    def refined_positives(
        self, feats_BTC: Tensor, lengths_B: Tensor, targets: list[Targets], part: Part | None = None
    ) -> int:
        """Return the number of positives that a micro-batch refines."""
        feats_BLD, positions_B = self.features(feats_BTC, lengths_B, part)
        return self.inner.refined_positives(feats_BLD, positions_B, self._targets(targets), self._part(part))

    def normalise_by_refined(self, count: int) -> None:
        """Update the normaliser with the refined positives."""
        self.inner.normalise_by_refined(count)

    def training_state(self) -> dict[str, Tensor]:
        """Return the state of the inner detector; the encoder has none."""
        return self.inner.training_state()

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Restore `training_state`."""
        self.inner.load_training_state(state)

    def parameter_groups(self, weight_decay: float, phase: str = MAIN.name) -> list[dict[str, Any]]:
        """Return the groups of the inner detector, and in its last phase one of the adapters with their own rate."""
        groups = self.inner.parameter_groups(weight_decay, phase)
        adapters = list(self.encoder.parameters())
        if adapters and phase == (self.phases[-1].name if len(self.phases) > 1 else phase):
            groups = [*groups, {"params": adapters, "weight_decay": self.spec.weight_decay, "rate": self.rate}]
        return groups

    def enter(self, phase: str, epoch: int, epochs: int) -> None:
        """Switch to a phase of an epoch."""
        self.inner.enter(phase, epoch, epochs)

    def pretext_loss(self, feats_BTC: Tensor, lengths_B: Tensor, part: Part | None = None) -> dict[str, Tensor]:
        """Compute the inner detector's loss that needs no labels."""
        feats_BLD, positions_B = self.features(feats_BTC, lengths_B, part)
        return self.inner.pretext_loss(feats_BLD, positions_B, self._part(part))

    def pseudo_targets(
        self, feats_BTC: Tensor, lengths_B: Tensor, *, confidence: float, mask: float
    ) -> list[Targets | None] | None:
        """Return the inner detector's pseudo-labels, in frames."""
        feats_BLD, positions_B = self.features(feats_BTC, lengths_B)
        labels = self.inner.pseudo_targets(feats_BLD, positions_B, confidence=confidence, mask=mask)
        if labels is None or self.each == 1:
            return labels
        return [one and replace(one, segments_N2=self._to_frames(one.segments_N2)) for one in labels]

    # -- what a detector may do ----------------------------------------------------------------------------------------

    def observe(
        self, feats_BTC: Tensor, lengths_B: Tensor, part: Part | None = None, choice: Choice | None = None
    ) -> Observed:
        """Compute the intermediate values of the inner detector."""
        feats_BLD, positions_B = self.features(feats_BTC, lengths_B, part)
        return self.inner.observe(feats_BLD, positions_B, self._part(part), choice)

    def distances(self, outputs: Outputs, level: int) -> Tensor:
        """Return the inner detector's distances, in positions."""
        return self.inner.distances(outputs, level)

    def explain_like(self, explained: Explained) -> list[Tensor]:
        """Reconstruct another detector's maps."""
        return self.inner.explain_like(explained)

    def geometric(self, raws: Sequence[Raw]) -> dict[str, Tensor]:
        """Average the raw outputs geometrically."""
        return self.inner.geometric(raws)

    # -- export --------------------------------------------------------------------------------------------------------

    @property
    def frozen_modules(self) -> tuple[nn.Module, ...]:
        """Return the encoder without its adapters."""
        return (self.encoder.trunk,)

    def dense(self, feats_BTC: Tensor, lengths_B: Tensor) -> dict[str, Tensor]:
        """Compute the outputs of the inner detector on whole windows of frames, with segments in frames."""
        spec, ended_BT = self.spec, torch.arange(self.max_length, device=feats_BTC.device) >= lengths_B[:, None]
        at_B11 = (lengths_B - 1).clamp(min=0)[:, None, None]
        last_B1C = torch.gather(feats_BTC, 1, at_B11.expand(-1, 1, self.feature_dim))
        x_BTC = torch.where(ended_BT[:, :, None], last_B1C, feats_BTC)
        x_BTHWC = x_BTC.reshape(-1, self.max_length, spec.height, spec.width, CHANNELS)
        feats_BLD, positions_B = self._encoded(self._normalised(centre(x_BTHWC, self.crop)), lengths_B)
        length = feats_BLD.shape[1]
        feats_BLD = F.pad(feats_BLD, (0, 0, 0, self.inner.graph_length(length) - length))
        return self._dense_in_frames(self.inner.dense(feats_BLD, positions_B))

    def decode_dense(self, raw: Mapping[str, Tensor], lengths_B: Tensor) -> dict[str, Tensor]:
        """Decode raw outputs of the inner detector, to frames."""
        return self._dense_in_frames(self.inner.decode_dense(raw, self.positions(lengths_B)))

    def _dense_in_frames(self, dense: dict[str, Tensor]) -> dict[str, Tensor]:
        return dense | {"segments": self._to_frames(dense["segments"])}
