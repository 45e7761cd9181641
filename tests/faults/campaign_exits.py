"""Every stage that cannot do its work exits non-zero with one line.

Fault points of all stages: settings that are no JSON, unknown or of the wrong type; inputs that are missing, empty,
text, or folders; an output whose folder is a file.
"""

import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pipeline
from cases import LOST, SURVIVED, TRACEBACK, Case, judge

WEIGHT = 0.4
SPECS = {"no JSON": "{", "an unknown setting": '{"nonsense": 1}', "a list": "[1, 2]", "empty": ""}


def _inputs(words: list[str]) -> list[str]:
    """Return the arguments that are input files."""
    before_spec = words[1 : words.index("--spec")]
    return [word for word in before_spec if Path(word).suffix in (".json", ".h5", ".safetensors")]


def _missing(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _text(path: Path) -> None:
    path.write_text("<!DOCTYPE html><html>403 Forbidden</html>\n")


FAULTS: dict[str, Callable[[Path], None]] = {
    "missing": _missing, "empty": _empty, "a page of a web server": _text, "a folder": lambda path: path.mkdir(),
}  # fmt: skip


def _attempt(name: str, words: list[str], folder: Path) -> Case:
    out = folder / words[words.index("--out") + 1]
    process = pipeline.Process(words, folder)
    status = process.wait()
    if status is None:
        process.kill(signal.SIGKILL, everyone=True)
        return Case(name, TRACEBACK, "it does not end")
    case = judge(name, status, process.text())
    if case.outcome == SURVIVED and (out.exists() or pipeline.left_over(folder)):
        return Case(name, LOST, f"something was written: {out.name}")
    return case


def run(budget_seconds: float) -> list[Case]:
    """Try all fault points once, as long as there is time."""
    end = time.monotonic() + budget_seconds
    cases: list[Case] = []
    pipeline.preload()
    for stage in pipeline.ORDER:
        for what in (*SPECS, *FAULTS, "output"):
            if time.monotonic() > end:
                return cases
            with tempfile.TemporaryDirectory(prefix="tad-exits-") as text:
                folder = Path(text)
                (folder / "videos").mkdir()
                words = pipeline.command(stage, folder)
                if what in SPECS:
                    words[words.index("--spec") + 1] = SPECS[what]
                    name = f"{stage}: --spec is {what}"
                elif what in FAULTS:
                    for path in _inputs(words):
                        (folder / path).parent.mkdir(parents=True, exist_ok=True)
                        FAULTS[what](folder / path)
                    name = f"{stage}: its inputs are {what}"
                else:
                    (folder / "file").write_text("")
                    words[words.index("--out") + 1] = "file/out.json"
                    name = f"{stage}: the folder of its output is a file"
                cases.append(_attempt(name, words, folder))
                if cases[-1].outcome != SURVIVED:
                    print(*cases[-1], sep=": ", flush=True)
    return cases
