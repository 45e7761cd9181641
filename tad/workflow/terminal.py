"""Progress display of `tad run`: one line per job, then the next step.

It is a logger plug-in of Snakemake, registered by `tad.workflow.launch`. On a terminal, the lines of running jobs are
renewed every half second with the last line of their log; elsewhere a line is printed when a job starts, ends or fails.
"""

import re
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from logging import WARNING, LogRecord
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from tad.settings.paths import path_of
from tad.workflow import interrupt
from tad.workflow.why import refusal

RENEWED = 0.5  # seconds
WIDE = 80  # columns; a narrower terminal shows the last line of a log in place of its path
TAIL = 4096  # bytes of a log that are read for its last line
LINE = re.compile(r"\d\d:\d\d:\d\d (?:INFO|WARNING|ERROR) (.*)")
QUIET = ("Nothing to be done",)  # messages of Snakemake that are shown
# exceptions of Snakemake that carry a message of `tad`, or are explained by `refusal`
REWORDED = ("WorkflowError in file", "LockException")
# messages about a failed job, which is reported with its log's last line, and whose command fills the screen
COVERED = ("At least one job did not complete successfully", "CalledProcessError")


@dataclass
class Job:
    """A job: what to call it, its log, and when it started (seconds)."""

    title: str
    log: Path | None
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> str:
        """Time since the start, as m:ss."""
        return clock(time.monotonic() - self.started)


def clock(seconds: float) -> str:
    """Format a duration as m:ss or h:mm:ss."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def last_message(log: Path | None) -> str:
    """Return the last line of a stage's log, without time and level; empty if there is none yet."""
    if log is None or not log.is_file():
        return ""
    with open(log, "rb") as file:
        file.seek(max(file.seek(0, 2) - TAIL, 0))
        text = file.read().decode("utf-8", "replace")
    lines = [line for line in re.split(r"[\r\n]+", text) if line.strip()]
    message = LINE.sub(r"\1", lines[-1]) if lines else ""
    # control characters would move the cursor
    return "".join(character for character in message if character.isprintable())


def title_of(rule: str, wildcards: Mapping[str, object] | None) -> str:
    """Return the name of a job: the stage, and what it is for (`extract kitchen/clips 00-of-02`)."""
    names = dict(wildcards or {})
    where = "/".join(str(names[key]) for key in ("run", "seed", "dataset", "features") if key in names)
    return " ".join(filter(None, [rule, where, str(names.get("shard", ""))]))


class Screen:
    """The lines of a workflow's jobs on a console."""

    def __init__(self, console: Console) -> None:
        self.console, self.live = console, console.is_terminal
        self.jobs: dict[int, Job] = {}
        self.done, self.total, self.failed = 0, 0, 0
        self.started = time.monotonic()
        self.outputs: list[str] = []
        self.covered: list[str] = []  # messages that are printed if no failed job is reported
        self._lock = threading.Lock()
        self._display: Live | None = None

    def _start(self) -> None:
        if self.live and self._display is None:
            self._display = Live(
                get_renderable=self.render, console=self.console, refresh_per_second=1 / RENEWED, transient=True
            )
            self._display.start()

    def render(self) -> Group:
        """Return the lines of the running jobs, and how many jobs are done."""
        with self._lock:
            jobs = list(self.jobs.values())
        lines = [Text(f"{self.done} of {self.total} jobs done, {clock(time.monotonic() - self.started)}", "bold")]
        for job in jobs:
            line = Text(f"  {job.seconds}  {job.title}", no_wrap=True, overflow="ellipsis")
            said, second = last_message(job.log), Text("    ", no_wrap=True, overflow="ellipsis")
            if said and self.console.width >= WIDE:
                line.append(f"  {said}", "cyan")
            lines.append(line)
            if said and self.console.width < WIDE:
                lines.append(second.append(said, "cyan"))
            elif job.log is not None:
                lines.append(second.append(str(job.log), "dim"))
        return Group(*lines)

    def _say(self, text: str, style: str = "") -> None:
        self.console.print(Text(text, style), soft_wrap=True)

    def begin(self, number: int, job: Job, outputs: list[str]) -> None:
        """Show that a job has started."""
        with self._lock:
            self.jobs[number] = job
        self.outputs += outputs
        if not self.live:
            self._say(f"start  {job.title}" + (f"  (log: {job.log})" if job.log else ""))
        self._start()

    def end(self, number: int) -> None:
        """Show that a job has ended without an error."""
        with self._lock:
            job = self.jobs.pop(number, None)
        if job is not None:
            self._say(f"done   {job.title}  {job.seconds}  {last_message(job.log)}".rstrip())

    def fail(self, number: int, job: Job) -> None:
        """Show that a job has failed: its last log message, which contains the remedy, and the path of its log."""
        with self._lock:
            job = self.jobs.pop(number, job)
        self.failed += 1
        if interrupt.received.is_set():
            self._say(f"stopped {job.title}  {job.seconds}")
            return
        self._say(f"FAILED {job.title}: {last_message(job.log)}", "bold red")
        if job.log is not None:
            self._say(f"       log: {job.log}", "red")

    def message(self, text: str) -> None:
        """Print another message of Snakemake."""
        self._say(text)

    def close(self) -> None:
        """Remove the progress lines; print a summary and the next step."""
        if self._display is not None:
            self._display.stop()
            self._display = None
        for text in () if self.failed or interrupt.received.is_set() else self.covered:
            self._say(text)
        if not self.total and not self.failed:
            return
        self._say(f"{self.done} of {self.total} jobs done in {clock(time.monotonic() - self.started)}")
        if interrupt.received.is_set():
            self._say("interrupted; finished jobs are kept, and finished parts of a job are cached")
            self._say("next: the same command, which resumes there")
            return
        if not self.failed and self.done == self.total:
            for line in next_steps(self.outputs):
                self._say(line)


def next_steps(outputs: list[str]) -> list[str]:
    """Return the suggested next steps for the scores and pages among the outputs of a workflow."""
    lines = []
    for path in dict.fromkeys(outputs):
        run = Path(path).parent.name
        if Path(path) == path_of("evaluate", run=run):
            page = path_of("page", run=run)
            look = "" if str(page) in outputs else f" tad run {page};"
            lines += [
                f"score of {run}: {path}",
                f"next: tad table {run};{look} tad apply {run} VIDEO --out detections.json",
            ]
        elif Path(path) == path_of("page", run=run):
            lines.append(f"page of {run}: open {path}/index.html in a browser")
    return lines


class LogHandler(LogHandlerBase):
    """The handler that Snakemake calls with its events, in a thread of its own."""

    def __post_init__(self) -> None:
        plain = bool(getattr(self.common_settings, "nocolor", False))
        self.screen = Screen(Console(file=sys.stderr, no_color=plain, highlight=False))

    def emit(self, record: LogRecord) -> None:
        """Show an event. Exceptions are reported by logging and do not stop the workflow."""
        try:
            self._show(record)
        except Exception:
            self.handleError(record)

    def _show(self, record: LogRecord) -> None:
        event, facts = record.__dict__.get("event"), record.__dict__
        if event == LogEvent.JOB_INFO:
            self.screen.begin(facts["jobid"], self._job(facts), [str(path) for path in facts["output"]])
        elif event == LogEvent.JOB_FINISHED:
            self.screen.end(facts["job_id"])
        elif event == LogEvent.JOB_ERROR:
            self.screen.fail(facts["jobid"], self._job(facts))
        elif event == LogEvent.PROGRESS:
            self.screen.done, self.screen.total = facts["done"], facts["total"]
        elif event == LogEvent.RUN_INFO:
            self.screen.total = int(facts["stats"].get("total", 0))
        elif event is None or event == LogEvent.ERROR:
            text = record.getMessage()
            if text.startswith(REWORDED):
                text = f"tad run: {refusal(text)}"
            if any(part in text for part in COVERED):
                self.screen.covered.append(text)
            elif record.levelno >= WARNING or text.startswith(QUIET):
                self.screen.message(text)

    @staticmethod
    def _job(facts: dict[str, Any]) -> Job:
        logs = facts.get("log") or []
        title = title_of(facts["rule_name"], facts.get("wildcards"))
        return Job(title, Path(str(logs[0])) if logs else None)

    def close(self) -> None:
        """End the display; called once, when the workflow has ended."""
        if self.screen is not None:
            self.screen.close()
            self.screen = Screen(Console(file=sys.stderr))  # a second call prints nothing
        super().close()

    @property
    def writes_to_stream(self) -> bool:
        """Tell Snakemake that this handler replaces its own output on the terminal."""
        return True

    @property
    def writes_to_file(self) -> bool:
        """Tell Snakemake to go on writing its log file."""
        return False

    @property
    def has_filter(self) -> bool:
        """Whether the handler filters events itself: yes, so all events arrive."""
        return True

    @property
    def has_formatter(self) -> bool:
        """Tell Snakemake that this handler formats events itself."""
        return True

    @property
    def needs_rulegraph(self) -> bool:
        """Tell Snakemake that this handler does not need the graph of the rules."""
        return False
