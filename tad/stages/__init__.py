"""The stages: each takes input paths and settings, and writes one artefact."""
