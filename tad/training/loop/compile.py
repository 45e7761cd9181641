"""Compilation of a detector's networks, with a graph cache on disk that later processes reuse."""

import os
import shutil

import torch

from tad.core.device import prepare_compilation
from tad.core.errors import TadError
from tad.layers.contract import DetectorBase

GRAPHS = 64  # graphs per function: heads share a function, and each is compiled for whole and for smaller batches


def compile_networks(detector: DetectorBase, device: torch.device, *, backend: str = "inductor") -> None:
    """Compile a detector's networks in place; parameter names are unchanged.

    Label assignment depends on the data and is not compiled. The first compilation takes minutes; later ones take
    seconds if the cache holds graphs of the same shapes (see `prepare_compilation`). Windows are padded to their full
    length, so one graph serves all batches.

    Raises:
        TadError: no C++ compiler is installed, which graphs for a CPU need.
    """
    compiler = os.environ.get("CXX") or "g++"
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise TadError(
            f"train.compile: no C++ compiler ({compiler}) on this machine; install one, set $CXX to one, or set"
            " train.compile: false"
        )
    prepare_compilation()
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS)
    detector.fixed_length = True
    for part in detector.children():
        part.compile(backend=backend)
