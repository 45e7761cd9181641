"""Provenance of artefacts: fingerprints of code, and the stamps in files."""
