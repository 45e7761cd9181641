"""Inputs of a detector's loss and outputs of its decoding."""

# N segments, B videos, T snippets, C channels, K classes, J outputs of the offset head

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Targets:
    """The instances of one window.

    Attributes:
        segments_N2: float32 (start, end) on the window's snippet grid.
        labels_N: int64 class ids.
        shortest: length in snippets of the video's shortest instance after cutting into windows; infinite without
            instances, 0 if unknown.
        doubtful_M2: segments that may or may not be instances of the classes `doubtful_labels_M`; points there are
            ignored by the class loss. None: there are none.
        doubtful_labels_M: int64 class ids.
    """

    segments_N2: Tensor
    labels_N: Tensor
    shortest: float = 0.0
    doubtful_M2: Tensor | None = None
    doubtful_labels_M: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """The position of a micro-batch within its training batch.

    Attributes:
        videos: number of videos of the whole batch.
        first: row of the micro-batch's first video.
        longest: snippets of the longest video of the whole batch.
        lengths: snippets of each video of the whole batch; empty: not known.
    """

    videos: int
    first: int
    longest: int
    lengths: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Phase:
    """One of several passes over the training data within an epoch.

    A detector lists its passes in `phases` and returns the parameters of each in
    `parameter_groups(weight_decay, phase)`; all other parameters are frozen. `enter(phase, epoch, epochs)`, with epochs
    counted from 0, selects the loss.

    Attributes:
        name: name of the phase.
        lr: learning rate; 0: the recipe's, with its schedule, optimiser and weight decay.
        betas: betas of Adam, if `lr` is not 0.
    """

    name: str
    lr: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)


MAIN = Phase("main")


@dataclass(frozen=True, slots=True)
class Raw:
    """Raw outputs of a network for some videos of a batch, before decoding.

    Attributes:
        rows: rows of the batch.
        lengths_B: snippets of these videos.
        outputs: tensors in lists, dicts or dataclasses, which can be averaged over networks of the same kind.
    """

    rows: list[int]
    lengths_B: Tensor
    outputs: Any


@dataclass(frozen=True, slots=True)
class Candidates:
    """Scored segments of one video before suppression.

    Attributes:
        segments_N2: float32 (start, end) in snippets; not clamped to the sequence.
        scores_N: float32 in (0, 1).
        labels_N: int64 class ids.
    """

    segments_N2: Tensor
    scores_N: Tensor
    labels_N: Tensor


@dataclass(frozen=True, slots=True)
class Outputs:
    """Raw head outputs per level.

    Attributes:
        masks: bool (B, 1, T).
        logits: class logits (B, K, T).
        offsets: outputs of the offset head (B, J, T).
        starts: start logits (B, K, T) of a trident head, else empty.
        ends: end logits likewise.
    """

    masks: list[Tensor]
    logits: list[Tensor]
    offsets: list[Tensor]
    starts: list[Tensor] = field(default_factory=list)
    ends: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Cut:
    """The augmented sequence of the boundary consistency loss, and its three parts.

    Attributes:
        source_T: source position of each position.
        parts_32: segments of the left part, the right part and the background between them.
    """

    source_T: Tensor
    parts_32: Tensor


@dataclass(frozen=True, slots=True)
class Choice:
    """The student's random augmentation of a batch, replayed by its teachers.

    Attributes:
        view_B3: for frames: top and left of each window's crop, and whether it is mirrored.
        cuts: row of the batch → augmentation of its window for the boundary consistency loss.
    """

    view_B3: Tensor | None = None
    cuts: Mapping[int, Cut] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Observed:
    """Intermediate values of a detector, which others are distilled from.

    Attributes:
        inputs_BCT: the features that the encoder sees, including hallucinated ones.
        stem_BCT: the encoder's features at full resolution.
        outputs: head outputs.
        attentions: attentions of the gates, (B, C, T) each; empty without gates.
        choice: the random augmentation.
        augmented: attentions of the windows in `choice.cuts`, in that order.
    """

    inputs_BCT: Tensor
    stem_BCT: Tensor
    outputs: Outputs
    attentions: list[Tensor] = field(default_factory=list)
    choice: Choice = field(default_factory=Choice)
    augmented: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Explained:
    """Inputs and reconstructions of a detector's VAEs for a batch, with one entry per feature map.

    Attributes:
        maps, attentions: inputs of the VAEs.
        reconstructions: their outputs.
        masks: bool (B, 1, T); None: no padding.
    """

    maps: list[Tensor]
    attentions: list[Tensor]
    reconstructions: list[Tensor]
    masks: list[Tensor | None]
