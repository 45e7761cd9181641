"""Format numbers: every file carries one, and readers refuse unknown ones in one line (files written by the stages)."""

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import checksum_tools
import h5py
import numpy as np
import pytest
import test_sweep
import training_tools as tools
from format_tools import (
    CAN_FLOW,
    EXTRACT,
    INDEX,
    MERGE,
    PROBE,
    Pixels,
    attempt,
    flow_frames,
    pretrain_squares,
    summarise_them,
    sweep_scores,
    write_all,
)  # fmt: skip
from training_tools import train_spec

from tad.annotations.table import read_table
from tad.backbones._weights import read_weights
from tad.commands import show
from tad.commands.stream_choice import read_choice
from tad.core import formats, notices
from tad.core.files import HashCache, read_json, write_json
from tad.core.formats import FORMATS, KEY, OF_STAGE, Change, Format, FormatError
from tad.core.h5 import open_h5
from tad.datasets._any import read_any
from tad.features.class_scores import read_video_scores
from tad.features.export import export_features
from tad.features.facts import SIDECAR, read_sidecar
from tad.features.foreign import FeatureFiles
from tad.features.store import FeatureReader
from tad.metrics.files import read_detections
from tad.provenance.stamps import expect, identity_of, read_stamp, stamp
from tad.provenance.wanted import write_wanted
from tad.settings import plugins
from tad.settings.stage_table import STAGES
from tad.stages.extract import extract
from tad.stages.index import index
from tad.stages.merge import merge
from tad.stages.probe import probe
from tad.stages.suppress import read_candidates
from tad.table.scores import read_score
from tad.training.data import frame_flow
from tad.training.data.inputs import open_features
from tad.training.io.tensors import read_tensors
from tad.weights import store
from tad.workflow.rules import Workflow


def bumped(older: Any = "read") -> dict[str, Format]:
    """The table of a version in which every layout has changed once more."""
    change = Change("rows begin where they end", older)
    return {kind: dataclasses.replace(one, changes=(*one.changes, change)) for kind, one in FORMATS.items()}


@pytest.fixture(scope="module")
def present(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of this version."""
    return write_all(tmp_path_factory.mktemp("present"))


Reader = Callable[[Path], Any]


def opened(name: str) -> Reader:
    return lambda folder: FeatureReader(folder / name).__enter__()


def rows(name: str) -> Reader:
    """Rows behind the links of an index."""

    def read(folder: Path) -> None:
        with FeatureReader(folder / name) as reader:
            reader.stored("a")

    return read


def retrained(folder: Path, *, epochs: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plugins, "build", tools.use_tiny)
        tools.run(folder, train_spec(epochs=epochs))


def repretrained(folder: Path, *, epochs: int) -> None:
    place = folder / "squares"
    paths = {"annotations": place / "annotations.json", "manifests": [place / "00-of-01.json"], "videos_folder": place}
    pretrain_squares(paths, folder, epochs=epochs)


def reprobed(folder: Path) -> None:
    probe(folder / "videos", folder / "out.json", spec=PROBE, cache=folder / "kept" / "manifest.json")


def extracted(folder: Path) -> None:
    manifest = probe(folder / "videos", folder / "out.json", spec=PROBE)
    extract(
        manifest, folder / "videos", None, folder / "out.h5", spec=EXTRACT, cache=folder / "rows", workers=1,
        backbone=Pixels,
    )  # fmt: skip


def swept(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plugins, "load", test_sweep.tiny_loader)
        sweep_scores(folder)


def downloaded(folder: Path) -> None:
    with open(folder / "w.pt.partial", "r+b") as file:
        attempt(folder, file)._validator()


def rendered(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        values: dict[str, Any] = {"datasets": {"demo": {}}, "features": {}, "runs": {}}
        Workflow(values, folder, folder / "none.json").videos._rendered("demo")


MODEL = "out/model.safetensors"
READERS: list[tuple[str, str, Reader]] = [
    ("annotations", "toy.json", lambda f: read_table(f / "toy.json")),
    ("annotations", "toy.json", lambda f: read_any(f / "toy.json")),
    ("annotations", "toy.json", lambda f: expect(f / "toy.json", stage="annotate")),
    ("manifest", "00-of-01.json", lambda f: identity_of(f / "00-of-01.json")),
    ("manifest", "00-of-01.json", lambda f: index([f / "00-of-01.json"], f / "videos", f / "out.h5", spec=INDEX)),
    ("manifest", "00-of-01.json", lambda f: merge([f / "shard.h5"], [f / "00-of-01.json"], f / "o.h5", spec=MERGE)),
    ("manifest", "manifest.json", reprobed),
    ("encoder", "backbone-1.safetensors", lambda f: read_stamp(f / "backbone-1.safetensors")),
    ("encoder", "backbone-1.safetensors", lambda f: read_weights(f / "backbone-1.safetensors")),
    ("features", "shard.h5", opened("shard.h5")),
    ("features", "shard.h5", lambda f: read_stamp(f / "shard.h5")),
    ("features", "rows/shard.h5", extracted),
    ("features", "shard.h5", rows("clips.h5")),
    ("features", "clips.h5", opened("clips.h5")),
    ("features", "clips.h5", lambda f: export_features(f / "clips.h5", f / "new", file_format="npy")),
    ("features", "clips.h5", lambda f: FeatureFiles(f / "clips.h5")),
    ("features", "two.h5", opened("two.h5")),
    ("features", "shard.h5", rows("two.h5")),
    ("features", "f.h5", lambda f: open_features(f / "f.h5").__enter__()),
    ("frames-index", "frames.h5", lambda f: open_features(f / "frames.h5", "rgb")),
    ("frames-index", "frames.h5", lambda f: expect(f / "frames.h5", stage="index")),
    ("model", MODEL, lambda f: read_tensors(f / MODEL)),
    ("model", MODEL, lambda f: read_stamp(f / MODEL)),
    ("candidates", "candidates.h5", lambda f: read_candidates(f / "candidates.h5")),
    ("candidates", "candidates.h5", lambda f: expect(f / "candidates.h5", stage="detect")),
    ("video-scores", "videos.json", lambda f: read_video_scores(f / "videos.json", [])),
    ("detections", "detections.json", lambda f: read_detections(f / "detections.json")),
    ("detections", "detections.json", lambda f: read_json(f / "detections.json")),
    ("score", "map.json", lambda f: read_score(f / "map.json")),
    ("score", "map.json", lambda f: list(show.show_score(f / "map.json"))),
    ("score", "seed-0.json", lambda f: summarise_them(f, f / "new.json")),
    ("score", "mean.json", lambda f: read_score(f / "mean.json")),
    ("diagnosis", "diagnosis.json", lambda f: list(show.show_diagnosis(f / "diagnosis.json"))),
    ("training-state", "state.safetensors", lambda f: retrained(f, epochs=2)),
    ("trained-weights", ".safetensors", lambda f: retrained(f, epochs=1)),
    ("encoder-state", "state.safetensors", lambda f: repretrained(f, epochs=2)),
    ("encoder-receipt", "finished.json", lambda f: repretrained(f, epochs=1)),
    ("encoder-epochs", "epochs.json", lambda f: read_json(f / "encoder-1" / "epochs.json")),
    ("sweep", "scores.json", swept),
    ("stream", "stream.json", lambda f: read_choice(f / "stream.json")),
    ("export", SIDECAR, lambda f: read_sidecar(f / "npy")),
    ("export", SIDECAR, lambda f: FeatureFiles(f / "npy")),
    ("export", "features.h5", lambda f: FeatureFiles(f / "hdf5" / "features.h5")),
    ("pins", "pins.json", lambda f: store.read_pins(f / "weights")),
    ("download", "w.pt.partial.json", downloaded),
    ("wanted", "wanted.json", lambda f: write_wanted(f / "wanted.json", {}, {})),
    ("demo-data", "dataset.json", rendered),
]
if CAN_FLOW:
    READERS += [
        ("frame-flow", "flow.flow", lambda f: flow_read(f)),
        ("frame-flow", "flow.flow", lambda f: flow_indexed(f)),
    ]


def flow_read(folder: Path) -> None:
    (path,) = (folder / "flow.flow").glob("*.npy")
    frame_flow.read_flow(path, length=len(np.load(path)), frames=flow_frames())


def flow_indexed(folder: Path) -> None:
    moving = INDEX.model_copy(update={"features": "flow", "frames": flow_frames()})
    manifest = probe(folder / "videos", folder / "out.json", spec=PROBE)
    index([manifest], folder / "videos", folder / "flow.h5", spec=moving)


def summary(case: Any) -> str:
    return case if isinstance(case, str) else ""


@pytest.mark.parametrize(("kind", "file", "read"), READERS, ids=summary)
def test_a_newer_number_is_refused_in_one_line(
    present: Path, tmp_path: Path, kind: str, file: str, read: Reader
) -> None:
    folder = shutil.copytree(present, tmp_path / "copy")
    for path in written(folder):
        if file in str(path) and kind_of(path) == kind:
            renumber(path, mark_of=kind, number=FORMATS[kind].number + 1)
    with pytest.raises(FormatError) as caught:
        read(folder)
    said = str(caught.value)
    assert "\n" not in said
    assert file in said.partition(": ")[0]
    layout = FORMATS[kind]
    assert f": {layout.called} of format {layout.number + 1}, but this version reads format" in said
    assert said.endswith(f"; update tad, or {layout.remedy}")


ELSEWHERE = {"frame-flow", "release", "onnx"}  # written and read by test_frame_flow, test_release and test_graph


def test_every_kind_has_a_reader_in_the_table() -> None:
    shown = {kind for kind, _, _ in READERS} | {"hashes", "warnings"}  # these two are ignored, with a line in the log
    assert shown | ELSEWHERE == set(FORMATS)
    assert set(OF_STAGE) <= set(STAGES)
    assert set(OF_STAGE.values()) <= set(FORMATS)


def test_warnings_of_a_newer_number_are_ignored_with_one_line(
    present: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shutil.copytree(present / "weights", tmp_path / "copy")
    (stored,) = (folder / notices.FOLDER).iterdir()
    assert notices.read(folder / "w.pt") == {str(present / "weights" / "w.pt"): ["no checksum is published"]}
    renumber(stored, mark_of="warnings", number=FORMATS["warnings"].number + 1)
    assert notices.read(folder / "w.pt") == {}
    assert f"{stored}: warnings of a stage of format 2, but this version reads format 1" in caplog.text


def header_of(path: Path) -> dict[str, Any]:
    """What a file says at its top, stamp included."""
    if path.suffix == ".json":
        value = read_json(path)
        return value | value.get("stamp", {}) if isinstance(value, dict) else {}
    if path.suffix == ".h5":
        with open_h5(path) as file:
            attributes = dict(file.attrs)
    else:
        attributes = read_tensors(path)[1]
    return attributes | json.loads(attributes.get("tad_stamp", attributes.get("tad_features", "{}")))


STAMPS = ("tad_stamp", "tad_features")
CACHES = ("manifest.json", "rows/shard.h5", "state.safetensors")
FOREIGN = {"annotations.json"}  # in ActivityNet's format, from the renderer of the demo


def written(folder: Path) -> Iterator[Path]:
    for path in (file for suffix in ("h5", "json", "safetensors") for file in folder.rglob(f"*.{suffix}")):
        if path.name not in FOREIGN or "data" not in path.parts:
            yield path


def kind_of(path: Path) -> str:
    return str(header_of(path).get(KEY, "")).partition(" ")[0]


def test_every_file_carries_the_number_of_its_kind(present: Path) -> None:
    kinds = set()
    for path in written(present):
        if path.parent.name == "squares":
            continue  # a test wrote them
        kind, _, number = str(header_of(path)[KEY]).partition(" ")
        assert int(number) == FORMATS[kind].number, path
        kinds.add(kind)
    assert kinds | ELSEWHERE == set(FORMATS)
    results = read_json(present / "detections.json")  # other tools read it as ActivityNet's format
    assert {"version", "results", "external_data"} <= set(results)


def renumber(path: Path, *, mark_of: str = "", number: int = 0) -> None:
    """Give a file another number, or none: what it was before there were numbers."""

    def changed(holder: dict[str, Any]) -> dict[str, Any]:
        bare = {key: value for key, value in holder.items() if key not in (KEY, "" if number else "tad_checksum")}
        return bare | {KEY: f"{mark_of} {number}"} if number and KEY in holder else bare

    def changed_text(holder: dict[str, str]) -> dict[str, str]:
        stamps = {name: json.dumps(changed(json.loads(holder[name]))) for name in STAMPS if name in holder}
        return changed(holder) | stamps

    if path.suffix == ".json":
        value = changed(json.loads(path.read_text()))
        path.write_text(json.dumps(value | ({"stamp": changed(value["stamp"])} if "stamp" in value else {})))
    elif path.suffix == ".h5":
        with h5py.File(checksum_tools.unseal(path), "a") as file:
            for name, text in changed_text(dict(file.attrs)).items():
                file.attrs[name] = text
    else:
        content = path.read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:end])
        head = json.dumps(header | {"__metadata__": changed_text(header["__metadata__"])}).encode()
        path.write_bytes(len(head).to_bytes(8, "little") + head + content[end:])
    if number:
        checksum_tools.reseal(path)


@pytest.fixture
def unnumbered(present: Path, tmp_path: Path) -> Path:
    """The files as they were before there were numbers."""
    folder = shutil.copytree(present, tmp_path / "unnumbered")
    for path in written(folder):
        renumber(path)
    return folder


def test_files_from_before_the_numbers_are_read_as_number_one(
    unnumbered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {kind: dataclasses.replace(one, changes=()) for kind, one in FORMATS.items()}
    monkeypatch.setattr(formats, "FORMATS", first)  # where number one is still read
    for path in written(unnumbered):
        assert KEY not in header_of(path), path
    for _, _, read in READERS:
        read(unnumbered)


@pytest.mark.parametrize(("kind", "file", "read"), READERS, ids=summary)
def test_an_older_layout_is_refused_with_what_changed_and_an_older_cache_is_replaced(
    present: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any, kind: str, file: str, read: Reader
) -> None:
    folder = shutil.copytree(present, tmp_path / "copy")
    table = bumped("refused")
    monkeypatch.setattr(formats, "FORMATS", {**FORMATS, kind: table[kind]})
    layout, last = FORMATS[kind], FORMATS[kind].number
    change = f"{layout.called} of format {last}, but this version reads format {last + 1} (since {last + 1}: rows"
    if file in CACHES:
        read(folder)
        assert change in caplog.text
        return
    with pytest.raises(FormatError) as caught:
        read(folder)
    assert change in (said := str(caught.value))
    assert said.startswith(str(folder)) or file == "dataset.json", said
    assert said.endswith(f"; {layout.remedy}")


@pytest.mark.parametrize("kind", [kind for kind, layout in FORMATS.items() if layout.oldest > 1])
def test_a_file_without_a_number_is_refused_where_number_one_is(kind: str) -> None:
    with pytest.raises(FormatError, match="of format 1, but this version reads format") as caught:
        formats.check({}, Path("x"), kind=kind)
    assert FORMATS[kind].changes[FORMATS[kind].oldest - 2].what in str(caught.value)


@pytest.mark.parametrize("number", ["0", "-1", "1.0", "two", "", "²", "manifest"])
def test_what_is_no_number_is_refused(tmp_path: Path, number: str) -> None:
    path = write_json(tmp_path / "m.json", {KEY: f"manifest {number}"})
    with pytest.raises(FormatError, match=r"m.json: manifest of format .*update tad, or remove it and run probe again"):
        read_json(path)


@pytest.mark.parametrize("value", ["holograms 1", "1", 1, None, ["manifest", 1]])
def test_an_unknown_kind_is_refused(tmp_path: Path, value: Any) -> None:
    path = write_json(tmp_path / "m.json", {KEY: value})
    with pytest.raises(FormatError, match=r"m.json: tad_format is .*, which this version does not know; update tad"):
        read_json(path)


def test_another_kind_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "pins.json", formats.mark("sweep"))
    with pytest.raises(FormatError, match=r"pins.json: holds scores of a sweep, not list of pinned weights; remove it"):
        store.read_pins(tmp_path)


def test_a_file_that_is_older_than_number_one_is_refused(tmp_path: Path) -> None:
    made = {k: v for k, v in stamp("annotate", {"dataset": "d"}, {}).items() if k != KEY}
    write_json(tmp_path / "d.json", {"stamp": made, "dataset": "d", "videos": {}, "excluded": {}})
    with pytest.raises(FormatError, match="annotation table without a format number and without 'labels', so older"):
        read_table(tmp_path / "d.json")


def test_a_cache_of_hashes_is_made_again_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_json(tmp_path / "hashes.json", {KEY: "hashes 7", "a": [1, 2, 3, 4, "5"]})
    with caplog.at_level(logging.WARNING):
        assert HashCache(path).entries == {}
    assert "cache of content hashes of format 7, but this version reads format 1; update tad" in caplog.text
    assert len(caplog.records) == 1
