"""Named feature recipes: what published feature sets were made with, as data, with what is known of them and what not.

One YAML file per recipe in this folder; `recipe: <name>` in a row of `features:` takes its backbone, settings, clips.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from tad import plugins
from tad.errors import TadError
from tad.specs import ClipSpec, Count, Positive, Settings, Spec, explain

FOLDER = Path(__file__).parent


class Check(Spec):
    """A video of which the number of rows is known, from a published file or by the published rule."""

    video: str
    frames: Count = Field(description="decoded frames at `rate`")
    rate: Positive
    rows: Count = Field(description="what this recipe gives")
    published: int = Field(default=0, ge=0, description="what the published file has; 0: not looked up")


class Recipe(Spec):
    """How a published feature set was made, complete: defaults of a backbone may change, a recipe does not."""

    title: str
    backbone: str = Field(description="module of tad/backbones")
    settings: Settings = Field(description="all settings of the backbone")
    clip: ClipSpec
    dim: Count
    weights: tuple[str, ...] = Field(description="names of the weight files, as backbones list them")
    released: bool = Field(description="whether the weights behind the published features can be had")
    published: str = Field(description="where the features themselves are")
    matches: str = Field(description="how close features made here come to the published ones, and what that rests on")
    known: tuple[str, ...] = Field(min_length=1)
    unknown: tuple[str, ...] = Field(min_length=1)
    checks: tuple[Check, ...] = ()


def names() -> list[str]:
    """All recipes, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def source(name: str) -> str:
    """The file of a recipe, as `tad show` and messages name it."""
    return f"tad/recipes/{name}.yaml"


@cache
def recipe(name: str) -> Recipe:
    """A recipe by name.

    Raises:
        TadError: there is none, or its file does not hold one.
    """
    if name not in names():
        raise TadError(f"no recipe is called '{name}'; {plugins.nearest(name, names())}")
    value: Any = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    try:
        return Recipe.model_validate(value)
    except ValidationError as error:
        raise TadError(f"{source(name)}: {explain(error)}") from None


def sections(name: str) -> dict[str, Settings]:
    """What a recipe lays over its backbone's defaults: `settings` and `clip`."""
    found = recipe(name)
    return {"settings": found.settings, "clip": found.clip.model_dump()}


def notes(name: str, *, changed: Sequence[str] = ()) -> list[str]:
    """What a user should know before relying on a recipe, line by line; `changed`: settings that a row sets anew."""
    found = recipe(name)
    lines = [f"recipe {name}: {found.title}"]
    if changed:
        what = "so these are not the published features; what follows is about the recipe as it stands"
        lines.append(f"  changed: {', '.join(changed)}; {what}")
    if not found.released:
        lines.append("  weights: those behind the published features were never released")
    facts = [("matches", found.matches), ("published", found.published)]
    facts += [("known", fact) for fact in found.known] + [("unknown", fact) for fact in found.unknown]
    for c in found.checks:
        published = f", {c.published} published" if c.published else ""
        facts.append(("check", f"{c.video}, {c.frames} frames at {c.rate:g}: {c.rows} rows{published}"))
    return lines + [f"  {kind}: {fact}" for kind, fact in facts]
