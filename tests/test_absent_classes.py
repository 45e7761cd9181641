"""Classes without an instance begin far below the others, in every head that scores classes; the rest is untouched."""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_detectors import METHODS, SIZES, SMALL, settings
from training_tools import real_spec, run, videos_of, write_inputs

from tad.annotations.table import Instance, Table, Video, read_table, write_table
from tad.provenance.stamps import stamp
from tad.settings import plugins
from tad.stages.train import training_key
from tad.training.data.inputs import label_names
from tad.training.io.tensors import read_tensors
from tad.training.loop.absent_classes import absent_classes, lower_initial_bias

VIDEOS = {
    "a": Video("train", 9.0, (Instance(0, 1, "cut"),)),
    "b": Video("test", 9.0, (Instance(0, 1, "mix"),)),  # counted too: the published detectors look at the whole file
}
TABLE = Table("kitchen", ("cut", "bake", "mix", "fry"), VIDEOS)


def test_a_class_is_absent_if_no_split_shows_it() -> None:
    assert absent_classes(TABLE, label_names(TABLE, class_agnostic=False)) == [1, 3]
    assert absent_classes(TABLE, label_names(TABLE, class_agnostic=True)) == []


@pytest.mark.parametrize("method", METHODS)
def test_absent_classes_begin_lower(method: str) -> None:
    def fresh() -> torch.nn.Module:
        torch.manual_seed(0)
        made: torch.nn.Module = plugins.build(
            "detectors", method, settings(method, **SMALL), **SIZES | {"num_classes": 4}
        )
        return made

    detector, other = fresh(), fresh()
    lower_initial_bias(detector, [])
    assert all(torch.equal(a, b) for a, b in zip(detector.parameters(), other.parameters(), strict=True))
    lower_initial_bias(detector, [1, 3])
    heads = [name for name in ("cls_head", "start_head", "end_head") if hasattr(detector, name)]
    assert len(heads) == (1 if method == "actionformer" else 3)
    for name, value in detector.state_dict().items():
        if name in {f"{head}.cls_head.conv.bias" for head in heads}:
            assert value.tolist() == pytest.approx([-4.595120, -13.815510, -4.595120, -13.815510])
        else:
            assert torch.equal(value, other.state_dict()[name]), name


def test_training_begins_there_and_the_absent_classes_are_part_of_its_key(tmp_path: Path) -> None:
    spec = real_spec("mse", "corrected", lr=1e-12, eta_min=0.0, epochs=1, weight_decay=0.0)
    _, table = write_inputs(tmp_path, videos_of(np.random.default_rng(0), train=4, test=1))
    whole = read_table(table)
    unseen = Table("toy", ("jump", "nowhere", "run"), whole.videos)
    write_table(unseen, table, stamp("annotate", {"dataset": "toy"}, {}))
    tensors, _ = read_tensors(run(tmp_path, spec))
    for head in ("cls_head", "start_head", "end_head"):
        biases = tensors[f"{head}.cls_head.conv.bias"].tolist()
        assert biases == pytest.approx([-4.595120, -13.815510, -4.595120], abs=1e-4)
    assert training_key(spec, ["a"], {}, [0]) != training_key(spec, ["a"], {}, [])
