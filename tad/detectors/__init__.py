"""Detectors, from feature sequences to candidate segments: one module and one YAML per method."""
