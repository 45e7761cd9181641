"""Annotation formats: `read(source, **settings)` makes a table of the files as they are."""
