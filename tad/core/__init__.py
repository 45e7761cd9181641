"""General utilities, independent of temporal action detection: files, HDF5, time grids, devices, errors, progress."""
