"""The contract of a detector: required methods, and optional ones with their defaults."""

# B videos, T snippets, C channels, K classes

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from tad.core.errors import TadError
from tad.layers.chance import PerVideo
from tad.layers.types import MAIN, Candidates, Choice, Explained, Observed, Outputs, Part, Phase, Raw, Targets


class Ungraphable(TadError):
    """A detector that cannot be written as a graph of operations, with the reason."""


class DetectorBase(PerVideo, ABC):
    """Base of all detectors; `tad.detectors.<name>.Detector` derives from it.

    The constructor is `Detector(settings, *, feature_dim, num_classes, max_length)`: an instance of `Settings` in
    `<name>_settings`, the feature width C, the number of classes K, and the length of a training window in snippets. It
    creates all parameters, with torch's default generator. Their names are the keys of model files.
    It is a base class and not a `typing.Protocol`: only a base class gives its plain default answers to a detector, and
    refuses one that lacks a method when it is built, not hours later when the method is first called.

    A detector must define
        `padded`: the length to which a video is padded, or a `TadError` if it is too long;
        `loss`: named losses of a batch of windows, including `total`; gradients of micro-batches add up to the batch's;
        `candidates`, or its two steps `raw` and `decode_candidates`: scored segments of each video in snippets, before
            suppression.
    Videos of a batch do not influence each other, so the batch size does not change results.

    It may have a `limit`, which `lift_limit` removes, count `positives` and `normalise` by them,
    have a `training_state`, choose `parameter_groups`, and declare
        `phases`: several passes per epoch; `enter` selects one;
        `counts_ahead`: the loss of a micro-batch needs a count over the batch (`refined_positives`,
            `normalise_by_refined`);
        `pretext`: it has a `pretext_loss` that needs no labels;
        `observable`: others can be distilled from it (`observe`, `distances`; with a gate `explain_like`);
        `exclusive`: classes and background share one softmax;
        `rectified`: offsets pass a ReLU, whose outputs can die;
        `reads_frames`: rows of features are frames, height · width · channels values from 0 to 255;
        `graphable`: it can be exported as a graph (`dense`, `graph_lengths`; `windowed`: of windows of one length); its
            decoding may compare outputs with thresholds (`graph_raw`, `decode_dense`); `graph_bar` is the largest
            difference between a graph and PyTorch, absolute below 1 and relative above;
        `pseudo_targets`: its own pseudo-labels for unlabelled windows; `geometric`: geometric fusion of borders.
    """

    exclusive: ClassVar[bool] = False
    rectified: bool = False
    pretext: ClassVar[bool] = False
    observable: ClassVar[bool] = False
    graphable: ClassVar[bool] = False
    windowed: ClassVar[bool] = False
    reads_frames: ClassVar[bool] = False
    graph_outputs: ClassVar[tuple[str, ...]] = ("logits", "scores", "segments", "level")
    graph_raw: ClassVar[tuple[str, ...]] = ()
    graph_bar: float = 1e-4
    why_no_graph: ClassVar[str] = "no graph is defined for this detector (`dense`)"

    def __init__(self) -> None:
        super().__init__()
        self.phases: tuple[Phase, ...] = (MAIN,)
        self.fixed_length = False  # compiled graphs need batches of one length, even if padding changes nothing
        self.feature_dim = self.num_classes = self.max_length = 0
        self.limit = 0  # longest sequence that published code accepts, in snippets; 0: no limit

    def expect_width(self, feats_BTC: Tensor) -> None:
        """Check the width of features.

        Raises:
            TadError: their width is not the one that the detector was built for.
        """
        if feats_BTC.shape[2] != self.feature_dim:
            raise TadError(
                f"features: {feats_BTC.shape[2]} channels: the detector was built for {self.feature_dim}; use the"
                " feature set it was trained on"
            )

    def _undefined(self, method: str, which: str) -> NotImplementedError:
        """Return the error for a method that the class of a detector must define and does not."""
        return NotImplementedError(f"{type(self).__module__}: {which} must define {method}")

    def lift_limit(self) -> int:
        """Accept sequences of every length; return the former limit in snippets, 0 if there was none.

        The limit is the size of a buffer in the published code. No weight depends on it, and points keep their places.
        """
        before, self.limit = self.limit, 0
        return before

    # -- what a detector must do ---------------------------------------------------------------------------------------

    @abstractmethod
    def padded(self, length: int) -> int:
        """Return the padded length of a sequence of `length` snippets.

        Raises:
            TadError: the sequence is too long.
        """

    @abstractmethod
    def loss(
        self, feats_BTC: Tensor, lengths_B: Tensor, targets: list[Targets], part: Part | None = None,
        seen: list[Any] | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Compute the losses of a training batch or micro-batch: named scalars, including `total`.

        Args:
            feats_BTC: float32, T at most `max_length`; rows beyond a video's length are ignored.
            lengths_B: int64, snippets of each video.
            targets: one per video, possibly without instances.
            part: position of the micro-batch in its batch; None: this is the whole batch.
            seen: if given, the intermediate values are appended: an `Observed`, or in a gate's pass an `Explained`.
        """

    def candidates(
        self, feats_BTC: Tensor, lengths_B: Tensor, *, score_threshold: float, topk: int, min_length: float
    ) -> list[Candidates]:
        """Return the candidates of each video before suppression, in snippets; arguments as in section `detect`."""
        raw = self.raw(feats_BTC, lengths_B)
        return self.decode_candidates(
            raw, len(lengths_B), score_threshold=score_threshold, topk=topk, min_length=min_length
        )

    def filled(self, lengths_B: Tensor) -> list[int]:
        """Return the rows of a batch whose videos are not empty, for `raw`; the detector is in evaluation mode."""
        assert not self.training, "call eval() first"
        return [row for row, length in enumerate(lengths_B.tolist()) if length]

    def raw(self, feats_BTC: Tensor, lengths_B: Tensor) -> list[Raw]:
        """Compute the raw outputs of a batch, grouped by videos that are padded together."""
        raise self._undefined("raw", "a detector without `candidates`")

    def decode_candidates(
        self, raw: list[Raw], videos: int, *, score_threshold: float, topk: int, min_length: float
    ) -> list[Candidates]:
        """Decode the candidates of a batch of `videos` videos from its raw outputs."""
        raise self._undefined("decode_candidates", "a detector without `candidates`")

    # -- training ------------------------------------------------------------------------------------------------------

    def positives(self, lengths_B: Tensor, targets: list[Targets]) -> int:
        """Count what the losses of a batch are normalised by, before the losses are computed; 0: no normalisation."""
        return 0

    def normalise(self, positives: int) -> None:
        """Update the normaliser with the `positives` of a whole batch."""

    @property
    def counts_ahead(self) -> bool:
        """Whether the loss of a micro-batch needs the sum of `refined_positives` over the whole batch."""
        return False

    def refined_positives(
        self, feats_BTC: Tensor, lengths_B: Tensor, targets: list[Targets], part: Part | None = None
    ) -> int:
        """Return the number of positives that a micro-batch refines, for a detector with `counts_ahead`."""
        return 0

    def normalise_by_refined(self, count: int) -> None:
        """Update the normaliser with the sum of `refined_positives` over the batch."""

    def training_state(self) -> dict[str, Tensor]:
        """Return the state, besides the weights, that a resumed training needs."""
        return {}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Restore `training_state`."""
        assert not state

    def parameter_groups(self, weight_decay: float, phase: str = MAIN.name) -> list[dict[str, Any]]:
        """Return the optimiser's parameter groups of a phase; the key `rate` is a factor of the learning rate."""
        return [{"params": list(self.parameters()), "weight_decay": weight_decay}]

    def enter(self, phase: str, epoch: int, epochs: int) -> None:
        """Switch to a phase of an epoch (counted from 0); called if there are several phases."""

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Initialise the detector's backbone with pre-trained weights.

        Raises:
            TadError: the detector has no backbone of its own.
        """
        raise TadError("this detector has no backbone to initialise; remove `weights` from its feature set")

    # -- what a detector may do ----------------------------------------------------------------------------------------

    def pretext_loss(self, feats_BTC: Tensor, lengths_B: Tensor, part: Part | None = None) -> dict[str, Tensor]:
        """Compute the losses of a task that needs no labels, including `total`, for a detector with `pretext`."""
        raise self._undefined("pretext_loss", "a detector with `pretext`")

    def pseudo_targets(
        self, feats_BTC: Tensor, lengths_B: Tensor, *, confidence: float, mask: float
    ) -> list[Targets | None] | None:
        """Return pseudo-labels of unlabelled windows, with None for a window without any.

        Returning None instead of a list makes confident `candidates` the pseudo-labels.
        """
        return None

    @property
    def graph_lengths(self) -> tuple[int, int]:
        """Return the least length of a padded sequence, and the number that longer ones are a multiple of."""
        return self.max_length, self.max_length

    def graph_length(self, length: int) -> int:
        """Return the length to which a graph pads a sequence of `length` snippets, by `graph_lengths`."""
        least, multiple = self.graph_lengths
        return least if length <= least else -(-length // multiple) * multiple

    @property
    def frozen_modules(self) -> tuple[nn.Module, ...]:
        """Return the networks that never learn and are no submodules."""
        return ()

    def dense(self, feats_BTC: Tensor, lengths_B: Tensor) -> dict[str, Tensor]:
        """Compute the outputs of a `graphable` detector for all points of all levels.

        Every operation must have a counterpart in ONNX, and none may branch on values.

        Args:
            feats_BTC: one padded sequence, or windows if `windowed`.
            lengths_B: int64, snippets of each.

        Returns:
            `graph_outputs`, among them scores (B, P, K), 0 on the padding; segments (B, P, K, 2) or (B, P, 1, 2) in
            snippets; level (P,), int64; the best points of each level become candidates.
        """
        raise self._undefined("dense", "a `graphable` detector")

    def decode_dense(self, raw: Mapping[str, Tensor], lengths_B: Tensor) -> dict[str, Tensor]:
        """Compute the other outputs of `dense` from those in `graph_raw`, by comparisons with thresholds.

        Rounding may move a value across a threshold, so a graph is checked in two steps: the raw outputs, and the
        decoding of the graph's own.
        """
        raise self._undefined("decode_dense", "a detector with `graph_raw`")

    def observe(
        self, feats_BTC: Tensor, lengths_B: Tensor, part: Part | None = None, choice: Choice | None = None
    ) -> Observed:
        """Compute the intermediate values of a trained, `observable` detector."""
        raise self._undefined("observe", "an `observable` detector")

    def distances(self, outputs: Outputs, level: int) -> Tensor:
        """Return the distances (B, 2 or 2 K, T) of every point of a level to both borders, if `observable`."""
        raise self._undefined("distances", "an `observable` detector")

    def explain_like(self, explained: Explained) -> list[Tensor]:
        """Reconstruct another detector's maps from their attentions with this detector's gates.

        Raises:
            TadError: it has no gates, or gates of other widths.
        """
        raise TadError("this detector has no gates to reconstruct features with; set gate: generative")

    def geometric(self, raws: Sequence[Raw]) -> dict[str, Tensor]:
        """Return the output fields that make each point's segment the geometric mean over several networks.

        Raises:
            TadError: the detector averages offsets only.
        """
        raise TadError("detect.fuse_borders: geometric: this detector averages offsets only; choose offsets")
