"""Clip encoders: one module and one YAML each, found by name (see `tad.plugins`)."""
