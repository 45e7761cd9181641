"""Start Snakemake for `tad run`: `python -m tad.workflow.launch <arguments of snakemake>`.

It offers the logger plug-in `tad`, and does not print which workflow profile Snakemake uses.
"""

import io
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry

from tad.workflow import terminal

NAME = "tad"
PROFILE = re.compile(
    r"Using (profiles? .* and )?workflow specific profile .* for setting default command line arguments\.\n"
)


@contextmanager
def without_profile_line() -> Iterator[None]:
    """Drop the line about the workflow profile from standard error; all other text appears at the end.

    Snakemake prints it before it has a logger. The default profile is a part of `tad` that the user did not choose; a
    profile that the user did choose stands in the command.
    """
    printed = io.StringIO()
    try:
        with redirect_stderr(printed):
            yield
    finally:
        lines = printed.getvalue().splitlines(keepends=True)
        sys.stderr.write("".join(line for line in lines if not PROFILE.fullmatch(line)))


def main() -> None:
    """Register the plug-in, which Snakemake would otherwise look for in a separate package, and run Snakemake."""
    registry = LoggerPluginRegistry()
    registry.register_plugin(f"{registry.module_prefix}{NAME}", terminal)
    from snakemake import cli

    cli.parse_args = without_profile_line()(cli.parse_args)
    sys.argv[0] = "snakemake"
    try:
        cli.main()
    except KeyboardInterrupt:  # before it runs jobs; later, Snakemake handles it
        print("tad run: interrupted; no job was running", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
