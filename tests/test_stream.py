"""`tad stream`: files, pipes and network streams to JSON lines; the same numbers as of whole files; broken sources."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numbered
import numpy as np
import pytest
import torch
import video_tools as vt
import yaml

import tad
from tad.commands import stream as command
from tad.commands.apply import trained_run
from tad.commands.cli import main
from tad.commands.stream_emission import of_candidates
from tad.core.errors import TadError
from tad.core.files import write_json
from tad.core.grid import Grid
from tad.detectors._points.online import OnlineDetector
from tad.extraction.live import LiveFeatures
from tad.features.store import FeatureReader
from tad.settings import plugins
from tad.settings.config import Config
from tad.settings.stages import ExtractSpec
from tad.stages.annotate import annotate
from tad.stages.extract import encoder_of, extract
from tad.stages.merge import merge
from tad.stages.probe import probe
from tad.stages.train import train
from tad.video.live import BrokenError, Source, open_source, source_of
from tad.video.pyav_reader import PyavReader
from tad.video.sampling import offset, sampled

SMALL = {"embed_dim": 16, "head_dim": 16, "mlp_dim": 16, "regression_ranges": [[0, 4], [4, 8], [8, 10000]]}
CAUSAL = {"name": "actionformer", **SMALL, "windows": [5, 5, 5], "causal": True, "class_prior": 0.5}
TRAIN = {"epochs": 2, "warmup_epochs": 1, "max_length": 32}
BACKBONE = {"name": "r2plus1d_small", "widths": [4, 8], "time_strides": [2], "height": 24, "width": 32}
CLIPS = {
    "backbone": BACKBONE, "weights": "encoder.safetensors",
    "clip": {"length": 8, "stride": 2, "policy": "resample", "rate": 15.0},
}  # fmt: skip
CONFIG: dict[str, Any] = {
    "device": "cpu",
    "datasets": {"toy": {"format": "csv", "annotations": "labels.csv", "videos": "videos", "shards": 1}},
    "features": {"clips": CLIPS},
    "runs": {
        "causal": {"dataset": "toy", "features": "clips", "detector": CAUSAL, "train": TRAIN},
        "whole": {
            "dataset": "toy", "features": "clips", "detector": CAUSAL | {"causal": False}, "train": TRAIN,
        },
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where a causal detector has learnt a little from three videos, stage by stage as the workflow does."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    rows = ["video,start,end,label,split"]
    for k in range(3):
        vt.encode(folder / f"videos/v{k}.mp4", 150, rate=30, keyframes=30)
        rows += [
            f"v{k},{0.4 + k / 10},1.2,a,{'test' if k == 2 else 'train'}",
            f"v{k},1.5,3.4,b,{'test' if k == 2 else 'train'}",
        ]
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    config, results = Config.read(folder / "config.yaml"), folder / "results"
    specs: Any = config.spec
    torch.manual_seed(0)
    from safetensors.torch import save_file

    backbone = plugins.build("backbones", "r2plus1d_small", {k: v for k, v in BACKBONE.items() if k != "name"})
    save_file({k: v.contiguous() for k, v in backbone.state_dict().items()}, folder / "encoder.safetensors")
    table = annotate(folder / "labels.csv", results / "annotations/toy.json", spec=specs("annotate", dataset="toy"))
    manifest = probe(folder / "videos", results / "videos/toy/00-of-01.json", spec=specs("probe", dataset="toy"))
    names = {"dataset": "toy", "features": "clips"}
    shard = extract(
        manifest, folder / "videos", folder / "encoder.safetensors", results / "features/toy/clips/00-of-01.h5",
        spec=specs("extract", **names), cache=folder / "x", device="cpu", workers=1,
    )  # fmt: skip
    index = merge([shard], [manifest], results / "features/toy/clips.h5", spec=specs("merge", **names))
    for run in ("causal", "whole"):
        train(
            index, table, results / run / "model.safetensors", spec=specs("train", run=run),
            cache=folder / "t" / run, device="cpu",
        )  # fmt: skip
    return folder


def streamed(toy: Path, source: str, *options: str, run: str = "causal") -> int:
    return main(["stream", run, source, "--config", str(toy / "config.yaml"), "--device", "cpu", *options])


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def expected(toy: Path, video: str) -> list[str]:
    """The lines of stored features: what `tad extract` wrote, in one pass over the whole file."""
    config = Config.read(toy / "config.yaml")
    session = command.Session(config, trained_run("causal", config, "cpu"), torch.device("cpu"))
    with FeatureReader(toy / "results/features/toy/clips.h5") as reader:
        half = reader.grid(video).start  # seconds from the beginning of a clip to its centre, so also to its end
        online = OnlineDetector(session.model.detector, threshold=0.2, min_length=session.min_length)
        found = of_candidates(
            online.push(reader.read(video)), session.model.labels, reader.grid(video), half_clip=half, name=video,
            tiou=0.3,
        )  # fmt: skip
        return [one.line() for one in found]


def without_arrival(line: str) -> dict[str, Any]:
    return {k: v for k, v in json.loads(line).items() if k not in ("emitted", "latency")}


def test_a_file_gives_what_its_stored_features_give(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Frames, encoder, detector and suppression one by one; the numbers of the stages on the whole file."""
    assert streamed(toy, str(toy / "videos/v2.mp4"), "--score", "0.2") == 0
    got = lines(capsys)
    assert len(got) >= 3
    assert [without_arrival(json.dumps(row)) for row in got] == [without_arrival(line) for line in expected(toy, "v2")]
    for row in got:
        assert row["video"] == "v2"
        assert 0 <= row["segment"][0] < row["segment"][1] <= row["emitted"] <= 5.0
        assert row["latency"] == pytest.approx(row["emitted"] - row["segment"][1], abs=2e-3)
    assert [row["emitted"] for row in got] == sorted(row["emitted"] for row in got)


def test_from_python_it_is_the_same(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert streamed(toy, str(toy / "videos/v2.mp4"), "--score", "0.2") == 0
    run = tad.load(toy / "results/causal", device="cpu")
    instances = list(run.stream(toy / "videos/v2.mp4", score=0.2))
    assert [one.line() for one in instances] == capsys.readouterr().out.splitlines()
    with pytest.raises(TadError, match="no such file"):
        run.stream("nowhere.mp4", score=0.2)


def test_rows_of_a_stream_are_those_of_extract(toy: Path) -> None:
    config = Config.read(toy / "config.yaml")
    spec = config.spec("extract", dataset="toy", features="clips")
    assert isinstance(spec, ExtractSpec)
    features = LiveFeatures(
        encoder_of(spec, toy / "encoder.safetensors", torch.device("cpu")), spec, torch.device("cpu")
    )
    rows: list[np.ndarray] = []
    with open_source(source_of(str(toy / "videos/v0.mp4"))) as reader:
        images = sampled(iter(reader), policy="resample", rate=15.0, native_rate=30.0)
        for image in images:
            rows += features.push(image)
    rows += features.finish()
    with FeatureReader(toy / "results/features/toy/clips.h5") as stored:
        np.testing.assert_array_equal(np.stack(rows), stored.read("v0").astype(np.float32))
        grid = stored.grid("v0")
    live = features.grid(15.0, 0.0)
    assert (live.start, live.step) == (grid.start, grid.step)


@pytest.mark.parametrize("policy", ["native", "resample", "ffmpeg_cfr"])
def test_a_late_picture_is_sampled_as_by_extract(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    """The picture begins two seconds after the sound: the frames and their times are those of extracted features."""
    path = numbered.encode(tmp_path / "late.mp4", range(50, 90), sound=1.0)
    images: list[np.ndarray] = []
    origins: list[float] = []

    def grid(rate: float, begin: float) -> Grid:
        origins.append(begin)
        return Grid.of_clips(clip_length=8, stride=2, rate=rate, length=0, duration=0.0, offset=begin)

    recorder = SimpleNamespace(grid=grid, push=lambda image: images.append(image) or [], finish=list)
    monkeypatch.setattr("tad.extraction.live.LiveFeatures", lambda *_: recorder)
    config = Config.read(toy / "config.yaml")
    session = command.Session(config, trained_run("causal", config, "cpu"), torch.device("cpu"))
    clip = session.spec.clip.model_copy(update={"policy": policy})
    session.spec = session.spec.model_copy(update={"clip": clip})
    assert list(session.emitted(source_of(str(path)), "late", command.Rules(0.5, 0.3))) == []
    with PyavReader(path) as reader:
        frames = list(reader)
        start = frames[0].start
        wanted = list(sampled(frames, policy=policy, rate=15.0, native_rate=reader.header.rate, start=start))
    assert start > 1.9
    assert len(images) == len(wanted)
    assert all(np.array_equal(one, other) for one, other in zip(images, wanted, strict=True))
    assert origins == [offset(policy=policy, start=start)]


def test_what_was_printed_does_not_depend_on_what_follows(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first half of a video gives the first lines of the whole."""
    assert streamed(toy, str(toy / "videos/v2.mp4"), "--score", "0.2", "--name", "x") == 0
    whole = capsys.readouterr().out.splitlines()
    with av.open(str(toy / "videos/v2.mp4")) as have, av.open(str(tmp_path / "half.mp4"), "w") as container:
        copy = container.add_stream_from_template(have.streams.video[0])
        for packet in have.demux(video=0):
            if packet.pts is not None and packet.pts * packet.time_base < 3:  # whole groups of pictures
                packet.stream = copy
                container.mux(packet)
    assert streamed(toy, str(tmp_path / "half.mp4"), "--score", "0.2", "--name", "x") == 0
    half = capsys.readouterr().out.splitlines()
    assert 0 < len(half) < len(whole)
    assert whole[: len(half)] == half


def piped(toy: Path, transport: bytes, *arguments: str) -> tuple[subprocess.Popen[bytes], bytes]:
    """A command that reads a stream from a pipe which stays open, and its first line.

    The line would not come if lines were kept back.
    """
    options = ["--score", "0.2", "--config", str(toy / "config.yaml"), "--device", "cpu", *arguments]
    process = subprocess.Popen(
        [sys.executable, "-m", "tad", "stream", "causal", "-", *options],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(transport)
    process.stdin.flush()
    return process, process.stdout.readline()


def test_standard_input(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A transport stream through a pipe; lines appear before the pipe is closed."""
    path = vt.encode(tmp_path / "v1.ts", 150, rate=30, keyframes=30)
    assert streamed(toy, str(path), "--score", "0.2", "--name", "p") == 0
    whole, transport = lines(capsys), path.read_bytes()
    process, first = piped(toy, transport, "--name", "p")
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.close()
    rest, errors = process.stdout.read(), process.stderr.read()
    process.wait()
    assert process.returncode == 0, errors.decode()
    got = [json.loads(line) for line in (first + rest).decode().splitlines()]
    assert got == whole


def test_ctrl_c_ends_with_what_was_found(toy: Path, tmp_path: Path) -> None:
    transport = vt.encode(tmp_path / "v1.ts", 150, rate=30, keyframes=30).read_bytes()
    process, first = piped(toy, transport)
    assert process.stdout is not None
    assert process.stderr is not None
    process.send_signal(signal.SIGINT)
    kill = threading.Timer(60, process.kill)  # a hang fails the test
    kill.start()
    rest, errors = process.stdout.read(), process.stderr.read()
    process.wait()
    kill.cancel()
    assert process.returncode == 0, errors.decode()
    found = (first + rest).decode().splitlines()
    assert all(json.loads(line)["video"] == "stdin" for line in found)
    assert errors.decode().splitlines()[-1].endswith("stdin: stopped; what was printed stands")
    assert b"Traceback" not in errors


class Flaky:
    """A network stream that breaks once in the middle, once when it is opened, and then stays away."""

    def __init__(self, path: Path, script: list[str]) -> None:
        self.path, self.script, self.opened = path, script, 0

    def __call__(self, source: Source) -> Any:
        step = self.script[min(self.opened, len(self.script) - 1)]
        self.opened += 1
        if step == "refused":
            raise BrokenError(source.name, "cannot be opened (connection refused)")
        reader = PyavReader(self.path)
        return Breaking(reader, source, after=None if step == "whole" else int(step))


class Breaking:
    def __init__(self, reader: Any, source: Source, after: int | None) -> None:
        self.reader, self.source, self.after, self.rate = reader, source, after, 30.0

    def __enter__(self) -> "Breaking":
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.close()

    def __iter__(self) -> Iterator[Any]:
        for frame in self.reader:
            if frame.number == self.after:
                raise BrokenError(self.source.name, f"broke after {frame.time:.1f} s (connection reset)")
            yield frame


@pytest.mark.parametrize("url", ["rtsp://camera/1", "http://host/live"])
def test_a_broken_network_stream_is_opened_again(
    toy: Path,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What was found stays; times go on with the clock; after the last attempt there is one line."""
    pauses: list[float] = []
    flaky = Flaky(toy / "videos/v1.mp4", ["100", "refused", "whole", "refused"])
    monkeypatch.setattr(command, "open_source", flaky)
    monkeypatch.setattr(command, "rate_of", lambda reader: 30.0)
    monkeypatch.setattr("tad.commands.stream.time.sleep", pauses.append)
    clock = iter(range(0, 10000, 10))
    monkeypatch.setattr("tad.commands.stream.time.monotonic", lambda: float(next(clock)))
    status = streamed(toy, url, "--score", "0.2", "--retries", "2")
    got = capsys.readouterr()
    rows = [json.loads(line) for line in got.out.splitlines()]
    assert [row["video"] for row in rows] == [url] * len(rows)
    assert rows[-1]["emitted"] > 20 > rows[0]["emitted"]
    assert [row["emitted"] for row in rows] == sorted(row["emitted"] for row in rows)
    messages = [line.partition("WARNING ")[2] for line in got.err.splitlines() if "opening it again" in line]
    assert messages[0] == f"{url}: broke after 3.3 s (connection reset); opening it again in 1 s (attempt 1 of 2)"
    if url.startswith("http"):  # the end of a file that a server sends is its end
        assert (status, len(messages), pauses) == (0, 2, [1.0, 2.0])
    else:
        assert status == 1
        assert got.err.splitlines()[-1].endswith(
            "cannot be opened (connection refused); gave up after 2 attempts to open it again"
        )


def test_http_through_a_real_server(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            return

    assert streamed(toy, str(toy / "videos/v2.mp4"), "--score", "0.2", "--name", "n") == 0
    whole = lines(capsys)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(toy / "videos")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/v2.mp4"
        assert streamed(toy, url, "--score", "0.2", "--name", "n") == 0
        assert lines(capsys) == whole
        assert streamed(toy, url.replace("v2", "v9"), "--score", "0.2") == 1
    finally:
        server.shutdown()
        server.server_close()
    assert "cannot be opened" in capsys.readouterr().err


def test_the_score_is_chosen_on_other_videos_than_the_test_videos(
    toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["stream", "causal", "--config", str(toy / "config.yaml"), "--device", "cpu"]
    (toy / "results/causal/stream.json").unlink(missing_ok=True)
    assert streamed(toy, str(toy / "videos/v2.mp4")) == 1
    assert "choose it with `tad stream causal --choose`" in capsys.readouterr().err
    assert main([*arguments, "--choose"]) == 1
    assert "nothing is held out" in capsys.readouterr().err
    assert main([*arguments, "--choose", "--on", "train"]) == 0
    assert "OPTIMISTIC" in capsys.readouterr().out
    chosen = json.loads((toy / "results/causal/stream.json").read_text())
    assert (chosen["videos"], chosen["instances"]) == (2, 4)
    assert streamed(toy, str(toy / "videos/v2.mp4")) == 0
    assert all(row["score"] >= chosen["score"] for row in lines(capsys))
    path = toy / "results/causal/stream.json"
    write_json(path, {k: v for k, v in chosen.items() if k != "tad_checksum"} | {"model": "0" * 16})
    assert streamed(toy, str(toy / "videos/v2.mp4")) == 1
    assert "chosen for another model" in capsys.readouterr().err
    path.unlink()


@pytest.mark.parametrize(
    ("source", "run", "said"),
    [
        ("nowhere.mp4", "causal", "nowhere.mp4: no such file; give a video, camera, a URL"),
        ("videos", "causal", "is a folder; give one video"),
        ("labels.csv", "causal", "labels.csv: "),
        ("videos/v2.mp4", "whole", "runs.whole: its detector actionformer needs whole videos; train a run"),
        ("rtsp://127.0.0.1:9/x", "causal", "rtsp://127.0.0.1:9/x: cannot be opened"),
        ("", "causal", "give a source"),
    ],
)
def test_one_line_for_what_cannot_be_streamed(
    toy: Path, source: str, run: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(toy)
    assert streamed(toy, source, "--score", "0.2", run=run) == 1
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("tad stream: ")
    assert said in line
    assert len(line) < 500
