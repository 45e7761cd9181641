"""Compare the video readers: frames per second over a whole file, and frames recovered from damaged files → Markdown.

    python benchmarks/bench_readers.py FOLDER

FOLDER contains real clips (also in subfolders); a 720p H.264 file is generated in addition. The readers alternate in
one process, each with one thread; the best of the repeats counts. Damaged files are derived from an intact one. A
recovered frame counts if it matches the frame at the same position of the intact file.
"""

import argparse
import importlib
import importlib.metadata
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tad.core.errors import TadError
from tad.video.listing import EXTENSIONS
from tad.video.reader import READERS, av, open_video

REPEATS = 3
RIGHT = 3.0  # grey levels: largest mean difference at which two frames count as equal


def noise(number: int, width: int, height: int) -> np.ndarray:
    """Return a frame (H, W, 3) uint8 of moving bars with a little noise, so that decoding takes effort."""
    y, x = np.mgrid[:height, :width]
    bars = 127 + 90 * np.sin((x + 7 * number) / 23) * np.cos((y - 3 * number) / 31)
    grain = np.random.default_rng(number).normal(0, 6, (height, width))
    return np.stack([bars + grain, 255 - bars, bars * 0.5 + y % 128], -1).clip(0, 255).astype(np.uint8)


def encode(
    path: Path, frames: int, *, width: int, height: int, codec: str = "libx264", faststart: bool = False
) -> Path:
    """Encode a video of `noise` at 30 frames per second."""
    options = {"movflags": "faststart"} if faststart else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=30, options={"g": "48", "bf": "2", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(frames):
            picture = av.VideoFrame.from_ndarray(noise(number, width, height), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def read(path: Path, reader: str) -> tuple[int, float, float, str]:
    """Read a file once; return frames, CPU seconds, wall seconds and the cause of an early end."""
    frames, cause = 0, ""
    cpu, wall = time.process_time(), time.perf_counter()
    try:
        with open_video(path, reader=reader) as video:
            for _ in video:
                frames += 1
    except TadError as error:
        cause = str(error)
    return frames, time.process_time() - cpu, time.perf_counter() - wall, cause


def saved(path: Path, reader: str, whole: list[np.ndarray]) -> tuple[int, int]:
    """Return how many frames the reader gets from a damaged file before it fails, and how many of them are correct."""
    frames, right = 0, 0
    try:
        with open_video(path, reader=reader) as video:
            for frame in video:
                if frame.number < len(whole) and frame.image.shape == whole[frame.number].shape:
                    apart = np.abs(frame.image.astype(np.int16) - whole[frame.number]).mean()
                    right += bool(apart < RIGHT)
                frames += 1
    except TadError:
        pass
    return frames, right


def cut(share: float) -> Callable[[bytes], bytes]:
    """Write the first part of a file."""
    return lambda data: data[: int(len(data) * share)]


def hole(data: bytes) -> bytes:
    """Write a file whose middle is overwritten with zeros."""
    middle = len(data) // 2
    return data[:middle] + bytes(2000) + data[middle + 2000 :]


def speed(files: dict[str, Path], readers: list[str]) -> None:
    """Print the table of frames per second."""
    sys.stdout.write("| clip | frames | " + " | ".join(f"{r}, CPU s (wall)" for r in readers) + " |\n")
    sys.stdout.write("| --- | ---: |" + " ---: |" * len(readers) + "\n")
    total = dict.fromkeys(readers, 0.0)
    for name, path in files.items():
        passes: dict[str, list[tuple[int, float, float, str]]] = {reader: [] for reader in readers}
        for _ in range(REPEATS):
            for reader in readers:
                passes[reader].append(read(path, reader))
        cells = []
        count = max(p[0][0] for p in passes.values())
        for reader in readers:
            frames, cpu, wall, cause = min(passes[reader], key=lambda p: p[1])
            total[reader] += cpu * (count / frames if frames else 0)
            late = f", stops at {frames}" if cause else ("" if frames == passes["pyav"][0][0] else f", {frames} frames")
            cells.append(f"{frames / cpu:.0f} ({frames / wall:.0f}){late}")
        sys.stdout.write(f"| {name} | {passes['pyav'][0][0]} | " + " | ".join(cells) + " |\n")
    quickest = min(total.values())
    cells = [f"{total[r]:.2f} s, {total[r] / quickest:.2f} x" for r in readers]
    sys.stdout.write("| all together, CPU seconds | | " + " | ".join(cells) + " |\n")


def salvage(folder: Path, readers: list[str]) -> None:
    """Print the table of frames recovered from damaged files."""
    sys.stdout.write("\n| damaged file | frames there were | " + " | ".join(readers) + " |\n")
    sys.stdout.write("| --- | ---: |" + " ---: |" * len(readers) + "\n")
    for kind, codec, faststart in (("mp4", "libx264", True), ("mkv", "libx264", False), ("avi", "mpeg4", False)):
        source = encode(folder / f"s.{kind}", 240, width=340, height=256, codec=codec, faststart=faststart)
        with open_video(source, reader="pyav") as video:
            whole = [frame.image for frame in video]
        cases = {"cut at 60 %": cut(0.6), "cut at 95 %": cut(0.95), "2000 zero bytes in the middle": hole}
        for name, damage in cases.items():
            path = folder / f"damaged.{kind}"
            path.write_bytes(damage(source.read_bytes()))
            cells = [f"{right} right of {frames}" for frames, right in (saved(path, r, whole) for r in readers)]
            sys.stdout.write(f"| {kind} ({codec}), {name} | {len(whole)} | " + " | ".join(cells) + " |\n")


def _loads() -> bool:
    """Return whether torchcodec is installed and finds FFmpeg's libraries; say it if it does not."""
    try:
        importlib.import_module("torchcodec.decoders")
    except (ImportError, RuntimeError, OSError) as error:
        sys.stderr.write(f"without torchcodec: {str(error).splitlines()[0]}\n")
        return False
    return True


def main() -> None:
    """Measure the installed readers and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="real clips")
    parser.add_argument("--quick", action="store_true", help="one clip, nothing damaged: does it still run?")
    arguments = parser.parse_args()
    readers = [r for r in READERS if r != "torchcodec" or _loads()]
    files = {path.name[:32]: path for path in sorted(arguments.folder.rglob("*")) if path.suffix in EXTENSIONS}
    versions = ", ".join(f"{r} {importlib.metadata.version({'pyav': 'av'}.get(r, r))}" for r in readers)
    sys.stdout.write(
        f"{versions}, Python {platform.python_version()}, {platform.machine()}; one thread each, frames per CPU second "
        f"(per second of the clock), best of {REPEATS}\n\n"
    )
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.quick:
            name, path = next(iter(files.items()))
            return speed({name: path}, readers)
        files["made: 720p H.264"] = encode(Path(scratch) / "720p.mp4", 300, width=1280, height=720)
        files["made: 340x256 H.264"] = encode(Path(scratch) / "340.mp4", 600, width=340, height=256)
        for reader in readers:
            read(files["made: 340x256 H.264"], reader)  # modules that are imported on first use
        speed(files, readers)
        salvage(Path(scratch), readers)


if __name__ == "__main__":
    main()
