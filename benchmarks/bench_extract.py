"""Compare extraction with its own network fed from memory, by backbone and engine → Markdown rows.

    OMP_NUM_THREADS=1 python benchmarks/bench_extract.py VIDEOS [--cases tsp:openvino i3d:torch …] [--repeats 3]

Both sides compute the same clips with the same network on the same number of threads. `from memory` starts from
contiguous, resized clips; `extraction` starts from files: reader processes, ring buffer, resizing thread, clips, rows.
The runs alternate. The output gives three shares of the network's speed, because other load affects them differently:

    clock   seconds from memory / seconds of the extraction, from the first frames that arrive to the last row
    own     CPU seconds: from memory / all except the readers and the resizing thread. This is the remaining share of
            the network's speed if these have a spare core
    all     CPU seconds: from memory / all processes and threads of the extraction. This is the remaining share if
            there is no spare core (every core computes the network)

All times begin when the first frames have arrived, `start` seconds after the readers start; meanwhile the workflow
builds its network.
"""

import argparse
import os
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tad.core.files import read_json
from tad.extraction import pipeline
from tad.extraction.batches import Preparer
from tad.extraction.engines import prepare
from tad.extraction.pipeline import encode, reading
from tad.settings import plugins
from tad.settings.resolved import component_sections
from tad.settings.stages import ExtractSpec, NetworkSpec, ProbeSpec
from tad.stages.extract import _jobs
from tad.stages.probe import probe
from tad.video.clips import ClipBuffer
from tad.video.feed import Ended, Feed
from tad.video.ring import Job, read_frames

ENGINES = {
    "torch": NetworkSpec(),
    "torch-bf16": NetworkSpec(precision="bfloat16", channels_last=True),
    "openvino": NetworkSpec(engine="openvino"),
    "openvino-bf16": NetworkSpec(engine="openvino", precision="bfloat16"),
}
CASES = ["r2plus1d_18:openvino", "i3d:openvino", "tsp:openvino", "i3d:torch", "i3d:openvino-bf16"]
CPU = torch.device("cpu")


def lean_readers() -> None:
    """Keep reader processes from importing the script that starts them, and torch with it. This import would take most
    of their CPU seconds on short videos, and the readers of the workflow do not do it.
    """
    vars(sys.modules["__main__"]).pop("__file__", None)


class Spent(NamedTuple):
    """Seconds of a run: wall clock; CPU excluding and including reading and resizing; CPU of each of these two."""

    clock: float
    own: float
    all: float
    reading: float = 0.0
    resizing: float = 0.0


SHARES = ("clock", "own", "all")


def total() -> float:
    """Return the CPU seconds of this process and its finished children so far."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def started(feed: Feed) -> float:
    """Return the CPU seconds of the reader processes so far; until their first frames, this is mostly importing."""
    wait([worker.connection for worker in feed._workers])
    ticks = 0
    for worker in feed._workers:
        fields = Path(f"/proc/{worker.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def case(
    name: str, engine: str, stride: int, *, rate: float = 0.0, plain: bool = False
) -> tuple[ExtractSpec, torch.nn.Module]:
    """Build a backbone with random weights for an engine (`plain`: not yet compiled); I3D with its RGB stream only."""
    document = component_sections("backbones", name)
    settings, clip = dict(document["settings"]), dict(document["clip"])
    if name == "i3d":
        settings["streams"], clip["length"] = "rgb", settings["stream_length"]
    clip |= {"policy": "resample" if rate else "native", "rate": rate, "stride": stride or clip["length"]}
    values = {"dataset": "bench", "backbone": {"name": name, "settings": settings}, "clip": clip}
    spec = ExtractSpec.model_validate(values | {"network": ENGINES[engine]})
    torch.manual_seed(0)
    model = plugins.build("backbones", name, settings).eval()
    return spec, model if plain else prepare(model, spec.network, name=name, device=CPU)


def clips_of(jobs: list[Job], spec: ExtractSpec, model: torch.nn.Module) -> Iterator[torch.Tensor]:
    """Return the clips of all jobs (1, T, H, W, C), cut as in the extraction."""
    for job in jobs:
        steps, buffer = Preparer(model, CPU), ClipBuffer(length=spec.clip.length, stride=spec.clip.stride)
        for frame in read_frames(job):
            clip = buffer.push(steps(frame[None])[0])
            if clip is not None:
                yield torch.stack(clip)[None]


def from_memory(clips: list[torch.Tensor], model: torch.nn.Module) -> Spent:
    """Run the network over clips in memory."""
    clock, cpu = time.perf_counter(), time.process_time()
    for clip in clips:
        model(clip).numpy()
    cpu = time.process_time() - cpu
    return Spent(time.perf_counter() - clock, cpu, cpu)


def extraction(jobs: list[Job], spec: ExtractSpec, model: torch.nn.Module, workers: int) -> tuple[Spent, int, float]:
    """Run the extraction; return its time, its rows, and the seconds until the first frames."""
    asked, rows = time.perf_counter(), 0
    preparing.clear()
    with closing(reading(jobs, spec, workers)) as feed:
        feed.start()
        begun = started(feed)
        clock, before, cpu = time.perf_counter(), total() + begun, time.process_time()
        for item in encode(jobs, feed, model, spec, CPU):
            assert not isinstance(item, Ended), item.cause
            rows += item.rows.count
        taken, used = time.perf_counter() - clock, time.process_time() - cpu
        everything = total() - before
    resizing = sum(preparing)
    return Spent(taken, used - resizing, everything, everything - used, resizing), rows, clock - asked


preparing: list[float] = []  # CPU seconds of the resizing thread


def timed(*arguments: Any) -> Iterator[Any]:
    """Time the work of the resizing thread."""
    begin = time.thread_time()
    try:
        yield from prepared(*arguments)
    finally:
        preparing.append(time.thread_time() - begin)


prepared, pipeline._prepared = pipeline._prepared, timed


def measured(name: str, engine: str, a: argparse.Namespace, manifest: Path) -> str:
    """Measure one row of the table."""
    spec, model = case(name, engine, a.stride)
    videos = read_json(manifest)["videos"]
    jobs = _jobs(videos, [v for v in videos if videos[v]["status"] == "ok"], a.videos, spec)
    with torch.inference_mode():
        clips = list(clips_of(jobs, spec, model))
        model(clips[0])  # compiles
        runs = []
        for _ in range(a.repeats):
            memory = from_memory(clips, model)
            through, rows, start = extraction(jobs, spec, model, a.readers)
            assert rows >= len(clips)
            runs.append((memory, through, start))
    frames = sum(job.frames for job in jobs)
    best = [min(pair[k].own for pair in runs) for k in (0, 1)]
    shares = [statistics.median(getattr(m, what) / getattr(t, what) for m, t, _ in runs) for what in SHARES]
    cells = [name, engine, f"{len(clips)}", f"{frames / best[0]:.0f}", f"{frames / best[1]:.0f}"]
    cells += [f"{share:.3f}" for share in shares]
    cells += [f"{min(getattr(t, what) for _, t, _ in runs) / frames * 1e3:.2f}" for what in ("reading", "resizing")]
    cells += [f"{best[0] / frames * 1e3:.2f}", f"{min(run[2] for run in runs):.1f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path, help="folder of videos")
    parser.add_argument("--cases", nargs="+", default=CASES, help="backbone:engine")
    parser.add_argument("--stride", type=int, default=0, help="frames between clips; 0: clips side by side")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--readers", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="the smallest backbone, once: does it still run?")
    a = parser.parse_args()
    if a.quick:
        a.cases, a.repeats = ["r2plus1d_small:torch"], 1
    torch.set_num_threads(a.threads)
    lean_readers()
    manifest = probe(a.videos, Path("/dev/shm") / f"bench-{time.time_ns()}.json", spec=ProbeSpec(dataset="bench"))
    print(f"{a.threads} thread(s) for the network, {a.readers} reading process(es), {a.repeats} alternating runs\n")
    print(
        "| backbone | engine | clips | frames/cpu-s from memory | in extraction | clock | own | all "
        "| reading, ms a frame | resizing | network | start, s |"
    )
    print("|---|---|" + "---:|" * 10)
    for text in a.cases:
        print(measured(*text.split(":"), a, manifest), flush=True)
    manifest.unlink()


if __name__ == "__main__":
    main()
