"""Format numbers: which layout a file on disk has, and a refusal in one line of what this version cannot read.

Every file that `tad` writes carries `tad_format`, such as "manifest 1": in its stamp, or beside its values where it has
none. `read_json`, `open_h5` and the readers of safetensors headers check it, so a caller cannot forget to. A file
without a number was written before there were any and counts as number 1.

To change a layout, append a `Change` to its row of `FORMATS`: the number rises by one, and refusals show the words.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tad.core.errors import DamagedError, TadError
from tad.core.strict_json import parse_json

KEY = "tad_format"


class FormatError(TadError):
    """A file in a format that this version does not read. Unless it is an `OlderFormatError`, caches refuse it too:
    what a newer version computed would be overwritten otherwise."""


class OlderFormatError(FormatError):
    """A file in a format that this version no longer reads. Caches replace it."""


@dataclass(frozen=True)
class Change:
    """A change of a layout in words, and what readers do with files from before it."""

    what: str
    older: Literal["read", "refused"] = "refused"


@dataclass(frozen=True)
class Format:
    """The layout of one kind of file.

    Attributes:
        called: the kind, in messages.
        remedy: how to get such a file in the present layout.
        changes: what changed after number 1, in order; one entry for each further number.
        needs: what number 1 holds at the top; a file without a number that lacks one of these is older still.
    """

    called: str
    remedy: str
    changes: tuple[Change, ...] = ()
    needs: tuple[str, ...] = ()

    @property
    def number(self) -> int:
        """The number that is written."""
        return 1 + len(self.changes)

    @property
    def sealed(self) -> int:
        """The lowest number whose files carry checksums; beyond `number` if none do."""
        numbers = [number for number, change in enumerate(self.changes, start=2) if change is CHECKSUMS]
        return min(numbers, default=self.number + 1)

    @property
    def oldest(self) -> int:
        """The lowest number that is read."""
        refused = [number for number, change in enumerate(self.changes, start=2) if change.older == "refused"]
        return max(refused, default=1)


def _made_by(called: str, stage: str, *needs: str, changes: tuple[Change, ...] = ()) -> Format:
    return Format(called, f"remove it and run {stage} again", changes, needs)


CHECKSUMS = Change("the content carries checksums", "read")
FILE_TIME = Change("times count from the start of the file's earliest stream, not from the first picture")
CANDIDATES = ("segments", "scores", "labels", "offsets", "grids", "video_ids", "excluded")

FORMATS: dict[str, Format] = {
    "annotations": _made_by("annotation table", "annotate", "labels", "videos", changes=(CHECKSUMS,)),
    "manifest": _made_by("manifest", "probe", "videos", changes=(FILE_TIME, CHECKSUMS)),
    "encoder": _made_by("encoder", "pretrain", changes=(CHECKSUMS,)),
    "features": _made_by("features", "extract (or convert, merge, join)", changes=(FILE_TIME, CHECKSUMS)),
    "frames-index": _made_by("index of frames", "index", changes=(FILE_TIME, CHECKSUMS)),
    "model": _made_by("model", "train", "labels", "detector", "feature_dim", changes=(CHECKSUMS,)),
    "candidates": _made_by("candidates", "detect", *CANDIDATES, changes=(CHECKSUMS,)),
    "video-scores": _made_by("scores of whole videos", "classify", "labels", "results", changes=(CHECKSUMS,)),
    "detections": _made_by("detections", "suppress", "results", changes=(CHECKSUMS,)),
    "score": _made_by("score", "evaluate (or summarise)", changes=(CHECKSUMS,)),
    "diagnosis": _made_by("diagnosis", "evaluate", "matching", "errors", changes=(CHECKSUMS,)),
    "training-state": _made_by("state of an unfinished training", "train", changes=(CHECKSUMS,)),
    "trained-weights": _made_by("weights of a finished training", "train", changes=(CHECKSUMS,)),
    "encoder-state": _made_by("state of an unfinished pretraining", "pretrain", changes=(CHECKSUMS,)),
    "encoder-receipt": _made_by("receipt of a finished pretraining", "pretrain", changes=(CHECKSUMS,)),
    "encoder-epochs": _made_by("losses of a pretraining", "pretrain", changes=(CHECKSUMS,)),
    "frame-flow": Format("cache of optical flow", "remove its folder and run index again", changes=(CHECKSUMS,)),
    "sweep": Format("scores of a sweep", "remove it and run tad sweep again", changes=(CHECKSUMS,)),
    "stream": Format(
        "choice of a stream's score", "choose it again with tad stream RUN --choose", changes=(CHECKSUMS,)
    ),
    "export": Format("export of features", "export the features again", changes=(CHECKSUMS,)),
    "release": Format("released run", "export the run again", changes=(CHECKSUMS,)),
    "onnx": Format("detector in ONNX", "export the run again", changes=()),
    "pins": Format("list of pinned weights", "remove it to pin the weights again", changes=()),
    "download": Format("state of a download", "remove it and fetch again", changes=(CHECKSUMS,)),
    "hashes": Format("cache of content hashes", "remove it; it is recreated", changes=()),
    "warnings": Format("warnings of a stage", "remove it; only the warnings are lost", changes=()),
    "wanted": Format("list of wanted artefacts", "remove it and run the same command again", changes=()),
    "demo-data": Format("list of rendered videos", "remove it and run make demo again", changes=(CHECKSUMS,)),
}
OF_STAGE = {
    "annotate": "annotations", "probe": "manifest", "pretrain": "encoder", "extract": "features", "merge": "features",
    "convert": "features", "join": "features", "index": "frames-index", "train": "model", "detect": "candidates",
    "encode": "features", "classify": "video-scores", "suppress": "detections", "evaluate": "score",
    "summarise": "score",
}  # fmt: skip


def replaceable(error: Exception) -> bool:
    """Return whether a cache file that cannot be read for this reason may be overwritten: it is damaged or older."""
    return isinstance(error, OlderFormatError) or not isinstance(error, FormatError)


def of_stage(stage: str) -> str:
    """The kind of file that a stage writes; a stage that the table does not know writes a kind of its own name."""
    return OF_STAGE.get(stage, stage)


def _format(kind: str, stage: str) -> Format | None:
    return FORMATS.get(kind) or (_made_by(f"output of {stage}", stage) if stage and kind == stage else None)


def mark(kind: str) -> dict[str, str]:
    """The entry that a file of this kind carries: its kind and the present number."""
    layout = _format(kind, kind)
    return {KEY: f"{kind} {layout.number if layout else 1}"}


def check(
    holder: Mapping[str, Any],
    path: Path,
    *,
    kind: str = "",
    names: Container[str] | None = None,
    sealed: bool = True,
) -> None:
    """Refuse a file whose layout this version does not read.

    Args:
        holder: what carries the number: a stamp, or the values of a file that has none.
        path: the file, for the message.
        kind: what the file must be; without, what it says of itself, and nothing is checked where it says nothing.
        names: all top-level names of the file, which tell format 1 from files that are older than format numbers.
        sealed: whether the file carries checksums, which have been compared.

    Raises:
        DamagedError: a file of this number must carry checksums, but does not.
        FormatError: a newer, older or unknown number, or another kind of file.
    """
    stage = str(holder.get("stage", ""))
    implied = kind or of_stage(stage)
    if KEY not in holder:
        layout = _format(implied, stage)
        if layout is not None:
            _check_unnumbered(layout, path, names)
        return
    written, _, text = str(holder[KEY]).rpartition(" ")
    layout = _format(written, stage)
    if layout is None:
        raise FormatError(f"{path}: {KEY} is {holder[KEY]!r:.60}, which this version does not know; update tad")
    if kind and written != kind:
        raise FormatError(f"{path}: holds {layout.called}, not {FORMATS[kind].called}; {FORMATS[kind].remedy}")
    number = int(text) if text.isascii() and text.isdigit() else 0
    if not layout.oldest <= number <= layout.number:
        raise _refusal(layout, path, number or text)
    if not sealed and number >= layout.sealed:
        raise DamagedError(
            f"{path}: {layout.called} of format {number} without checksums, so it was damaged or changed by another "
            f"program; {layout.remedy}"
        )


def _check_unnumbered(layout: Format, path: Path, names: Container[str] | None) -> None:
    if layout.oldest > 1:
        raise _refusal(layout, path, 1)
    lacking = [name for name in layout.needs if names is not None and name not in names]
    if lacking:
        raise OlderFormatError(
            f"{path}: {layout.called} without a format number and without '{lacking[0]}', so older than format 1; "
            f"{layout.remedy}"
        )


def _refusal(layout: Format, path: Path, number: int | str) -> FormatError:
    known = f"format {layout.number}"
    if layout.oldest < layout.number:
        known = f"formats {layout.oldest} to {layout.number}"
    problem = f"{path}: {layout.called} of format {number if isinstance(number, int) else repr(number)}"
    if isinstance(number, int) and 0 < number < layout.oldest:
        change = layout.changes[layout.oldest - 2].what
        known += f" (since {layout.oldest}: {change})"
        return OlderFormatError(f"{problem}, but this version reads {known}; {layout.remedy}")
    return FormatError(f"{problem}, but this version reads {known}; update tad, or {layout.remedy}")


def check_document(document: object, path: Path, *, sealed: bool = True) -> None:
    """`check` for a JSON value: of its stamp and of itself, where they carry a number or a stage that is known.

    Raises:
        FormatError: as `check`.
    """
    if not isinstance(document, dict):
        return
    if KEY in document:
        check({KEY: document[KEY]}, path, names=document, sealed=sealed)
    stamp = document.get("stamp")
    if isinstance(stamp, dict) and "identity" in stamp:
        check(stamp, path, names=document, sealed=sealed)


def check_header(header: Mapping[str, Any], path: Path, *, names: Container[str], sealed: bool = True) -> None:
    """`check` for a header whose entries are text (attributes of HDF5, metadata of safetensors): its stamp and itself.

    Raises:
        FormatError: as `check`.
    """
    if KEY in header:
        check({KEY: header[KEY]}, path, names=names, sealed=sealed)
    try:
        stamp = parse_json(header.get("tad_stamp", "null"))
    except (TypeError, ValueError, AttributeError):  # the readers of stamps refuse it in words of their own
        return
    if isinstance(stamp, dict):
        check(stamp, path, names=names, sealed=sealed)


def unmarked(document: Mapping[str, Any], path: Path, *, kind: str, sealed: bool = True) -> dict[str, Any]:
    """Check the format number of a file without a stamp, and return its other values.

    Raises:
        FormatError: as `check`.
    """
    check({KEY: document[KEY]} if KEY in document else {}, path, kind=kind, names=document, sealed=sealed)
    return {key: value for key, value in document.items() if key != KEY}
