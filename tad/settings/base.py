"""Base classes of all settings, and one-line messages for validation errors."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from tad.core.errors import TadError
from tad.core.files import canonical
from tad.core.limits import LimitError
from tad.core.strict_json import parse_json

# A path given by the user; `~` is expanded to the home folder.
UserPath = Annotated[str, AfterValidator(os.path.expanduser)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Settings = dict[str, Any]


class Spec(BaseModel):
    """A frozen group of settings that rejects unknown keys."""

    # defer_build: most processes use only a few of these classes, and pydantic takes milliseconds to compile each
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)

    def json_text(self) -> str:
        """Return canonical JSON: equal settings give equal text."""
        return canonical(self.model_dump(mode="json"))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse settings from JSON text, or from the JSON or YAML file that `text` names.

        Raises:
            TadError: invalid settings; the message names the key, its value and what is allowed.
        """
        from tad.core.files import read_json
        from tad.settings.strict_yaml import parse_yaml

        inline = text.lstrip().startswith("{")
        source = "--spec" if inline else text
        try:
            if text.endswith(".json") and not inline:
                value = read_json(Path(text))
            else:
                value = _inline(text) if inline else parse_yaml(Path(text).read_text(encoding="utf-8"))
            return cls.model_validate(value)
        except (LimitError, UnicodeDecodeError) as error:
            raise TadError(f"{source}: not valid JSON or YAML ({' '.join(str(error).split())[:160]})") from None
        except ValidationError as error:
            raise TadError(f"{source}: {explain(error)}") from None


def _inline(text: str) -> Any:
    """Parse settings on the command line: JSON, as the workflow writes them, or YAML in braces."""
    from tad.settings.strict_yaml import parse_yaml

    try:
        return parse_json(text)
    except json.JSONDecodeError:
        return parse_yaml(text)


def explain(error: ValidationError) -> str:
    """Describe the first problem of a pydantic error in one line: path, message, value."""
    problem = error.errors()[0]
    path, value = ".".join(str(part) for part in problem["loc"]), problem.get("input")
    message = f"{path}: {problem['msg']}" if path else str(problem["msg"])
    message = message.replace("Value error, ", "", 1)  # pydantic's prefix for errors of our own validators
    return message if isinstance(value, dict) else f"{message} (got {value!r:.80})"  # a whole group would be too long


@dataclass(frozen=True)
class Names:
    """The target of a stage: a run, or a dataset and, for some stages, a feature set."""

    run: str = ""
    dataset: str = ""
    features: str = ""


class StageSpec(Spec):
    """The complete settings of one stage."""

    @classmethod
    def resolve(cls, config: Any, names: Names) -> Settings:
        """Resolve the fields of this class from the rows of config.yaml.

        Args:
            config: the `tad.settings.config.Config`.
            names: the target of the stage; for a run, they include its dataset and features.
        """
        raise NotImplementedError(f"{cls.__name__} must implement resolve(config, names)")


class Plugin(Spec):
    """A component: its module name and its resolved settings (see `tad.settings.plugins`)."""

    name: str
    settings: Settings = {}
