"""Small files that declare far more than they hold, for the readers of `hostile_tools`."""

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
from hostile_tools import RESULTS, _candidates, _h5, _shard, _state, _torch


def _huge_npy(shape: tuple[int, ...]) -> bytes:
    memory = io.BytesIO()
    np.lib.format.write_array_header_1_0(memory, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return memory.getvalue() + bytes(64)


def _zip_bomb(name: str, head: bytes, size: int) -> bytes:
    """Return an archive whose only member declares `size` bytes."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, head + bytes(1 << 20))
        archive.filelist[0].file_size = size
    return memory.getvalue()


def _huge_chunked(file: h5py.File, name: str = "a") -> None:
    file.create_dataset(name, shape=(1_000_000_000, 6), dtype="f4", chunks=(1000, 6))


def _contiguous(file: h5py.File) -> None:
    file.create_dataset("a", shape=(1_000_000_000, 6), dtype="f4")


def _gzip_bomb(file: h5py.File) -> None:
    """Write a dataset of credible shape, whose only chunk unpacks to 3 GB."""
    dataset = file.create_dataset("a", shape=(100, 6), dtype="f4", chunks=(100, 6), compression="gzip")
    packer = zlib.compressobj(9)
    first, block = (packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    dataset.id.write_direct_chunk((0, 0), first + 3000 * block + packer.flush())


def _text_bomb(file: h5py.File) -> None:
    """Write candidates whose 2,000 ids all refer to one text of 5 MB."""
    _candidates(file)
    del file["video_ids"]
    file.create_dataset("video_ids", data=["x" * 5_000_000], dtype=h5py.string_dtype())
    kind = file["video_ids"].dtype
    space = h5py.h5s.create_simple((2000,))
    file["many"] = np.zeros(0)
    del file["many"]
    many = h5py.h5d.create(file.id, b"many", h5py.h5t.py_create(kind, logical=True), space)
    one = np.array(["x" * 5_000_000] * 1, dtype=object)
    many.write(h5py.h5s.create_simple((1,)), _first(space), one, h5py.h5t.py_create(kind, logical=True))
    del file["video_ids"]
    file.move("many", "video_ids")


def _first(space: Any) -> Any:
    chosen = space.copy()
    chosen.select_hyperslab((0,), (1,))
    return chosen


def _wide_candidates(file: h5py.File) -> None:
    _candidates(file)
    del file["segments"]
    file.create_dataset("segments", shape=(1_000_000_000, 2), dtype="f4", chunks=(1000, 2))


def _huge_shard(file: h5py.File) -> None:
    _shard(file)
    del file["v1"]["feats"]
    _huge_chunked(file["v1"], "feats")


def _endless(make: Callable[[h5py.File], None]) -> bytes:
    """An HDF5 file whose texts have free space of no length, in which HDF5 never arrives at the end."""
    content = bytearray(_h5(make))
    place = content.index(b"GCOL") + 16
    while index := int.from_bytes(content[place : place + 2], "little"):
        assert index < 1000
        place += 16 + -(-int.from_bytes(content[place + 8 : place + 16], "little") // 8) * 8
    content[place + 8 : place + 16] = bytes(8)
    return bytes(content)


def _expanded(*, times: int = 600_000_000) -> dict[str, Any]:
    import torch

    return {"state_dict_ema": {"module.w": torch.ones(1).expand(times)}, "feats": torch.ones(1, 1).expand(times, 4)}


def _memo_bomb() -> bytes:
    return b"\x80\x02]r" + struct.pack("<I", 1 << 31) + b"."


def _bytearray_bomb() -> bytes:
    pickled = b"\x80\x02cbuiltins\nbytearray\n\x8a\x05" + (20_000_000_000).to_bytes(5, "little") + b"\x85R."
    plain = zipfile.ZipFile(io.BytesIO(_torch(_state())))
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for record in plain.infolist():
            body = pickled if record.filename.endswith("data.pkl") else plain.read(record)
            archive.writestr(record.filename, body)
    return memory.getvalue()


ALIASES = "a: &a [" + ",".join("x" * 9) + "]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)  # fmt: skip

BOMBS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "npy of 20 GB": ("npy", lambda: _huge_npy((5_000_000_000,))),
    "npy of 10^30 values": ("npy", lambda: _huge_npy((10**15, 10**15))),
    "npy of scores of 20 GB": ("video scores, array", lambda: _huge_npy((50_000_000, 101))),
    "npz with a huge header": ("npz", lambda: _zip_bomb("feats.npy", _huge_npy((10**9, 6)), 1 << 20)),
    "npz that unpacks to 3 GB": ("npz", lambda: _zip_bomb("feats.npy", _huge_npy((750_000_000, 1))[:-64], 3 << 30)),
    "compressed pt": ("pt", lambda: _zip_bomb("archive/data/0", b"", 3 << 30)),
    "checkpoint, one number 600 million times": ("checkpoint", lambda: _torch(_expanded())),
    "checkpoint of 2020, one number 600 million times": ("checkpoint", lambda: _torch(_expanded(), zipped=False)),
    "features, one number 2.4 billion times": ("pt", lambda: _torch(_expanded()["feats"])),
    "checkpoint with a bytearray of 20 GB": ("checkpoint", _bytearray_bomb),
    "weights with a bytearray of 20 GB": ("weights, pickle", _bytearray_bomb),
    "pickle with room for 2 billion values": ("pkl", _memo_bomb),
    "scores with room for 2 billion values": ("video scores, pickle", _memo_bomb),
    "HDF5 chunked, 24 GB": ("HDF5 features of others", lambda: _h5(_huge_chunked)),
    "HDF5 contiguous, 24 GB": ("HDF5 features of others", lambda: _h5(_contiguous)),
    "HDF5 gzip, 3 GB": ("HDF5 features of others", lambda: _h5(_gzip_bomb)),
    "shard, texts without an end": ("feature shard", lambda: _endless(_shard)),
    "candidates, texts without an end": ("candidates", lambda: _endless(_candidates)),
    "shard, 24 GB": ("feature shard", lambda: _h5(_huge_shard)),
    "candidates, 8 GB": ("candidates", lambda: _h5(_wide_candidates)),
    "YAML aliases": ("YAML", ALIASES.encode),
    "YAML aliases in settings": ("settings", ALIASES.encode),
    "YAML of 9 MB": ("YAML", lambda: b"[" + b"a," * 4_500_000 + b"a]"),
    "YAML, a million levels": ("YAML", lambda: b"[" * 1_000_000),
    "JSON, a million levels": ("JSON", lambda: b"[" * 1_000_000 + b"]" * 1_000_000),
    "JSON of empty objects": ("JSON", lambda: b"[" + b"{}," * 3_000_000 + b"{}"),
    "JSON, an integer of a million digits": ("JSON", lambda: b'{"a": ' + b"9" * 1_000_000 + b"}"),
    "results, an integer of a million digits": (
        "results file", lambda: json.dumps(RESULTS).replace("0.5", "9" * 1_000_000).encode()),
    "results, deep": ("results file", lambda: b'{"results": {"v": ' + b"[" * 900 + b"]" * 900 + b"}}"),
    "annotations, deep": ("annotations", lambda: b'{"database": ' + b"[" * 9000 + b"]" * 9000 + b"}"),
    "CSV, a cell of 9 MB": ("annotation CSV", lambda: b"video,start,end,label\nv,1,2," + b"a" * 9_000_000),
    "feature CSV, a cell of 9 MB": ("feature CSV", lambda: b"a,b\n1," + b"1" * 9_000_000),
    "feature CSV, four million columns": ("feature CSV", lambda: b"a" + b",a" * 4_000_000 + b"\n1" + b",1" * 500_000),
    "model with a header of 90 MB": ("stamp of a model", lambda: struct.pack("<Q", 90_000_000) + b"{}"),
    "model, deep header": ("stamp of a model", lambda: struct.pack("<Q", 20000) + b"[" * 20000),
}  # fmt: skip
