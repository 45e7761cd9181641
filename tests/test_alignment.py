"""A flash at a known frame, through every recipe: exactly the rows whose clips hold it change, and by the grid's
seconds they are the right ones to within a frame. And rows that stream by equal those of a naive loop, bit for bit."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from backbone_tools import SMALL

from tad.backbones import videomae, vjepa2, vjepa2_1
from tad.core.device import threads_of_network
from tad.core.files import read_json, write_json
from tad.features.store import FeatureReader
from tad.settings import plugins, recipes
from tad.settings.resolved import component_sections
from tad.settings.stages import ClipSpec, ExtractSpec, Plugin, ProbeSpec
from tad.stages.extract import extract
from tad.stages.probe import probe
from tad.video.clips import clip_frames, count_clips, resample
from tad.video.reader import av, open_video

NATIVE = {0.0: 30, 3.75: 30, 7.5: 30, 12.5: 25, 15.0: 30, 25.0: 50, 30.0: 60}  # a recipe's rate → the file's
SLOW = {"mvit_v2_s"}
# the same backbone with other views or rates, or many seconds of one more backbone
WIDE = {"activitynet13-i3d", "activitynet13-tsp", "hacs-slowfast", "mvit_v2_s", "thumos14-i3d-resize"}
WIDE |= {"thumos14-i3d-ten_crop"}
WIDTH, HEIGHT = 64, 48
# transnetv2 sees 50 frames beyond a clip on either side, by design (its windows have a test of their own); blazepose is
# a model file without random weights; it and the image encoders have the frames of efficientnet_lite0
APART = {"transnetv2", "blazepose", "timm_image", "transformers_image", "image_text"}
RECIPES = {recipes.recipe(name).backbone for name in recipes.names()}
OTHERS = sorted(set(plugins.names("backbones")) - RECIPES - APART)


class Case(NamedTuple):
    """A backbone with all its settings and its clips."""

    name: str
    backbone: str
    settings: dict[str, Any]
    clip: ClipSpec

    @property
    def native(self) -> int:
        """Frames per second of the test's files."""
        return NATIVE.get(self.clip.rate) or round(2 * self.clip.rate)

    @property
    def each(self) -> int:
        """Frames of the file per frame of a clip."""
        return round(self.native / self.clip.rate) if self.clip.rate else 1

    @property
    def flashes(self) -> list[int]:
        """Frames (at the recipe's rate) on either side of where the second clip begins and the first ends."""
        clip = self.clip
        return sorted({clip.stride - 1, clip.stride, clip.length - 1, clip.length})

    @property
    def frames(self) -> int:
        """Frames of a file with two clips."""
        return self.each * (self.clip.length + self.clip.stride)

    def path(self, flash: int | None) -> str:
        """The file with the flash at that frame (at the recipe's rate); without one for None."""
        return f"{self.native}fps-{self.frames}-{self.each}-{'plain' if flash is None else flash}"

    def spec(self) -> ExtractSpec:
        """What extract is told."""
        backbone = Plugin(name=self.backbone, settings=self.settings)
        return ExtractSpec(dataset="d", backbone=backbone, clip=self.clip, dtype="float32")


def named(name: str) -> Case:
    """A recipe by name, or a backbone as its YAML has it."""
    if name in recipes.names():
        recipe = recipes.recipe(name)
        return Case(name, recipe.backbone, recipe.settings | SMALL[recipe.backbone], recipe.clip)
    document = component_sections("backbones", name)
    return Case(name, name, document["settings"] | SMALL.get(name, {}), ClipSpec(**document["clip"]))


CASES = [
    pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW) + [pytest.mark.wide] * (n in WIDE))
    for n in [*recipes.names(), *OTHERS]
]


@pytest.fixture(scope="module", autouse=True)
def _small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(videomae.SIZES, "small", (24, 3, 4))
        patch.setitem(vjepa2.SIZES, "large", (24, 3, 4, 4.0))
        patch.setitem(vjepa2_1.SIZES, "base", vjepa2_1.Size(24, 3, 4, 96))
        yield


def needs(backbone: str) -> None:
    """Skip where an optional package is not installed."""
    if backbone in ("videomae", "vjepa2", "vit_tiny"):
        pytest.importorskip("transformers", reason="the extra `modern` is not installed")
    if backbone == "i3d":
        pytest.importorskip("cv2", reason="the extra `flow` is not installed")


def lossless(path: Path, frames: int, *, rate: int, white: range) -> None:
    """A noisy picture that drifts by a pixel a frame, stored without loss, so that a flash stays in its own frames."""
    noise = np.random.default_rng(0).integers(0, 160, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"qp": "0", "g": "12"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv444p"
        stream.codec_context.thread_count = 1
        for number in range(frames):
            image = np.full_like(noise, 255) if number in white else np.roll(noise, number, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """All files of all cases, and their manifest."""
    folder = tmp_path_factory.mktemp("flashes")
    for case in [named(name) for name in [*recipes.names(), *OTHERS]]:
        for flash in (None, *case.flashes):
            path = folder / f"{case.path(flash)}.mp4"
            white = range(0) if flash is None else range(case.each * flash, case.each * (flash + 1))
            if not path.exists():
                lossless(path, case.frames, rate=case.native, white=white)
    manifest = probe(folder, tmp_path_factory.mktemp("manifest") / "00-of-01.json", spec=ProbeSpec(dataset="d"))
    return folder, read_json(manifest)


class Found(NamedTuple):
    """What extract made of a case: video → rows and grid; and where its files lie."""

    case: Case
    rows: dict[str, tuple[np.ndarray, Any]]
    folder: Path
    entries: dict[str, Any]


@pytest.fixture(scope="module", params=CASES)
def found(request: Any, videos: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Features of the videos of a case, through `extract` with random weights."""
    case, (source, document), folder = named(request.param), videos, tmp_path_factory.mktemp("features")
    needs(case.backbone)
    wanted = [case.path(flash) for flash in (None, *case.flashes)]
    entries = {name: document["videos"][name] for name in wanted}
    write_json(folder / "00-of-01.json", document | {"videos": entries})
    out = extract(
        folder / "00-of-01.json", source, None, folder / "00-of-01.h5", spec=case.spec(), cache=folder / "kept",
        device="cpu", workers=1,
    )  # fmt: skip
    with FeatureReader(out) as reader:
        return Found(case, {name: (reader.read(name), reader.grid(name)) for name in wanted}, source, entries)


def check(rows: np.ndarray, plain: np.ndarray, grid: Any, case: Case, flash: int, *, seen: int) -> None:
    """Rows change where their clips, of `seen` frames, hold the flash, and the grid's seconds say the same ±1 frame."""
    rate = case.clip.rate or case.native
    changed = [bool((a != b).any()) for a, b in zip(rows, plain, strict=True)]
    assert changed == [k * case.clip.stride <= flash < k * case.clip.stride + seen for k in range(len(rows))]
    half = case.settings.get("stream_length", case.clip.length) / 2
    for k, is_changed in enumerate(changed):
        frames_away = abs((flash + 0.5) / rate - grid.to_seconds(k)) * rate
        assert frames_away <= half + 1 if is_changed else frames_away >= half - 1


def test_a_flash_changes_the_rows_whose_clips_hold_it(found: Found) -> None:
    case = found.case
    plain, _ = found.rows[case.path(None)]
    assert len(plain) == 2
    for flash in case.flashes:
        rows, grid = found.rows[case.path(flash)]
        if case.backbone == "i3d":  # RGB sees its 16 frames; flow the 17 that its 16 fields lie between
            check(rows[:, :1024], plain[:, :1024], grid, case, flash, seen=16)
            check(rows[:, 1024:], plain[:, 1024:], grid, case, flash, seen=17)
        else:
            check(rows, plain, grid, case, flash, seen=case.clip.length)


def naive(case: Case, path: Path, entry: dict[str, Any]) -> np.ndarray:
    """All frames in memory, each window cut out of them by itself, one after another through the whole backbone."""
    torch.manual_seed(0)
    model = plugins.build("backbones", case.backbone, case.settings).eval()
    with open_video(path, reader=entry["reader"]) as video:
        timed = [(frame.time, frame.image) for frame in video]
    if case.clip.rate:
        frames = list(resample(timed, rate=case.clip.rate, native_rate=entry["rate"]))
    else:
        frames = [image for _, image in timed]
    clip, rows = case.clip, []
    with torch.inference_mode(), threads_of_network(torch.device("cpu"), case.spec().network.threads):
        for k in range(count_clips(len(frames), length=clip.length, stride=clip.stride)):
            which = clip_frames(k, frames=len(frames), length=clip.length, stride=clip.stride)
            rows.append(model(torch.from_numpy(np.stack([frames[w] for w in which]))[None])[0].float().numpy())
    return np.stack(rows)


def test_rows_that_stream_by_are_those_of_a_naive_window_loop_bit_for_bit(found: Found) -> None:
    case = found.case
    name = case.path(case.flashes[0])
    rows, _ = found.rows[name]
    assert np.array_equal(rows, naive(case, found.folder / f"{name}.mp4", found.entries[name]))
