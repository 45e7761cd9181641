"""Damaged videos through the whole workflow: counted with their cause, or a stop that leaves what was finished."""

import json
from pathlib import Path

from scratch import Checkout


def test_damaged_video_is_counted_or_stops_the_run(finished: Checkout, tmp_path: Path) -> None:
    checkout = finished.copy(tmp_path / "tad")
    truth = json.loads((checkout.folder / "annotations.json").read_text())
    truth["database"]["w0"] = truth["database"]["v3"]
    checkout.write("annotations.json", json.dumps(truth).encode())
    checkout.write("videos/w0.mp4", b"<html>404 Not Found</html>\n")

    said = checkout.make("results/b/map.json")
    written = json.loads((checkout.folder / "results/b/map.json").read_text())
    assert (written["videos"]["evaluated"], written["videos"]["in_split"]) == (1, 2)
    assert written["missing_videos"]["instances"] == 2
    assert "text, not a video" in written["missing_videos"]["videos"]["w0"]
    assert "text, not a video" in written["excluded"]["w0"]
    damaged = [line for line in written["warnings"] if "w0.mp4: damaged: text, not a video" in line]
    assert len(damaged) == 1  # of probe, passed on from stage to stage
    assert any("weak split test: 2 videos with 4 instances" in line for line in written["warnings"])
    listed = said.partition("Warnings of the stages that ran")[2].splitlines()[1:]
    assert sum(damaged[0] in line for line in listed) == 1
    assert sum("weak split test" in line for line in listed) == 1

    checkout.configure("features.clips.on_damaged", "error")
    done = checkout.run("snakemake", "--cores", "2", "--nocolor", "--", "results/b/map.json")
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "1 damaged videos, first 'w0': text, not a video" in said
    assert "Traceback" not in said
    assert (checkout.folder / "results/b/model.safetensors").is_file()


def test_frames_given_as_seconds_stop_before_anything_is_computed(finished: Checkout, tmp_path: Path) -> None:
    """No duration is stated, so `annotate` cannot know; the stage after `probe` does, and names line and setting."""
    checkout = finished.copy(tmp_path / "tad")
    lines = ["video,start,end,label,split"]
    for k in range(4):
        split = "test" if k == 3 else "train"
        lines += [f"v{k},25,62,jump,{split}", f"v{k},75,125,run,{split}"]
    checkout.write("own.csv", ("\n".join(lines) + "\n").encode())
    checkout.configure("datasets.small.format", "csv")
    checkout.configure("datasets.small.annotations", "own.csv")
    checkout.configure("features.clips.clip", {"stride": 8})  # features would have to be extracted again
    before = {path: path.stat().st_mtime_ns for path in (checkout.folder / "results/features").rglob("*.h5")}
    assert before
    done = checkout.run("snakemake", "--cores", "2", "--nocolor", "--", "results/b/map.json")
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "own.csv: video 'v0', line 2: 25-62 s ends 56.00 s after the video, which lasts 6.00 s" in said
    assert "look like frames at 25 per second; set `unit: frames`" in said
    assert "rule extract" not in said
    assert {path: path.stat().st_mtime_ns for path in before if path.exists()} == before

    checkout.configure("datasets.small.settings", {"unit": "frames"})
    checkout.make("results/annotations/small.checked.json")
    table = json.loads((checkout.folder / "results/annotations/small.checked.json").read_text())
    assert table["videos"]["v0"]["instances"] == [[1.0, 2.48, "jump"], [3.0, 5.0, "run"]]
