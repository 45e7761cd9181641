"""Our features → files for other tools: .npy, .npz (`feats`), .pt, or one HDF5 file with a dataset per video, as TSP's.

Timing goes with them (`tad_features.json`, see `tad.feature_facts`), so that `convert` imports them again bit for bit.
"""

# T snippets, C channels

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Literal

import h5py
import numpy as np

from tad import __version__
from tad.cache import FeatureReader, key_of
from tad.errors import TadError
from tad.feature_facts import HEAD_ATTRIBUTE, SIDECAR, VIDEO_ATTRIBUTE, Export, ExportedVideo, ExportHead, read_sidecar
from tad.feature_files import FeatureFiles
from tad.files import canonical, publish, write_json
from tad.progress import track

log = logging.getLogger(__name__)
Format = Literal["npy", "npz", "pt", "h5"]
FORMATS: tuple[Format, ...] = ("npy", "npz", "pt", "h5")
DTYPES = ("stored", "float32", "float16")
ON_NAN = ("error", "keep", "exclude")
HDF5_FILE = "features.h5"
GRID = {"rate", "clip_length", "stride", "start", "step", "duration", "checksum", "video_id", "row_key"}


def _save_npy(handle: IO[bytes], feats_TC: np.ndarray) -> None:
    np.save(handle, feats_TC, allow_pickle=False)


def _save_npz(handle: IO[bytes], feats_TC: np.ndarray) -> None:
    np.savez(handle, feats=feats_TC)


def _save_pt(handle: IO[bytes], feats_TC: np.ndarray) -> None:
    import torch

    torch.save(torch.from_numpy(feats_TC), handle)


SAVE: Mapping[str, Callable[[IO[bytes], np.ndarray], None]] = {"npy": _save_npy, "npz": _save_npz, "pt": _save_pt}


class _Source:
    """The videos of an index as they are to be written."""

    def __init__(self, reader: FeatureReader, *, file_format: Format, dtype: str, on_nan: str) -> None:
        self.reader, self.format, self.on_nan = reader, file_format, on_nan
        self.excluded = dict(reader.excluded)
        cached = str(reader.stored(reader.video_ids[0]).dtype) if reader.video_ids else "float32"
        self.cached = cached
        self.dtype = np.dtype(cached if dtype == "stored" else dtype)

    def head(self) -> dict[str, Any]:
        """The facts of all videos."""
        stamp = self.reader.stamp
        return {
            "tad": __version__, "identity": str(stamp["identity"]), "format": self.format, "dtype": str(self.dtype),
            "cached_dtype": self.cached, "dim": self.reader.dim, "recipe": dict(stamp.get("recipe") or stamp["spec"]),
            "excluded": dict(sorted(self.excluded.items())),
        }  # fmt: skip

    def rows(self, video_id: str) -> np.ndarray | None:
        """Features (T, C) to write; None for a video that is left out because of NaN.

        Raises:
            TadError: damaged rows, NaN or infinity (unless they may stay), values too large for float16.
        """
        feats_TC = self.reader.stored(video_id)
        wrong = int(np.count_nonzero(~np.isfinite(feats_TC)))
        if wrong and self.on_nan == "error":
            raise TadError(
                f"{self.reader.path}: '{video_id}' holds NaN or infinity ({wrong} values); extract it again, or export "
                "with --on-nan keep or exclude"
            )
        if wrong and self.on_nan == "exclude":
            self.excluded[video_id] = f"features held NaN or infinity ({wrong} values)"
            return None
        with np.errstate(over="ignore"):
            cast_TC = np.ascontiguousarray(feats_TC, self.dtype)
        if np.count_nonzero(~np.isfinite(cast_TC)) != wrong:
            raise TadError(f"{self.reader.path}: '{video_id}' does not fit {self.dtype}; export with --dtype float32")
        return cast_TC

    def facts(self, video_id: str, file: str) -> ExportedVideo:
        """When a video's rows are, and what else the cache says of it."""
        attrs = {key: getattr(value, "item", lambda v=value: v)() for key, value in self.reader.attrs(video_id).items()}
        grid, rate = self.reader.grid(video_id), float(attrs["rate"])
        return ExportedVideo(
            file=file, rows=grid.length, fps=rate, stride=attrs["stride"], clip=attrs["clip_length"],
            offset=grid.start * rate, start=grid.start, step=grid.step, duration=grid.duration,
            checksum=attrs["checksum"],
            facts={key: value for key, value in sorted(attrs.items()) if key not in GRID},
        )  # fmt: skip


def _same(path: Path, feats_TC: np.ndarray) -> bool:
    """Whether a file from an earlier export holds these very numbers."""
    with suppress(TadError):
        found = FeatureFiles.read_one(path)
        wide = feats_TC if path.suffix != ".pt" else feats_TC.astype(np.float32)  # tensors are read as float32
        return bool(found.dtype == wide.dtype and np.array_equal(found, wide, equal_nan=True))
    return False


def _write_folder(source: _Source, folder: Path) -> dict[str, ExportedVideo]:
    """One file per video; those that are there already, whole, stay."""
    videos: dict[str, ExportedVideo] = {}
    kept = 0
    for video_id in track(source.reader.video_ids, "export"):
        feats_TC = source.rows(video_id)
        path = folder / f"{key_of(video_id)}.{source.format}"
        if feats_TC is None:
            path.unlink(missing_ok=True)
            continue
        if path.is_file() and _same(path, feats_TC):
            kept += 1
        else:
            with publish(path) as partial, open(partial, "wb") as handle:
                SAVE[source.format](handle, feats_TC)
        videos[video_id] = source.facts(video_id, path.name)
    if kept:
        log.info("%d files were there already and are the same", kept)
    return videos


def _write_h5(source: _Source, path: Path) -> dict[str, ExportedVideo]:
    """One HDF5 file; a killed export leaves none, and begins again."""
    videos: dict[str, ExportedVideo] = {}
    with publish(path) as partial, h5py.File(partial, "w", track_order=False) as file:
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
        file.attrs[HEAD_ATTRIBUTE] = canonical(ExportHead.model_validate(source.head()).model_dump(mode="json"))
    return videos


def _check_folder(folder: Path, file_format: Format) -> None:
    """Refuse a folder with feature files of anybody else, so that none of theirs is overwritten or mixed in.

    Raises:
        TadError: such a folder, or one with an export in another format.
    """
    unfinished = folder / f"{SIDECAR}.unfinished"
    if not folder.exists() or unfinished.is_file():
        return
    if not folder.is_dir():
        raise TadError(f"{folder}: not a folder; name one for the exported files")
    sidecar = folder / SIDECAR
    foreign = next((path for path in sorted(folder.iterdir()) if path != sidecar), None)
    if foreign is not None and not sidecar.is_file():
        raise TadError(f"{folder}: holds {foreign.name}, which no export made; name a new or empty folder")
    other = next((p for p in folder.iterdir() if p != sidecar and p.suffix != f".{file_format}"), None)
    if other is not None:
        raise TadError(f"{folder}: holds {other.name} besides {file_format} files; name another folder")


def export_features(
    index: Path, folder: Path, *, file_format: Format, dtype: str = "stored", on_nan: str = "error"
) -> Path:
    """Write the features of an index (or shard) for other tools, with their timing beside them.

    Every file appears whole or not at all. An export that was cut off goes on when it is called again: files that hold
    the same numbers stay. Folder formats lose nothing at a kill, HDF5 (one file for all) begins again.

    Args:
        file_format: see `FORMATS`. dtype: of the files; `stored`: as in the index. on_nan: see `ON_NAN`.

    Returns:
        what `convert` takes as its source: the folder, or the HDF5 file in it.

    Raises:
        TadError: an index that is damaged or holds NaN, values that do not fit float16, a folder with other files.
    """
    _check_folder(folder, file_format)
    with FeatureReader(index) as reader:
        source = _Source(reader, file_format=file_format, dtype=dtype, on_nan=on_nan)
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f"{SIDECAR}.unfinished"
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
