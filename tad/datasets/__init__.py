"""Annotation formats: `read(source, settings)` converts annotation files to a table without validating it."""
