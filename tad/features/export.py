"""Export of features for other tools: .npy, .npz (`feats`), .pt, or one HDF5 file with a dataset per video, as TSP's.

Timing is exported too (`tad_features.json`, see `tad.features.facts`), so `convert` can import the features unchanged.
"""

# T snippets, C channels

import io
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tad import __version__
from tad.core import formats
from tad.core.errors import TadError
from tad.core.files import canonical, publish, write_json
from tad.core.h5 import H5Writer
from tad.core.progress import track
from tad.core.storage import storing
from tad.features.facts import HEAD_ATTRIBUTE, SIDECAR, VIDEO_ATTRIBUTE, Export, ExportedVideo, ExportHead, read_sidecar
from tad.features.foreign import FeatureFiles
from tad.features.store import FeatureReader, key_of

log = logging.getLogger(__name__)
Format = Literal["npy", "npz", "pt", "h5"]
FORMATS: tuple[Format, ...] = ("npy", "npz", "pt", "h5")
ON_NAN = ("error", "keep", "exclude")
HDF5_FILE = "features.h5"
GRID = {"rate", "clip_length", "stride", "start", "step", "duration", "checksum", "video_id", "row_key"}


# Both libraries write to memory: with a real file, a full disk is an error without its cause, or an internal one.
def _npy(feats_TC: np.ndarray, out: io.BytesIO) -> None:
    np.save(out, feats_TC, allow_pickle=False)


def _npz(feats_TC: np.ndarray, out: io.BytesIO) -> None:
    np.savez(out, feats=feats_TC)


def _pt(feats_TC: np.ndarray, out: io.BytesIO) -> None:
    import torch

    torch.save(torch.from_numpy(feats_TC), out)


SAVE: Mapping[str, Callable[[np.ndarray, io.BytesIO], None]] = {"npy": _npy, "npz": _npz, "pt": _pt}


class _Source:
    """The videos of an index, converted for export."""

    def __init__(self, reader: FeatureReader, *, file_format: Format, dtype: str, on_nan: str) -> None:
        self.reader, self.format, self.on_nan = reader, file_format, on_nan
        self.excluded = dict(reader.excluded)
        cached = str(reader.stored(reader.video_ids[0]).dtype) if reader.video_ids else "float32"
        self.cached = cached
        self.dtype = np.dtype(cached if dtype == "stored" else dtype)

    def head(self) -> dict[str, Any]:
        """Return the facts that all videos share."""
        stamp = self.reader.stamp
        return {
            **formats.mark("export"), "tad": __version__, "identity": str(stamp["identity"]),
            "format": self.format, "dtype": str(self.dtype),
            "cached_dtype": self.cached, "dim": self.reader.dim, "recipe": dict(stamp.get("recipe") or stamp["spec"]),
            "excluded": dict(sorted(self.excluded.items())),
        }  # fmt: skip

    def rows(self, video_id: str) -> np.ndarray | None:
        """Return the features (T, C) to write; None for a video that is excluded because of NaN.

        Raises:
            TadError: the rows are damaged, contain NaN or infinity (with `on_nan` error), or are too large for float16.
        """
        feats_TC = self.reader.stored(video_id)
        wrong = int(np.count_nonzero(~np.isfinite(feats_TC)))
        if wrong and self.on_nan == "error":
            raise TadError(
                f"{self.reader.path}: '{video_id}' contains NaN or infinity ({wrong} values); extract it again, or "
                "export with --on-nan keep or exclude"
            )
        if wrong and self.on_nan == "exclude":
            self.excluded[video_id] = f"features held NaN or infinity ({wrong} values)"
            return None
        with np.errstate(over="ignore"):
            cast_TC = np.ascontiguousarray(feats_TC, self.dtype)
        if np.count_nonzero(~np.isfinite(cast_TC)) != wrong:
            raise TadError(
                f"{self.reader.path}: '{video_id}' has values too large for {self.dtype}; export with --dtype float32"
            )
        return cast_TC

    def facts(self, video_id: str, file: str) -> ExportedVideo:
        """Return the timing and the other attributes of a video."""
        attrs = {key: getattr(value, "item", lambda v=value: v)() for key, value in self.reader.attrs(video_id).items()}
        grid, rate = self.reader.grid(video_id), float(attrs["rate"])
        return ExportedVideo(
            file=file, rows=grid.length, fps=rate, stride=attrs["stride"], clip=attrs["clip_length"],
            offset=grid.start * rate, start=grid.start, step=grid.step, duration=grid.duration,
            checksum=attrs["checksum"],
            facts={key: value for key, value in sorted(attrs.items()) if key not in GRID},
        )  # fmt: skip


def _same(path: Path, feats_TC: np.ndarray) -> bool:
    """Return whether a file from an earlier export contains exactly these values."""
    with suppress(TadError):
        content = FeatureFiles.read_one(path)
        expected = feats_TC if path.suffix != ".pt" else feats_TC.astype(np.float32)  # tensors are read as float32
        return bool(content.dtype == expected.dtype and np.array_equal(content, expected, equal_nan=True))
    return False


def _write_folder(source: _Source, folder: Path) -> dict[str, ExportedVideo]:
    """Write one file per video; skip files that are already complete and equal."""
    videos: dict[str, ExportedVideo] = {}
    unchanged = 0
    for video_id in track(source.reader.video_ids, "export"):
        feats_TC = source.rows(video_id)
        path = folder / f"{key_of(video_id)}.{source.format}"
        if feats_TC is None:
            path.unlink(missing_ok=True)
            continue
        if path.is_file() and _same(path, feats_TC):
            unchanged += 1
        else:
            content = io.BytesIO()
            SAVE[source.format](feats_TC, content)
            with publish(path, size=len(content.getbuffer())) as partial:
                partial.write_bytes(content.getbuffer())
        videos[video_id] = source.facts(video_id, path.name)
    if unchanged:
        log.info("%d files are unchanged and were not written again", unchanged)
    return videos


def _write_h5(source: _Source, path: Path) -> dict[str, ExportedVideo]:
    """Write one HDF5 file, atomically; an interrupted export must start again."""
    videos: dict[str, ExportedVideo] = {}
    with H5Writer(path) as writer:
        file = writer.file
        for video_id in track(source.reader.video_ids, "export"):
            feats_TC = source.rows(video_id)
            if feats_TC is None:
                continue
            facts = source.facts(video_id, key_of(video_id))
            dataset = file.create_dataset(facts.file, data=feats_TC, track_times=False)
            for name in ("fps", "stride", "clip", "offset", "duration"):
                dataset.attrs[name] = getattr(facts, name)
            dataset.attrs[VIDEO_ATTRIBUTE] = canonical(facts.model_dump(mode="json"))
            videos[video_id] = facts
            writer.check()
        file.attrs[HEAD_ATTRIBUTE] = canonical(ExportHead.model_validate(source.head()).model_dump(mode="json"))
    return videos


def _check_folder(folder: Path, file_format: Format) -> None:
    """Check that a folder is empty or contains an earlier export, so that no foreign files are overwritten or mixed in.

    Raises:
        TadError: the folder contains other files, or an export in another format.
    """
    unfinished = folder / f"{SIDECAR}.unfinished"
    if not folder.exists() or unfinished.is_file():
        return
    if not folder.is_dir():
        raise TadError(f"{folder}: not a folder; give a folder for the exported files")
    sidecar = folder / SIDECAR
    foreign = next((path for path in sorted(folder.iterdir()) if path != sidecar), None)
    if foreign is not None and not sidecar.is_file():
        raise TadError(f"{folder}: contains {foreign.name}, which no export wrote; give a new or empty folder")
    other = next((p for p in folder.iterdir() if p != sidecar and p.suffix != f".{file_format}"), None)
    if other is not None:
        raise TadError(f"{folder}: contains {other.name}, which is not a {file_format} file; give another folder")


def export_features(
    index: Path, folder: Path, *, file_format: Format, dtype: str = "stored", on_nan: str = "error"
) -> Path:
    """Export the features of an index (or shard) with their timing.

    Every file is written atomically. An interrupted export resumes when it is called again, except for HDF5 (one file
    for all videos), which starts again.

    Args:
        index: feature index or shard.
        folder: folder to write to.
        file_format: see `FORMATS`.
        dtype: data type of the files; `stored`: as in the index.
        on_nan: see `ON_NAN`.

    Returns:
        The source for `convert`: the folder, or the HDF5 file in it.

    Raises:
        TadError: the index is damaged or contains NaN, values are too large for float16, or the folder contains other
            files.
    """
    _check_folder(folder, file_format)
    with FeatureReader(index) as reader:
        source = _Source(reader, file_format=file_format, dtype=dtype, on_nan=on_nan)
        unfinished = folder / f"{SIDECAR}.unfinished"
        with storing(unfinished):
            folder.mkdir(parents=True, exist_ok=True)
            unfinished.touch()
        before = read_sidecar(folder)
        out = folder / HDF5_FILE if file_format == "h5" else folder
        videos = _write_h5(source, out) if file_format == "h5" else _write_folder(source, folder)
        if file_format != "h5" and before is not None:  # videos that are no longer in the index
            for stale in {f.file for f in before.videos.values()} - {f.file for f in videos.values()}:
                (folder / stale).unlink(missing_ok=True)
        export = Export(**source.head(), videos=dict(sorted(videos.items())))
        write_json(folder / SIDECAR, export.model_dump(mode="json"))
        unfinished.unlink()
    log.info("%s: %d videos, %d channels, %s", out, len(videos), export.dim, export.dtype)
    return out
