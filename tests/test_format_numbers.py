"""How format numbers rise, and what an unknown stage writes."""

import dataclasses
from pathlib import Path

import pytest

from tad.core import formats
from tad.core.files import read_json, write_json
from tad.core.formats import FORMATS, KEY, Change, FormatError
from tad.provenance.stamps import stamp


def test_a_number_rises_by_one_with_each_change_and_is_no_part_of_an_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    before = stamp("probe", {"dataset": "d"}, {})
    changes = (Change("start offsets", "read"), Change("causes are lists"), Change("hashes of audio", "read"))
    layout = dataclasses.replace(FORMATS["manifest"], changes=changes)
    assert (layout.number, layout.oldest) == (4, 3)
    monkeypatch.setattr(formats, "FORMATS", {**FORMATS, "manifest": layout})
    after = stamp("probe", {"dataset": "d"}, {})
    assert (before[KEY], after[KEY]) == (f"manifest {FORMATS['manifest'].number}", "manifest 4")
    assert {**before, KEY: ""} == {**after, KEY: ""}
    for number in (3, 4):
        formats.check({KEY: f"manifest {number}"}, Path("m.json"))
    with pytest.raises(FormatError, match=r"of format 2, but this version reads formats 3 to 4 \(since 3: causes are"):
        formats.check({KEY: "manifest 2"}, Path("m.json"))
    with pytest.raises(FormatError, match="of format 5, but this version reads formats 3 to 4; update tad, or remove"):
        formats.check({KEY: "manifest 5"}, Path("m.json"))


def test_a_stage_that_the_table_does_not_know_has_number_one(tmp_path: Path) -> None:
    made = stamp("annotate", {}, {}) | {"stage": "toy"} | formats.mark("toy")
    assert made[KEY] == "toy 1"
    read_json(write_json(tmp_path / "toy.json", {"stamp": made}))
    with pytest.raises(FormatError, match=r"output of toy of format 2, but .*; update tad, or remove it and run toy"):
        read_json(write_json(tmp_path / "toy.json", {"stamp": made | {KEY: "toy 2"}}))
