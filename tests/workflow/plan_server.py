"""Dry runs of Snakemake from a process that has imported it: each runs in a fork, which saves a second per dry run.

Reads one JSON line per dry run from standard input, [folder, environment, arguments], and answers with one JSON line,
[exit status, output]. The fork is a new `python -m snakemake` in all but the modules that were imported before it:
those of Snakemake and what it needs, none of this project.
"""

import json
import os
import sys
import tempfile
import traceback
from typing import Any

import snakemake.cli


def dry_run(folder: str, environment: dict[str, str], arguments: list[str], output: int) -> None:
    """Run Snakemake in this process, which ends with it."""
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path.insert(0, folder)
    sys.argv = ["snakemake", *arguments]
    status = 1
    try:
        snakemake.cli.main(arguments)
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else int(left.code is not None)  # as the interpreter does
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def answer(folder: str, environment: dict[str, str], arguments: list[str]) -> list[Any]:
    """Run it in a fork and return its exit status and output."""
    with tempfile.TemporaryFile() as file:
        child = os.fork()
        if child == 0:
            dry_run(folder, environment, arguments, file.fileno())
        _, status = os.waitpid(child, 0)
        file.seek(0)
        return [os.waitstatus_to_exitcode(status), file.read().decode(errors="replace")]


if __name__ == "__main__":
    assert not any(name.partition(".")[0] == "tad" for name in sys.modules)
    for line in sys.stdin:
        print(json.dumps(answer(*json.loads(line))), flush=True)
