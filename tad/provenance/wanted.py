"""The settings and code that the workflow wants for each artefact now, and a check of a stage against them.

When Snakemake starts to run jobs, `rules/common.smk` writes the settings and the fingerprint of the code of every
artefact of its plan to `.snakemake/tad_wanted.json`. Each stage compares them with its own and with the stamps of its
inputs: a file that has the right name but was made with other settings, by hand or by an orphaned job, is
refused and never scored. A job whose code was changed after it was started does not run.

Each stage also takes Snakemake's records of its outputs from the list, and writes them when it publishes. Otherwise a
job that ends after its Snakemake was killed leaves an output behind that an older record seems to describe.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tad.core import formats
from tad.core.errors import TadError
from tad.core.files import digest, read_json, write_json
from tad.provenance.stamps import first_difference, read_stamp

WANTED = "TAD_WANTED"
"""Environment variable with the path of the list; set by rules/common.smk. Commands that a person types have none."""
CODE = "TAD_CODE"
"""Environment variable with the fingerprint of the code that a job of the workflow was started with; set by its rule.

A job cannot find it out itself: it may have imported its modules before they were changed on disk."""
FILE = Path(".snakemake/tad_wanted.json")


@dataclass(frozen=True)
class Record:
    """What Snakemake records of the outputs of one job.

    Attributes:
        paths: where the records are, one per output.
        text: what each of them holds.
    """

    paths: tuple[str, ...]
    text: str


def write_wanted(
    path: Path,
    specs: Mapping[str, str],
    accepted: Mapping[str, str],
    codes: Mapping[str, str] | None = None,
    records: Mapping[str, Record] | None = None,
) -> Path:
    """Write the list of wanted artefacts.

    Args:
        path: the list.
        specs: path of each artefact → its settings as JSON.
        accepted: path → identity of an artefact that counts although its settings differ: the user has marked it as
            current (`snakemake --touch`). Entries of an earlier list are kept as long as the same settings are wanted.
        codes: path → fingerprint of the code of the stage that makes it.
        records: path → Snakemake's record of it and of the other outputs of its job.
    """
    before = _read(path)["accepted"]
    retained = {name: entry for name, entry in before.items() if name not in specs or entry[1] == digest(specs[name])}
    fresh = {name: [identity, digest(specs[name])] for name, identity in accepted.items()}
    texts = {digest(text): text for text in specs.values()}  # the shards of a data set share their settings
    names = {name: digest(text) for name, text in specs.items()}
    document = {
        **formats.mark("wanted"),
        "artefacts": names,
        "settings": texts,
        "code": dict(codes or {}),
        "records": {name: asdict(record) for name, record in (records or {}).items()},
        "accepted": retained | fresh,
    }
    return write_json(path, document)


def _read(path: Path) -> dict[str, Any]:
    nothing: dict[str, Any] = {"artefacts": {}, "settings": {}, "code": {}, "records": {}, "accepted": {}}
    if not path.is_file():
        return nothing
    return nothing | {key: value for key, value in read_json(path).items() if key in nothing}


def check_wanted(out: Path, spec: Mapping[str, Any], inputs: Iterable[Path]) -> None:
    """Check that the workflow wants this output with these settings and this code, and its inputs with theirs.

    Args:
        out: the output of the stage that is about to run.
        spec: its settings as a plain dict.
        inputs: its input files; those that are not in the list are ignored, such as files of the user.

    Raises:
        TadError: an artefact has other settings; the message names the first one that differs.
    """
    name = os.environ.get(WANTED)
    if not name:
        return
    listed = _read(Path(name))
    text = _wanted(listed, out)
    if text is not None and json.loads(text) != spec:
        raise TadError(
            f"{out}: its settings have changed in the workflow since this job was started, so this job ends; run the"
            " same command again"
        )
    started_with, code = os.environ.get(CODE), listed["code"].get(str(out))
    if started_with and code and started_with != code:
        raise TadError(
            f"{out}: the code of this stage has changed since this job was started, so this job ends; run the same"
            " command again"
        )
    for path in inputs:
        text = _wanted(listed, path)
        if text is None or not path.is_file():
            continue
        stamped, wanted = read_stamp(path), json.loads(text)
        if listed["accepted"].get(str(path)) == [stamped["identity"], listed["artefacts"][str(path)]]:
            continue
        if stamped["spec"] != wanted:
            setting, have, want = first_difference("", stamped["spec"], wanted)
            raise TadError(
                f"{path}: made with {setting.lstrip('.')}={have!r:.120}, but the workflow wants {want!r:.120} now;"
                " remove it and run the same command again"
            )


def records_of(out: Path) -> dict[str, str]:
    """Return Snakemake's records of a stage's outputs, path → content; empty for commands that a person types."""
    name = os.environ.get(WANTED)
    record = _read(Path(name))["records"].get(str(out)) if name else None
    return dict.fromkeys(record["paths"], record["text"]) if record else {}


def _wanted(listed: Mapping[str, Any], path: Path) -> str | None:
    key = listed["artefacts"].get(str(path))
    return None if key is None else str(listed["settings"][key])
