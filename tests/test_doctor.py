"""`tad doctor`: each check finds what it is for, says what to do, and changes nothing."""

import errno
import fcntl
import json
import os
import subprocess
import sys
from importlib.util import cache_from_source, find_spec
from pathlib import Path
from typing import Any

import pytest

from tad.commands import doctor as whole
from tad.commands import doctor_folder as folder
from tad.commands import doctor_packages as packages
from tad.commands import doctor_trials as trials
from tad.commands.doctor_findings import Finding
from tad.core.errors import TadError
from tad.core.files import PARTIAL
from tad.core.processes import own_token

TORCH = {"version": "2.13.0+cpu", "cuda": "", "threads": 2, "devices": []}
NUMBA = {"loops": 3, "cached": 3, "folders": ["/cache"]}


def states(findings: Any) -> list[tuple[str, str]]:
    found = list(findings)
    for one in found:
        assert one.text, one
        assert one.state == "ok" or one.remedy or one.topic == "config", one
        assert "\n" not in one.line()
    return [(one.topic, one.state) for one in found]


def dead_token() -> str:
    ended = subprocess.Popen([sys.executable, "-S", "-c", ""])
    ended.wait()
    machine = own_token().split("-")[0]
    return f"{machine}-{ended.pid}-1"


# -- the folder --------------------------------------------------------------------------------------------------------


def test_a_good_folder_is_fine_and_left_as_it_was(tmp_path: Path) -> None:
    results = tmp_path / "results"  # need not exist
    assert states(folder.file_system(results)) == [("results", "ok")]
    assert states(folder.left_over(results, tmp_path / ".snakemake")) == [("left-overs", "ok")]
    assert list(tmp_path.iterdir()) == []


def test_left_overs_of_dead_processes_are_told_and_kept(tmp_path: Path) -> None:
    results, locks = tmp_path / "results", tmp_path / ".snakemake" / "locks"
    (results / "a").mkdir(parents=True)
    locks.mkdir(parents=True)
    names = [f"m.h5{PARTIAL}{token}" for token in (dead_token(), own_token(), "000000-1-2")]
    for name in names:
        (results / "a" / name).write_bytes(bytes(2000))
    (locks / "0.input.lock").touch()
    found = list(folder.left_over(results, tmp_path / ".snakemake"))
    assert states(found) == [("left-overs", "note")] * 3
    dead, foreign, lock = (one.text for one in found)
    assert dead.startswith("1 temporary files of dead processes (2 kB)")
    assert names[0] in dead
    assert names[2] in foreign
    assert "0.input.lock" in lock
    assert sorted(p.name for p in (results / "a").iterdir()) == sorted(names)
    with open(tmp_path / ".snakemake" / "tad.alive", "w") as alive:  # locks of a workflow that runs are no left-overs
        fcntl.flock(alive, fcntl.LOCK_SH)
        texts = " ".join(one.text for one in folder.left_over(results, tmp_path / ".snakemake"))
        assert "a workflow is running" in texts
        assert "0.input.lock" not in texts


def fails(number: int) -> Any:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize(
    ("broken", "state", "said"),
    [
        ((os, "link", fails(errno.EPERM)), "ok", "no hard links"),
        ((os, "fsync", fails(errno.EIO)), "problem", "cannot be written"),
        ((folder, "TemporaryDirectory", fails(errno.EROFS)), "problem", "Read-only"),
        ((fcntl, "flock", fails(errno.ENOLCK)), "note", "no file locks"),
        ((fcntl, "flock", lambda *_: None), "note", "two processes can hold"),
        ((folder, "SLOW_SECONDS", 0.0), "note", "slow"),
    ],
    ids=["links", "input/output error", "read-only", "no locks", "locks that do not exclude", "slow"],
)
def test_a_file_system_that_lacks_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Any, state: str, said: str
) -> None:
    monkeypatch.setattr(*broken)
    found = list(folder.file_system(tmp_path))
    assert (found[0].topic, found[0].state) == ("results", state)
    assert any(said in one.text for one in found)
    states(found)


@pytest.mark.parametrize(("free", "state"), [(10**12, "ok"), (10**10, "note"), (10**8, "problem"), (None, "note")])
def test_space(monkeypatch: pytest.MonkeyPatch, free: int | None, state: str) -> None:
    monkeypatch.setattr(folder, "free_at", lambda place: free)
    assert {one for one in states(folder.space()) if one[1] != "ok" or free == 10**12} == {("space", state)}


def test_a_home_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "compile_cache", lambda kind: None)
    assert states(folder.caches()) == [("caches", "note")]


def test_configuration(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    assert states(folder.configuration(config)) == [("config", "note")]
    config.write_text("runs: {a: {dataset: nothing}}")
    assert states(folder.configuration(config)) == [("config", "problem")]
    config.write_text("device: cpu")
    assert states(folder.configuration(config)) == [("config", "ok")]


# -- what is installed -------------------------------------------------------------------------------------------------


def test_requirements_are_read_with_their_bounds_and_extras() -> None:
    found = {one.name: one for one in packages.requirements()}
    assert found["decord"] == packages.Requirement("decord", "", "0.6.0", "")
    assert (found["torch"].extra, found["transformers"].extra) == ("", "modern")
    assert found["transformers"].least
    assert packages._requirement('transformers<6,>=5.23; extra == "modern"') == ("transformers", "5.23", "", "modern")


def test_wrong_versions_are_problems_with_the_command_that_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    have = {"decord": "0.5", "av": "9.1", "numba": ""}
    installed = packages.version_of
    monkeypatch.setattr(packages, "version_of", lambda name: have.get(name, installed(name)))
    wrong = {one.text: one.remedy for one in packages.versions() if one.state == "problem"}
    assert wrong["decord is 0.5, but 0.6.0 is needed"] == "pip install 'decord==0.6.0'"
    assert wrong["av is 9.1, but at least 14 is needed"] == "pip install 'av>=14'"
    assert "numba is not installed" in wrong
    assert len(wrong) == 3


def test_bytecode(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path))  # where Python looks for it
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    assert states(packages.bytecode()) == []
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert states(packages.bytecode()) == [("bytecode", "note")]
    spec = find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    kept = Path(cache_from_source(spec.origin))
    assert tmp_path in kept.parents
    kept.parent.mkdir(parents=True)
    kept.touch()
    assert states(packages.bytecode()) == []


def test_devices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(packages, "GPU_FILES", (str(tmp_path / "absent"),))
    assert states(packages.of_torch(TORCH)) == [("devices", "ok")]
    assert states(packages.of_torch(TORCH | {"devices": [["H200", 1e11]]})) == [("devices", "ok")]
    monkeypatch.setattr(packages, "GPU_FILES", (str(tmp_path),))  # a GPU that torch does not see
    assert states(packages.of_torch(TORCH)) == [("devices", "problem")]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert states(packages.of_torch(TORCH)) == [("devices", "note")]
    assert states(packages.of_torch(TORCH | {"torchvision": "no"}))[1:] == [("versions", "problem")]
    assert states(packages.of_imports({"openvino": "no"})) == [("versions", "note")]
    assert states(packages.of_imports({"openvino": ""})) == []


def test_readers_and_loops() -> None:
    assert states(packages.of_readers({"pyav": "", "decord": "no"})) == [("readers", "ok"), ("readers", "problem")]
    assert states(packages.of_readers({"torchcodec": "no"})) == [("readers", "note")]
    assert states(packages.of_numba(NUMBA)) == [("numba", "ok")]
    assert states(packages.of_numba(NUMBA | {"cached": 1})) == [("numba", "note")]
    assert states(packages.of_numba(NUMBA | {"folders": [""]})) == [("numba", "note")]


def test_the_readers_decode_the_test_video_and_a_wrong_one_is_noticed(tmp_path: Path) -> None:
    assert trials.try_readers(str(tmp_path)) == {"pyav": "", "decord": ""}
    video = tmp_path / "readers.mp4"
    video.write_bytes(video.read_bytes()[:200])
    assert trials.decode(video, "pyav")


def test_every_compiled_module_is_found() -> None:
    assert {"tad.nms.kernels", "tad.metrics.devkit"} <= set(trials.compiled_modules())


@pytest.mark.parametrize(
    ("program", "said"),
    [("import os; os.abort()", "signal 6"), ("raise SystemExit('no such thing')", "no such thing"),
     ("import time; time.sleep(60)", "no answer"), ("raise SystemExit(3)", "status 3")],
)  # fmt: skip
def test_a_trial_that_ends_badly_is_one_line(monkeypatch: pytest.MonkeyPatch, program: str, said: str) -> None:
    monkeypatch.setattr(trials, "PROGRAM", program)
    with pytest.raises(TadError, match=said):
        trials.ended(trials.start("readers"), seconds=1.0)


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_exit_is_by_problems_and_json_stays_json(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = [Finding("a", "ok", "fine"), Finding("b", "note", "slow", "wait")]
    monkeypatch.setattr(whole, "findings", lambda config: iter(found))
    assert list(whole.doctor())[-1] == "problems: 0, notes: 1"
    assert json.loads("\n".join(whole.doctor(as_json=True)))[1]["remedy"] == "wait"
    found.append(Finding("c", "problem", "broken", "mend"))
    lines = whole.doctor(as_json=True)
    assert [one["state"] for one in json.loads(next(lines))] == ["ok", "note", "problem"]
    with pytest.raises(TadError, match="problems found: 1"):
        next(lines)


def test_everything_is_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    facts: dict[str, dict[str, Any]] = {"torch": TORCH, "numba": NUMBA, "readers": {"pyav": ""}}
    facts["openvino"] = {"openvino": "cannot load"}
    monkeypatch.setattr(packages, "optional_modules", lambda: ["torchcodec", "openvino"])
    monkeypatch.setattr(trials, "start", lambda name, *_: name)
    monkeypatch.setattr(trials, "ended", lambda name, seconds: facts[name])
    found = list(whole.findings(tmp_path / "config.yaml"))
    topics = {topic for topic, _ in states(found)}
    assert any(one.text == "openvino: cannot load" and one.state == "note" for one in found)
    wanted = "versions weights results space memory caches left-overs config devices readers numba"
    assert set(wanted.split()) <= topics
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_crashes_is_a_problem_and_the_rest_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def crash(name: str, seconds: float) -> dict[str, Any]:
        raise TadError("crashes (signal 11)")

    monkeypatch.setattr(trials, "start", lambda name, *_: name)
    monkeypatch.setattr(trials, "ended", crash)
    monkeypatch.setattr(packages, "optional_modules", lambda: ["openvino"])
    found = states(whole.findings(tmp_path / "config.yaml"))
    assert [topic for topic, state in found if state == "problem"] == ["torch", "readers", "numba"]
    assert ("openvino", "note") in found
