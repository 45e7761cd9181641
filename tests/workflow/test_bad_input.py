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

    checkout.make("results/b/map.json")
    written = json.loads((checkout.folder / "results/b/map.json").read_text())
    assert (written["videos"]["evaluated"], written["videos"]["in_split"]) == (1, 2)
    assert written["missing_videos"]["instances"] == 2
    assert "text, not a video" in written["missing_videos"]["videos"]["w0"]
    assert "text, not a video" in written["excluded"]["w0"]

    checkout.configure("features.clips.on_damaged", "error")
    done = checkout.run("snakemake", "--cores", "2", "--nocolor", "--", "results/b/map.json")
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "1 damaged videos, first 'w0': text, not a video" in said
    assert "Traceback" not in said
    assert (checkout.folder / "results/b/model.safetensors").is_file()
