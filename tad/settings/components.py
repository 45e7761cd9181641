"""Base classes for the settings of components: detectors, backbones and annotation formats.

The settings of a component `<name>` are in `<name>_settings.py` beside `<name>.py`, as a class `Settings` derived from
one of these. Each field has a type, a default, bounds and a description; validators check combinations of fields.
These modules import neither torch nor the component, so that a dry run can check a configuration quickly.
"""

import unicodedata
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, model_validator

from tad.settings.base import Spec
from tad.settings.clips import ClipSpec
from tad.settings.sections import DetectSpec, TrainSpec


def _odd(number: int) -> int:
    if number % 2 == 0:
        raise ValueError("must be odd")
    return number


def _compose(value: Any) -> Any:
    if isinstance(value, dict):
        return {_compose(key): _compose(inner) for key, inner in value.items()}
    return unicodedata.normalize("NFC", value) if isinstance(value, str) else value


Odd = Annotated[int, AfterValidator(_odd)]


class ComponentSettings(Spec):
    """Settings of any component; the constructor of the component takes them as one object."""


class DetectorSettings(ComponentSettings):
    """Settings of a detector, and its capabilities as far as they are known without torch.

    Class attributes:
        pretext: whether it has a pretext task without labels, for `train.pretext_epochs`.
        geometric: whether it supports the geometric mean of boundaries, for `detect.fuse_borders`.
        whole_windows: whether its windows have exactly `train.max_length` snippets, so that teacher and student must
            agree in it.
        exclusive: whether classes and background share one softmax.
        masks: whether it predicts masks instead of offsets.
        prompted: whether its weights are embeddings of the classes' texts, which are computed and not trained.
        moments: whether it detects moments, for data sets of `kind: moments`, instead of segments.
        kin: other detectors with the same network, whose raw outputs can be averaged with its own.
    """

    pretext: ClassVar[bool] = False
    geometric: ClassVar[bool] = False
    whole_windows: ClassVar[bool] = False
    exclusive: ClassVar[bool] = False
    masks: ClassVar[bool] = False
    prompted: ClassVar[bool] = False
    moments: ClassVar[bool] = False
    kin: ClassVar[tuple[str, ...]] = ()

    def check(self, *, train: TrainSpec, detect: DetectSpec) -> None:
        """Check these settings against the sections `train` and `detect` of a run.

        Raises:
            ValueError: `<section>.<key>: <value>: <what is wrong>`.
        """
        if train.pretext_epochs and not self.pretext:
            raise ValueError(
                f"train.pretext_epochs: {train.pretext_epochs}: this detector has no pretext task; set 0, or use spot"
            )
        if train.stretch > 1 and self.whole_windows:
            raise ValueError(
                f"train.stretch: {train.stretch:g}: this detector's windows have one length; set train.stretch: 1"
            )
        if detect.fuse_borders != "offsets" and not self.geometric:
            raise ValueError(
                f"detect.fuse_borders: '{detect.fuse_borders}': this detector averages offsets only; choose offsets"
            )

    @property
    def gated(self) -> bool:
        """Whether the detector has a generative attention gate."""
        return False

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of the frames that the detector reads; (0, 0) for detectors on features."""
        return 0, 0

    @property
    def initial_weights(self) -> tuple[str, dict[str, object]]:
        """Backbone, and its settings, whose published weights initialise a detector on frames."""
        return "i3d", {}

    def units(self) -> dict[str, object]:
        """Return the units of raw outputs; two runs can be averaged only if these are equal."""
        return {}


class BackboneSettings(ComponentSettings):
    """Settings of a backbone.

    Class attributes:
        trainable: whether `tad pretrain` can train it, with the recipe in section `pretrain`; other backbones need
            published weights.
        clip: the clips that its network was made for, if its YAML has no section `clip`.
    """

    trainable: ClassVar[bool] = False
    clip: ClassVar[ClipSpec | None] = None


class FormatSettings(ComponentSettings):
    """Settings of an annotation format.

    Class attributes:
        render: settings of the renderer, for data sets that the workflow generates; None for other data sets.
    """

    render: ClassVar[type[Spec] | None] = None

    @model_validator(mode="before")
    @classmethod
    def _composed(cls, given: Any) -> Any:
        """Compose what names something in the file (columns, splits, videos): its texts are read in Unicode's NFC.

        Names of files stay as they are.
        """
        if not isinstance(given, dict):
            return given
        return {key: value if str(key).endswith("_file") else _compose(value) for key, value in given.items()}
