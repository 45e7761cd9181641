"""Where an artefact comes from: code fingerprints, stamps on files, refusal of a file that is not what it should be."""

import ast
import hashlib
import importlib.metadata
import json
from functools import cache
from pathlib import Path
from typing import Any

import yaml

import tad
from tad.errors import TadError
from tad.files import digest, read_json
from tad.plugins import SYMBOLS

ROOT = Path(tad.__file__).parent
# Their whole effect on a result is in the spec (specs, config, plugins), or they have none (the others).
TRANSPARENT = {
    *("spec_base", "frame_specs", "clip_specs", "distill", "fuse", "joins", "labels"),
    *("specs", "config", "resolution", "rows", "plugins", "provenance", "errors", "files", "progress", "leases"),
    *("cli", "cli_data", "cli_runs", "why", "workflow", "__main__"),
    *("weights", "weight_store", "weight_fetch", "download"),
}
FEATURES = ("merge", "convert", "join", "index")  # what makes an index of features: own, imported, joined ones, frames
PLUGIN_FIELDS = {"format": "datasets", "backbone": "backbones", "detector": "detectors"}


def _module_path(module: str) -> Path | None:
    parts = module.split(".")[1:]
    file = ROOT.joinpath(*parts).with_suffix(".py") if parts else ROOT / "__init__.py"
    if parts and file.is_file():
        return file
    init = ROOT.joinpath(*parts, "__init__.py")
    return init if parts and init.is_file() else None


def _imports(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:] or [ast.Pass()]
    return tree


@cache
def _read_module(path: Path, mtime_ns: int, size: int) -> tuple[str, frozenset[str]]:
    del mtime_ns, size  # part of the key only: an edited file is read again
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    imports = frozenset(_imports(tree))
    text = ast.unparse(_without_docstrings(tree))
    return hashlib.sha256(text.encode()).hexdigest()[:12], imports


def _data(path: Path, module: str) -> str:
    """`+<digest>` of the values in the YAML beside a module; a plug-in's are in the spec already."""
    data = path.with_suffix(".yaml")
    if module.split(".")[1] in SYMBOLS or not data.is_file():
        return ""
    return "+" + digest(yaml.safe_load(data.read_text(encoding="utf-8")))


def modules(*roots: str) -> dict[str, str]:
    """Module → fingerprint, over everything of `tad` that the roots import, directly or not.

    Comments, docstrings and formatting do not count: the fingerprint is of the parsed code. Modules whose effect is
    fully in the spec are left out (`TRANSPARENT`), and so are plug-ins that a root loads by name: name them as roots.
    """
    found: dict[str, str] = {}
    waiting = list(roots)
    while waiting:
        module = waiting.pop()
        path = _module_path(module)
        if path is None or module in found or module.split(".", 1)[-1] in TRANSPARENT:
            continue
        stat = path.stat()
        found[module], imports = _read_module(path, stat.st_mtime_ns, stat.st_size)
        found[module] += _data(path, module)
        waiting.extend(sorted(name for name in imports if name.startswith("tad.")))
        parent = module.rpartition(".")[0]
        if parent != "tad":
            waiting.append(parent)
    return dict(sorted(found.items()))


def file_fingerprint(path: Path) -> str:
    """The fingerprint of one script, with the scripts beside it that it imports and what they use of `tad`."""
    found: dict[str, str] = {}
    waiting = [path]
    while waiting:
        script = waiting.pop()
        if script.name in found or not script.is_file():
            continue
        stat = script.stat()
        found[script.name], imports = _read_module(script, stat.st_mtime_ns, stat.st_size)
        waiting.extend(script.with_name(f"{name}.py") for name in sorted(imports) if "." not in name)
        found |= modules(*sorted(name for name in imports if name.startswith("tad.")))
    return digest(dict(sorted(found.items())))


def stage_roots(stage: str, spec: dict[str, Any]) -> list[str]:
    """The modules that a stage starts from: its own and the plug-ins that its spec names."""
    roots = [f"tad.stages.{stage}"]
    for field, kind in PLUGIN_FIELDS.items():
        plugin = spec.get(field)
        if isinstance(plugin, dict):
            roots.append(f"tad.{kind}.{plugin['name']}")
    lesson = spec.get("distill") or {}
    roots += sorted(f"tad.detectors.{teacher['detector']['name']}" for teacher in lesson.get("teachers", ()))
    return roots


def code(stage: str, spec: dict[str, Any]) -> str:
    """`<stage>@<fingerprint>` of all code behind a stage with this spec."""
    return f"{stage}@{digest(modules(*stage_roots(stage, spec)))}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def stamp(stage: str, spec: dict[str, Any], inputs: dict[str, str], **facts: Any) -> dict[str, Any]:
    """The stamp of an artefact: what made it, with which settings and code, from what.

    Args:
        stage: the stage's word.
        spec: its settings as a plain dict.
        inputs: name → identity of each input artefact (`identity_of`) or content hash.
        facts: anything else worth keeping (device, seed, counts); not part of the identity.
    """
    parts = modules(*stage_roots(stage, spec))
    fingerprint = f"{stage}@{digest(parts)}"
    identity = digest({"stage": stage, "spec": spec, "code": fingerprint, "inputs": inputs}, 16)
    versions = {name: _version(name) for name in ("numpy", "torch", "h5py", "decord", "av", "numba")}
    return {
        "stage": stage,
        "identity": identity,
        "spec": spec,
        "code": fingerprint,
        "modules": parts,
        "inputs": inputs,
        "tad": tad.__version__,
        "versions": versions,
        **facts,
    }


def _read_safetensors_metadata(path: Path) -> dict[str, str]:
    with open(path, "rb") as handle:
        size = int.from_bytes(handle.read(8), "little")
        if not 0 < size <= 100_000_000:
            raise TadError(f"{path}: not a safetensors file (header of {size} bytes); remove it and run again")
        try:
            header = json.loads(handle.read(size))
        except ValueError:
            raise TadError(f"{path}: not a safetensors file (broken header); remove it and run again") from None
    metadata = header.get("__metadata__", {})
    return metadata if isinstance(metadata, dict) else {}


def _parsed(text: Any) -> Any:
    """The stamp's JSON; nothing when it is none."""
    try:
        return json.loads(text) if isinstance(text, str) else None
    except ValueError:
        return None


def read_stamp(path: Path) -> dict[str, Any]:
    """The stamp of an artefact (.h5, .json or .safetensors).

    Raises:
        TadError: the file is missing, damaged or was not made by `tad`.
    """
    path = Path(path)
    if not path.is_file():
        raise TadError(f"{path}: no such file")
    value: Any = None
    if path.suffix == ".h5":
        from tad.cache import open_h5

        with open_h5(path) as file:
            value = _parsed(file.attrs.get("tad_stamp"))
    elif path.suffix == ".safetensors":
        value = _parsed(_read_safetensors_metadata(path).get("tad_stamp"))
    else:
        document = read_json(path)
        value = document.get("stamp") if isinstance(document, dict) else None
    if not isinstance(value, dict) or "identity" not in value:
        raise TadError(f"{path}: carries no stamp, so it was not made by tad; remove it or import it")
    return value


def identity_of(path: Path) -> str:
    """The identity in an artefact's stamp."""
    return str(read_stamp(path)["identity"])


def expect(path: Path, *, stage: str | tuple[str, ...], **spec: Any) -> dict[str, Any]:
    """The stamp of `path`, if it was made by `stage` (or one of several) with these settings.

    Raises:
        TadError: another stage or other settings; the message says which, and what to do.
    """
    return check(read_stamp(path), path, stage=stage, **spec)


def check(found: dict[str, Any], path: Path, *, stage: str | tuple[str, ...], **spec: Any) -> dict[str, Any]:
    """`expect` for a stamp that was read with the file's content.

    Raises:
        TadError: as `expect`.
    """
    stages = (stage,) if isinstance(stage, str) else stage
    if found["stage"] not in stages:
        raise TadError(
            f"{path}: made by stage {found['stage']}, expected one made by {' or '.join(stages)}; "
            "remove it and run again"
        )
    for key, wanted in spec.items():
        have = found["spec"].get(key)
        if have != wanted:
            name, have, wanted = _first_apart(key, have, wanted)
            raise TadError(
                f"{path}: made with {name}={have!r:.120}, expected {name}={wanted!r:.120}; "
                f"remove it and run {found['stage']} again"
            )
    return found


def _first_apart(name: str, have: Any, wanted: Any) -> tuple[str, Any, Any]:
    """The innermost setting in which two values differ, by its dotted name."""
    while isinstance(have, dict) and isinstance(wanted, dict):
        key = next(k for k in (*wanted, *have) if (k in have, have.get(k)) != (k in wanted, wanted.get(k)))
        name, have, wanted = f"{name}.{key}", have.get(key), wanted.get(key)
    return name, have, wanted
