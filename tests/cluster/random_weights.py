"""Random weights of the small clip encoder, from a fixed seed, at the path given as argument."""

import sys
from pathlib import Path

import torch

from tad import plugins
from tad.training.checkpoint import write_tensors

torch.manual_seed(0)
backbone = plugins.load("backbones", "r2plus1d_small")(**plugins.document("backbones", "r2plus1d_small")["settings"])
write_tensors(Path(sys.argv[1]), backbone.state_dict(), {})
