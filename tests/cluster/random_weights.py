"""Random weights of the small clip encoder, from a fixed seed, at the path given as argument."""

import sys
from pathlib import Path

import torch

from tad.settings import plugins
from tad.training.io.tensors import write_tensors

torch.manual_seed(0)
backbone = plugins.build("backbones", "r2plus1d_small", plugins.defaults("backbones", "r2plus1d_small"))
write_tensors(Path(sys.argv[1]), backbone.state_dict(), {})
