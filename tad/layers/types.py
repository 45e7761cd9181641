"""What goes into a detector's loss and what comes out of its decoding."""

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
        shortest: snippets of the video's shortest instance as its windows cut it; infinite without any, 0 unknown.
        doubtful_M2: where there may be instances of the classes `doubtful_labels_M`, or not; None: nowhere.
        doubtful_labels_M: int64 class ids.
    """

    segments_N2: Tensor
    labels_N: Tensor
    shortest: float = 0.0
    doubtful_M2: Tensor | None = None
    doubtful_labels_M: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """Which videos of a training batch are given, where it is computed in parts or by several processes.

    Attributes:
        videos: of the whole batch.
        first: row of the first given one.
        longest: snippets of the whole batch's longest video.
    """

    videos: int
    first: int
    longest: int


@dataclass(frozen=True, slots=True)
class Phase:
    """A pass over the training data; a detector that has several goes through them in order, epoch by epoch.

    It names them in `phases`, gives each its parameters in `parameter_groups(weight_decay, phase)`, and is told by
    `enter(phase, epoch, epochs)`, epochs counted from 0, which loss to give. Other parameters then stand still.

    Attributes:
        name: of the phase.
        lr: its learning rate; 0: the recipe's, with its schedule, optimiser and weight decay.
        betas: of its Adam, with a learning rate of its own.
    """

    name: str
    lr: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)


MAIN = Phase("main")


@dataclass(frozen=True, slots=True)
class Raw:
    """What a network says of some videos of a batch, before it is decoded.

    Attributes:
        rows: of the batch.
        lengths_B: snippets of these.
        outputs: tensors in lists, dicts or dataclasses; of two networks of one kind they can be averaged.
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
    """How to make the augmented sequence of the boundary consistency and where its three parts are.

    Attributes:
        source_T: position that each position is taken from.
        parts_32: segments of the left part, the right part and the background between them.
    """

    source_T: Tensor
    parts_32: Tensor


@dataclass(frozen=True, slots=True)
class Choice:
    """What a student chose at random of a batch, for its teachers to look at the same.

    Attributes:
        view_B3: of frames: where each window is cropped, from the top and the left, and whether it is mirrored.
        cuts: row of the batch → how its window is cut for the boundary consistency.
    """

    view_B3: Tensor | None = None
    cuts: Mapping[int, Cut] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Observed:
    """What a detector computed on its way, for others to learn from.

    Attributes:
        inputs_BCT: the features as the encoder sees them, those that the detector made up itself included.
        stem_BCT: the encoder's features at full resolution.
        outputs: of the heads.
        attentions: of the gates, (B, C, T) each; none without.
        choice: what was chosen at random.
        augmented: attentions of the windows of `choice.cuts`, in its order.
    """

    inputs_BCT: Tensor
    stem_BCT: Tensor
    outputs: Outputs
    attentions: list[Tensor] = field(default_factory=list)
    choice: Choice = field(default_factory=Choice)
    augmented: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Explained:
    """What a detector's VAEs made of a batch in their pass, each entry of one feature map.

    Attributes:
        maps, attentions: what they were given.
        reconstructions: what they made of it.
        masks: bool (B, 1, T); None: everything counts.
    """

    maps: list[Tensor]
    attentions: list[Tensor]
    reconstructions: list[Tensor]
    masks: list[Tensor | None]
