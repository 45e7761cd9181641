"""Start Snakemake for `tad run`: `python -m tad.workflow.launch <arguments of snakemake>`.

It offers the logger plug-in `tad`, does not print which workflow profile Snakemake uses, and reports wrong arguments in
one line.
"""

import difflib
import io
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry

from tad.core.errors import TadError
from tad.core.processes import end_with_parent
from tad.workflow import terminal
from tad.workflow.targets import check_targets, configured

NAME = "tad"
PROFILE = re.compile(
    r"Using (profiles? .* and )?workflow specific profile .* for setting default command line arguments\.\n"
)
USAGE = re.compile(r"^usage: snakemake.*?^snakemake: error: (?P<cause>.*)", re.M | re.S)
OPTION = re.compile(r"--[a-z][a-z-]+")


def _one_line(match: re.Match[str]) -> str:
    """Return what is wrong with the arguments, in place of the usage of Snakemake with its 200 options."""
    cause, known = match["cause"].strip(), set(OPTION.findall(match[0].removesuffix(match["cause"])))
    wrong = [word for word in OPTION.findall(cause) if word not in known]
    near = [close for word in wrong for close in difflib.get_close_matches(word, known, n=1)]
    return f"tad run: {cause}; {f'did you mean {near[0]}? ' if near else ''}`snakemake --help` lists all options\n"


@contextmanager
def shortened() -> Iterator[None]:
    """Drop the line about the workflow profile and the usage from standard error; all other text appears at the end.

    Snakemake prints the line before it has a logger. The default profile is a part of `tad` that the user did not
    choose; a profile that the user did choose stands in the command.
    """
    printed = io.StringIO()
    try:
        with redirect_stderr(printed):
            yield
    finally:
        lines = printed.getvalue().splitlines(keepends=True)
        text = "".join(line for line in lines if not PROFILE.fullmatch(line))
        sys.stderr.write(USAGE.sub(_one_line, text))


def checked(parse: Callable[..., Any]) -> Callable[..., Any]:
    """Return Snakemake's function that parses the arguments, with a check of the targets before anything is planned."""

    def parse_and_check(words: Sequence[str]) -> Any:
        with shortened():
            parser, arguments = parse(words)
        files = [Path("config.yaml")] if Path("config.yaml").is_file() else []
        try:
            if not arguments.directory:  # else all paths are relative to another folder
                check_targets(arguments.targets or (), configured([*files, *map(Path, arguments.configfile or ())]))
        except TadError as error:  # Snakemake would print a traceback
            print(f"tad run: {error}", file=sys.stderr)
            sys.exit(1)
        return parser, arguments

    return parse_and_check


def main() -> None:
    """Register the plug-in, which Snakemake would otherwise look for in a separate package, and run Snakemake."""
    end_with_parent()
    registry = LoggerPluginRegistry()
    registry.register_plugin(f"{registry.module_prefix}{NAME}", terminal)
    from snakemake import cli

    cli.parse_args = checked(cli.parse_args)
    sys.argv[0] = "snakemake"
    try:
        cli.main()
    except KeyboardInterrupt:  # before it runs jobs; later, Snakemake handles it
        print("tad run: interrupted; no job was running", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
