"""Jobs that are left over: their processes end, their temporary files are removed, and they cannot publish."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from process_tools import members

from tad.core import claims, files, h5, processes
from tad.core.errors import StorageError, TadError
from tad.core.files import publish, sweep, write_json
from tad.core.formats import mark, of_stage
from tad.core.h5 import H5Writer
from tad.provenance.wanted import CODE, WANTED, Record, check_wanted, records_of, write_wanted

LINUX = sys.platform == "linux"


def dead_token() -> str:
    """Return the token of a process that has ended."""
    code = "from tad.core.processes import own_token; print(own_token())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_a_token_says_whether_its_process_runs() -> None:
    own = processes.own_token()
    assert processes.is_alive(own) is True
    assert processes.is_alive(dead_token()) is False
    assert processes.is_alive("0" * 6 + own[6:]) is None, "another machine"
    assert processes.is_alive("123") is None
    if LINUX:
        assert processes.is_alive(f"{own}0") is False, "the id belongs to a later process"


def test_what_a_killed_process_left_is_swept_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_swept", set())
    left = tmp_path / f"a.json.partial-{dead_token()}"
    running = tmp_path / f"a.json.partial-{processes.own_token()}"
    foreign, old = tmp_path / "b.partial-ffffff-12-3", tmp_path / "c.partial-ffffff-12-3"
    download = tmp_path / "weights.partial"
    for path in (left, running, foreign, old, download):
        path.write_text("half")
    os.utime(old, (0, 0))
    write_json(tmp_path / "other.json", {})
    assert {path.name for path in tmp_path.iterdir()} == {"other.json", running.name, foreign.name, download.name}


def test_a_superseded_process_cannot_publish(tmp_path: Path) -> None:
    out = tmp_path / "map.json"
    with claims.claiming(out, lambda: "old"):
        orphan = os.environ[claims.CLAIM]
    with claims.claiming(out, lambda: "new"):
        write_json(out, {"from": "new"})
    assert claims.CLAIM not in os.environ
    code = "import sys; from pathlib import Path; from tad.core.files import write_json;"
    code += "write_json(Path(sys.argv[1]), {'from': 'old'})"
    for part in (out, tmp_path / ".kept" / "part.json"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(part)],
            env={**os.environ, claims.CLAIM: orphan}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "TadError" in done.stderr
        assert "a later job makes map.json" in done.stderr
    assert json.loads(out.read_text())["from"] == "new"
    assert not list(tmp_path.rglob("*partial*"))


def test_equal_work_and_a_removed_cache_do_not_stop_a_process(tmp_path: Path) -> None:
    out = tmp_path / "a.json"
    with claims.claiming(out, lambda: "one"):
        claim = os.environ[claims.CLAIM]
        with claims.claiming(out, lambda: "one"):
            write_json(out, 1)
        assert os.environ[claims.CLAIM] == claim
        write_json(out, 2)
        claims.path_of_claim(out).unlink()
        write_json(out, 3)
    assert json.loads(out.read_text()) == 3


def test_publish_fails_before_the_rename(tmp_path: Path) -> None:
    out = tmp_path / "a.json"
    write_json(out, "newer")
    with claims.claiming(out, lambda: "old"), publish(out) as partial:
        partial.write_text("older")
        path = claims.path_of_claim(out)
        path.write_bytes(b"new".ljust(claims.WIDTH))
        with pytest.raises(TadError, match="not written"), claims.holding(out):
            pass
        path.write_bytes(b"old".ljust(claims.WIDTH))
    assert out.read_text() == "older"
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", ".kept"}


def test_a_lock_of_a_suspended_process_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "PATIENCE_SECONDS", 0.2)
    out = tmp_path / "map.json"
    code = "import os, signal, sys; from pathlib import Path; from tad.core.claims import claiming\n"
    code += "with claiming(Path(sys.argv[1]), lambda: os.kill(os.getpid(), signal.SIGSTOP) or 'old'): pass"
    suspended = subprocess.Popen([sys.executable, "-c", code, str(out)])
    try:
        os.waitid(os.P_PID, suspended.pid, os.WSTOPPED)
        named = f"process {suspended.pid}" if LINUX else "a process"
        refused = pytest.raises(TadError, match=f"locked for more than 0 s by {named}.*end or resume it")
        with refused, claims.claiming(out, lambda: "new"):
            pass
    finally:
        suspended.kill()
        suspended.wait()
    with claims.claiming(out, lambda: "new"):
        write_json(out, {"from": "new"})
    assert claims.path_of_claim(out).read_text().strip() == "new"


def test_a_claim_that_was_removed_before_it_could_be_locked_is_opened_again(tmp_path: Path) -> None:
    out = tmp_path / "map.json"
    path = claims.path_of_claim(out)
    path.parent.mkdir()
    path.write_text("")
    handle = os.open(path, os.O_RDWR)
    assert claims._is_current(handle, path)
    path.unlink()
    assert not claims._is_current(handle, path)
    path.write_text("")
    assert not claims._is_current(handle, path), "another file of the same name"
    os.close(handle)


# ── the end of the supervisor ──

CHAIN = """
import os, subprocess, sys, time
script = "from tad.core.processes import clean_up_on_sigterm, end_with_supervisor, Terminated\\n"
script += "import sys, time\\nclean_up_on_sigterm(); end_with_supervisor()\\n"
script += "try:\\n open(sys.argv[1], 'w').write('started'); time.sleep(60)\\n"
script += "except Terminated: open(sys.argv[1], 'w').write('cleaned up'); sys.exit(143)"
shell = f'export TAD_SUPERVISOR=$PPID; {sys.executable} -c "$1" "$2"; true'
subprocess.Popen(["bash", "-c", shell, "bash", script, sys.argv[1]]).wait()
"""


def wait_for(reached: object, seconds: float = 60.0) -> bool:
    assert callable(reached)
    end = time.monotonic() + seconds
    while not reached() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(reached())


@pytest.mark.skipif(not LINUX, reason="looks at /proc")
@pytest.mark.parametrize("victim", ["supervisor", "shell"])
def test_a_command_ends_with_its_workflow(victim: str, tmp_path: Path) -> None:
    note = tmp_path / "note"
    top = subprocess.Popen([sys.executable, "-c", CHAIN, str(note)], start_new_session=True)
    try:
        assert wait_for(lambda: note.is_file() and note.read_text() == "started")
        shells = [
            pid for pid in members(top.pid) if b"TAD_SUPERVISOR" in Path(f"/proc/{pid}/cmdline").read_bytes()[:60]
        ]
        os.kill(top.pid if victim == "supervisor" else min(shells), signal.SIGKILL)
        assert wait_for(lambda: note.read_text() == "cleaned up")
        top.wait()
        assert wait_for(lambda: not members(top.pid))
    finally:
        for pid in members(top.pid):
            os.kill(pid, signal.SIGKILL)


def test_rules_name_their_snakemake_before_the_shell_starts() -> None:
    """A shell that starts while Snakemake is killed has another parent, and its job would end with nobody."""
    text = (Path(__file__).parents[1] / "rules/common.smk").read_text()
    assert "TAD_SUPERVISOR={os.getpid()}" in text
    assert "=$PPID" not in text


def test_snakemake_of_a_command_ends_with_it(tmp_path: Path) -> None:
    """However the command ends, and without finishing its jobs first; a process without the variable lives on."""
    note = tmp_path / "note"
    child = "from tad.core.processes import PARENT, end_with_parent\nimport os, sys, time\nend_with_parent()\n"
    child += "open(sys.argv[1], 'a').write(f'{PARENT in os.environ}\\n'); time.sleep(60)"
    script = "import os, subprocess, sys\nown = os.environ | {sys.argv[3]: str(os.getpid())}\n"
    script += "subprocess.Popen([sys.executable, '-c', *sys.argv[1:3]], env=own).wait()"
    for name, ends in ((processes.PARENT, True), ("OTHER", False)):
        note.write_text("")
        command = [sys.executable, "-c", script, child, str(note), name]
        top = subprocess.Popen(command, start_new_session=True)
        try:
            assert wait_for(lambda: note.read_text() == "False\n")
            top.kill()
            top.wait()
            assert wait_for(lambda pid=top.pid: not members(pid), 60.0 if ends else 0.5) == ends
        finally:
            for pid in members(top.pid):
                os.kill(pid, signal.SIGKILL)


def test_ctrl_c_before_the_command_has_started_is_one_line(tmp_path: Path) -> None:
    """While its modules are imported: one of them raises what the signal would raise."""
    program = "import sys\nclass Finder:\n def find_spec(self, name, *_):\n"
    program += "  if name == 'tad.settings': raise KeyboardInterrupt\n"
    program += "sys.meta_path.insert(0, Finder())\nfrom tad.__main__ import main\nsys.exit(main())"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "tad: interrupted; nothing was done\n")


def test_a_command_whose_workflow_has_ended_before_does_nothing(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for supervisor, status in ((str(gone.pid), 143), ("", 1), (str(os.getpid()), 1)):
        done = subprocess.run(
            [sys.executable, "-m", "tad", "merge", "none.h5", "--manifests", "m", "--spec", "{", "--out", "o.h5"],
            cwd=tmp_path, env={**os.environ, processes.SUPERVISOR: supervisor}, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stderr


# ── the settings that are wanted now ──


def artefact(path: Path, spec: dict[str, object], identity: str = "1") -> Path:
    stamp = {"stage": "merge", **mark(of_stage("merge")), "identity": identity, "spec": spec}
    return write_json(path, {"stamp": stamp})


def test_an_input_with_other_settings_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, out, listed = tmp_path / "model.json", tmp_path / "out.json", tmp_path / "wanted.json"
    artefact(model, {"train": {"lr": 0.1}})
    check_wanted(out, {"a": 1}, [model])  # typed by a person: nothing is wanted
    monkeypatch.setenv(WANTED, str(listed))
    check_wanted(out, {"a": 1}, [model])
    wanted = {str(model): json.dumps({"train": {"lr": 0.2}}), str(out): json.dumps({"a": 1})}
    write_wanted(listed, wanted, {})
    with pytest.raises(TadError, match=r"model.json: made with train.lr=0.1, but the workflow wants 0.2 now; remove"):
        check_wanted(out, {"a": 1}, [model])
    artefact(model, {"train": {"lr": 0.2}})
    check_wanted(out, {"a": 1}, [model, tmp_path / "absent.json"])
    with pytest.raises(TadError, match="its settings have changed in the workflow"):
        check_wanted(out, {"a": 2}, [model])


def test_a_job_started_with_other_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, listed = tmp_path / "out.json", tmp_path / "wanted.json"
    monkeypatch.setenv(WANTED, str(listed))
    write_wanted(listed, {str(out): "{}"}, {}, {str(out): "merge@new"})
    check_wanted(out, {}, [])  # its rule gives no code
    monkeypatch.setenv(CODE, "merge@new")
    check_wanted(out, {}, [])
    monkeypatch.setenv(CODE, "merge@old")
    with pytest.raises(TadError, match=r"out.json: the code of this stage has changed since this job"):
        check_wanted(out, {}, [])
    check_wanted(tmp_path / "other.json", {}, [])


def test_an_artefact_marked_as_current_counts_until_other_settings_are_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out, listed = tmp_path / "model.json", tmp_path / "out.json", tmp_path / "wanted.json"
    artefact(model, {"lr": 1}, "made by hand")
    monkeypatch.setenv(WANTED, str(listed))
    write_wanted(listed, {str(model): '{"lr": 2}'}, {str(model): "made by hand"})
    write_wanted(listed, {str(model): '{"lr": 2}'}, {})
    check_wanted(out, {}, [model])
    artefact(model, {"lr": 1}, "another one")
    with pytest.raises(TadError, match="made with lr=1"):
        check_wanted(out, {}, [model])
    artefact(model, {"lr": 1}, "made by hand")
    write_wanted(listed, {str(model): '{"lr": 3}'}, {})
    with pytest.raises(TadError, match="wants 3"):
        check_wanted(out, {}, [model])


WORKFLOW = """
import subprocess, sys
from tad.workflow import interrupt
interrupt.GRACE_SECONDS = 0.1
interrupt.end_jobs_on_interrupt()
command = f'{sys.executable} -c "import time; print(1, flush=True); time.sleep(60)"; exit $?'
shell = subprocess.Popen(command, shell=True)
try:
    shell.wait()
except KeyboardInterrupt:
    print("ended with", shell.wait(), flush=True)
"""


def test_sigint_of_snakemake_alone_ends_its_jobs() -> None:
    workflow = subprocess.Popen(
        [sys.executable, "-c", WORKFLOW], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert workflow.stdout is not None
    assert workflow.stdout.readline() == "1\n"
    workflow.send_signal(signal.SIGINT)
    assert workflow.communicate(timeout=20)[0] == f"ended with {128 + signal.SIGTERM}\n"


def test_whoever_publishes_an_output_also_writes_its_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for parts of it, nor for an output that is refused, and never before there is something to publish."""
    out, record, listed = tmp_path / "map.json", tmp_path / "metadata/bWFw", tmp_path / "wanted.json"
    for name in ("old", "new"):
        write_wanted(listed, {str(out): "{}"}, {}, records={str(out): Record((str(record),), name)})
        monkeypatch.setenv(WANTED, str(listed))
        with claims.claiming(out, lambda name=name: name, records=lambda: records_of(out)):  # type: ignore[misc]
            claim = os.environ[claims.CLAIM]
            write_json(tmp_path / ".kept/part.json", name)
            assert record.exists() == (name == "new")
            if name == "old":
                orphan = claim
                write_json(out, name)
                assert record.read_text() == "old"
                record.write_text("what Snakemake adds")
    monkeypatch.setenv(claims.CLAIM, orphan)
    with pytest.raises(TadError, match="a later job makes"):
        write_json(out, "late")
    assert record.read_text() == "what Snakemake adds"
    monkeypatch.setenv(claims.CLAIM, claim)
    write_json(out, "new")
    assert record.read_text() == "new"
    assert records_of(tmp_path / "other.json") == {}
    monkeypatch.delenv(WANTED)
    assert records_of(out) == {}
    with claims.claiming(out, lambda: "by hand"):
        write_json(out, "by hand")
    assert record.read_text() == "new", "a shorter claim has no records of the longer one before it"
    assert claims.path_of_claim(out).stat().st_size == claims.WIDTH


def test_a_record_is_written_before_its_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill between the two leaves no output, which is made again; the other way round, an old record would count."""
    out, record = tmp_path / "map.json", tmp_path / "record"
    monkeypatch.setattr(os, "replace", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    with claims.claiming(out, lambda: "work", records=lambda: {str(record): "text"}), pytest.raises(KeyboardInterrupt):
        write_json(out, 1)
    assert record.read_text() == "text"
    assert not out.exists()


def test_a_claim_that_does_not_fit_on_the_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of its records would be a traceback when the output is published."""
    out, real = tmp_path / "map.json", os.pwrite
    claim = claims.claiming(out, lambda: "work", records=lambda: {str(tmp_path / "record"): "text"})
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda handle, content, at: real(handle, content[:70], at))
        with pytest.raises(StorageError, match=r"map\.json\.claim: no space left on the disk"), claim:
            pass
    path = claims.path_of_claim(out)
    with claims.claiming(out, lambda: "work", records=lambda: {str(tmp_path / "record"): "text"}):
        path.write_bytes(path.read_bytes()[:-3])
        with pytest.raises(TadError, match=r"map\.json\.claim: damaged; remove it"):
            write_json(out, 1)
    assert not out.exists()


def test_a_signal_while_a_file_is_finished_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer is still referred to, as by a traceback, so that nothing else removes its temporary file."""

    def interrupted(_: Path) -> None:
        raise processes.Terminated

    writer = H5Writer(tmp_path / "a.h5")
    monkeypatch.setattr(h5, "append_blocks", interrupted)
    with pytest.raises(processes.Terminated), writer:
        pass
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(h5.h5py, "File", interrupted)
    with pytest.raises(TypeError), H5Writer(tmp_path / "a.h5"):
        pass
    assert list(tmp_path.iterdir()) == []
