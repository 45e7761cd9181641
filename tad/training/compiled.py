"""A detector's networks as compiled graphs, which are kept on disk for the next process."""

import os
import shutil

import torch
from torch import nn

from tad.device import keep_graphs
from tad.errors import TadError

GRAPHS = 64  # of one function: heads share it, and each is compiled for whole and for smaller batches


def compile_networks(detector: nn.Module, device: torch.device, *, backend: str = "inductor") -> None:
    """Compile a detector's parts in place (parameters keep their names); labelling depends on data and stays as it is.

    Minutes at first, seconds where graphs of the same shapes were kept (see `keep_graphs`). Windows are then padded to
    their full length, so that one graph holds for all batches.

    Raises:
        TadError: graphs for a CPU need a C++ compiler, and there is none.
    """
    compiler = os.environ.get("CXX") or "g++"
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise TadError(
            f"train.compile: no C++ compiler ({compiler}) on this machine; install one, name one in $CXX, or set"
            " train.compile: false"
        )
    keep_graphs()
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS)
    detector.whole_windows = True  # type: ignore[assignment]
    for part in detector.children():
        part.compile(backend=backend)
