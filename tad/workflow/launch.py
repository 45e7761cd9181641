"""Start Snakemake with the logger plug-in of `tad run`: `python -m tad.workflow.launch <arguments of snakemake>`."""

import signal
import sys

from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry

from tad.workflow import terminal

NAME = "tad"


def main() -> None:
    """Register the plug-in, which Snakemake would otherwise look for in a separate package, and run Snakemake."""
    registry = LoggerPluginRegistry()
    registry.register_plugin(f"{registry.module_prefix}{NAME}", terminal)
    from snakemake.cli import main as snakemake

    sys.argv[0] = "snakemake"
    try:
        snakemake(["--logger", NAME, *sys.argv[1:]])
    except KeyboardInterrupt:  # before it runs jobs; later, Snakemake handles it
        print("tad run: interrupted; no job was running", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
