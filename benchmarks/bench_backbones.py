"""Run real videos through probe and every backbone (random weights): row counts against clip counts, seconds per clip.

    python benchmarks/bench_backbones.py VIDEOS [--backbones i3d tsp …]

Prints the tables of the report. The number of rows does not depend on the frame size, so the videos are processed with
small crops. One clip of 340 x 256 frames is processed at the published frame size and timed as CPU seconds of this
process on one thread.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from backbone_tools import SMALL

from tad.core.files import read_json
from tad.features.store import FeatureReader
from tad.settings import plugins
from tad.settings.resolved import component_sections
from tad.settings.stages import ClipSpec, ExtractSpec, Plugin, ProbeSpec
from tad.stages.extract import extract
from tad.stages.probe import probe
from tad.video.clips import count_clips

SPARSE = 8  # clip lengths between clips: few rows per video, as sparse as ClipSpec allows


def videos_table(manifest: dict[str, Any]) -> None:
    print("| video | frames (header) | rate | size | reader | VFR | audio | what probe says |")
    print("|---|---:|---:|---|---|---|---|---|")
    for name, entry in sorted(manifest["videos"].items()):
        said = entry["cause"] or entry["reader_cause"] or "ok"
        size = f"{entry['width']}x{entry['height']}"
        flags = " | ".join("yes" if entry[key] else "no" for key in ("vfr", "audio"))
        frames = f"{entry['frames']} ({entry['header_frames']})"
        print(f"| {name} | {frames} | {entry['rate']:.3f} | {size} | {entry['reader']} | {flags} | {said} |")


def rows_of(name: str, videos: Path, manifest: Path, folder: Path) -> str:
    """Extract the rows of all videos with `extract`, and check them one by one."""
    document = component_sections("backbones", name)
    settings = document["settings"] | {key: value for key, value in SMALL[name].items() if key != "size"}
    clip = ClipSpec(**document["clip"] | {"stride": SPARSE * document["clip"]["length"]})
    spec = ExtractSpec(
        dataset="real", backbone=Plugin(name=name, settings=settings), clip=clip, dtype="float32", on_damaged="exclude"
    )
    out = extract(
        manifest, videos, None, folder / f"{name}.h5", spec=spec, cache=folder / f"{name}.kept", device="cpu", workers=1
    )
    total, padded = 0, 0
    entries = read_json(manifest)["videos"]
    with FeatureReader(out) as reader:
        assert set(reader.video_ids) == {v for v, entry in entries.items() if entry["status"] == "ok"}
        for video_id in reader.video_ids:
            facts, rows = reader.attrs(video_id), reader.read(video_id)
            entry = entries[video_id]
            seen = entry["frames"] * (clip.rate / entry["rate"] if clip.rate else 1)
            assert abs(int(facts["frames"]) - seen) <= 1, (video_id, facts["frames"], seen)
            assert len(rows) == count_clips(int(facts["frames"]), length=clip.length, stride=clip.stride)
            total, padded = total + len(rows), padded + int(facts["padded"])
        return f"{len(reader.video_ids)} | {total} | {padded} | {reader.dim}"


def seconds_of(name: str) -> tuple[float, float, str]:
    """Return CPU seconds of one clip at the published size, millions of parameters, and the clip."""
    document = component_sections("backbones", name)
    changes = {"streams": "rgb"} if name == "i3d" else {}
    torch.manual_seed(0)
    net = plugins.build("backbones", name, document["settings"] | changes).eval()
    length = net.stream_length if name == "i3d" else document["clip"]["length"]
    clip = torch.randint(0, 256, (1, length, 256, 340, 3), dtype=torch.uint8)
    spent = []
    with torch.inference_mode():
        for _ in range(2):
            start = time.process_time()
            net(clip)
            spent.append(time.process_time() - start)
    crop = document["settings"].get("crop", document["settings"].get("height"))
    return min(spent), sum(p.numel() for p in net.parameters()) / 1e6, f"{length}x{crop}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", type=Path)
    parser.add_argument("--backbones", nargs="+", default=plugins.names("backbones"))
    parser.add_argument("--quick", action="store_true", help="the smallest backbone alone: does it still run?")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.backbones = ["r2plus1d_small"]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        manifest = probe(arguments.videos, Path(scratch) / "00-of-01.json", spec=ProbeSpec(dataset="real"))
        videos_table(read_json(manifest))
        print("\n| backbone | parameters, M | clip | dim | videos | rows | padded | CPU s per clip |")
        print("|---|---:|---|---:|---:|---:|---:|---:|")
        for name in arguments.backbones:
            videos, rows, padded, dim = rows_of(name, arguments.videos, manifest, Path(scratch)).split(" | ")
            spent, parameters, clip = seconds_of(name)
            label = "i3d (time: RGB alone)" if name == "i3d" else name
            cells = (label, f"{parameters:.2f}", clip, dim, videos, rows, padded, f"{spent:.2f}")
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
