"""Render the demo videos, their annotations and their hashes from a seed. Each run writes the same bytes.

`demo_scene` generates the content. Containers vary as in real data: one video has a rotation tag, one has 29.97 frames
per second, one has sound, and one of the test split has a variable frame rate.

Output: <out>/videos/<id>.mp4, <out>/annotations.json (ActivityNet format), <out>/dataset.json (hashes, frames, traits).
"""

import argparse
import logging
import math
import multiprocessing
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from demo_scene import HEIGHT, NTSC, RATE, VERSION, WIDTH, Scene, make_scene, picture, subset_size

from tad.core import formats
from tad.core.claims import claiming
from tad.core.errors import TadError
from tad.core.files import content_key, digest, publish, sha256, sweep, write_json
from tad.core.processes import clean_up_on_sigterm, end_with_parent_process, end_with_supervisor, spawning

LOG = logging.getLogger(__name__)


def tone(duration: float, stream: Any) -> Iterator[av.AudioFrame]:
    """Return a quiet 440 Hz tone. It starts after the encoder delay; otherwise the muxer would shift the pictures."""
    rate, size, delay = 48000, 1024, 1024
    for first in range(0, int(duration * rate) - size, size):
        wave_S = 0.1 * np.sin(2 * math.pi * 440 * np.arange(first, first + size) / rate)
        frame = av.AudioFrame.from_ndarray(wave_S.astype(np.float32)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, first + delay, Fraction(1, rate)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def tag_rotation(path: Path) -> None:
    """Write a quarter turn into the track header of a finished one-track MP4 (ISO 14496-12, 8.3.2).

    The header is a box of version 0: its type, then 40 bytes, then the matrix of nine 32-bit numbers. The muxer puts
    the headers after the pictures, so the last occurrence of the four letters of the type is the box. PyAV supports
    this itself only since version 18.
    """
    content = bytearray(path.read_bytes())
    matrix = content.rindex(b"tkhd") + 4 + 40
    content[matrix : matrix + 36] = struct.pack(">9i", 0, -(1 << 16), 0, 1 << 16, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


def encode(scene: Scene, path: Path) -> None:
    """Write the scene as MP4 (H.264, no B-frames, no edit list), with one thread so that the bytes are reproducible."""
    turned = scene.trait == "rotated"
    with av.open(str(path), "w", format="mp4", options={"use_editlist": "0", "fflags": "+bitexact"}) as container:
        options = {"preset": "veryfast", "crf": "24", "bf": "0", "g": "50", "threads": "1"}
        rate = NTSC if scene.trait == "ntsc" else RATE
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height = (HEIGHT, WIDTH) if turned else (WIDTH, HEIGHT)
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", scene.time_base
        sound = container.add_stream("aac", rate=48000, layout="mono") if scene.trait == "audio" else None
        for k in range(len(scene.times_F)):
            image = picture(scene, k)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.rot90(image, -1)) if turned else image, "rgb24")
            frame.pts, frame.time_base = int(scene.pts_F[k]), scene.time_base
            frame.duration = int(scene.pts_F[k + 1] - scene.pts_F[k])
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            for packet in tone(scene.duration, sound):
                container.mux(packet)
    if turned:
        tag_rotation(path)


def render(index: int, out: Path, *, videos: int, seed: int) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Write one video; return its id, its entry in annotations.json and its entry in dataset.json."""
    name, scene = f"demo_{index:02d}", make_scene(index, videos=videos, seed=seed)
    path = out / "videos" / f"{name}.mp4"
    with publish(path) as partial:
        encode(scene, partial)
    subset = "training" if index < subset_size(videos) else "testing"
    truth = [{"label": label, "segment": [start, end]} for start, end, label in scene.segments]
    facts = {"file": f"videos/{path.name}", "sha256": sha256(path), "content_key": content_key(path)}
    counts = {"frames": len(scene.times_F), "subset": subset, "trait": scene.trait}
    return name, {"subset": subset, "duration": scene.duration, "annotations": truth}, facts | counts


def render_all(out: Path, *, videos: int, seed: int, jobs: int) -> Path:
    """Write the whole data set; return the content of dataset.json, which is written last."""
    if videos < 1 or jobs < 1:
        raise TadError(f"--videos {videos} --jobs {jobs}: both must be at least 1")
    with spawning():
        processes = multiprocessing.get_context("spawn").Pool(min(jobs, videos), end_with_parent_process)
    with processes as pool:
        pending = [pool.apply_async(render, (k, out), {"videos": videos, "seed": seed}) for k in range(videos)]
        done = []
        for task in pending:
            done.append(task.get())
            LOG.info("%s: %d frames, %s", done[-1][0], done[-1][2]["frames"], done[-1][2]["trait"])
    database = {name: entry for name, entry, _ in done}
    write_json(out / "annotations.json", {"version": f"demo {VERSION}", "database": database})
    spec = {"version": VERSION, "videos": videos, "seed": seed, "width": WIDTH, "height": HEIGHT}
    facts_of_all = {"videos": {name: facts for name, _, facts in done}, "spec": spec}
    return write_json(out / "dataset.json", {**formats.mark("demo-data"), **facts_of_all})


def main() -> None:
    """Run the command line; see the module docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--videos", type=int, default=30, help="the first two thirds are for training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    clean_up_on_sigterm()
    end_with_supervisor()
    for folder in (options.out, options.out / "videos"):
        sweep(folder)
    work = digest([VERSION, options.videos, options.seed], 32)
    with claiming(options.out / "dataset.json", lambda: work):
        render_all(options.out, videos=options.videos, seed=options.seed, jobs=options.jobs)


if __name__ == "__main__":
    main()
