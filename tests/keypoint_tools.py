"""Small files of keypoints, as SLEAP and DeepLabCut lay them out."""

import pickle

import h5py
import numpy as np


def sleap(file: h5py.File) -> None:
    file["tracks"], file["node_names"] = np.ones((1, 2, 2, 5)), np.array(["a", "b"], "S")


def deeplabcut(file: h5py.File) -> None:
    names = [("s", point, coord) for point in "ab" for coord in ("x", "y")]
    table = file.create_dataset("df/table", data=np.zeros(4, [("index", "i8"), ("values_block_0", "f8", (4,))]))
    table[...] = np.array([(k, (k, 1, 2, 3)) for k in range(4)], table.dtype)
    table.attrs["values_block_0_kind"] = np.bytes_(pickle.dumps(names, 0))
