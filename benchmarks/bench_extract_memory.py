"""Measure the memory of probe and extraction for one long video, summed over all processes → Markdown rows.

    OMP_NUM_THREADS=1 python benchmarks/bench_extract_memory.py [--hours 4]

The video is one minute at 25 frames per second, repeated by stream copy. Clips are spaced as for THUMOS14's I3D (17
frames, every 4), and rows have the same width (2048, float16). The network is negligible (2048 fixed mixtures of mean
colours), so that everything except the network is measured. Memory is the proportional set size (PSS), summed over the
processes.
"""

import argparse
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tad.backbones._contract import BackboneBase
from tad.features.store import FeatureReader
from tad.settings.stages import ExtractSpec, ProbeSpec
from tad.stages.extract import extract
from tad.stages.probe import probe
from tad.video.reader import av

RATE, WIDTH, HEIGHT, WIDE = 25, 96, 64, 2048
LOOK_SECONDS = 0.5


class Mixtures(BackboneBase):
    """An encoder with the width of two-stream I3D and almost no computation."""

    dim = WIDE

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, WIDE)

    def forward(self, clips_BTHWC: Tensor) -> Tensor:
        mixed: Tensor = self.linear(clips_BTHWC[:, 0, ::8, ::8].float().mean(dim=(1, 2)) / 255)
        return mixed


def long_video(path: Path, minutes: int) -> None:
    """Write a video that repeats one minute of drifting noise."""
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
    noise = noise.repeat(8, axis=0).repeat(8, axis=1)
    minute = path.with_name("minute.mkv")
    with av.open(str(minute), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast", "g": "50", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for k in range(60 * RATE):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.roll(noise, k, axis=1), format="rgb24")))
        container.mux(stream.encode())
    with av.open(str(minute)) as have, av.open(str(path), "w") as container:
        stream = have.streams.video[0]
        copy = container.add_stream_from_template(stream)
        packets = [packet for packet in have.demux(stream) if packet.dts is not None]
        step = round(60 / stream.time_base)
        for _ in range(minutes):
            for packet in packets:
                packet.stream = copy
                packet.time_base = stream.time_base
                container.mux(packet)
                packet.time_base = stream.time_base
                packet.pts, packet.dts = packet.pts + step, packet.dts + step
    minute.unlink()


def job(folder: Path) -> None:
    """Run the measured job; print each stage as it begins, then the rows."""
    torch.set_num_threads(1)
    print("probe", flush=True)
    manifest = probe(folder / "v", folder / "00-of-01.json", spec=ProbeSpec(dataset="long"))
    print("extract", flush=True)
    values = {"dataset": "long", "backbone": {"name": "i3d", "settings": {}}}
    clip = {"length": 17, "stride": 4, "policy": "native", "rate": 0.0}
    out = extract(
        manifest, folder / "v", None, folder / "f.h5",
        spec=ExtractSpec.model_validate(values | {"clip": clip}), cache=folder / "kept", device="cpu", workers=1,
        backbone=Mixtures,
    )  # fmt: skip
    with FeatureReader(out) as reader:
        shapes = [str(reader.stored(video_id).shape) for video_id in reader.video_ids]
    print("rows " + " ".join(shapes), flush=True)


def tree(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    found = [pid]
    for here in found:
        try:
            text = Path(f"/proc/{here}/task/{here}/children").read_text(encoding="ascii")
        except OSError:
            continue
        found += [int(child) for child in text.split()]
    return found


def shared_out(pids: list[int]) -> int:
    """Return the bytes of these processes; shared pages are counted once."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    return total


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=4.0)
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="a minute of video: does it still run?")
    a = parser.parse_args()
    a.hours = 1 / 60 if a.quick else a.hours
    if a.job:
        return job(a.job)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "v").mkdir()
        long_video(folder / "v/long.mkv", round(60 * a.hours))
        command = [sys.executable, __file__, "--job", scratch]
        peaks, told = {"probe": 0, "extract": 0}, folder / "said"
        with open(told, "w", encoding="utf-8") as file:
            child = subprocess.Popen(command, stdout=file)
        while child.poll() is None:
            stage = "extract" if "extract" in told.read_text(encoding="utf-8") else "probe"
            peaks[stage] = max(peaks[stage], shared_out(tree(child.pid)))
            time.sleep(LOOK_SECONDS)
        said = told.read_text(encoding="utf-8")
        if child.returncode:
            raise SystemExit(said)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
    frames = round(3600 * a.hours) * RATE
    print(f"{a.hours:g} hours, {frames} frames of {WIDTH}x{HEIGHT}, {said.splitlines()[-1]}")
    print(f"{used.ru_utime + used.ru_stime:.0f} CPU seconds, {multiprocessing.cpu_count()} cores\n")
    print("| stage | most memory, MiB |\n|---|---:|")
    for stage, most in peaks.items():
        print(f"| {stage} | {most >> 20} |")


if __name__ == "__main__":
    main()
