"""A random byte changed in every kind of stored file.

In a pipeline, a byte of one input of a stage is changed: the stage has to end with one line that names the file, or
with the bytes of an undisturbed run where it does not read that byte; `tad verify` has to name the file in any case.
Kinds of files that the pipeline does not write (joined features, frames, flow, encoders) are written and read directly.
"""

import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pipeline
from cases import LOST, SEED, SILENT, SURVIVED, TRACEBACK, Case, judge
from checksum_tools import flip
from test_checksums import KINDS, plain

from tad.commands.verify import verify
from tad.core.errors import TadError

WEIGHT = 0.6
MOST = 400
STORED = (".h5", ".json", ".safetensors")


def verified(path: Path) -> bool:
    """Return whether `tad verify` reports damage in a file or folder, naming `path`."""
    lines = []
    try:
        for line in verify([path]):
            lines.append(line)
    except TadError:
        return any(line.startswith(f"{path}: ") for line in lines)
    return False


def directly(folder: Path, rng: random.Random) -> Iterator[Case]:
    """Change a byte in each kind of file, and read it."""
    for name, write, read in KINDS:
        path = folder / name / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path = write(path)
        raw, right = path.read_bytes(), plain(read(path))
        at, mask = rng.randrange(len(raw)), rng.randrange(1, 256)
        flip(path, at, mask)
        case = f"{name}: byte {at} changed by {mask:#04x}"
        try:
            found = plain(read(path))
        except TadError as error:
            text = str(error)
            good = str(path) in text and "\n" not in text
            yield Case(case, SURVIVED) if good else Case(case, TRACEBACK, f"no line that names the file: {text[:200]}")
        except Exception as error:
            yield Case(case, TRACEBACK, f"{type(error).__name__}: {error}"[:200])
        else:
            yield Case(case, SURVIVED) if found == right else Case(case, SILENT, "other values were read")
        if not verified(path):
            yield Case(f"{case}, tad verify", SILENT, "not found")
        path.write_bytes(raw)


def in_pipeline(folder: Path, saved: Path, stage: str, wanted: dict[str, str], rng: random.Random) -> Case:
    """Change a byte in an input of a stage, run the stage and compare."""
    words = pipeline.command(stage, folder)
    inputs = [word for word in words[:-1] if word.startswith("results/") and Path(word).suffix in STORED]
    inputs = [word for word in inputs if word in wanted and word != str(pipeline.output(stage))]
    if str(pipeline.output("merge")) in inputs:
        inputs.append(str(pipeline.output("extract")))  # the shard behind the index
    name = rng.choice(inputs)
    path, size = folder / name, (folder / name).stat().st_size
    at, mask = rng.randrange(size), rng.randrange(1, 256)
    case = f"{stage}: {name}: byte {at} changed by {mask:#04x}"
    pipeline.forget(folder, stage)
    flip(path, at, mask)
    try:
        if not verified(path):
            return Case(case, SILENT, "tad verify finds nothing")
        process = pipeline.Process(words, folder)
        status = process.wait()
        if status is None:
            process.kill(9, everyone=True)
            return Case(case, TRACEBACK, "it does not end")
        if status != 0:
            found = judge(case, status, process.text())
            if found.outcome == SURVIVED and name not in process.text().strip().splitlines()[-1]:
                return Case(case, TRACEBACK, f"the file is not named: {process.text().strip().splitlines()[-1][:200]}")
            return found
        shutil.copyfile(saved / name, path)
        made = pipeline.content(folder)
        changed = [each for each in wanted if made.get(each) != wanted[each]]
        return Case(case, SILENT, f"other bytes: {', '.join(changed)[:200]}") if changed else Case(case, SURVIVED)
    finally:
        for each in wanted:  # what the stage did not make, and what was changed
            (folder / each).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(saved / each, folder / each)


def run(budget_seconds: float) -> list[Case]:
    """Change bytes in turn, with a fixed seed, until the time is used up."""
    end = time.monotonic() + budget_seconds
    rng = random.Random(SEED)
    cases: list[Case] = []
    pipeline.preload()
    with tempfile.TemporaryDirectory(prefix="tad-rot-", ignore_cleanup_errors=True) as text:
        folder, saved = Path(text) / "run", Path(text) / "saved"
        folder.mkdir()
        cases += directly(Path(text) / "kinds", rng)
        pipeline.make_data(folder)
        pipeline.made_in_order(folder)
        wanted = pipeline.content(folder)
        shutil.copytree(folder / "results", saved / "results")
        readers = [stage for stage in pipeline.ORDER if stage not in ("annotate", "probe")]
        while len(cases) < MOST and time.monotonic() < end:
            for stage in readers:
                if time.monotonic() > end:
                    break
                cases.append(in_pipeline(folder, saved, stage, wanted, rng))
            cases += directly(Path(text) / "kinds", rng)
        if pipeline.left_over(folder / "results"):
            cases.append(Case("after all cases", LOST, "temporary files are left over"))
    return cases
