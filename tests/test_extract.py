"""Features against a naive loop, independent of kills, order and company; the index over shards."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import checksum_tools
import numpy as np
import pytest
import torch
import video_tools as vt
from torch import Tensor, nn

from tad.backbones._contract import BackboneBase
from tad.core.errors import TadError
from tad.core.files import read_json, write_json
from tad.features.store import FeatureReader
from tad.settings import plugins
from tad.settings.stages import ClipSpec, ExtractSpec, MergeSpec, Plugin, ProbeSpec
from tad.stages.extract import extract
from tad.stages.merge import merge
from tad.stages.probe import probe
from tad.video.clips import clip_frames, count_clips, resample_indices
from tad.video.reader import open_video


class Tiny(BackboneBase):
    """A linear map of a few pixels that depends on the order of frames; `sleep` seconds a batch."""

    def __init__(self, *, dim: int = 6, sleep: float = 0.0, value: float = 1.0) -> None:
        super().__init__()
        self.dim, self.sleep, self.value = dim, sleep, value
        self.linear = nn.Linear(4 * 6 * 6 * 3, dim)

    def shrink(self, frames_NHWC: Tensor) -> Tensor:
        """Every eighth pixel; frames of that size already are left alone."""
        return frames_NHWC if frames_NHWC.shape[1] <= 8 else frames_NHWC[:, ::8, ::8]

    def forward(self, clips_BTHWC: Tensor) -> Tensor:
        time.sleep(self.sleep)
        b, t = clips_BTHWC.shape[:2]
        assert clips_BTHWC.dtype == torch.uint8
        x = self.shrink(clips_BTHWC.flatten(0, 1)).unflatten(0, (b, t))[:, :4, :6, :6].float() / 255
        return self.linear(x.flatten(1)) * self.value


def spec(**changes: Any) -> ExtractSpec:
    base: dict[str, Any] = {
        "dataset": "d", "backbone": Plugin(name="tiny"), "dtype": "float32",
        "clip": ClipSpec(length=8, stride=4, policy="native", rate=0),
    }  # fmt: skip
    return ExtractSpec(**{**base, **changes})


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "build", lambda kind, name, settings: Tiny(**settings))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    source = vt.encode(folder / "long.mp4", 90)
    vt.encode(folder / "b.mp4", 37)
    vt.encode(folder / "short.mp4", 5)
    vt.encode(folder / "varying.mp4", 40, times_ms=vt.varying(40))
    vt.cut(source, folder / "cut.mp4", start=1.2)
    vt.text(folder / "page.mp4")
    return folder


@pytest.fixture(scope="module")
def manifest(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("manifest") / "00-of-01.json"
    return probe(videos, out, spec=ProbeSpec(dataset="d"))


def run(manifest: Path, videos: Path, folder: Path, settings: ExtractSpec | None = None, **arguments: Any) -> Path:
    out = folder / "f" / manifest.with_suffix(".h5").name
    kept = folder / "kept"
    return extract(
        manifest, videos, None, out, spec=settings or spec(), cache=kept, device="cpu", workers=2, **arguments
    )


def naive(path: Path, reader: str, indices: list[int] | None, settings: ExtractSpec) -> np.ndarray:
    """Every clip cut out of all frames, one at a time."""
    torch.manual_seed(0)
    model = Tiny(**settings.backbone.settings).eval()
    with open_video(path, reader=reader) as video:
        frames = [frame.image for frame in video]
    frames = frames if indices is None else [frames[k] for k in indices]
    clip = settings.clip
    rows = []
    with torch.inference_mode():
        for k in range(count_clips(len(frames), length=clip.length, stride=clip.stride)):
            which = clip_frames(k, frames=len(frames), length=clip.length, stride=clip.stride)
            rows.append(model(torch.from_numpy(np.stack([frames[w] for w in which]))[None])[0].numpy())
    return np.stack(rows)


class Counting(Tiny):
    """Counts the clips that are computed."""

    clips = 0

    def forward(self, clips_BTHWC: Tensor) -> Tensor:
        Counting.clips += len(clips_BTHWC)
        return super().forward(clips_BTHWC)


def test_a_file_that_has_grown_keeps_the_rows_of_its_first_part(tmp_path: Path) -> None:
    whole = vt.encode(tmp_path / "whole.ts", 300).read_bytes()
    clips = []
    for number, share in enumerate((0.6, 1.0)):
        (tmp_path / "v").mkdir(exist_ok=True)
        (tmp_path / "v/live.ts").write_bytes(whole[: int(len(whole) * share) // 188 * 188])
        manifest = probe(tmp_path / "v", tmp_path / f"{number}/00-of-01.json", spec=ProbeSpec(dataset="d"))
        assert read_json(manifest)["videos"]["live"]["usable"]
        Counting.clips = 0
        grown = run(manifest, tmp_path / "v", tmp_path / "live", backbone=Counting, growing=True)
        clips.append(Counting.clips)
    Counting.clips = 0
    fresh = run(manifest, tmp_path / "v", tmp_path / "fresh", backbone=Counting)
    with FeatureReader(grown) as reader, FeatureReader(fresh) as other:
        np.testing.assert_array_equal(reader.stored("live"), other.stored("live"))
        assert reader.grid("live") == other.grid("live")
        assert len(other.stored("live")) == Counting.clips
    assert 10 < clips[1] < 0.75 * Counting.clips
    changed = bytearray(whole)
    changed[188 * 5 + 100] ^= 1
    (tmp_path / "v/live.ts").write_bytes(bytes(changed) + whole[-188:])
    manifest = probe(tmp_path / "v", tmp_path / "2/00-of-01.json", spec=ProbeSpec(dataset="d"))
    Counting.clips = 0
    again = run(manifest, tmp_path / "v", tmp_path / "live", backbone=Counting, growing=True)
    with FeatureReader(again) as reader:
        assert len(reader.stored("live")) == Counting.clips


def test_rows_are_those_of_a_naive_loop(videos: Path, manifest: Path, tmp_path: Path) -> None:
    known = read_json(manifest)["videos"]
    with FeatureReader(run(manifest, videos, tmp_path)) as reader:
        assert reader.video_ids == ["b", "cut", "long", "short", "varying"]
        assert reader.excluded == {"page": "text, not a video (a failed download?)"}
        assert reader.dim == 6
        for video_id in reader.video_ids:
            wanted = naive(videos / known[video_id]["path"], "pyav", None, spec())
            assert np.allclose(reader.read(video_id), wanted, atol=1e-6)
            grid, facts = reader.grid(video_id), reader.attrs(video_id)
            assert grid.length == len(wanted)
            assert grid.step == pytest.approx(4 / known[video_id]["rate"])
            assert grid.start == pytest.approx((2.5 if video_id == "short" else 4) / known[video_id]["rate"])
            assert grid.duration == known[video_id]["duration"]
            assert facts["padded"] == (video_id == "short")
            assert (facts["sha256"], facts["frames"]) == (known[video_id]["sha256"], known[video_id]["frames"])
            assert (facts["clip_length"], facts["stride"], facts["reader"]) == (8, 4, known[video_id]["reader"])


def test_resampling_goes_by_time(videos: Path, manifest: Path, tmp_path: Path) -> None:
    settings = spec(clip=ClipSpec(length=4, stride=2, policy="resample", rate=10), dtype="float16")
    known = read_json(manifest)["videos"]["varying"]
    times = (np.array(vt.varying(40)) / 1000).tolist()
    indices = resample_indices(times, rate=10, native_rate=known["rate"])
    assert len(indices) == pytest.approx(10 * known["duration"], abs=1)
    with FeatureReader(run(manifest, videos, tmp_path, settings)) as reader:
        wanted = naive(videos / "varying.mp4", "pyav", indices, settings)
        assert reader.stored("varying").dtype == np.float16
        assert np.allclose(reader.read("varying"), wanted, atol=1e-2)
        assert reader.grid("varying").step == pytest.approx(0.2)


def test_same_bytes_again_and_with_one_reader(videos: Path, manifest: Path, tmp_path: Path) -> None:
    first = run(manifest, videos, tmp_path / "1")
    kept = tmp_path / "2" / "kept"
    second = extract(
        manifest, videos, None, tmp_path / "2" / "x.h5", spec=spec(), cache=kept, device="cpu", workers=1, backbone=Tiny
    )
    assert first.read_bytes() == second.read_bytes()
    assert sorted(p.name for p in kept.iterdir()) == ["shard.h5", "warnings.json"]


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_extract as t
if __name__ == "__main__":
    folder = Path(sys.argv[4])
    t.extract(Path(sys.argv[2]), Path(sys.argv[3]), None, folder / "f/00-of-01.h5", spec=t.spec(),
              cache=folder / "kept",
              device="cpu", workers=1, backbone=lambda: t.Tiny(sleep=0.1))
"""


def test_kill_loses_the_video_in_flight_and_no_byte(
    videos: Path, manifest: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "program.py").write_text(PROGRAM)
    program = [sys.executable, str(tmp_path / "program.py"), str(Path(__file__).parent)]
    child = subprocess.Popen([*program, str(manifest), str(videos), str(tmp_path / "k")])
    kept = tmp_path / "k" / "kept"
    while not list(kept.glob("*.part.h5")) and child.poll() is None:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL  # it was still at work
    finished = len(list(kept.glob("*.part.h5")))
    assert 1 <= finished < 5
    assert not (tmp_path / "k/f/00-of-01.h5").exists()
    resumed = run(manifest, videos, tmp_path / "k")
    assert f"{5 - finished} videos to extract, {finished} cached, 1 excluded" in caplog.text
    assert resumed.read_bytes() == run(manifest, videos, tmp_path / "u").read_bytes()
    assert sorted(p.name for p in kept.iterdir()) == ["shard.h5", "warnings.json"]


@pytest.mark.usefixtures("one_thread")  # two would compute both clips side by side, and keep neither
def test_long_names_in_any_script_are_kept_apart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """66 letters of three bytes each are as long as ids may be, and three times that where names are escaped."""
    caplog.set_level(logging.INFO)
    names = ["動" * 65 + last for last in "画像"]
    for frames, name in enumerate(names, 9):
        vt.encode(tmp_path / f"v/{name}.mp4", frames)
    manifest = probe(tmp_path / "v", tmp_path / "00-of-01.json", spec=ProbeSpec(dataset="d"))
    with pytest.raises(RuntimeError, match="killed"):
        run(manifest, tmp_path / "v", tmp_path, backbone=Failing)
    assert len(list((tmp_path / "kept").glob("*.part.h5"))) == 1
    with FeatureReader(run(manifest, tmp_path / "v", tmp_path)) as reader:
        assert reader.video_ids == sorted(names)
        assert [len(reader.read(name)) for name in names] == [1, 1]
    assert "1 videos to extract, 1 cached" in caplog.text


class Failing(Tiny):
    """Computes a clip and fails at the second."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 1

    def forward(self, clips_BTHWC: Tensor) -> Tensor:
        if not self.left:
            raise RuntimeError("killed")
        self.left -= 1
        return super().forward(clips_BTHWC)


def test_added_video_reuses_the_others(
    videos: Path, manifest: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    folder = tmp_path / "v"
    shutil.copytree(videos, folder, ignore=shutil.ignore_patterns("long*"))
    small = probe(folder, tmp_path / "00-of-01.json", spec=ProbeSpec(dataset="d"))
    out = run(small, folder, tmp_path)
    assert "4 videos to extract, 0 cached" in caplog.text
    out.unlink()  # what a workflow does before a job
    shutil.copy(videos / "long.mp4", folder)
    probe(folder, small, spec=ProbeSpec(dataset="d"))
    assert "1 videos to extract, 4 cached" in (run(small, folder, tmp_path), caplog.text)[1]
    assert out.read_bytes() == run(manifest, videos, tmp_path / "whole").read_bytes()
    caplog.clear()
    run(small, folder, tmp_path, spec(clip=ClipSpec(length=8, stride=2, policy="native", rate=0)))
    assert "5 videos to extract, 0 cached" in caplog.text


def test_warnings_about_settings_outlast_a_change_of_the_manifest(
    videos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows that are all cached build no network, which would say it; other settings have other warnings."""
    folder, small = tmp_path / "v", tmp_path / "00-of-01.json"
    shutil.copytree(videos, folder, ignore=shutil.ignore_patterns("long*", "cut*"))
    said = "no weights given; using random weights"
    probe(folder, small, spec=ProbeSpec(dataset="d"))
    run(small, folder, tmp_path)
    assert caplog.text.count(said) == 1
    (folder / "b.mp4").unlink()
    probe(folder, small, spec=ProbeSpec(dataset="d"))
    for _ in range(2):
        caplog.clear()
        run(small, folder, tmp_path)
        assert caplog.text.count(said) == 1
    caplog.clear()
    kept = tmp_path / "kept/warnings.json"
    kept.write_text(kept.read_text().replace(said, "of other settings").replace('"key": "', '"key": "other'))
    run(small, folder, tmp_path)
    assert "of other settings" not in caplog.text


def test_damaged_kept_rows_are_made_again(
    videos: Path, manifest: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    out = run(manifest, videos, tmp_path)
    good = out.read_bytes()
    out.unlink()
    with checksum_tools.edit_h5(tmp_path / "kept/shard.h5") as file:
        file["long/feats"][3, 2] += 1
    caplog.clear()
    assert run(manifest, videos, tmp_path).read_bytes() == good
    assert "1 videos to extract, 4 cached" in caplog.text
    (tmp_path / "kept/shard.h5").write_bytes(good[: len(good) // 2])
    caplog.clear()
    assert run(manifest, videos, tmp_path / ".").read_bytes() == good
    assert "5 videos to extract, 0 cached" in caplog.text


def test_what_is_refused(videos: Path, manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(TadError, match="1 damaged videos, first 'page': text"):
        run(manifest, videos, tmp_path, spec(on_damaged="error"))
    with pytest.raises(TadError, match="dataset='d', expected dataset='e'"):
        run(manifest, videos, tmp_path, spec(dataset="e"))
    with pytest.raises(TadError, match=r"\w+: features contain NaN"):
        run(manifest, videos, tmp_path, spec(backbone=Plugin(name="tiny", settings={"value": 1e300 * 1e10})))
    with pytest.raises(TadError, match="does not fit float16; set dtype: float32"):
        run(manifest, videos, tmp_path, spec(backbone=Plugin(name="tiny", settings={"value": 1e9}), dtype="float16"))
    weights = tmp_path / "r3d_18-b3b3357e.pth"
    weights.write_bytes(b"PK of another file")
    with pytest.raises(TadError, match=r"b3b3357e\.pth: has sha256 \w+, published is one that begins with b3b3357e"):
        extract(
            manifest, videos, weights, tmp_path / "f" / manifest.name, spec=spec(backbone=Plugin(name="r3d_18")),
            cache=tmp_path / "kept",
        )  # fmt: skip
    assert not (tmp_path / "f").exists() or not list((tmp_path / "f").iterdir())


def test_video_that_changed_since_probe_is_refused(videos: Path, manifest: Path, tmp_path: Path) -> None:
    folder = tmp_path / "v"
    shutil.copytree(videos, folder)
    (folder / "b.mp4").unlink()
    with pytest.raises(TadError, match=r"b\.mp4: no such file; run probe again"):
        run(manifest, folder, tmp_path)
    vt.encode(folder / "b.mp4", 44)
    with pytest.raises(TadError, match=r"b\.mp4: has \d+ bytes, but \d+ in its manifest; run probe again"):
        run(manifest, folder, tmp_path)
    document = read_json(manifest)
    document["videos"]["b"]["bytes"] = os.stat(folder / "b.mp4").st_size
    other = write_json(tmp_path / "00-of-01.json", document)
    with pytest.raises(TadError, match=r"b\.mp4: 44 frames, but its manifest states 37; run probe again"):
        run(other, folder, tmp_path)


def test_merge(videos: Path, tmp_path: Path) -> None:
    manifests, shards = [], []
    for k in range(3):
        manifests.append(probe(videos, tmp_path / f"m/{k:02d}-of-03.json", spec=ProbeSpec(dataset="d"), shard=(k, 3)))
        shards.append(
            extract(manifests[k], videos, None, tmp_path / f"r/tiny/{k:02d}-of-03.h5", spec=spec(),
                    cache=tmp_path / f"kept{k}", device="cpu", workers=1)
        )  # fmt: skip
    settings = MergeSpec(dataset="d", features="tiny")
    index = merge(shards, manifests, tmp_path / "r/tiny.h5", spec=settings)
    first = index.read_bytes()
    assert merge(shards[::-1], manifests, index, spec=settings).read_bytes() == first
    shutil.move(tmp_path / "r", tmp_path / "elsewhere")  # links are relative
    with FeatureReader(tmp_path / "elsewhere/tiny.h5") as reader:
        assert reader.video_ids == ["b", "cut", "long", "short", "varying"]
        assert reader.excluded == {"page": "text, not a video (a failed download?)"}
        assert reader.read("long").shape == (21, 6)
    shards = [tmp_path / "elsewhere/tiny" / path.name for path in shards]
    out = tmp_path / "x.h5"
    with pytest.raises(TadError, match="in no shard and not excluded"):
        merge(shards[:2], manifests, out, spec=settings)
    with pytest.raises(TadError, match="in no manifest"):
        merge(shards, manifests[:2], out, spec=settings)
    with pytest.raises(TadError, match=r"contains 'long', but so does"):
        merge([shards[0], shutil.copy(shards[0], tmp_path / "copy.h5")], manifests, out, spec=settings)
    with pytest.raises(TadError, match="1 videos are excluded"):
        merge(shards, manifests, out, spec=MergeSpec(dataset="d", features="tiny", on_damaged="error"))
    vt.encode(tmp_path / "v/long.mp4", 33)
    newer = probe(tmp_path / "v", tmp_path / "m/newer.json", spec=ProbeSpec(dataset="d"), shard=(0, 3))
    with pytest.raises(TadError, match=r"00-of-03\.h5: made from an earlier manifest"):
        merge(shards, [newer, *manifests[1:]], out, spec=settings)
    with pytest.raises(TadError, match="no shards given"):
        merge([], manifests, out, spec=settings)
    other = extract(
        manifests[1],
        videos,
        None,
        tmp_path / "other.h5",
        spec=spec(dtype="float16"),
        cache=tmp_path / "k",
        device="cpu",
    )
    with pytest.raises(TadError, match="made with a different spec"):
        merge([shards[0], other], manifests, out, spec=settings)
    other.write_bytes(other.read_bytes()[:500])
    with pytest.raises(TadError, match=r"other\.h5: (truncated|not a readable)"):
        merge([shards[0], other], manifests, out, spec=settings)
    assert not out.exists()


def test_stages_that_need_no_torch_do_not_import_it() -> None:
    program = "import sys, tad.stages.probe, tad.stages.merge, tad.video.feed; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
