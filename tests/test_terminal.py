"""What `tad run` shows: lines of jobs, their progress, failures, and the next step."""

import io
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from snakemake.exceptions import LockException
from snakemake_interface_logger_plugins.common import LogEvent

from tad.workflow import interrupt
from tad.workflow.launch import shortened
from tad.workflow.locks import IN_USE
from tad.workflow.run import snakemake_command
from tad.workflow.terminal import Job, LogHandler, Screen, clock, last_message, next_steps, title_of
from tad.workflow.why import refusal

ROOT = Path(__file__).parents[1]


def handler(*, terminal: bool = False) -> tuple[LogHandler, io.StringIO]:
    out = io.StringIO()
    made = LogHandler(SimpleNamespace(nocolor=True), None)
    made.screen = Screen(Console(file=out, force_terminal=terminal, width=100, highlight=False))
    return made, out


def tell(to: LogHandler, message: str = "", level: int = logging.INFO, **facts: Any) -> None:
    record = logging.LogRecord("snakemake", level, "", 0, message, None, None)
    record.__dict__.update(facts)
    to.handle(record)


def job_facts(log: Path, number: int = 1) -> dict[str, Any]:
    return {
        "jobid": number, "rule_name": "train", "wildcards": {"run": "kitchen"}, "log": [str(log)],
        "output": ["results/kitchen/map.json"],
    }  # fmt: skip


@pytest.mark.parametrize("terminal", [False, True])
def test_a_job_is_a_line_when_it_starts_and_ends(tmp_path: Path, terminal: bool) -> None:
    log = tmp_path / "train.log"
    log.write_text("12:00:00 INFO epoch 3 of 35: loss 0.61; about 40 s left\n")
    shown, out = handler(terminal=terminal)
    tell(shown, event=LogEvent.RUN_INFO, stats={"total": 1})
    tell(shown, event=LogEvent.JOB_INFO, **job_facts(log))
    running = io.StringIO()
    Console(file=running, width=200).print(shown.screen.render())
    assert "  0:00  train kitchen  epoch 3 of 35: loss 0.61; about 40 s left\n" in running.getvalue()
    assert f"    {log}\n" in running.getvalue()
    shown.screen.console = Console(file=io.StringIO(), width=40)
    Console(file=running, width=40).print(shown.screen.render())
    assert "  0:00  train kitchen\n    epoch 3 of 35: loss 0.61; about 40 …\n" in running.getvalue()
    shown.screen.console = Console(file=out, force_terminal=terminal, width=100, highlight=False)
    tell(shown, event=LogEvent.JOB_FINISHED, job_id=1)
    tell(shown, event=LogEvent.PROGRESS, done=1, total=1)
    shown.close()
    text = out.getvalue()
    assert ("start  train kitchen" in text) != terminal
    assert "done   train kitchen" in text
    assert "1 of 1 jobs done" in text
    assert "next: tad table kitchen; tad run results/kitchen/page; tad apply kitchen VIDEO" in text


def test_a_failed_job_shows_its_last_words_once(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_text("12:00:00 INFO epoch 1 of 2\ntad train: labels.csv: line 2: end 3 is before start 5; correct it\n")
    shown, out = handler()
    tell(shown, event=LogEvent.JOB_INFO, **job_facts(log))
    tell(shown, "Error in rule train", logging.ERROR, event=LogEvent.JOB_ERROR, **job_facts(log))
    tell(shown, "CalledProcessError in file rules/detector.smk", logging.ERROR, event=LogEvent.ERROR)
    tell(shown, "WorkflowError: At least one job did not complete successfully.", logging.ERROR, event=LogEvent.ERROR)
    shown.close()
    text = out.getvalue()
    assert text.count("line 2: end 3 is before start 5; correct it") == 1
    assert f"log: {log}" in text.replace("\n", "")
    assert "CalledProcessError" not in text
    assert "next:" not in text


def test_interrupted_jobs_have_not_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Snakemake reports a stopped job as an error, with its whole command before it."""
    interrupted = threading.Event()
    monkeypatch.setattr(interrupt, "received", interrupted)
    shown, out = handler()
    tell(shown, event=LogEvent.RUN_INFO, stats={"total": 2})
    tell(shown, event=LogEvent.JOB_INFO, **job_facts(tmp_path / "train.log"))
    interrupted.set()
    tell(shown, "CalledProcessError in file rules/detector.smk", logging.ERROR, event=LogEvent.ERROR)
    tell(shown, "Error in rule train", logging.ERROR, event=LogEvent.JOB_ERROR, **job_facts(tmp_path / "train.log"))
    shown.close()
    lines = out.getvalue().splitlines()
    assert [line.partition("  ")[0] for line in lines[-4:-2]] == ["stopped train kitchen", "0 of 2 jobs done in 0:00"]
    assert lines[-1] == "next: the same command, which resumes there"
    assert not {"FAILED", "CalledProcessError"} & set(out.getvalue().split())


def test_an_error_of_no_job_is_shown_at_the_end() -> None:
    shown, out = handler()
    tell(shown, "CalledProcessError in file Snakefile", logging.ERROR, event=LogEvent.ERROR)
    shown.close()
    assert "CalledProcessError in file Snakefile" in out.getvalue()


def test_messages_that_matter_are_shown() -> None:
    shown, out = handler()
    tell(shown, "Building DAG of jobs...")
    tell(shown, "Nothing to be done (all requested files are present and up to date).")
    tell(shown, "config.yaml: runs.x: unknown key", logging.ERROR, event=LogEvent.ERROR)
    tell(shown, f"LockException:\n{LockException()}", logging.ERROR, event=LogEvent.ERROR)
    error = (
        'WorkflowError in file "rules/common.smk", line 44:\na.csv: no such file\n  File "x", line 44, in <module>\n'
    )
    tell(shown, error, logging.ERROR, event=LogEvent.ERROR)
    shown.close()
    assert out.getvalue().splitlines() == [
        "Nothing to be done (all requested files are present and up to date).", "config.yaml: runs.x: unknown key",
        f"tad run: {IN_USE}", "tad run: a.csv: no such file",
    ]  # fmt: skip
    assert refusal(f"LockException:\n{LockException()}") == IN_USE


def test_the_last_message_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    assert last_message(None) == last_message(log) == ""
    log.write_bytes(b"x" * 9000 + b"\n12:00:00 INFO one\r12:00:01 WARNING two \x1b[31mred\x07\n\n")
    assert last_message(log) == "two [31mred"  # nothing that a terminal would execute
    log.write_text("Traceback\ntad train: a line without a time\n")
    assert last_message(log) == "tad train: a line without a time"


def test_names_and_times() -> None:
    assert title_of("extract", {"dataset": "d", "features": "f", "shard": "00-of-02"}) == "extract d/f 00-of-02"
    assert title_of("render", None) == "render"
    assert (clock(59.9), clock(61), clock(3661)) == ("0:59", "1:01", "1:01:01")
    assert next_steps(["results/a/model.safetensors"]) == []
    assert next_steps(["results/a/map.json", "results/a/page"]) == [
        "score of a: results/a/map.json",
        "next: tad table a; tad apply a VIDEO --out detections.json",
        "page of a: open results/a/page/index.html in a browser",
    ]
    assert Job("x", None).seconds == "0:00"


@pytest.mark.parametrize(
    ("word", "module", "logger"),
    [
        ("-v", "snakemake", False),
        ("--verbose", "snakemake", False),
        ("--dry-run", "tad.workflow.launch", False),
        ("a", "tad.workflow.launch", True),
    ],
)
def test_own_output_of_snakemake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, module: str, logger: bool
) -> None:
    (tmp_path / "config.yaml").write_text("runs: {}\n")
    monkeypatch.chdir(tmp_path)
    command = snakemake_command([word])
    assert command[:4] == [sys.executable, "-P", "-m", module]
    assert ("--logger" in command) == logger
    assert "-v" not in command


@pytest.mark.parametrize(
    ("words", "times"),
    [
        ([], 0),
        (["results/table.md", "--cores", "1"], 0),  # the target is not taken for a logger
        (["-n"], 0),
        (["-n", "--profile", "mine"], 0),
        (["--summary"], 0),
        (["-v", "-n"], 1),
        (["-v", "-n", "--profile", "mine"], 1),
    ],
)
def test_the_profile_of_the_workflow_is_not_mentioned(tmp_path: Path, words: list[str], times: int) -> None:
    """Snakemake prints the line with `-v`, else this test would not notice that its wording has changed."""
    (tmp_path / "config.yaml").write_text("runs: {}\n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/config.yaml").write_text("printshellcmds: true\n")
    command = [sys.executable, "-m", "tad", "run", *([] if "--cores" in words else ["--cores", "1"]), *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    line = f"workflow specific profile {ROOT / 'profiles/default'} for setting default command line arguments.\n"
    assert (done.stdout + done.stderr).count("specific profile") == done.stderr.count(line) == times


def test_other_text_is_printed_although_the_arguments_are_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    line = "Using workflow specific profile a b for setting default command line arguments."

    @shortened()
    def parse(text: str) -> None:
        print("Using a profile and workflow specific profile p for …\n" + line, file=sys.stderr)
        print(text, file=sys.stderr)
        sys.exit(2)

    for text, left in (
        ("usage: snakemake", "usage: snakemake"),
        (
            "usage: snakemake [-h]\n     [--cores N]\nsnakemake: error: unrecognized arguments: --coers",
            "tad run: unrecognized arguments: --coers; did you mean --cores? `snakemake --help` lists all options",
        ),
        (
            "usage: snakemake [--cores N]\nsnakemake: error: argument --cores/-c: expected one argument",
            "tad run: argument --cores/-c: expected one argument; `snakemake --help` lists all options",
        ),
    ):
        with pytest.raises(SystemExit):
            parse(text)
        assert capsys.readouterr().err == f"Using a profile and workflow specific profile p for …\n{left}\n"
