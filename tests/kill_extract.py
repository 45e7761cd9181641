"""Extractions killed with SIGKILL at random points and taken up again, until they end → do all give the same bytes?

    python tests/kill_extract.py FOLDER [KILLS] [SEED]

Each extraction is a process of its own with its reading processes. The points are spread over the time that an
uninterrupted one takes. Prints what was found as JSON; exit status 1 if a shard differs.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import video_tools as vt

from tad.core.files import sha256
from tad.settings.plugins import defaults
from tad.settings.stages import ExtractSpec, ProbeSpec
from tad.stages.extract import extract
from tad.stages.probe import probe

SIZES = (150, 120, 90, 90, 60, 45, 30, 5)


def specification() -> ExtractSpec:
    plugin = {"name": "r2plus1d_small", "settings": defaults("backbones", "r2plus1d_small")}
    clip = {"length": 16, "stride": 2, "policy": "native", "rate": 0}
    return ExtractSpec.model_validate({"dataset": "d", "backbone": plugin, "clip": clip})


def start(manifest: Path, videos: Path, folder: Path) -> int:
    """Fork an extraction into `folder`; torch has done nothing yet, so that it can be used in the child."""
    child = os.fork()
    if child == 0:
        extract(
            manifest, videos, None, folder / "00-of-01.h5", spec=specification(), cache=folder / "kept", device="cpu",
            workers=2,
        )  # fmt: skip
        os._exit(0)
    return child


def end_of(child: int, seconds: float) -> int | None:
    """Exit status if the child ends within `seconds`; otherwise it is killed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def main(folder: Path, kills: int = 30, seed: int = 0) -> int:
    videos = folder / "videos"
    for number, frames in enumerate(SIZES):
        vt.encode(videos / f"v{number}.mp4", frames)
    manifest = probe(videos, folder / "m/00-of-01.json", spec=ProbeSpec(dataset="d"))
    begin = time.monotonic()
    if end_of(start(manifest, videos, folder / "whole"), 300) != 0:
        return 1
    took = time.monotonic() - begin
    wanted = sha256(folder / "whole/00-of-01.h5")
    rng = random.Random(seed)
    done, runs, shards, kept = 0, 0, [], []
    while done < kills or not shards:
        work = folder / f"run{len(shards)}"
        runs += 1
        status = end_of(start(manifest, videos, work), rng.uniform(0.05, took) if done < kills else 300)
        if status is None:
            done += 1
            kept.append(len(list((work / "kept").glob("*.part.h5"))))
            assert not (work / "00-of-01.h5").exists() or sha256(work / "00-of-01.h5") == wanted
        elif status == 0:
            shards.append(sha256(work / "00-of-01.h5") == wanted)
        else:
            return 1
    found = {"kills": done, "parts kept at each": kept, "shards that ended": len(shards), "equal": sum(shards)}
    print(json.dumps(found | {"seconds of a whole one": round(took, 2), "extractions": runs}))
    return 0 if all(shards) else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *map(int, sys.argv[2:])))
