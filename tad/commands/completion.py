"""Completion of the `tad` command in shells, by the package argcomplete: commands, options, runs and files."""

from pathlib import Path
from typing import Any

from tad.commands.cli import build_parser
from tad.core.errors import TadError

NAMES = {"run": "runs", "runs": "runs", "first": "runs", "second": "runs", "targets": "runs", "words": "runs"}


def rows_of(section: str, config: Path = Path("config.yaml")) -> list[str]:
    """Return the names of a section's rows; none if there is no readable configuration."""
    from tad.settings.config import Config

    try:
        return sorted(getattr(Config.read(config).file, section))
    except (TadError, OSError):  # a shell has no place for a message
        return []


def _complete(parser: Any) -> None:
    for action in parser._actions:
        if action.dest in NAMES and not action.choices:
            action.completer = lambda section=NAMES[action.dest], **_: rows_of(section)
        for child in (action.choices or {}).values() if isinstance(action.choices, dict) else ():
            _complete(child)


def complete() -> None:
    """Print completions and exit, if a shell has asked for them; otherwise return."""
    import argcomplete

    parser = build_parser()
    _complete(parser)
    argcomplete.autocomplete(parser)


def script(shell: str) -> list[str]:
    """Return the lines that a shell's start-up file needs (`tad completion`)."""
    from argcomplete.shell_integration import shellcode

    lines: list[str] = shellcode(["tad"], shell=shell).splitlines()
    return lines
