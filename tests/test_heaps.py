"""Global heaps of HDF5 files: whole ones are read, and one that HDF5 would walk through for ever is refused."""

import signal
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

from tad.core.errors import TadError
from tad.core.h5 import open_h5

EDITS = """
import random, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tad.core.errors import TadError
from tad.core.h5 import open_h5
whole, path, read, draw = Path(sys.argv[2]).read_bytes(), Path(sys.argv[3]), 0, random.Random(0)
heap = whole.index(b"GCOL")
for _ in range(400):
    content = bytearray(whole)
    for _ in range(draw.randrange(1, 4)):
        content[heap + 8 * draw.randrange(1, 60) + draw.randrange(8)] = draw.choice((0, 1, 7, 255))
    path.write_bytes(content)
    try:
        with open_h5(path) as file:
            list(file.attrs.values())
            read += 1
    except (TadError, OSError, RuntimeError, KeyError, UnicodeDecodeError, ValueError):
        pass
print(read)
"""


def texts(path: Path, count: int, length: int) -> Path:
    with h5py.File(path, "w") as file:
        for k in range(count):
            file.attrs[f"a{k}"] = chr(97 + k % 26) * (length + k % 9)
    return path


@pytest.mark.parametrize(("count", "length"), [(0, 0), (1, 0), (3, 1), (300, 40), (20, 5000), (1, 60_000)])
def test_whole_files_are_read(tmp_path: Path, count: int, length: int) -> None:
    path = texts(tmp_path / "a.h5", count, length)
    with h5py.File(path, "r+") as file:  # and with gaps
        for k in range(0, count, 3):
            file.attrs[f"a{k}"] = "other"
    with open_h5(path) as file:
        assert len(file.attrs) == count
        for k in range(count):
            assert file.attrs[f"a{k}"] == ("other" if k % 3 == 0 else chr(97 + k % 26) * (length + k % 9))


def test_texts_of_another_format_of_lengths_are_read(tmp_path: Path) -> None:
    plist = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    plist.set_sizes(4, 4)
    path = tmp_path / "a.h5"
    with h5py.File(h5py.h5f.create(bytes(path), fcpl=plist)) as file:
        file.attrs["a"], file.attrs["b"] = "one", "two"
    with open_h5(path) as file:
        assert dict(file.attrs) == {"a": "one", "b": "two"}


def test_free_space_of_no_length_is_refused(tmp_path: Path) -> None:
    """HDF5 would not end, and hold Python's lock."""
    path = texts(tmp_path / "a.h5", 3, 10)
    content = bytearray(path.read_bytes())
    place = heap = content.index(b"GCOL")
    place += 16
    while content[place]:
        place += 16 + -(-content[place + 8] // 8) * 8
    content[place + 8 : place + 16] = bytes(8)
    path.write_bytes(content)
    said = rf"a\.h5: damaged on disk: the texts at byte {heap} have an object of 0 bytes"
    with pytest.raises(TadError, match=said), open_h5(path) as file:
        list(file.attrs.values())


def test_reading_edited_heaps_ends(tmp_path: Path) -> None:
    whole, root = texts(tmp_path / "a.h5", 6, 30), Path(__file__).parents[1]
    words = [sys.executable, "-c", EDITS, str(root), str(whole), str(tmp_path / "b.h5")]
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, preexec_fn=lambda: signal.alarm(300),
    )  # fmt: skip
    assert done.returncode == 0, "it did not end" if done.returncode == -signal.SIGALRM else done.stderr[-2000:]
    assert 0 < int(done.stdout) < 400, "some edits do no harm, and some do"
