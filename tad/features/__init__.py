"""Stored features: the HDF5 format, import of foreign files, export, and inspection."""
