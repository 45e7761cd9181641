"""Full, limited, read-only and broken disks: each writer ends in one line, leaves nothing half, and writes the same
bytes when it is called again afterwards."""

import ast
import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from disk_tools import NUMBERS, SIZE, WRITERS, contents, failing, file_size_limit, model, remount, shard, small_disk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tad.commands.cli import main
from tad.core import storage
from tad.core.errors import StorageError, TadError
from tad.core.files import HashCache, write_json
from tad.core.h5 import H5Writer
from tad.core.storage import forecast, readable, storing
from tad.features.store import FeatureReader
from tad.training.loop.curves import Curves

UNFINISHED = ("out/tad_features.json.unfinished", "i.flow/format.json")  # say that more is to follow


def one_line(error: BaseException, folder: Path, *, numbers: bool) -> None:
    said = str(error)
    assert isinstance(error, StorageError)
    assert str(folder) in said
    assert "\n" not in said
    assert "nothing was replaced" in said
    if numbers:
        assert "bytes" in said


def attempt(
    write: Callable[[Path], Path], path: Path, call: str, number: int, *, after: int
) -> tuple[StorageError | None, int]:
    """Return the refusal of a writer whose calls of the system fail, and the number of these calls."""
    with failing(call, number, after=after) as calls:
        try:
            write(path)
        except StorageError as error:
            return error, calls[0]
    return None, calls[0]


def finished(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in contents(folder).items() if name not in UNFINISHED}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_line_and_nothing_half(tmp_path: Path, name: str) -> None:
    """Four sizes of a file system of its own; then space is freed."""
    file, write = WRITERS[name]
    write(tmp_path / "right" / file)
    right = contents(tmp_path / "right")
    assert sum(map(len, right.values())) > SIZE
    for kilobytes in (16, 100, 200, 280):
        with small_disk(tmp_path / "small", kilobytes) as small:
            with pytest.raises(StorageError) as caught:
                write(small / file)
            one_line(caught.value, small, numbers=True)
            assert "free some space" in str(caught.value)
            half = {path: content for path, content in finished(small).items() if right.get(path) != content}
            assert half == {}
            remount(small, "size=4m")
            write(small / file)
            assert contents(small) == right


@pytest.mark.parametrize("name", WRITERS)
def test_a_limit_of_file_sizes_is_one_line_and_what_was_there_stays(tmp_path: Path, name: str) -> None:
    file, write = WRITERS[name]
    write(tmp_path / file)
    before = contents(tmp_path)
    with file_size_limit(4096), pytest.raises(StorageError, match=r"limit of file sizes.*ulimit -f") as caught:
        write(tmp_path / "x" / file)
    one_line(caught.value, tmp_path, numbers=True)
    with file_size_limit(4096):
        if "export" not in name:  # an export keeps files that are already whole
            with pytest.raises(StorageError):
                write(tmp_path / file)
    (tmp_path / "x").exists()
    assert {path: content for path, content in contents(tmp_path).items() if not path.startswith("x/")} == before


@pytest.mark.parametrize("name", WRITERS)
def test_a_read_only_disk_is_one_line(tmp_path: Path, name: str) -> None:
    file, write = WRITERS[name]
    with small_disk(tmp_path / "small", 4000) as small:
        remount(small, "ro")
        with pytest.raises(StorageError, match="the file system is read-only") as caught:
            write(small / file)
        one_line(caught.value, small, numbers=False)
        remount(small, "rw")
        assert contents(small) == {}
        write(small / file)
        assert contents(small)


@pytest.mark.parametrize("call", ["fsync", "replace", "pwrite"])
@pytest.mark.parametrize("name", WRITERS)
def test_errors_of_the_device_are_one_line(tmp_path: Path, name: str, call: str) -> None:
    """At the end as well: when the data are forced to the disk, and when the file gets its name."""
    file, write = WRITERS[name]
    write(tmp_path / "right" / file)
    some = NUMBERS[len(name + call) % len(NUMBERS) :][:2] or NUMBERS[:1]
    for after in (0, 1):
        for number in some[: 1 + after]:
            place = tmp_path / f"{number}-{after}"
            error, calls = attempt(write, place / file, call, number, after=after)
            if error is None:
                assert calls <= after, "a failure went unnoticed"
            else:
                one_line(error, place, numbers=False)
                assert error.errno == number
            assert not list(place.rglob("*.partial-*")) if place.exists() else True
            half = {p: c for p, c in finished(place).items() if contents(tmp_path / "right").get(p) != c}
            assert half == {}
            write(place / file)
            assert contents(place) == contents(tmp_path / "right")


@given(after=st.integers(0, 60), number=st.sampled_from(NUMBERS), data=st.data())
@settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_hdf5_survives_a_failure_of_any_of_its_writes(
    tmp_path_factory: pytest.TempPathFactory, after: int, number: int, data: st.DataObject
) -> None:
    """In this process, which HDF5 ended by a segmentation fault when it had seen the failure itself."""
    file, write = WRITERS[data.draw(st.sampled_from(["features", "index of frames", "export to h5"]))]
    folder = tmp_path_factory.mktemp("h5")
    error, calls = attempt(write, folder / file, "pwrite", number, after=after)
    if error is None:
        assert calls <= after
    else:
        assert error.errno == number
        left = [path.name for path in folder.rglob("*.h5*")]
        assert left == [] or (file == "out" and left == ["features.h5"])  # of an export, the facts may have failed


def test_the_command_ends_with_status_1_and_one_line(tmp_path: Path) -> None:
    """A whole process, so that a crash while HDF5 or Python ends would be seen."""
    shard(tmp_path / "f.h5")
    for file_format in ("h5", "npy"):
        with small_disk(tmp_path / "small", 64) as small:
            command = [sys.executable, "-m", "tad", "features", "export", str(tmp_path / "f.h5")]
            command += ["--to", str(small / "out"), "--format", file_format]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 1
            lines = [line for line in done.stderr.splitlines() if " INFO " not in line]
            assert len(lines) == 1, done.stderr
            assert lines[0].startswith(f"tad features: {small}/out/")
            assert "no space left on the disk (needs " in lines[0]


def test_a_full_standard_output_is_an_error(tmp_path: Path) -> None:
    shard(tmp_path / "f.h5")
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "tad", "features", "show", str(tmp_path / "f.h5")]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith("tad features: standard output: no space left on the disk")
        done = subprocess.run(command, stdout=full, stderr=full, check=False)
        assert done.returncode == 1


def test_the_curves_of_a_training_are_one_line_on_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", 16) as small:
        curves = Curves(small / "logs", step=0)
        with pytest.raises(StorageError, match=r"logs/events\.out.*no space left"), curves:  # noqa: PT012
            for step in range(2000):
                curves.add({"loss": 1.0, "gradient norm": 2.0}, step=step)


def test_tensorboard_reads_the_curves(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Curves(tmp_path, step=0) as curves:
        for step in range(5):
            curves.add({"loss": step / 2, "learning rate": 0.1}, step=step)
    with Curves(tmp_path, step=3) as curves:  # resumed after step 2
        curves.add({"loss": 9.0}, step=3)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == ["train/learning rate", "train/loss"]
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(0, 0), (1, 0.5), (2, 1), (3, 9)]


def test_an_error_in_the_block_is_not_hidden_by_closing(tmp_path: Path) -> None:
    with pytest.raises(TadError, match="features contain NaN"), H5Writer(tmp_path / "x.h5", {}):
        raise TadError("features contain NaN")
    with pytest.raises(KeyboardInterrupt), H5Writer(tmp_path / "x.h5", {}):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_errors_of_other_files_are_not_attributed_to_the_output(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), storing(tmp_path / "out.json"):
        raise PermissionError(errno.EACCES, "Permission denied", "/etc/shadow")
    with pytest.raises(FileNotFoundError), storing(tmp_path / "out.json"):
        (tmp_path / "absent").read_text()


def test_caches_do_without_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tad.core.files.TICK_NS", -1)
    (tmp_path / "x").write_text("x")
    cache = HashCache(tmp_path / "cache.json")
    cache.key(tmp_path / "x")
    with failing("fsync", errno.ENOSPC):
        cache.save()
    assert not (tmp_path / "cache.json").exists()


def test_what_was_there_before_stays(tmp_path: Path) -> None:
    path = shard(tmp_path / "f.h5")
    before = path.read_bytes()
    with failing("pwrite", errno.ENOSPC, after=3), pytest.raises(StorageError):
        shard(path)
    assert path.read_bytes() == before
    with FeatureReader(path) as reader:
        assert reader.video_ids == ["a", "b", "c"]


def test_space_is_forecast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(storage, "free_at", lambda path: 5_000_000)
    forecast(tmp_path / "f.h5", 1_234_567, what="extract of 3 videos")
    assert f"extract of 3 videos needs about 1.23 MB on disk, {tmp_path} has 5 MB" in caplog.text
    forecast(tmp_path / "f.h5", 6e6, what="extract", least=4e6)
    assert "has 5 MB, which may not suffice" in caplog.text
    with pytest.raises(
        StorageError, match=r"f\.h5: extract needs about 6 MB on disk, .* \(6000000 bytes, 5000000 free\)"
    ):
        forecast(tmp_path / "f.h5", 6e6, what="extract", least=5.5e6)
    monkeypatch.undo()
    assert storage.free_at(tmp_path / "not" / "yet" / "there")
    assert [readable(n) for n in (0, 999, 1000, 12_345, 999_600, 2.5e12)] == [
        "0 bytes", "999 bytes", "1 kB", "12.3 kB", "1 MB", "2.5 TB",
    ]  # fmt: skip


def test_a_folder_without_permission_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="a part of its path is a file"):
        write_json(tmp_path / "file" / "below" / "x.json", {})

    def refused(*args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "out"))

    shard(tmp_path / "f.h5")
    monkeypatch.setattr(Path, "mkdir", refused)
    assert main(["features", "export", str(tmp_path / "f.h5"), "--to", str(tmp_path / "out"), "--format", "npy"]) == 1
    assert "no permission to write here" in capfd.readouterr().err


def test_model_reports_the_bytes_that_it_needs(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", 100) as small, pytest.raises(StorageError, match=r"\(needs 40\d{4} bytes, "):
        model(small / "model.safetensors")
    assert os.listdir(tmp_path / "small") == []


GUARDED_ELSEWHERE = {
    "tad/page/write.py": "its functions are called within `storing` of write_page",
    "tad/core/h5.py": "the sink of H5Writer, which publishes; reading goes through blocks",
    "tad/core/files.py": "publish itself",
    "tad/core/checksums.py": "adds checksums to temporary files within `publish`",
    "tad/weights/download.py": "the partial file is opened within `storing` of fetch_file",
    "tad/training/tsp/frames.py": "called within `storing` of decode",
    "tad/page/proxies.py": "opened within `publish` of make_proxy",
    "tad/commands/doctor_folder.py": "small trial files; whether they can be written is what it reports",
    "tad/commands/doctor_trials.py": "a small trial video; whether it can be written is what it reports",
    "tad/commands/plan_trial.py": "samples in a temporary folder; a failure is one line of the command",
}
# where a full disk is a signal, or a traceback in a thread
FORBIDDEN = re.compile(r"\b(np\.memmap|open_memmap|SummaryWriter\(|save_file\()")
WRITES = {"write_text", "write_bytes", "savefig", "copyfile", "copy", "copy2", "move", "TemporaryFile", "mkstemp"}


POSSIBLE = re.compile("|".join([*sorted(WRITES), r"open\(", r"os\.re", r"h5py\.File"]))


def writes(call: ast.Call) -> bool:
    """Whether a call creates or changes a file."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    owner_name = getattr(owner, "id", "")
    if name == "open":
        modes = [a.value for a in [*call.args, *(k.value for k in call.keywords)] if isinstance(a, ast.Constant)]
        return any(isinstance(mode, str) and re.fullmatch(r"[wax]b?\+?b?|r\+b?|rb\+|a\+b", mode) for mode in modes)
    if name in ("replace", "rename"):
        return owner_name == "os"
    if name in ("copyfile", "copy", "copy2", "move"):
        return owner_name == "shutil"
    return name in WRITES or (name == "File" and owner_name == "h5py")


def test_every_writer_is_guarded() -> None:
    """A new place that writes has to go through `publish` or `storing`, or to be listed with its reason."""
    root = Path(__file__).parents[1]
    found, used = [], set()
    for path in sorted((root / "tad").rglob("*.py")):
        module, text = str(path.relative_to(root)), path.read_text(encoding="utf-8")
        assert not FORBIDDEN.search(text), module
        if not POSSIBLE.search(text):
            continue
        for function in [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]:
            calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
            guarded = {getattr(call.func, "id", "") for call in calls} & {"publish", "storing"}
            if not guarded and any(map(writes, calls)):
                found.append((module, function.name))
                used.add(module)
    assert [place for place in found if place[0] not in GUARDED_ELSEWHERE] == []
    assert used == set(GUARDED_ELSEWHERE)
