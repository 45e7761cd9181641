"""Every reader of files, called as the stages call it, with valid and hostile files for it."""

import io
import json
import pickle
import struct
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from keypoint_tools import deeplabcut, sleap
from label_samples import SAMPLES

from tad.annotations.table import Instance, Table, Video
from tad.core import checksums, formats
from tad.core.errors import TadError
from tad.core.limits import MESSAGE
from tad.core.printable import HIDDEN
from tad.features.store import checksum


def _stamp(stage: str) -> str:
    facts = {"identity": "0" * 16, "spec": {"dataset": "d"}, "code": "c", "inputs": {}}
    return json.dumps({"stage": stage, **formats.mark(formats.of_stage(stage)), **facts})


class Reader(NamedTuple):
    """A reader and the files that it is tried on.

    Attributes:
        suffix: of the files. read: reads one. seeds: valid contents, from which hostile ones are derived.
        seal: adds the checksums, as whoever builds a hostile file would.
        slow: it starts a process for each file, so fewer files are tried.
    """

    suffix: str
    read: Callable[[Path], Any]
    seeds: Callable[[], list[bytes]]
    seal: Callable[[Path], None] = lambda _: None
    slow: bool = False


def write(path: Path, content: bytes, kind: str) -> Path:
    """Write a file for a reader, with valid checksums."""
    path.write_bytes(content)
    READERS[kind].seal(path)
    return path


def _seal_inline(path: Path) -> None:
    with suppress(AssertionError):  # an edit may have hit the entry
        checksums.seal_inline(path)


def _h5(fill: Callable[[h5py.File], None]) -> bytes:
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        fill(file)
    return memory.getvalue()


def _shard(file: h5py.File) -> None:
    file.attrs["tad_stamp"], file.attrs["excluded"] = _stamp("extract"), "{}"
    group = file.create_group("v1")
    group.create_dataset("feats", data=np.ones((4, 3), np.float32))
    for name in ("start", "step", "duration", "offset"):
        group.attrs[name] = 1.0
    group.attrs["checksum"] = checksum(group["feats"][:])


def _foreign(file: h5py.File) -> None:
    file.create_dataset("v1", data=np.ones((4, 3), np.float32))
    file.create_dataset("v2", data=np.ones((40, 3), np.float32), compression="gzip", chunks=(8, 3))


def _candidates(file: h5py.File) -> None:
    file.attrs["tad_stamp"] = _stamp("detect")
    file.attrs["labels"], file.attrs["excluded"] = '["a"]', "{}"
    file["segments"], file["scores"] = np.array([[0, 1], [1, 2]], "f4"), np.array([0.5, 0.25], "f4")
    file["labels"], file["offsets"] = np.zeros(2, "i4"), np.array([0, 2], "i8")
    file["grids"] = np.array([[0.5, 1, 4, 4]], "f8")
    file.create_dataset("video_ids", data=["v1"], dtype=h5py.string_dtype())


def _npy(array: np.ndarray) -> bytes:
    memory = io.BytesIO()
    np.save(memory, array)
    return memory.getvalue()


def _npz() -> bytes:
    memory = io.BytesIO()
    np.savez_compressed(memory, feats=np.ones((4, 3), np.float32))
    return memory.getvalue()


def _torch(value: Any, *, zipped: bool = True) -> bytes:
    import torch

    memory = io.BytesIO()
    torch.save(value, memory, _use_new_zipfile_serialization=zipped)
    return memory.getvalue()


def _state() -> dict[str, Any]:
    import torch

    return {"epoch": 3, "state_dict_ema": {"module.w": torch.ones(2, 3)}, "state_dict": {"module.w": torch.ones(2, 3)}}


def _safetensors() -> bytes:
    metadata = {
        "tad_stamp": _stamp("train"),
        checksums.KEY: checksums.UNSEALED,
        "labels": "[]",
        "detector": "{}",
        "feature_dim": "3",
    }
    header = {"__metadata__": metadata, "w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
    head = json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + bytes(24)


def _table() -> dict[str, Any]:
    video = {"split": "train", "duration": 9.0, "instances": [[1.0, 2.0, "a"]], "entries": ["e"], "ambiguous": []}
    return {"dataset": "d", "source": "s", "labels": ["a"], "videos": {"v": {**video, "rate": None}}, "excluded": {},
            "dropped": [], "clipped": [], "known": {}, "notes": []}  # fmt: skip


DATABASE = {
    "database": {"v": {"subset": "training", "duration": 9, "annotations": [{"segment": [1, 2], "label": "a"}]}}
}
RESULTS = {"results": {"v": [{"label": "a", "score": 0.5, "segment": [1.0, 2.5]}]}, "labels": ["a"], "excluded": {}}
SCORES = {"results": {"v": [0.5, 0.25]}, "class": ["a", "b"]}
QUERY = {"qid": 1, "relevant_windows": [[1, 2]]}
MAP = {"run": "r", "dataset": "d", "features": "f", "detector": "x", "average_mAP": 0.5, "mAP": {"0.5": 0.5},
       "epoch_rule": "last", "protocol": {"name": "p", "complete": True},
       "videos": {"evaluated": 1, "in_split": 1}}  # fmt: skip


def _text(*values: Any) -> Callable[[], list[bytes]]:
    return lambda: [value.encode() if isinstance(value, str) else json.dumps(value).encode() for value in values]


def _read_shard(path: Path) -> None:
    from tad.features.store import FeatureReader

    with FeatureReader(path) as reader:
        for video_id in reader.video_ids:
            reader.grid(video_id)
            reader.read(video_id)
            reader.stored(video_id)


def _read_foreign(path: Path) -> None:
    from tad.features.foreign import FeatureFiles

    files = FeatureFiles(path)
    for video_id in files.paths:
        files.read(video_id)


def _read_one(path: Path) -> None:
    from tad.features.foreign import FeatureFiles

    FeatureFiles.read_one(path)


def _called(module: str, function: str, **options: Any) -> Callable[[Path], Any]:
    from importlib import import_module

    return lambda path: getattr(import_module(module), function)(path, **options)


def _scores(path: Path) -> Any:
    from tad.features.class_scores import read_video_scores

    return read_video_scores(path, ["a", "b"])


def _settings(path: Path) -> Any:
    from tad.settings.stages import NmsSpec

    return NmsSpec.parse(str(path))


def _labels(tool: str) -> Callable[[Path], Any]:
    return _called("tad.datasets._formats.table", "read", tool=tool)


def _label_reader(tool: str) -> Reader:
    """Return the reader of an annotation tool's files, with the samples of its layouts."""

    samples = [(Path(name).suffix, content) for of, name, content, _ in SAMPLES if of == tool]
    suffix = "_val.txt" if tool == "thumos_text" else samples[0][0]
    return Reader(suffix, _labels(tool), _text(*(content for _, content in samples)))


def _boris() -> list[bytes]:
    from tad.datasets._formats.boris import write_project

    table = Table("d", ("a",), {"v": Video("train", 9.0, (Instance(1.0, 2.0, "a"),), rate=25.0)})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.boris"
        write_project(table, path, {})
        return [path.read_bytes()]


def _bouts(file: h5py.File) -> None:
    file.attrs["nwb_version"] = "2.9.0"
    bouts = file.create_group("processing/behavior/bouts")
    bouts.attrs["neurodata_type"] = "EthogramBouts"
    bouts["start_time"], bouts["stop_time"] = [2.0, 4.8], [4.0, 7.0]
    bouts["label"] = ["a"] * 2


def _workbook() -> list[bytes]:
    from test_label_formats import xlsx

    with tempfile.TemporaryDirectory() as folder:
        rows: list[list[str | float]] = [["video", "start", "end", "label"], ["v", 1.0, 2.0, "a"]]
        return [xlsx(Path(folder) / "x.xlsx", rows).read_bytes()]


LABEL_READERS = {f"labels, {tool}": _label_reader(tool) for tool in dict.fromkeys(of for of, *_ in SAMPLES)} | {
    "labels, boris": Reader(".boris", _labels("boris"), _boris),
    "labels, nwb": Reader(".nwb", _labels("nwb"), lambda: [_h5(_bouts)]),
    "labels, spreadsheet": Reader(".xlsx", _labels("csv"), _workbook, slow=True),
}
CORPUS = Path(__file__).parent / "corpus"  # small files by reader that were once answered by a traceback
PIECES = [
    b"[" * 300, b"{", b'"', b"9" * 500, b"NaN", b"1e999", b"\\ud800", b"\x1b[2J", b"\r\n", b"null", b"*a", b"&a ",
    b"? ", b"<<", b"\xff\xff\xff\x7f", b"\x00" * 8, b"\xe2\x80\xae", b",", b"-",
]  # fmt: skip


def edited(content: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """Replace parts of a file: position, length and new bytes; positions are taken modulo its size."""
    for where, length, new in edits:
        start = where % (len(content) + 1)
        content = content[:start] + new + content[start + length :]
    return content


def refused(path: Path, kind: str) -> str:
    """Read a file; return the message of a refusal, which is one printable line, or "" if it was read."""
    try:
        READERS[kind].read(path)
    except TadError as error:
        said = str(error)
        assert len(said) <= MESSAGE, f"a message of {len(said)} characters"
        assert len(said.splitlines()) == 1, "a message of several lines"
        assert not HIDDEN.search(said), "a message with control characters"
        return said
    return ""


READERS: dict[str, Reader] = {
    "JSON": Reader(".json", _called("tad.core.files", "read_json"), _text({"a": [1, 2.5, "x", None]}, MAP)),
    "annotation table": Reader(".json", _called("tad.annotations.table", "read_table"), lambda: _text(_table())()),
    "annotations": Reader(".json", _called("tad.datasets._parse", "read_database"), _text(DATABASE)),
    "durations": Reader(".csv", _called("tad.datasets._parse", "read_durations"), _text("video,duration\nv,9\n")),
    "annotation CSV": Reader(
        ".csv", _called("tad.datasets._csv", "read_sheet"), _text("video,start,end,label\nv,1,2,a\n", 'a\tb\n"1"\t2\n')
    ),
    "results file": Reader(".json", _called("tad.metrics.files", "read_detections"), _text(RESULTS)),
    "queries": Reader(
        ".jsonl", _called("tad.metrics.grounding", "read_queries", key="relevant_windows", width=2), _text(QUERY)
    ),
    "score": Reader(".json", _called("tad.table.scores", "read_score"), _text(MAP)),
    "YAML": Reader(".yaml", _called("tad.settings.strict_yaml", "read_yaml"), _text("a: &x [1]\nb: *x\nc: {d: e}\n")),
    "settings": Reader(".yaml", _settings, _text("method: hard\nvoting: 0.5\n")),
    "label split": Reader(
        ".csv", _called("tad.training.data.label_split", "read_split"), _text("video,subset\nv,training\n")
    ),
    "npy": Reader(".npy", _read_one, lambda: [_npy(np.ones((4, 3), np.float32)), _npy(np.arange(6).reshape(2, 3))]),
    "npz": Reader(".npz", _read_one, lambda: [_npz()]),
    "pt": Reader(".pt", _read_one, lambda: [_torch(_state()["state_dict"]["module.w"]), _torch(
        {"feats": _state()["state_dict"]["module.w"]}, zipped=False)]),
    "pkl": Reader(".pkl", _read_one, lambda: [
        pickle.dumps({"feats": np.ones((4, 3), np.float32)}, protocol=protocol) for protocol in (2, 3, 4)]),
    "feature CSV": Reader(".csv", _read_one, _text("c0,c1\n0.5,1\n2,3\n")),
    "keypoints, HDF5": Reader(".h5", _called("tad.features.poses", "read_poses", points=("a", "b")),
        lambda: [_h5(sleap), _h5(deeplabcut)]),
    "keypoints, CSV": Reader(".csv", _called("tad.features.poses", "read_poses", points=("a", "b")), _text(
        "a_x,a_y,b_x,b_y\n1,2,3,4\n", "scorer,s,s,s,s\nbodyparts,a,a,b,b\ncoords,x,y,x,y\n0,1,2,3,4\n")),
    "HDF5 features of others": Reader(".h5", _read_foreign, lambda: [_h5(_foreign)]),
    "feature shard": Reader(".h5", _read_shard, lambda: [_h5(_shard)], checksums.append_blocks),
    "candidates": Reader(
        ".h5", _called("tad.stages.suppress", "read_candidates"), lambda: [_h5(_candidates)], checksums.append_blocks
    ),
    "stamp of HDF5": Reader(
        ".h5", _called("tad.provenance.stamps", "read_stamp"), lambda: [_h5(_shard)], checksums.append_blocks
    ),
    "video scores": Reader(".json", _scores, _text(SCORES)),
    "video scores, pickle": Reader(".pkl", _scores, lambda: [pickle.dumps({"v": np.ones(2)}, protocol=2)]),
    "video scores, array": Reader(".npy", _scores, lambda: [_npy(np.ones((3, 101), np.float32))]),
    "model": Reader(".safetensors", _called("tad.training.io.tensors", "read_tensors"), lambda: [_safetensors()],
        _seal_inline),
    "stamp of a model": Reader(
        ".safetensors", _called("tad.provenance.stamps", "read_stamp"), lambda: [_safetensors()], _seal_inline
    ),
    "weights": Reader(".safetensors", _called("tad.backbones._weights", "read_weights"), lambda: [_safetensors()],
        _seal_inline),
    "weights, pickle": Reader(".pth", _called("tad.backbones._weights", "read_weights"), lambda: [
        _torch(_state()), _torch(_state(), zipped=False)]),
    "checkpoint": Reader(".pth.tar", _called("tad.training.io.published", "read_checkpoint"), lambda: [
        _torch(_state()), _torch(_state(), zipped=False)]),
    **LABEL_READERS,
}  # fmt: skip
