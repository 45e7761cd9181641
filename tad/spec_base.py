"""What settings are made of: a closed, frozen group of values that says what is wrong with it in one line."""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tad.errors import TadError
from tad.files import canonical

Fraction = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Settings = dict[str, Any]


class Spec(BaseModel):
    """A frozen, closed group of settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def json_text(self) -> str:
        """Canonical JSON: equal settings give equal text."""
        return canonical(self.model_dump(mode="json"))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Settings from JSON text, or from the JSON or YAML file that `text` names.

        Raises:
            TadError: names the key, its value and what is allowed.
        """
        import yaml

        from tad.files import read_json

        inline = text.lstrip().startswith("{")
        source = "--spec" if inline else text
        try:
            if text.endswith(".json") and not inline:
                value = read_json(Path(text))
            else:
                value = yaml.safe_load(text if inline else Path(text).read_text(encoding="utf-8"))
            return cls.model_validate(value)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise TadError(f"{source}: not valid JSON or YAML ({' '.join(str(error).split())[:160]})") from None
        except ValidationError as error:
            raise TadError(f"{source}: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """The first problem of a pydantic error in one line: path, message, value."""
    problem = error.errors()[0]
    path, value = ".".join(str(part) for part in problem["loc"]), problem.get("input")
    said = f"{path}: {problem['msg']}" if path else str(problem["msg"])
    said = said.replace("Value error, ", "", 1)  # what our own validators say needs no such name
    return said if isinstance(value, dict) else f"{said} (got {value!r:.80})"  # a group of settings says nothing


class Plugin(Spec):
    """A component by module name with all of its settings resolved (see `tad.plugins`)."""

    name: str
    settings: Settings = {}
