"""Extraction beside its own network fed from memory, by backbone and engine → Markdown rows.

    OMP_NUM_THREADS=1 python benchmarks/bench_extract.py VIDEOS [--cases tsp:openvino i3d:torch …] [--repeats 3]

Both sides compute the same clips with the same network on as many threads; `from memory` has them ready, resized, one
beside the other, `extraction` has files: reading processes, ring, resizing thread, clips, rows. Runs alternate. Three
shares of the network's speed are said, since other work on a machine falls on them differently:

    clock   seconds from memory / seconds of the extraction, from the first frames that arrive to the last row
    own     CPU seconds: from memory / of all but the readers and the resizing thread. With a core to spare for those
            this is what they leave of the network's speed
    all     CPU seconds from memory / those of all processes and threads of the extraction. With no core to spare
            (every core computes the network) this is what they leave

All begin when the first frames are there, `start` seconds after the readers; the workflow builds its network meanwhile.
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

from tad import plugins
from tad.extraction import pipeline
from tad.extraction.batches import Preparer
from tad.extraction.engines import prepare
from tad.extraction.pipeline import encode, reading
from tad.files import read_json
from tad.specs import ExtractSpec, NetworkSpec, ProbeSpec
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
    """Keep reading processes from importing the script that starts them, and torch with it, which is most of their CPU
    seconds on short videos: those of the workflow do not."""
    vars(sys.modules["__main__"]).pop("__file__", None)


class Spent(NamedTuple):
    """Seconds of a run: of the clock; of the CPU without and with reading and resizing; of these two."""

    clock: float
    own: float
    all: float
    reading: float = 0.0
    resizing: float = 0.0


SHARES = ("clock", "own", "all")


def total() -> float:
    """CPU seconds of this process and its ended children so far."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def started(feed: Feed) -> float:
    """CPU seconds that the reading processes have spent so far: until their first frames, mostly importing."""
    wait([worker.connection for worker in feed._workers])
    ticks = 0
    for worker in feed._workers:
        fields = Path(f"/proc/{worker.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def case(
    name: str, engine: str, stride: int, *, rate: float = 0.0, plain: bool = False
) -> tuple[ExtractSpec, torch.nn.Module]:
    """A backbone with random weights, computed by an engine (`plain`: not yet); I3D by its RGB stream alone."""
    document = plugins.document("backbones", name)
    settings, clip = dict(document["settings"]), dict(document["clip"])
    if name == "i3d":
        settings["streams"], clip["length"] = "rgb", settings["stream_length"]
    clip |= {"policy": "resample" if rate else "native", "rate": rate, "stride": stride or clip["length"]}
    values = {"dataset": "bench", "backbone": {"name": name, "settings": settings}, "clip": clip}
    spec = ExtractSpec.model_validate(values | {"network": ENGINES[engine]})
    torch.manual_seed(0)
    model = plugins.load("backbones", name)(**settings).eval()
    return spec, model if plain else prepare(model, spec.network, name=name, device=CPU)


def clips_of(jobs: list[Job], spec: ExtractSpec, model: torch.nn.Module) -> Iterator[torch.Tensor]:
    """The clips of all jobs (1, T, H, W, C), as the extraction cuts them."""
    for job in jobs:
        steps, buffer = Preparer(model, CPU), ClipBuffer(length=spec.clip.length, stride=spec.clip.stride)
        for frame in read_frames(job):
            clip = buffer.push(steps(frame[None])[0])
            if clip is not None:
                yield torch.stack(clip)[None]


def from_memory(clips: list[torch.Tensor], model: torch.nn.Module) -> Spent:
    """The network over clips that are there."""
    clock, cpu = time.perf_counter(), time.process_time()
    for clip in clips:
        model(clip).numpy()
    cpu = time.process_time() - cpu
    return Spent(time.perf_counter() - clock, cpu, cpu)


def extraction(jobs: list[Job], spec: ExtractSpec, model: torch.nn.Module, workers: int) -> tuple[Spent, int, float]:
    """The same through the extraction: what it took, the rows it made, and seconds until the first frames."""
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
    """What the resizing thread does, timed."""
    begin = time.thread_time()
    try:
        yield from prepared(*arguments)
    finally:
        preparing.append(time.thread_time() - begin)


prepared, pipeline._prepared = pipeline._prepared, timed


def measured(name: str, engine: str, a: argparse.Namespace, manifest: Path) -> str:
    """One row of the table."""
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
    a = parser.parse_args()
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
