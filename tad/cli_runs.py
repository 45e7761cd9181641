"""The commands about runs that were trained or are to be: `tad compare`, `table`, `sweep`, `apply` and `suggest`."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any


def add(commands: Any, device: Callable[[argparse.ArgumentParser], None]) -> None:
    """Their arguments; `device` adds `--device`."""
    p = commands.add_parser("compare", help="difference of two runs' scores, with its interval over videos")
    p.add_argument("run", nargs=2, help="name in config.yaml")
    p.add_argument("--config", type=Path, default=Path("config.yaml"))

    p = commands.add_parser("table", help="scores of runs side by side, with their intervals")
    p.add_argument("run", nargs="*", help="name in config.yaml, or a map.json; none: all runs that have a score")
    p.add_argument("--format", default="", help="markdown, csv or html; by default what --out ends with, else markdown")
    p.add_argument("--out", type=Path, help="the file to write; without it the table is printed")
    p.add_argument("--config", type=Path, default=Path("config.yaml"))

    p = commands.add_parser("sweep", help="suppression settings tried on held-out videos: scores, and which are best")
    p.add_argument("run", help="name in config.yaml; its model must be there")
    p.add_argument("change", nargs="+", help="nms.sigma=0.3,0.5,0.7 and the like; several are combined")
    meaning = "split val or what training kept aside; train is optimistic, test peeks: both say so"
    p.add_argument("--on", choices=("held-out", "train", "test"), default="held-out", help=meaning)
    p.add_argument("--config", type=Path, default=Path("config.yaml"))
    device(p)

    p = commands.add_parser("apply", help="videos of your own → detections of a trained run")
    p.add_argument("run", help="name in config.yaml; its model must be there")
    p.add_argument("videos", type=Path, help="a video, or a folder of them")
    p.add_argument("--out", type=Path, required=True, help="results file in ActivityNet's format")
    p.add_argument("--config", type=Path, default=Path("config.yaml"))
    device(p)

    p = commands.add_parser("suggest", help="settings that fit a data set's lengths, to paste into config.yaml")
    p.add_argument("run")
    p.add_argument("--config", type=Path, default=Path("config.yaml"))


def compare(a: argparse.Namespace) -> None:
    """`tad compare`."""
    from tad.compare import compare

    for line in compare(*a.run, config=a.config):
        print(line)


def table(a: argparse.Namespace) -> None:
    """`tad table`."""
    from tad.table import table

    text = table(a.run, config=a.config, format=a.format, out=a.out)
    if a.out is None:
        print(text, end="")


def sweep(a: argparse.Namespace) -> None:
    """`tad sweep`."""
    from tad.sweep import sweep

    for line in sweep(a.run, a.change, config=a.config, on=a.on, device=a.device):
        print(line)


def apply(a: argparse.Namespace) -> None:
    """`tad apply`."""
    from tad.apply import apply

    for line in apply(a.run, a.videos, a.out, config=a.config, device=a.device):
        print(line)


def suggest(a: argparse.Namespace) -> None:
    """`tad suggest`."""
    from tad.suggest import suggest

    for line in suggest(a.run, config=a.config):
        print(line)
