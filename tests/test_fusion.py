"""Late fusion: raw outputs of two runs are averaged location by location and decoded once."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import training_tools as tools
from test_afsd import small as afsd
from test_config import values
from test_detectors import DETECT, FACES, feats
from test_detectors import small as point_detector
from test_windows_stages import afsd_spec
from training_tools import videos_of, write_inputs

from tad.core.errors import TadError
from tad.layers.fusion import fused, mean_of
from tad.provenance.stamps import read_stamp
from tad.settings.config import Config
from tad.settings.stages import DetectSpec, DetectStageSpec, FusedSpec
from tad.stages.detect import detect
from tad.workflow.rules import Workflow


def test_means_of_whatever_detectors_say() -> None:
    one, other = ({"a": [torch.tensor([x, 2.0])], "m": torch.tensor([True])} for x in (1.0, 3.0))
    both = mean_of([one, other])
    assert both["a"][0].tolist() == [2.0, 2.0]
    assert both["m"].tolist() == [True]
    with pytest.raises(TadError, match=r"shapes \(2,\) and \(3,\)"):
        mean_of([torch.zeros(2), torch.zeros(3)])
    with pytest.raises(TadError, match="1 and 2 levels"):
        mean_of([[torch.zeros(2)], [torch.zeros(2)] * 2])
    with pytest.raises(TadError, match="different detectors"):
        mean_of([one, [torch.zeros(2)]])


@pytest.mark.parametrize(("method", "face"), [*FACES, ("afsd", "parity"), ("afsd", "corrected")])
def test_a_detector_fused_with_itself_changes_nothing(method: str, face: str) -> None:
    detector = (afsd(face) if method == "afsd" else point_detector(method, face)).eval()
    lengths = (50, 64, 0) if method == "afsd" else (50, 130, 0)
    x_BTC, lengths_B = feats(*lengths)
    raw = detector.raw(x_BTC, lengths_B)
    twice = detector.decode_candidates(fused([raw, raw], detector), 3, **DETECT)
    for ours, alone in zip(twice, detector.candidates(x_BTC, lengths_B, **DETECT), strict=True):
        torch.testing.assert_close(ours.segments_N2, alone.segments_N2)
        torch.testing.assert_close(ours.scores_N, alone.scores_N)
        assert torch.equal(ours.labels_N, alone.labels_N)
    assert len(twice[0].scores_N) > 2
    other = [replace(part, rows=part.rows[::-1]) for part in raw]
    if any(len(part.rows) > 1 for part in raw):
        with pytest.raises(TadError, match="pad videos differently"):
            fused([raw, other], detector)


@pytest.mark.parametrize("face", ["parity", "corrected"])
def test_geometric_means_of_the_decoded_borders(face: str) -> None:
    """By hand, point by point [the reference, A.9]: both networks are decoded, moved into the window, multiplied."""
    one, other = (afsd(face).eval() for _ in range(2))
    torch.manual_seed(9)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    x_BTC, lengths_B = feats(64)
    raws = [detector.raw(x_BTC, lengths_B) for detector in (one, other)]
    keep_all = {"score_threshold": 0.0, "topk": 10_000, "min_length": -1.0}
    (found,) = one.decode_candidates(fused(raws, one, borders="geometric"), 1, **keep_all)
    said = [{name: value[0].tolist() for name, value in raw[0].outputs.items()} for raw in raws]
    expected, shift, p = [], 0.5 * (face == "corrected"), 0
    for count in (64, 32, 16, 8, 4, 2):
        for c in range(count):
            ends, centre = [], (c + 0.5) * 128 / count
            for network in said:
                (left, right), (a, b) = network["distances_P2"][p], network["offsets_P2"][p]
                half = (left + right) / 2
                ends.append([min(max(x, 0), 128) for x in (centre - left - half * a, centre + right + half * b)])
            segment = [math.sqrt(s * t) / 2 - shift for s, t in zip(*ends, strict=True)]
            rows = [np.mean([n[name][p] for n in said], axis=0) for name in ("logits_PK", "refined_PK")]
            classes = sum(np.exp(row) / np.exp(row).sum() for row in rows)[1:] / 2
            quality = 1 / (1 + math.exp(-np.mean([network["quality_P"][p] for network in said])))
            expected += [(*segment, score * quality, k) for k, score in enumerate(classes)]
            p += 1
    assert len(found.scores_N) == len(expected) == 3 * 126
    columns = found.segments_N2[:, 0], found.segments_N2[:, 1], found.scores_N, found.labels_N
    ours = sorted(zip(*(c.tolist() for c in columns), strict=True), key=lambda row: (row[3], row[2]))
    expected.sort(key=lambda row: (row[3], row[2]))
    assert np.allclose(np.array(ours), np.array(expected), rtol=2e-4, atol=2e-3)
    (plain,) = one.decode_candidates(fused(raws, one), 1, **keep_all)
    assert not torch.allclose(plain.segments_N2, found.segments_N2, atol=0.05)


def test_geometric_borders_are_for_detectors_that_have_them() -> None:
    detector = point_detector("mse", "parity").eval()
    raw = detector.raw(*feats(50))
    with pytest.raises(TadError, match=r"detect\.fuse_borders: geometric: this detector averages offsets only"):
        fused([raw, raw], detector, borders="geometric")
    with pytest.raises(TadError, match=r"runs\.one\.detect\.fuse_borders: 'geometric': .*; choose offsets"):
        config(one_detect={"fuse": "two", "fuse_borders": "geometric"}).spec("train", run="one")


# -- the stage ---------------------------------------------------------------------------------------------------------


def fused_spec(**changes: Any) -> DetectStageSpec:
    spec = tools.detect_spec(window_stride=4, score_threshold=0.01, fuse="other", **changes)
    other = FusedSpec(run="other", features="f", detector=afsd_spec().detector)
    return spec.model_copy(update={"detector": afsd_spec().detector, "fused": other})


def candidates(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {name: file[name][:] for name in ("segments", "scores", "labels")}


def test_two_runs_are_detected_as_one(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 4)):
        write_inputs(tmp_path / name, videos_of(np.random.default_rng(0)))
        spec = afsd_spec(window_stride=8, batch_size=8).model_copy(update={"seed": seed})
        tools.run(tmp_path / name, spec, seconds=1000)

    def run(first: str, spec: DetectStageSpec, second: str = "") -> Path:
        other = (tmp_path / second / "out/model.safetensors", tmp_path / second / "f.h5") if second else None
        inputs = [tmp_path / first / name for name in ("f.h5", "out/model.safetensors", "toy.json")]
        return detect(*inputs, tmp_path / f"{first}{second}.h5", spec=spec, fused=other)

    spec = fused_spec(batch_size=2)
    plain = spec.model_copy(update={"fused": None})
    alone = [candidates(run(name, plain)) for name in "ab"]
    both, again = candidates(run("a", spec, "b")), candidates(run("b", spec, "a"))
    assert set(read_stamp(tmp_path / "ab.h5")["inputs"]) >= {"fused model", "fused features"}
    assert all(np.array_equal(both[key], again[key]) for key in both)
    itself = candidates(run("a", spec, "a"))
    assert all(np.array_equal(itself[key], alone[0][key]) for key in itself)
    assert not np.array_equal(both["scores"][:20], alone[0]["scores"][:20])
    with pytest.raises(TadError, match=r"detect\.fuse is 'other', but no model to fuse"):
        run("a", spec)
    with pytest.raises(TadError, match=r"detect\.fuse.* but a model to fuse is given"):
        run("a", plain, "b")
    shifted = tmp_path / "c"
    write_inputs(shifted, videos_of(np.random.default_rng(1)))
    (shifted / "out").mkdir()
    (shifted / "out/model.safetensors").write_bytes((tmp_path / "b/out/model.safetensors").read_bytes())
    with pytest.raises(TadError, match=r"video 'test_7' is missing or has another time grid.*same clips"):
        run("a", spec, "c")


# -- config and workflow -----------------------------------------------------------------------------------------------


def config(**changes: Any) -> Config:
    tree = values()
    tree["runs"]["two"] = {**tree["runs"]["one"]}
    tree["runs"]["one"] = {**tree["runs"]["one"], "detect": {"fuse": "two"}}
    for path, value in changes.items():
        run, _, key = path.partition("_")
        tree["runs"][run][key] = value
    return Config(tree)


def test_the_settings_and_files_of_the_other_run() -> None:
    both = config()
    spec = both.spec("detect", run="one")
    assert spec.fused is not None
    assert (spec.fused.run, spec.fused.features) == ("two", both.run("two").features)
    assert both.spec("detect", run="two").fused is None
    flow = Workflow.__new__(Workflow)
    flow.config = both
    flow.features_of = lambda wildcards: f"features of {wildcards.run}"  # type: ignore[method-assign]
    asked = SimpleNamespace(run="one")
    assert flow.fused_models(asked) == ["results/two/model.safetensors"]
    assert flow.fused_features(asked) == ["features of two"]
    assert flow.fused_models(SimpleNamespace(run="two")) == []


def test_seeds_are_fused_one_by_one() -> None:
    both = config(one_seeds=2, two_seeds=2)
    assert both.spec("detect", run="one/seed-1").fused.run == "two/seed-1"
    assert config(one_seeds=2).spec("detect", run="one/seed-1").fused.run == "two"
    for changes, said in [
        ({"two_seeds": 2}, "has 2 seeds; give this run as many"),
        ({"one_detect": {"fuse": "one"}}, "name another run of"),
        ({"two_detect": {"fuse": "one"}}, "is fused itself"),
        ({"one_detect": {"fuse": "three"}}, "runs has no 'three'"),
    ]:
        with pytest.raises(TadError, match=said):
            config(**changes)


def test_outputs_in_other_units_are_not_averaged() -> None:
    afsd = {"name": "afsd", "face": "corrected", "upsample": 4}
    for theirs, said in [
        ({"name": "mse"}, "its detector is mse, this run's afsd"),
        (afsd | {"upsample": 2}, "its detector has upsample 2, this run's 4"),
        (afsd | {"face": "parity"}, "its detector has correction aligned False, this run's True"),
        (afsd | {"strides": [1.0] * 5, "regression_ranges": [[0, 9]] * 5}, "its detector has levels 5, this run's 6"),
    ]:
        with pytest.raises(TadError, match=rf"runs\.one\.detect\.fuse: two: {said}.*make these settings equal"):
            config(one_detector=afsd, two_detector=theirs)
    assert config(one_detector=afsd | {"name": "gaf"}, two_detector=afsd).spec("detect", run="one").fused.run == "two"


def test_borders_of_one_network_have_no_mean() -> None:
    with pytest.raises(ValueError, match="fuse_borders geometric needs fuse"):
        DetectSpec(score_threshold=0.1, topk=5, min_length=0.0, fuse_borders="geometric")
