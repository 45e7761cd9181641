"""kill -9 in the middle, then the same command again: no flag is needed, and the bytes are those of one run."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from scratch import THREADS, Checkout

from tad.provenance.wanted import CODE, WANTED

COMPARED = (
    "features/small/clips.h5", "features/small/clips/00-of-02.h5", "features/small/clips/01-of-02.h5",
    "b/model.safetensors", "b/candidates.h5", "b/detections.json", "b/map.json",
)  # fmt: skip
TARGET = "results/b/map.json"


def run_until(checkout: Checkout, reached: Callable[[], bool], *, whole_group: bool) -> int:
    """Start the workflow and kill it (with its jobs, or alone) at once when `reached`; return its session."""
    command = checkout.command("snakemake", "--cores", "2", "--set-threads", *THREADS, "--", TARGET)
    with open(checkout.folder / "killed.log", "a") as log:
        process = subprocess.Popen(
            command, cwd=checkout.folder, env=checkout.environment, stdout=log, stderr=log, start_new_session=True
        )
    deadline = time.monotonic() + 200
    while not reached():
        text = (checkout.folder / "killed.log").read_text()
        assert process.poll() is None, text
        assert time.monotonic() < deadline, text
        time.sleep(0.005)
    if whole_group:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    return process.pid


def running(session: int) -> list[str]:
    """Return the processes of a session that have not ended."""
    done = subprocess.run(["ps", "-o", "stat=,args=", "-s", str(session)], capture_output=True, text=True, check=False)
    return [line for line in done.stdout.splitlines() if not line.startswith("Z")]


def test_killed_in_extract_and_in_train(finished: Checkout, tmp_path: Path) -> None:
    checkout = finished.copy(tmp_path / "tad")
    results = checkout.folder / "results"
    shutil.rmtree(results / "features")
    shutil.rmtree(results / "b")
    shards, log = results / "features/small/clips", results / "b/logs/train.log"

    run_until(checkout, lambda: any(shards.glob(".kept/*/*.part.h5")), whole_group=True)
    assert len(list(shards.glob("*.h5"))) < 2
    assert any((checkout.folder / ".snakemake/locks").glob("*.lock"))

    session = run_until(checkout, lambda: log.is_file() and "train: 3 videos" in log.read_text(), whole_group=False)
    assert not (results / "b/model.safetensors").exists()
    # kill -9 of Snakemake alone: its training ends by itself, within seconds on an idle machine
    deadline = time.monotonic() + 60
    while running(session) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not running(session)

    checkout.make(TARGET)
    assert not list(results.rglob("*.partial-*"))
    extracted = [checkout.log(f"features/small/clips/logs/0{k}-of-02.extract.log") for k in range(2)]
    assert any(" cached, " in text and " 0 cached" not in text for text in extracted)
    for name in COMPARED:
        assert (results / name).read_bytes() == (finished.folder / "results" / name).read_bytes(), name
    assert checkout.plan() == set()


def test_lock_of_a_living_snakemake_counts(finished: Checkout, tmp_path: Path) -> None:
    checkout = finished.copy(tmp_path / "tad")
    (checkout.folder / "results/b/map.json").unlink()
    pause = (
        "import time; from tad.workflow.locks import clear_stale_locks;"
        "held = clear_stale_locks(); print(1, flush=True); time.sleep(60)"
    )
    alive = subprocess.Popen(
        [checkout.command()[0], "-c", pause],
        cwd=checkout.folder, env=checkout.environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert alive.stdout is not None
        alive.stdout.readline()
        locks = checkout.folder / ".snakemake/locks"
        locks.mkdir(exist_ok=True)
        (locks / "0.output.lock").write_text(f"{TARGET}\n")
        done = checkout.run("snakemake", "--cores", "1", TARGET)
        assert done.returncode != 0
        assert "Directory cannot be locked" in done.stdout + done.stderr
    finally:
        alive.kill()
        alive.wait()
    checkout.make(TARGET)


def test_what_a_job_publishes_without_its_snakemake_is_not_taken_for_an_earlier_result(
    finished: Checkout, tmp_path: Path
) -> None:
    """A job on another node ends after its Snakemake was killed, and the labels are then those of an older record.

    Snakemake marks an output as incomplete only after it has submitted the job, and on a cluster the job's own
    Snakemake removes the mark. So nothing but the record says what the table was made from.
    """
    checkout = finished.copy(tmp_path / "tad")
    table = checkout.folder / "results/annotations/small.json"
    before = table.read_bytes()
    listed = checkout.folder / ".snakemake/tad_wanted.json"
    checkout.edit("annotations.json", r"jump", "leap")
    checkout.make("results/annotations/small.json")
    other, wanted = table.read_bytes(), listed.read_bytes()
    assert other != before
    checkout.restore()
    checkout.make("results/annotations/small.checked.json")
    assert table.read_bytes() == before

    checkout.edit("annotations.json", r"jump", "leap")
    table.unlink()  # as Snakemake does before it submits a job
    listed.write_bytes(wanted)
    stamp = json.loads(other)["stamp"]
    job = subprocess.run(
        checkout.command("tad", "annotate", "annotations.json", "--spec", json.dumps(stamp["spec"]), "--out",
                         "results/annotations/small.json"),
        cwd=checkout.folder, env=checkout.environment | {WANTED: str(listed), CODE: stamp["code"]}, check=False,
    )  # fmt: skip
    assert job.returncode == 0
    assert table.read_bytes() == other
    checkout.restore()
    assert "annotate" in checkout.plan("results/annotations/small.checked.json")
    checkout.make("results/annotations/small.checked.json")
    assert table.read_bytes() == before
    checkout.edit("annotations.json", r"jump", "leap")
    table.unlink()
    listed.write_bytes(wanted)
    again = checkout.environment | {WANTED: str(listed), CODE: stamp["code"]}
    subprocess.run(job.args, cwd=checkout.folder, env=again, check=True)
    assert "annotate" not in checkout.plan("results/annotations/small.checked.json"), "finished work counts"
