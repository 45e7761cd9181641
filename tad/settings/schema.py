"""The JSON schema of config.yaml, generated from the settings classes, for completion and checks in editors."""

import json
import logging
from collections.abc import Callable
from typing import Any

from pydantic import ConfigDict

from tad.core.errors import TadError
from tad.settings import plugins, recipes
from tad.settings.base import Spec
from tad.settings.clips import ClipSpec
from tad.settings.components import FormatSettings
from tad.settings.labels import LabelsSpec
from tad.settings.rows import ConfigFile
from tad.settings.sections import DetectSpec, EvalSpec, NmsSpec, PretrainRecipe, TrainSpec
from tad.settings.stages.classify import ClassifySpec
from tad.settings.stages.page import PageSpec
from tad.settings.stages.suppress import ExternalSpec

Schema = dict[str, Any]
Names = Callable[[str], list[str]]
log = logging.getLogger(__name__)
DIALECT = "https://json-schema.org/draft/2020-12/schema"
REF = "#/$defs/"
# sections that rows hold as plain values, and their models
SECTIONS: dict[str, dict[str, type[Spec]]] = {
    "RunRow": {
        "train": TrainSpec, "detect": DetectSpec, "nms": NmsSpec, "eval": EvalSpec, "external": ExternalSpec,
        "classify": ClassifySpec, "page": PageSpec,
    },
    "FeatureRow": {"clip": ClipSpec, "pretrain": PretrainRecipe},
    "DatasetRow": {"eval": EvalSpec},
}  # fmt: skip
PERCENT = {"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*%\s*$"}


def _settings_class(kind: str, name: str) -> type[Spec]:
    """Return the settings of a component; an unusable one of another package is reported and accepts any settings."""
    try:
        return plugins.settings_class(kind, name)
    except TadError as error:
        if not plugins.is_foreign(kind, name):
            raise
        log.warning("%s", error)
        return _Unknown


class _Unknown(Spec):
    """Settings that cannot be read."""

    model_config = ConfigDict(extra="allow")


class _Definitions:
    """Schemas by name, each generated once."""

    def __init__(self, names: Names) -> None:
        self.all: Schema = {}
        self.names = names

    def of(self, model: type[Spec], name: str, *, whole: bool = False) -> Schema:
        """Return a reference to the schema of a model; unless `whole`, no key is required."""
        if name not in self.all:
            self.all[name] = {}  # ends the recursion of a model that contains itself
            schema = model.model_json_schema(ref_template=REF + name + ".{model}")
            for inner, definition in schema.pop("$defs", {}).items():
                self.all[f"{name}.{inner}"] = definition
            if not whole:
                schema.pop("required", None)
            self.all[name] = schema
        return {"$ref": REF + name}

    def component(self, kind: str, name: str) -> Schema:
        """Return a reference to the settings of a component, with the additional key `name`."""
        key = f"{kind}.{name}"
        if key not in self.all:
            self.of(_settings_class(kind, name), key)
            if kind != "datasets":
                own = self.all[key].get("properties", {})
                self.all[key] = {**self.all[key], "properties": {"name": {"type": "string"}, **own}}
        return {"$ref": REF + key}


def _cases(key: str, cases: dict[str, Schema]) -> list[Schema]:
    """Return one if-then schema for each value of a key."""
    return [
        {"if": {"properties": {key: {"const": value}}, "required": [key]}, "then": then}
        for value, then in sorted(cases.items())
    ]


def _named(what: str, cases: dict[str, Schema]) -> Schema:
    """Return the schema of a component: a name, or a mapping with `name` and changed settings."""
    known = sorted(cases)
    whole = {
        "type": "object",
        "properties": {"name": {"enum": known}},
        "required": ["name"],
        "allOf": _cases("name", cases),
    }
    return {"description": what, "anyOf": [{"enum": known}, whole]}


def _components(definitions: _Definitions, kind: str) -> dict[str, Schema]:
    return {name: definitions.component(kind, name) for name in definitions.names(kind)}


def _put(row: Schema, key: str, schema: Schema) -> None:
    """Replace the schema of a key in a row, but keep its description."""
    described = {k: v for k, v in row["properties"][key].items() if k == "description"}
    row["properties"][key] = {**schema, **described}


def _datasets(definitions: _Definitions, row: Schema) -> Schema:
    """Return the schema of dataset rows: settings depend on `format`, by default the name of the row."""
    formats = _components(definitions, "datasets")
    own = {name: {"settings": schema} for name, schema in formats.items()}
    for name in formats:
        model = _settings_class("datasets", name)
        render = model.render if issubclass(model, FormatSettings) else None
        if render:
            own[name]["render"] = definitions.of(render, f"datasets.{name}.render")
    cases = {name: {"properties": properties} for name, properties in own.items()}
    row["properties"]["format"] |= {"enum": ["", *sorted(formats)]}
    row["allOf"] = _cases("format", cases)
    unnamed = {"not": {"required": ["format"]}}
    by_name = {
        name: {"allOf": [{"$ref": REF + "DatasetRow"}, {"if": unnamed, "then": case}]} for name, case in cases.items()
    }
    return {"type": "object", "properties": by_name, "additionalProperties": {"$ref": REF + "DatasetRow"}}


def config_schema(names: Names = plugins.names) -> Schema:
    """Return the schema of config.yaml and of included files.

    Args:
        names: the components of a kind; `plugins.own_names` leaves those of other packages out.
    """
    definitions = _Definitions(names)
    whole = ConfigFile.model_json_schema(ref_template=REF + "{model}")
    definitions.all |= whole.pop("$defs")
    for row, sections in SECTIONS.items():
        for key, model in sections.items():
            _put(definitions.all[row], key, definitions.of(model, model.__name__))
    backbones = _components(definitions, "backbones")
    published = {name: backbones[recipes.recipe(name).backbone] for name in recipes.names()}
    run, features = definitions.all["RunRow"], definitions.all["FeatureRow"]
    _put(run, "detector", _named("a module of tad/detectors", _components(definitions, "detectors")))
    _put(features, "backbone", _named("a module of tad/backbones", backbones))
    _put(features, "recipe", _named("a file of tad/settings/recipes", published))
    definitions.of(LabelsSpec, "LabelsSpec")
    share = definitions.all["LabelsSpec"]["properties"]["share"]
    described = {k: share.pop(k) for k in ("description", "title", "default") if k in share}
    definitions.all["LabelsSpec"]["properties"]["share"] = {"anyOf": [share, PERCENT], **described}
    _put(run, "labels", {"anyOf": [PERCENT, {"type": "number"}, {"$ref": REF + "LabelsSpec"}, {"const": ""}]})
    whole["properties"]["datasets"] = _datasets(definitions, definitions.all["DatasetRow"])
    schema: Schema = _untitled({"$schema": DIALECT, **whole, "$defs": definitions.all})
    return schema


def _untitled(value: Any) -> Any:
    """Remove pydantic's titles, which only repeat the keys."""
    if isinstance(value, list):
        return [_untitled(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {k: _untitled(v) for k, v in value.items() if not (k == "title" and isinstance(v, str))}


def schema_text(names: Names = plugins.names) -> str:
    """Return the text of `config.schema.json`."""
    return json.dumps(config_schema(names), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
