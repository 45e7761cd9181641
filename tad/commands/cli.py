"""The `tad` command: one subcommand per stage, and further commands for users.

Both kinds are declared in tables, `tad.settings.stage_table` and `tad.commands.command_table`. This module builds the
parser from them and calls the functions. Only the module of the chosen command is imported. User errors are one line on
standard error with exit status 1.
"""

import argparse
import difflib
import errno
import io
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from tad import __version__
from tad.commands.command_table import COMMANDS, GROUPS, Command
from tad.core.errors import TadError
from tad.core.limits import MESSAGE
from tad.core.openmp import spins
from tad.core.printable import one_line, printable
from tad.core.processes import Terminated, clean_up_on_sigterm, end_with_supervisor
from tad.settings.stage_table import STAGES, Stage

USAGE = 2
INTERRUPTED = 130  # 128 + SIGINT
TERMINATED = 143  # 128 + SIGTERM
MORE_MEMORY = "finished parts are cached; give it more memory (ulimit -v, limits of the job), or use smaller batches"
PASSED = (
    "names of runs, files to make, or arguments of snakemake: -n shows what would run, -v prints Snakemake's own"
    " messages, --cores N limits the cores (default: all)"
)
STAGES_TITLE = "stages, in the order in which the workflow runs them"


class _Parser(argparse.ArgumentParser):
    """A parser that names the nearest command, and not all commands, if a command is unknown."""

    def error(self, message: str) -> NoReturn:
        """Print an error and exit with status 2."""
        if match := re.match(r"argument (command|action): invalid choice: '(.*?)' \(", message):
            known = [name for action in self._actions if isinstance(action.choices, dict) for name in action.choices]
            close = difflib.get_close_matches(match[2], known, n=1)
            hint = f"did you mean '{close[0]}'? " if close else ""
            self.exit(
                USAGE,
                one_line(f"{self.prog}: no {match[1]} '{match[2]}'; {hint}`{self.prog} --help` lists them") + "\n",
            )
        super().error(message)


def _row(name: str, meaning: str, width: int) -> str:
    """Return a command with its help, wrapped below its beginning."""
    indent = " " * 21
    first = f"  {name:<18} "
    return textwrap.fill(meaning, width, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False)


def _listing() -> str:
    """Return all commands with their help, by group, as wide as the terminal."""
    width = max(shutil.get_terminal_size().columns - 2, 40)
    groups: dict[str, list[Command | Stage]] = {
        title: [command for command in COMMANDS.values() if command.group == group] for group, title in GROUPS.items()
    }
    groups[STAGES_TITLE] = list(STAGES.values())
    return "\n\n".join(
        "\n".join([f"{title}:", *(_row(row.name, row.help, width) for row in rows)]) for title, rows in groups.items()
    )


def _help(meaning: str, default: object = None) -> str | None:
    """Return the help of an argument with its default, unless the words name it or it stands for none."""
    known = "default" in meaning or isinstance(default, bool)
    return (meaning if known or not default else f"{meaning} (default: {default})") or None


def _add_arguments(parser: argparse.ArgumentParser, row: Command | Stage) -> None:
    for name, meaning, options in row.arguments:
        parser.add_argument(name, help=_help(meaning, options.get("default")), **options)
    if isinstance(row, Stage):
        meaning = f"settings of {row.name}: JSON text, or a JSON or YAML file"
        parser.add_argument("--spec", required=row.needs_spec, default="", help=meaning)
        parser.add_argument("--out", required=True, type=Path, help="the file to write")
        meaning = "CPU threads of numerical libraries; 0: their default"
        parser.add_argument("--threads", type=int, default=0, help=meaning)
    if row.device:
        default = os.environ.get("TAD_DEVICE", "auto")  # set by the workflow: the device is not a setting of a stage
        meaning = "auto, cpu, cuda or cuda:N; an absent device is an error"
        parser.add_argument("--device", default=default, help=_help(meaning, default))
    parser.set_defaults(row=row)


def build_parser(*only: str) -> argparse.ArgumentParser:
    """Build the parser of all subcommands, or only of those named."""
    parser = _Parser(
        prog="tad",
        description="Temporal action detection: from untrimmed videos to a score.",
        epilog=_listing(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tad {__version__}")
    parser.add_argument("--verbose", action="store_true", help="log debug messages")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command", help="one of the commands below")
    rows: dict[str, Command | Stage] = {**STAGES, **COMMANDS}
    for name in only or rows:
        row = rows[name]
        own = commands.add_parser(name, description=row.help)
        if isinstance(row, Command) and row.passes:
            own.add_argument(row.passes, nargs="*", metavar="argument", help=PASSED)
            own.set_defaults(row=row)
            continue
        if isinstance(row, Stage) or not row.actions:
            _add_arguments(own, row)
            continue
        actions = own.add_subparsers(dest="action", required=True, metavar="action")
        for action in row.actions:
            _add_arguments(actions.add_parser(action.name, help=action.help, description=action.help), action)
    return parser


def _parse(argv: list[str]) -> argparse.Namespace:
    """Parse the arguments, with a parser of the one subcommand if its name is known; without any, print the help."""
    if not argv:
        build_parser().print_help()
        sys.exit(USAGE)
    name = next((word for word in argv if word != "--verbose"), "")
    if name in COMMANDS and COMMANDS[name].passes:
        place = argv.index(name)
        words = argv[place + 1 :]
        if words not in (["-h"], ["--help"]):  # else argparse would take options of the other program for its own
            parsed = build_parser(name).parse_args(argv[: place + 1])
            setattr(parsed, COMMANDS[name].passes, words)
            return parsed
    known = name in STAGES or name in COMMANDS
    return build_parser(*([name] if known else [])).parse_args(argv)


def _call(a: argparse.Namespace) -> Iterable[str]:
    row = a.row
    if isinstance(row, Stage):
        from tad.commands.stages import call

        return call(row, a)
    values: dict[str, Any] = {k: v for k, v in vars(a).items() if k not in ("row", "command", "action", "verbose")}
    result: Iterable[str] | Path = row.function()(**values)
    return [] if isinstance(result, Path) else result


def _out_of_memory(error: Exception) -> str:
    """Return the line of an error that says that the machine has no more memory or threads; empty for other errors."""
    signs = ("allocate memory", "start new thread", "enough memory", "failed to map segment", "Unable to allocate")
    causes = [error, *filter(None, [error.__cause__, error.__context__])]  # modules wrap what the system said
    lines = [line for cause in causes for line in str(cause).splitlines()]
    return next((line for line in lines if any(sign in line for sign in signs)), "")


def _prepare(a: argparse.Namespace) -> None:
    """Set up logging, signals, output and the number of threads of this process."""
    from tad.core.progress import setup_logging

    setup_logging(verbose=a.verbose, quiet=isinstance(a.row, Command) and a.row.stages)
    clean_up_on_sigterm()
    end_with_supervisor()
    for stream in (sys.stdout, sys.stderr):  # a terminal may lack characters of file names and labels
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace", line_buffering=True)  # lines appear in a pipe, too
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when OpenMP starts
    if hasattr(a, "device"):
        os.environ.setdefault("GOMP_SPINCOUNT", str(spins()))
    if getattr(a, "threads", 0):
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
            os.environ[name] = str(a.threads)


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status: 0 on success, 1 for a user error (one line), 130 or 143 after SIGINT
    or SIGTERM.
    """
    if "_ARGCOMPLETE" in os.environ:
        from tad.commands.completion import complete

        complete()
    a = argparse.Namespace(command="")
    try:
        a = _parse(sys.argv[1:] if argv is None else argv)
        _prepare(a)
        _execute(a)
    except TadError as error:
        _tell(f"tad {a.command}: {error}", error.most)
        return 1
    except BrokenPipeError:  # for example `tad show demo | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        _tell(f"tad {a.command}: {_plainly(error)}")
        if error.filename is None:  # it may be standard output, which is flushed once more at the end
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MemoryError as error:
        _tell(f"tad {a.command}: {str(error) or 'out of memory'}; {MORE_MEMORY}")
        return 1
    except (RuntimeError, ImportError, SystemError) as error:
        if not (memory := _out_of_memory(error)):
            raise
        _tell(f"tad {a.command}: {memory}; {MORE_MEMORY}")
        return 1
    except (KeyboardInterrupt, Terminated) as error:
        return _ended(a.command, error)
    return 0


def _execute(a: argparse.Namespace) -> None:
    """Run the command and print its lines."""
    try:
        for line in _call(a):
            print(printable(str(line)))
        sys.stdout.flush()  # a full disk is noticed here and not at the end of the process
    except Exception as error:
        if signalled := _signal_behind(error):
            raise signalled from None
        raise


def _signal_behind(error: BaseException | None) -> BaseException | None:
    """Return the signal behind an error: one that arrives inside a callback of HDF5 surfaces as an error."""
    while error is not None and not isinstance(error, KeyboardInterrupt | Terminated):
        error = error.__cause__ or error.__context__
    return error


def _ended(command: str, error: BaseException) -> int:
    """Say that a signal has ended the command; return the exit status."""
    interrupted = isinstance(error, KeyboardInterrupt)
    _tell(
        f"tad {command or 'command'}: {'interrupted' if interrupted else 'ended by SIGTERM'}; finished parts are cached"
    )
    return INTERRUPTED if interrupted else TERMINATED


def _tell(line: str, most: int = MESSAGE) -> None:
    """Print a line on standard error, which may lie on the disk that is full; the exit status says it in any case."""
    with suppress(OSError):
        print(one_line(line, most), file=sys.stderr, flush=True)


def _plainly(error: OSError) -> str:
    """Return a failure of the operating system in one line, with a remedy where one is known."""
    from tad.core.storage import expect_readable, refusal

    path = Path(os.fsdecode(error.filename)) if error.filename else Path("standard output")
    if error.filename and error.errno in (errno.EACCES, errno.EPERM):
        try:
            expect_readable(path)
        except TadError as unreadable:
            return str(unreadable)
    refused = refusal(error, path)
    return str(refused) if refused else f"{error.filename or ''}: {error.strerror or error}"
