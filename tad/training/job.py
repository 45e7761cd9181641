"""One training: what it needs, the digest of what it depends on, and the files that it keeps."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tad.core.files import digest
from tad.provenance.fingerprint import code
from tad.settings.stages import TrainStageSpec
from tad.training.data.windows import Item

if TYPE_CHECKING:
    from tad.training.methods.teachers import TeacherFiles


def _describe(item: Item) -> list[Any]:
    grid = item.grid
    timing = [grid.start, grid.step, grid.length]
    return [item.video_id, item.checksum, timing, np.round(item.segments_N2, 9).tolist(), item.labels_N.tolist()]


def training_key(
    spec: TrainStageSpec,
    labels: list[str],
    roles: dict[str, list[Item]],
    absent: list[int] | None = None,
    taught: Sequence[dict[str, Any]] = (),
) -> str:
    """Return the digest of everything that the weights depend on: settings, code and content of the training videos.

    `absent` are the classes without instances in any split; `taught` is the content of teachers and initial weights.
    Names of runs, videos of other splits and the origin of the inputs are not included.
    """
    settings = {key: value for key, value in spec.model_dump(mode="json").items() if key not in ("run", "exclude")}
    for teacher in (settings["distill"] or {"teachers": ()})["teachers"]:
        del teacher["run"]
    videos = {role: [_describe(item) for item in items] for role, items in roles.items()}
    fingerprint = code("train", spec.model_dump(mode="json"))
    classes = {"labels": labels, "absent": absent or []}
    return digest({"settings": settings, "code": fingerprint, "videos": videos, **classes, "taught": list(taught)}, 16)


@dataclass(frozen=True)
class Job:
    """Everything that one training process needs; picklable, so that it can be sent to processes."""

    features: Path
    roles: dict[str, list[Item]]
    labels: list[str]
    absent: list[int]
    spec: TrainStageSpec
    key: str
    cache: Path
    device: str
    threads: int
    seconds: float
    tensorboard: Path
    teachers: "tuple[TeacherFiles, ...]" = ()
    start: Path | None = None
    encoder: Path | None = None
    precision: str = ""  # which precision this device computes in, if the settings leave the choice

    @property
    def course(self) -> str:
        """Digest of everything that an unfinished training must share with the one that resumes it."""
        return self.key + self.precision

    @property
    def state(self) -> Path:
        """Path of the state of an unfinished training."""
        return self.cache / f"{self.key}.state.safetensors"

    @property
    def pretext(self) -> Path:
        """Path of the state of the pretext task, which precedes the training."""
        return self.cache / f"{self.key}.pretext.state.safetensors"

    @property
    def finished(self) -> Path:
        """Path of the weights of a finished training."""
        return self.cache / f"{self.key}.safetensors"
