"""`tad` and `python -m tad`: the command line."""

import sys


def main() -> int:
    """Run one command; see `tad.commands.cli.main`. Ctrl-C before it has started is one line, too."""
    try:
        from tad.commands.cli import main as run
    except KeyboardInterrupt:
        print("tad: interrupted; nothing was done", file=sys.stderr)
        return 130  # 128 + SIGINT
    return run()


if __name__ == "__main__":
    sys.exit(main())
