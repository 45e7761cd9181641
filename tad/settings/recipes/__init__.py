"""Named feature recipes: how published feature sets were extracted, with known and unknown details.

This folder has one YAML file per recipe; `recipe: <name>` in a row of `features:` uses its backbone,
settings and clips.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from tad.core.errors import TadError
from tad.settings import plugins
from tad.settings.base import Count, Positive, Settings, Spec, explain
from tad.settings.clips import ClipSpec
from tad.settings.strict_yaml import Plain

FOLDER = Path(__file__).parent


class Check(Spec):
    """A video with a known number of feature rows, from a published file or by the published rule."""

    video: str
    frames: Count = Field(description="decoded frames at `rate`")
    rate: Positive
    rows: Count = Field(description="what this recipe gives")
    published: int = Field(default=0, ge=0, description="what the published file has; 0: not looked up")


class Recipe(Spec):
    """The complete recipe of a published feature set; it stays the same if the defaults of its backbone change."""

    title: str
    backbone: str = Field(description="module of tad/backbones")
    settings: Settings = Field(description="all settings of the backbone")
    clip: ClipSpec
    dim: Count
    weights: tuple[str, ...] = Field(description="names of the weight files, as backbones list them")
    released: bool = Field(description="whether the weights of the published features are available")
    published: str = Field(description="where the features themselves are")
    matches: str = Field(description="how well features computed here match the published ones, and the evidence")
    known: tuple[str, ...] = Field(min_length=1)
    unknown: tuple[str, ...] = Field(min_length=1)
    checks: tuple[Check, ...] = ()


def names() -> list[str]:
    """Return the names of all recipes, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def source(name: str) -> str:
    """Return the path of a recipe's file, as shown by `tad show` and in messages."""
    return f"tad/settings/recipes/{name}.yaml"


@cache
def recipe(name: str) -> Recipe:
    """Read a recipe by name.

    Raises:
        TadError: the recipe is unknown, or its file is invalid.
    """
    if name not in names():
        raise TadError(f"no recipe is called '{name}'; {plugins.nearest(name, names())}")
    value: Any = yaml.load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"), Loader=Plain)
    try:
        return Recipe.model_validate(value)
    except ValidationError as error:
        raise TadError(f"{source(name)}: {explain(error)}") from None


def sections(name: str) -> dict[str, Settings]:
    """Return the sections `settings` and `clip`, with which a recipe overrides its backbone's defaults."""
    chosen = recipe(name)
    return {"settings": chosen.settings, "clip": chosen.clip.model_dump()}


def notes(name: str, *, changed: Sequence[str] = ()) -> list[str]:
    """Return lines of notes for users of a recipe; `changed` names the settings that a row overrides."""
    chosen = recipe(name)
    lines = [f"recipe {name}: {chosen.title}"]
    if changed:
        what = "so these are not the published features; what follows is about the recipe as it stands"
        lines.append(f"  changed: {', '.join(changed)}; {what}")
    if not chosen.released:
        lines.append("  weights: those behind the published features were never released")
    facts = [("matches", chosen.matches), ("published", chosen.published)]
    facts += [("known", fact) for fact in chosen.known] + [("unknown", fact) for fact in chosen.unknown]
    for c in chosen.checks:
        published = f", {c.published} published" if c.published else ""
        facts.append(("check", f"{c.video}, {c.frames} frames at {c.rate:g}: {c.rows} rows{published}"))
    return lines + [f"  {kind}: {fact}" for kind, fact in facts]
