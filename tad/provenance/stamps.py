"""Stamps of artefacts: the stage, settings, code and inputs that made a file, and checks of them."""

import importlib.metadata
from pathlib import Path
from typing import Any

import tad
from tad.core import checksums, formats
from tad.core.errors import TadError
from tad.core.files import digest, read_json
from tad.core.strict_json import parse_json
from tad.provenance.fingerprint import Code

IN_FOLDER = "stamp.json"  # the stamp of an artefact that is a folder


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def stamp(stage: str, spec: dict[str, Any], inputs: dict[str, str], **facts: object) -> dict[str, Any]:
    """Return the stamp of an artefact: the stage, settings, code and inputs that made it.

    Args:
        stage: name of the stage.
        spec: its settings as a plain dict.
        inputs: identity (see `identity_of`) or content hash of each input, by name.
        facts: further facts to record (device, seed, counts); not part of the identity.
    """
    now = Code()
    parts, behind = now.modules_of_stage(stage, spec), now.of_stage(stage, spec)
    now.sources.save()
    identity = digest({"stage": stage, "spec": spec, "code": behind, "inputs": inputs}, 16)
    versions = {name: _version(name) for name in ("numpy", "torch", "h5py", "decord", "av", "numba")}
    return {
        "stage": stage,
        **formats.mark(formats.of_stage(stage)),
        "identity": identity,
        "spec": spec,
        "code": behind,
        "modules": parts,
        "inputs": inputs,
        "tad": tad.__version__,
        "versions": versions,
        **facts,
    }


def safetensors_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a safetensors file, without its tensors; the checksum of the whole file is compared.

    Raises:
        TadError: the file is damaged, or has a format that this version cannot read.
    """
    sealed = checksums.verify_inline(path)
    with open(path, "rb") as handle:
        size = int.from_bytes(handle.read(8), "little")
        if not 0 < size <= 100_000_000:
            raise TadError(f"{path}: not a safetensors file (header of {size} bytes); remove it and run again")
        if size > path.stat().st_size - 8:
            raise TadError(
                f"{path}: not a safetensors file, or cut short (header of {size} bytes); remove it and run again"
            )
        try:
            header = parse_json(handle.read(size).decode("utf-8"))
        except ValueError:
            raise TadError(f"{path}: not a safetensors file (broken header); remove it and run again") from None
    metadata = header.get("__metadata__", {}) if isinstance(header, dict) else {}
    metadata = metadata if isinstance(metadata, dict) else {}
    formats.check_header(metadata, path, names=metadata, sealed=sealed)
    return metadata


def _parsed(text: object) -> Any:
    """Return the decoded JSON of a stamp; None if it is not valid."""
    try:
        return parse_json(text) if isinstance(text, str) else None
    except ValueError:
        return None


def read_stamp(path: Path) -> dict[str, Any]:
    """Read the stamp of an artefact (.h5, .json, .safetensors, or a folder).

    Raises:
        TadError: the file is missing or damaged, has a format that this version cannot read, or was not made by `tad`.
    """
    path = Path(path)
    if path.is_dir():  # the page
        path = path / IN_FOLDER
    if not path.is_file():
        raise TadError(f"{path}: no such file")
    value: Any = None
    if path.suffix == ".h5":
        from tad.core.h5 import open_h5, reading

        with open_h5(path) as file, reading(path):
            value = _parsed(file.attrs.get("tad_stamp"))
    elif path.suffix == ".safetensors":
        value = _parsed(safetensors_metadata(path).get("tad_stamp"))
    else:
        document = read_json(path)
        value = document.get("stamp") if isinstance(document, dict) else None
    if not isinstance(value, dict) or "identity" not in value:
        raise TadError(f"{path}: has no stamp, so it was not made by tad; remove it or import it")
    return value


def identity_of(path: Path) -> str:
    """Return the identity in an artefact's stamp."""
    return str(read_stamp(path)["identity"])


def expect(path: Path, *, stage: str | tuple[str, ...], **spec: object) -> dict[str, Any]:
    """Read the stamp of `path`, and check that it was made by `stage` (or one of several) with these settings.

    Raises:
        TadError: it was made by another stage or with other settings; the message names them and a remedy.
    """
    return check(read_stamp(path), path, stage=stage, **spec)


def check(stamped: dict[str, Any], path: Path, *, stage: str | tuple[str, ...], **spec: object) -> dict[str, Any]:
    """Check a stamp that has already been read; see `expect`.

    Raises:
        TadError: see `expect`.
    """
    stages = (stage,) if isinstance(stage, str) else stage
    if not isinstance(stamped.get("stage"), str) or not isinstance(stamped.get("spec"), dict):
        raise TadError(f"{path}: its stamp names no stage and settings; remove it and run again")
    if stamped["stage"] not in stages:
        raise TadError(
            f"{path}: made by stage {stamped['stage']}, expected one made by {' or '.join(stages)}; "
            "remove it and run again"
        )
    for key, wanted in spec.items():
        have = stamped["spec"].get(key)
        if have != wanted:
            name, have, wanted = first_difference(key, have, wanted)
            raise TadError(
                f"{path}: made with {name}={have!r:.120}, expected {name}={wanted!r:.120}; "
                f"remove it and run {stamped['stage']} again"
            )
    return stamped


def first_difference(name: str, have: object, wanted: object) -> tuple[str, Any, Any]:
    """Return the dotted name and the two values of the innermost setting in which two values differ."""
    while isinstance(have, dict) and isinstance(wanted, dict):
        key = next(k for k in (*wanted, *have) if (k in have, have.get(k)) != (k in wanted, wanted.get(k)))
        name, have, wanted = f"{name}.{key}", have.get(key), wanted.get(key)
    return name, have, wanted
